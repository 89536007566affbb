//! `<disk>`: a virtio disk on a file or block device.

use super::{read_alias, write_alias};
use crate::choice::choice;
use crate::error::DomainXmlError;
use crate::xml::{Element, Writer};

/// Longest identity that a virtio disk can show.
const SERIAL_BYTES: usize = 20;

choice! {
    /// What the bytes of the image are.
    DiskFormat {
        /// The disk's own.
        Raw = "raw",
        /// QEMU's copy-on-write, version 2 or 3.
        Qcow2 = "qcow2",
    }
}

/// Where the image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// A file.
    File(String),
    /// A block device.
    Block(String),
}

impl DiskSource {
    /// The path, whichever it is.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::File(path) | Self::Block(path) => path,
        }
    }
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The image.
    pub source: DiskSource,
    /// Format; found out once, when the domain is defined, where it is not written.
    pub format: Option<DiskFormat>,
    driver: Driver,
    /// `vda` and so on: decides the order.
    pub target: String,
    /// What the guest sees as the disk's identity.
    pub serial: Option<String>,
    /// The guest may only read.
    pub readonly: bool,
    /// Name while it runs.
    pub alias: Option<String>,
}

/// Attributes of `<driver>` that say what is done anyway.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Driver {
    name: Option<String>,
    cache: Option<String>,
    error_policy: Option<String>,
    io: Option<String>,
    discard: Option<String>,
}

impl Disk {
    pub(super) fn read(disk: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        let kind = disk.attribute("type").unwrap_or("file");
        disk.only("device", &["disk"], "there are only disks")?;
        disk.only("snapshot", &["no"], "there are no snapshots")?;
        let source = read_source(disk, kind)?;
        let (format, driver) = match disk.child("driver")? {
            Some(element) => Driver::read(element)?,
            None => (None, Driver::default()),
        };
        let mut target = disk.child("target")?.ok_or_else(|| disk.invalid("<disk> lacks <target>"))?;
        let name = target.required("dev")?.to_owned();
        let reason = "disks are on the bus virtio: write <target dev='vda' bus='virtio'/>";
        target.only("bus", &["virtio"], reason)?;
        if target_index(&name).is_none() {
            return Err(target.unsupported_value("dev", &name, reason));
        }
        target.finish()?;
        let serial = disk.text_child("serial")?;
        if serial.as_ref().is_some_and(|s| s.is_empty() || s.len() > SERIAL_BYTES || !s.chars().all(is_serial_char)) {
            return Err(disk.unsupported("<serial>", "1 to 20 ASCII letters, digits and '._-' are possible"));
        }
        let readonly = disk.flag("readonly")?;
        Ok(Self { source, format, driver, target: name, serial, readonly, alias: read_alias(disk)? })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        let (kind, name) = match &self.source {
            DiskSource::File(_) => ("file", "file"),
            DiskSource::Block(_) => ("block", "dev"),
        };
        w.tag("disk").attr("type", kind).attr("device", "disk").content(|w| {
            self.driver.write(w, self.format);
            w.tag("source").attr(name, self.source.path()).end();
            w.tag("target").attr("dev", &self.target).attr("bus", "virtio").end();
            if self.readonly {
                w.tag("readonly").end();
            }
            if let Some(serial) = &self.serial {
                w.tag("serial").text(serial);
            }
            write_alias(w, self.alias.as_ref());
        });
    }

    /// Place among the disks: 0 for `vda`.
    #[must_use]
    pub fn index(&self) -> u32 {
        target_index(&self.target).unwrap_or(u32::MAX)
    }
}

fn is_serial_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

fn read_source(disk: &mut Element<'_>, kind: &str) -> Result<DiskSource, DomainXmlError> {
    let make: fn(String) -> DiskSource;
    let name = match kind {
        "file" => {
            make = DiskSource::File;
            "file"
        }
        "block" => {
            make = DiskSource::Block;
            "dev"
        }
        other => return Err(disk.unsupported_value("type", other, "disks are of type file or block")),
    };
    let mut source = disk.child("source")?.ok_or_else(|| disk.invalid("<disk> lacks <source>"))?;
    let path = source.required(name)?.to_owned();
    if !path.starts_with('/') {
        return Err(source.invalid(format!("'{path}' is not an absolute path")));
    }
    // Kept by nobody: virt-manager and others add it to say that the index is of the chain's top.
    source.only("index", &["1"], "")?;
    source.finish()?;
    Ok(make(path))
}

impl Driver {
    fn read(mut element: Element<'_>) -> Result<(Option<DiskFormat>, Self), DomainXmlError> {
        let mut keep = |name: &str, values: &[&str], reason: &str| {
            element.only(name, values, reason).map(|value| value.map(str::to_owned))
        };
        let driver = Self {
            name: keep("name", &["qemu"], "")?,
            cache: keep("cache", &["default", "writeback"], "writes are durable when the guest flushes: writeback")?,
            error_policy: keep("error_policy", &["report"], "errors are reported to the guest")?,
            io: keep("io", &["threads"], "each disk has a thread")?,
            discard: keep("discard", &["unmap"], "discarded blocks are given back where the image can: unmap")?,
        };
        let format = match element.attribute("type") {
            None => None,
            Some(word) => Some(DiskFormat::parse(word).ok_or_else(|| {
                element.unsupported_value("type", word, "images are raw or qcow2; 'qemu-img convert' makes them")
            })?),
        };
        element.finish()?;
        Ok((format, driver))
    }

    fn write(&self, w: &mut Writer, format: Option<DiskFormat>) {
        if *self == Self::default() && format.is_none() {
            return;
        }
        let tag = w.tag("driver").attr_opt("name", self.name.as_ref()).attr_opt("type", format);
        let tag = tag.attr_opt("cache", self.cache.as_ref()).attr_opt("error_policy", self.error_policy.as_ref());
        tag.attr_opt("io", self.io.as_ref()).attr_opt("discard", self.discard.as_ref()).end();
    }
}

/// `vda` is 0, `vdz` 25, `vdaa` 26.
fn target_index(name: &str) -> Option<u32> {
    let letters = name.strip_prefix("vd").filter(|rest| !rest.is_empty() && rest.len() <= 3)?;
    letters
        .bytes()
        .try_fold(0_u32, |index, letter| {
            letter.is_ascii_lowercase().then(|| index * 26 + u32::from(letter - b'a') + 1)
        })?
        .checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_numbered() {
        let numbers = ["vda", "vdz", "vdaa", "vdab"].map(|name| target_index(name).unwrap());
        assert_eq!(numbers, [0, 25, 26, 27]);
        for name in ["vd", "sda", "vd1", "vdA", "vdaaaa", ""] {
            assert_eq!(target_index(name), None, "{name}");
        }
    }
}
