//! Sizes of disk images.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use virtft_domain::DiskFormat;

/// Sizes of an image, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// What it occupies.
    pub allocation: u64,
    /// What the guest sees.
    pub capacity: u64,
    /// Up to where it reaches.
    pub physical: u64,
}

/// Looks at an image. The guest may write to it meanwhile: its size never changes for that.
///
/// # Errors
/// When it cannot be read, or is not of the format.
pub fn sizes(path: &str, format: DiskFormat) -> io::Result<Sizes> {
    // Not blocking: somebody could name a pipe.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    let physical = if metadata.is_file() { metadata.len() } else { file.seek(SeekFrom::End(0))? };
    let allocation = if metadata.is_file() { metadata.blocks() * 512 } else { physical };
    let capacity = match format {
        DiskFormat::Raw => physical,
        DiskFormat::Qcow2 => qcow2_capacity(&mut file)?,
    };
    Ok(Sizes { allocation, capacity, physical })
}

/// The header's size field: eight bytes, big-endian, at 24.
fn qcow2_capacity(file: &mut File) -> io::Result<u64> {
    let mut header = [0; 32];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut header)?;
    let (magic, size) = (&header[..4], &header[24..]);
    match size.try_into() {
        Ok(size) if magic == b"QFI\xfb" => Ok(u64::from_be_bytes(size)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no qcow2 image")),
    }
}
