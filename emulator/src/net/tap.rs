//! Frames to and from a tap interface of the host (`Documentation/networking/tuntap.rst`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::header::HEADER_BYTES;
use super::{MAX_PACKET_BYTES, NetError, Offload};
use crate::sys;

const TUN_PATH: &str = "/dev/net/tun";
const TUN_F_CSUM: u32 = 1;
const TUN_F_TSO4: u32 = 2;
const TUN_F_TSO6: u32 = 4;

/// An attached tap interface.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    buffer: Vec<u8>,
}

impl Tap {
    /// Attaches to the interface `name`, which must exist.
    ///
    /// # Errors
    /// One line with the command that helps.
    pub fn open(name: &str) -> Result<(Self, Offload), NetError> {
        let failed = |reason: String| NetError::Tap { name: name.to_owned(), reason };
        if nix::net::if_::if_nametoindex(name).is_err() {
            return Err(failed(format!(
                "there is no such interface; make it with 'ip tuntap add dev {name} mode tap user $USER'"
            )));
        }
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(TUN_PATH)
            .map_err(|error| failed(describe_tun(&error)))?;
        sys::attach_tap(&file, name).map_err(|error| failed(describe_attach(&error, name)))?;
        // Without the offload the guest only loses speed.
        let segmentation = sys::set_tap_offload(&file, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6).is_ok();
        let receive_checksum = segmentation || sys::set_tap_offload(&file, TUN_F_CSUM).is_ok();
        let offload =
            Offload { checksum: true, segmentation: true, receive_checksum, receive_segmentation: segmentation };
        Ok((Self { file, name: name.to_owned(), buffer: vec![0; MAX_PACKET_BYTES] }, offload))
    }

    /// Sends one packet. Returns false when the interface has no room now.
    pub fn send(&mut self, packet: &[u8]) -> bool {
        loop {
            match self.file.write(packet) {
                Ok(_) => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    // The interface is down, or the guest's header makes no sense: as on a cut cable.
                    tracing::debug!("tap {}: frame dropped ({error})", self.name);
                    return true;
                }
            }
        }
    }

    /// Takes one packet, if there is one.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            // The driver fills ten bytes of the header; the number of buffers is ours to set.
            match self.file.read(&mut self.buffer) {
                Ok(got) if got > HEADER_BYTES => {
                    let mut packet = self.buffer[..got].to_vec();
                    packet[10..12].copy_from_slice(&1_u16.to_le_bytes());
                    return Some(packet);
                }
                Ok(_) => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::debug!("tap {}: nothing received ({error})", self.name);
                    }
                    return None;
                }
            }
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn describe_tun(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("{TUN_PATH} does not exist; load it with 'modprobe tun', or use --net passt")
        }
        io::ErrorKind::PermissionDenied => format!("no permission to open {TUN_PATH}; use --net passt instead"),
        _ => format!("{TUN_PATH} cannot be opened ({error}); use --net passt instead"),
    }
}

fn describe_attach(error: &io::Error, name: &str) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => format!(
            "it belongs to another user; make it with 'ip tuntap add dev {name} mode tap user $USER', or use \
             --net passt"
        ),
        Some(libc::EBUSY) => "another program is attached to it; stop that program or use another tap".to_owned(),
        Some(libc::EINVAL) => "it is no tap interface, or has several queues; make one with 'ip tuntap add'".to_owned(),
        _ => format!("it cannot be attached ({error})"),
    }
}
