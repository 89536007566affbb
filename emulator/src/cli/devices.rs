//! Values of the options that name host resources: `--disk`, `--net`, `--serial`, `--console`, `--debugcon`.
//!
//! Each type implements `FromStr`, so that clap calls it and prefixes the message with the option's name.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::keyval::{KeyValues, OptionError};

/// Format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// The file's bytes are the disk's bytes.
    Raw,
    /// QEMU copy-on-write, version 2 or 3.
    Qcow2,
}

impl FromStr for ImageFormat {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            other => Err(OptionError::BadValue {
                what: "disk format",
                value: other.to_owned(),
                hint: "write format=raw or format=qcow2 (others: convert with 'qemu-img convert -O qcow2')",
            }),
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// One `--disk`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOption {
    /// The image.
    pub file: PathBuf,
    /// What the guest sees as the disk's serial number; at most 20 bytes.
    pub id: Option<String>,
    /// Given format; probed when absent.
    pub format: Option<ImageFormat>,
    /// The guest may only read.
    pub readonly: bool,
}

impl FromStr for DiskOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut pairs = KeyValues::parse(text)?;
        let file = pairs
            .take("file")
            .filter(|path| !path.is_empty())
            .ok_or(OptionError::Missing { key: "file", example: "--disk file=debian.qcow2,id=root" })?;
        let id = pairs.take("id");
        // The length of the identity string of the virtio block device.
        if let Some(value) = id.clone().filter(|id| id.is_empty() || id.len() > 20 || !id.is_ascii()) {
            return Err(OptionError::BadValue { what: "disk id", value, hint: "use 1 to 20 ASCII characters" });
        }
        let format = pairs.take("format").map(|format| format.parse()).transpose()?;
        let readonly = pairs.take_flag("readonly")?.unwrap_or(false);
        pairs.finish("file, id, format, readonly")?;
        Ok(Self { file: file.into(), id, format, readonly })
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The address of the network device number `index` when none is given: locally administered, in the
    /// range that QEMU and libvirt use.
    #[must_use]
    pub fn default_for(index: u8) -> Self {
        Self([0x52, 0x54, 0x00, 0x12, 0x34, 0x56_u8.wrapping_add(index)])
    }
}

impl FromStr for MacAddress {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let bad = |hint| OptionError::BadValue { what: "MAC address", value: text.to_owned(), hint };
        let mut address = [0_u8; 6];
        let mut parts = text.split(':');
        for byte in &mut address {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part
                .and_then(|p| u8::from_str_radix(p, 16).ok())
                .ok_or_else(|| bad("write six bytes in hex, for example 52:54:00:00:00:01"))?;
        }
        if parts.next().is_some() {
            return Err(bad("write six bytes in hex, for example 52:54:00:00:00:01"));
        }
        if address[0] & 1 != 0 || address == [0; 6] {
            return Err(bad("a device needs a unicast address: the first byte must be even"));
        }
        Ok(Self(address))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Where a network device's frames go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetKind {
    /// A tap interface of the host, by name.
    Tap(String),
    /// A `passt` process started for this device.
    Passt,
    /// A unix stream socket with QEMU's framing.
    Stream {
        /// The socket's path.
        path: PathBuf,
        /// Listen there instead of connecting.
        server: bool,
        /// The peer loses frames that it has no room for, as passt does: TCP windows are kept small.
        small_windows: bool,
    },
    /// A device without a link.
    None {
        /// Whose offloads it offers; none when absent.
        like: Option<NetLike>,
    },
}

/// Kind of a backend, by what it finishes for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetLike {
    /// A tap interface.
    Tap,
    /// A stream socket or passt.
    Stream,
}

/// One `--net`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetOption {
    /// The backend.
    pub kind: NetKind,
    /// Given address; [`MacAddress::default_for`] when absent.
    pub mac: Option<MacAddress>,
}

impl FromStr for NetOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut pairs = KeyValues::parse(text)?;
        let kind = match pairs.take_first_word().as_deref() {
            Some("passt") => NetKind::Passt,
            Some("none") => NetKind::None {
                like: match pairs.take("like").as_deref() {
                    None => None,
                    Some("tap") => Some(NetLike::Tap),
                    Some("stream" | "passt") => Some(NetLike::Stream),
                    Some(other) => {
                        let (what, value) = ("kind of network backend", other.to_owned());
                        return Err(OptionError::BadValue {
                            what,
                            value,
                            hint: "write like=tap, like=passt or like=stream",
                        });
                    }
                },
            },
            Some(other) => return Err(bad_net(other)),
            None => match (pairs.take("tap"), pairs.take("stream")) {
                // IFNAMSIZ counts the terminating zero.
                (Some(name), None) if (1..16).contains(&name.len()) => NetKind::Tap(name),
                (None, Some(path)) if !path.is_empty() => NetKind::Stream {
                    path: path.into(),
                    server: pairs.take_flag("server")?.unwrap_or(false),
                    small_windows: pairs.take_flag("small-windows")?.unwrap_or(false),
                },
                _ => return Err(bad_net(text)),
            },
        };
        let mac = pairs.take("mac").map(|mac| mac.parse()).transpose()?;
        pairs.finish("tap, passt, stream, server and small-windows (with stream), none, like (with none), mac")?;
        Ok(Self { kind, mac })
    }
}

fn bad_net(value: &str) -> OptionError {
    OptionError::BadValue {
        what: "network backend",
        value: value.to_owned(),
        hint: "write tap=NAME, passt, stream=/path or none, then optionally ,mac=ADDRESS",
    }
}

/// What a character channel of the machine is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CharOption {
    /// This process's standard input and output.
    Stdio,
    /// A new pseudo-terminal; its path is printed.
    Pty,
    /// A unix stream socket.
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// Listen there instead of connecting.
        server: bool,
    },
    /// Output is written to a file; there is no input.
    File(PathBuf),
    /// Output is discarded; there is no input.
    Null,
}

impl FromStr for CharOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let bad = || OptionError::BadValue {
            what: "character backend",
            value: text.to_owned(),
            hint: "write stdio, pty, unix:/path (with ,server to listen), file:/path or null",
        };
        match text {
            "stdio" => return Ok(Self::Stdio),
            "pty" => return Ok(Self::Pty),
            "null" => return Ok(Self::Null),
            _ => {}
        }
        if let Some(path) = text.strip_prefix("file:").filter(|path| !path.is_empty()) {
            return Ok(Self::File(path.into()));
        }
        let rest = text.strip_prefix("unix:").ok_or_else(bad)?;
        let mut pairs = KeyValues::parse(rest)?;
        let path = pairs.take_first_word().filter(|path| !path.is_empty()).ok_or_else(bad)?;
        let server = pairs.take_flag("server")?.unwrap_or(false);
        pairs.finish("server")?;
        Ok(Self::Unix { path: path.into(), server })
    }
}

/// `--debugcon`: the output-only debug console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebugConOption(pub CharOption);

impl FromStr for DebugConOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text.parse()? {
            backend @ (CharOption::File(_) | CharOption::Stdio) => Ok(Self(backend)),
            _ => Err(OptionError::BadValue {
                what: "debug console",
                value: text.to_owned(),
                hint: "write file:/path or stdio",
            }),
        }
    }
}
