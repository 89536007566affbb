//! `<serial>` and `<console>`: where the guest's characters go.

use super::{read_alias, write_alias};
use crate::choice::choice;
use crate::error::DomainXmlError;
use crate::xml::{Element, Writer};

/// Where the characters go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CharSource {
    /// A new pseudo-terminal; its path is known while the machine runs.
    Pty {
        /// `/dev/pts/...`
        path: Option<String>,
    },
    /// A unix socket.
    Unix {
        /// The socket.
        path: String,
        /// The machine listens; otherwise it connects.
        listens: bool,
    },
    /// A file; there is no input.
    File {
        /// The file.
        path: String,
    },
    /// Nowhere.
    Null,
}

choice! {
    /// What the guest sees.
    ConsoleTarget {
        /// A 16550 serial port.
        Serial = "serial",
        /// A port of the virtio console.
        Virtio = "virtio",
    }
}

/// A serial port or console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CharDevice {
    /// Where the characters go.
    pub source: CharSource,
    /// What the guest sees. A console with a serial port is that port once more, not another.
    pub target: ConsoleTarget,
    /// Number, from 0.
    pub port: Option<u8>,
    /// Name while it runs.
    pub alias: Option<String>,
}

impl CharDevice {
    /// A device whose port is not chosen yet.
    #[must_use]
    pub fn new(source: CharSource, target: ConsoleTarget) -> Self {
        Self { source, target, port: None, alias: None }
    }

    pub(super) fn read_serial(element: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        let source = read_source(element)?;
        let mut port = None;
        if let Some(mut target) = element.child("target")? {
            target.only("type", &["isa-serial", "serial", "isa"], "serial ports are of type isa-serial")?;
            port = target.number("port")?;
            if let Some(mut model) = target.child("model")? {
                model.only("name", &["isa-serial"], "serial ports are of type isa-serial")?;
                model.finish()?;
            }
            target.finish()?;
        }
        Ok(Self { source, target: ConsoleTarget::Serial, port, alias: read_alias(element)? })
    }

    pub(super) fn read_console(element: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        let source = read_source(element)?;
        // A second way to tell the pseudo-terminal of a running machine.
        element.attribute("tty");
        let mut port = None;
        let mut kind = ConsoleTarget::Serial;
        if let Some(mut target) = element.child("target")? {
            port = target.number("port")?;
            let word = target.attribute("type").unwrap_or("serial");
            kind = ConsoleTarget::parse(word)
                .ok_or_else(|| target.unsupported_value("type", word, "consoles are of type serial or virtio"))?;
            target.finish()?;
        }
        Ok(Self { source, target: kind, port, alias: read_alias(element)? })
    }

    pub(super) fn write(&self, w: &mut Writer, element: &'static str) {
        let kind = match self.source {
            CharSource::Pty { .. } => "pty",
            CharSource::Unix { .. } => "unix",
            CharSource::File { .. } => "file",
            CharSource::Null => "null",
        };
        let path = match &self.source {
            CharSource::Pty { path: Some(path) } if element == "console" => Some(path),
            _ => None,
        };
        w.tag(element).attr("type", kind).attr_opt("tty", path).content(|w| {
            match &self.source {
                CharSource::Pty { path: Some(path) } | CharSource::File { path } => {
                    w.tag("source").attr("path", path).end()
                }
                CharSource::Unix { path, listens } => {
                    let mode = if *listens { "bind" } else { "connect" };
                    w.tag("source").attr("mode", mode).attr("path", path).end();
                }
                CharSource::Pty { path: None } | CharSource::Null => {}
            }
            if element == "serial" {
                let tag = w.tag("target").attr("type", "isa-serial").attr_opt("port", self.port);
                tag.content(|w| w.tag("model").attr("name", "isa-serial").end());
            } else {
                w.tag("target").attr("type", self.target).attr_opt("port", self.port).end();
            }
            write_alias(w, self.alias.as_ref());
        });
    }
}

fn read_source(element: &mut Element<'_>) -> Result<CharSource, DomainXmlError> {
    let kind = element.required("type")?;
    let mut source = element.child("source")?;
    let mut path = None;
    let mut mode = None;
    if let Some(source) = &mut source {
        path = source.attribute("path").map(str::to_owned);
        mode = source.only("mode", &["bind", "connect"], "write bind or connect")?;
    }
    let lacks = || element.invalid(format!("<{} type='{kind}'> lacks <source path='...'>", element.name()));
    let absolute = |path: Option<String>| match path {
        Some(path) if path.starts_with('/') => Ok(path),
        Some(path) => Err(element.invalid(format!("'{path}' is not an absolute path"))),
        None => Err(lacks()),
    };
    let result = match kind {
        // The path of the last run's pseudo-terminal says nothing about the next one's.
        "pty" => CharSource::Pty { path: None },
        "unix" => CharSource::Unix { path: absolute(path)?, listens: mode == Some("bind") },
        "file" => CharSource::File { path: absolute(path)? },
        "null" => CharSource::Null,
        other => {
            let reason = "characters go to a pty, a unix socket, a file or null";
            return Err(element.unsupported_value("type", other, reason));
        }
    };
    if let Some(source) = source {
        source.finish()?;
    }
    Ok(result)
}
