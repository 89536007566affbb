//! The compressed kernel inside a bzImage.
//!
//! A bzImage decompresses itself, which an interpreter does slowly. A host that can decompress may take the payload out and
//! boot the ELF image in it directly; whether to do so is its choice and part of the machine's configuration, because the
//! two ways are different machines to a replica.

use super::{BootError, Fields, linux};

/// How a payload is compressed, by its magic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// An ELF image as it is.
    None,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// LZMA alone.
    Lzma,
    /// xz.
    Xz,
    /// lzop.
    Lzo,
    /// LZ4 in its legacy frame format.
    Lz4,
    /// Zstandard.
    Zstd,
    /// Something else.
    Unknown,
}

/// A compressed kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    /// Its format.
    pub compression: Compression,
    /// The compressed bytes. All formats but gzip are followed by four bytes with the size of the uncompressed image,
    /// which are not in here.
    pub bytes: &'a [u8],
    /// Size of the uncompressed image in bytes, as the image says; `None` when it does not.
    pub uncompressed_bytes: Option<u32>,
}

const MAGICS: [(&[u8], Compression); 8] = [
    (b"\x7fELF", Compression::None),
    (b"\x1f\x8b", Compression::Gzip),
    (b"BZh", Compression::Bzip2),
    (b"\x5d\x00\x00", Compression::Lzma),
    (b"\xfd7zXZ\x00", Compression::Xz),
    (b"\x89LZO", Compression::Lzo),
    (b"\x02\x21\x4c\x18", Compression::Lz4),
    (b"\x28\xb5\x2f\xfd", Compression::Zstd),
];

/// Finds the payload of a bzImage of protocol 2.08 or later; `None` when the image is not one.
///
/// # Errors
/// When the image is a bzImage but damaged.
pub fn payload(image: &[u8]) -> Result<Option<Payload<'_>>, BootError> {
    if !linux::is_bzimage(image) {
        return Ok(None);
    }
    let parsed = linux::parse_header(image)?;
    if parsed.header.version < 0x208 || parsed.header.payload_length == 0 {
        return Ok(None);
    }
    let start = parsed.kernel_offset + u64::from(parsed.header.payload_offset);
    let bytes = Fields(image).bytes(start, u64::from(parsed.header.payload_length))?;
    let known = MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic));
    let compression = known.map_or(Compression::Unknown, |known| known.1);
    let has_size = !matches!(compression, Compression::None | Compression::Gzip | Compression::Unknown);
    let (bytes, uncompressed_bytes) = match bytes.split_last_chunk::<4>() {
        Some((bytes, size)) if has_size => (bytes, Some(u32::from_le_bytes(*size))),
        _ => (bytes, None),
    };
    Ok(Some(Payload { compression, bytes, uncompressed_bytes }))
}
