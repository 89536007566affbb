//! Frames: what a log file and a logging channel consist of.
//!
//! ```text
//!   0  magic        u32  "VFTF"
//!   4  kind         u8   FrameKind
//!   5  flags        u8   bit 0: the payload is compressed with LZ4 (block format)
//!   6  epoch        u16  life of the pair, modulo 2^16; 0 in files
//!   8  sequence     u64  number of the first entry in it, or of the entry that comes next
//!  16  stored       u32  bytes that follow the header
//!  20  plain        u32  bytes of the payload when uncompressed; equal to `stored` when it is not compressed
//!  24  crc          u32  CRC-32C of the header with this field zero, and of what follows it
//!  28  payload
//! ```
//!
//! All numbers are little endian. A frame is whole or worth nothing: a reader checks it before it looks inside.

use std::io::{self, Read};

use thiserror::Error;

/// "VFTF".
const MAGIC: [u8; 4] = *b"VFTF";
/// Bytes of the header.
pub const HEADER_BYTES: usize = 28;
/// Largest payload in bytes, before and after compression: the largest disk request and room for its entry.
pub const PAYLOAD_LIMIT: usize = 33 << 20;
/// Payloads below this are not worth compressing.
const COMPRESS_FROM: usize = 512;
const COMPRESSED: u8 = 1;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrameKind {
    /// The log's header.
    Header,
    /// Part of a file that the log carries: kernel or initial RAM disk.
    File,
    /// Part of a snapshot.
    Snapshot,
    /// Entries.
    Entries,
    /// Part of a disk: only in a state transfer.
    Disk,
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            Self::Header => 0,
            Self::File => 1,
            Self::Snapshot => 2,
            Self::Entries => 3,
            Self::Disk => 4,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        let all = [Self::Header, Self::File, Self::Snapshot, Self::Entries, Self::Disk];
        all.into_iter().find(|kind| kind.code() == code)
    }
}

/// A frame whose payload is not compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: FrameKind,
    /// Life of the pair; 0 in files.
    pub epoch: u16,
    /// Number of the first entry in it, or of the entry that comes next.
    pub sequence: u64,
    /// At most [`PAYLOAD_LIMIT`] bytes.
    pub payload: Vec<u8>,
}

/// Bytes that are no whole frame.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The source failed.
    #[error("it cannot be read ({0})")]
    Read(#[from] io::Error),
    /// The source ended inside a frame.
    #[error("it ends inside a frame")]
    Truncated,
    /// There is no frame here.
    #[error("there is no frame where one should begin")]
    NoFrame,
    /// A length beyond [`PAYLOAD_LIMIT`], or one that does not fit the flags.
    #[error("a frame has an impossible length of {bytes} bytes")]
    Length {
        /// The length.
        bytes: u32,
    },
    /// The checksum does not fit.
    #[error("the checksum of a frame is {found:08x}, but its content has {expected:08x}")]
    Checksum {
        /// In the frame.
        found: u32,
        /// Of its content.
        expected: u32,
    },
    /// Kind or flags that this version does not know.
    #[error("a frame has the unknown kind {kind} or flags {flags:#x}")]
    Unknown {
        /// The kind.
        kind: u8,
        /// The flags.
        flags: u8,
    },
    /// The payload does not decompress to its length.
    #[error("the payload of a frame cannot be decompressed")]
    Compression,
}

impl Frame {
    /// The frame as bytes, compressed if asked for and if that makes it smaller.
    ///
    /// # Panics
    /// When the payload is larger than [`PAYLOAD_LIMIT`]: writers bound their payloads.
    #[must_use]
    pub fn to_bytes(&self, compress: bool) -> Vec<u8> {
        assert!(self.payload.len() <= PAYLOAD_LIMIT, "a frame of {} bytes", self.payload.len());
        let packed = (compress && self.payload.len() >= COMPRESS_FROM)
            .then(|| lz4_flex::block::compress(&self.payload))
            .filter(|packed| packed.len() < self.payload.len());
        let (flags, stored) = packed.as_ref().map_or((0, &self.payload), |packed| (COMPRESSED, packed));
        let mut bytes = Vec::with_capacity(HEADER_BYTES + stored.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[self.kind.code(), flags]);
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&length(stored).to_le_bytes());
        bytes.extend_from_slice(&length(&self.payload).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(stored);
        let crc = crc32c::crc32c(&bytes);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the next frame; `None` when the source ends where a frame would begin.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn read(source: &mut impl Read) -> Result<Option<Self>, FrameError> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        fill(source, &mut bytes, HEADER_BYTES)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        if !MAGIC.starts_with(magic) {
            return Err(FrameError::NoFrame);
        }
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(FrameError::Truncated) };
        let head = Head::parse(header)?;
        let stored = head.stored;
        fill(source, &mut bytes, HEADER_BYTES + stored)?;
        if bytes.len() < HEADER_BYTES + stored {
            return Err(FrameError::Truncated);
        }
        head.open(bytes).map(Some)
    }
}

/// The fields of a header, before its checksum is known to be right.
struct Head {
    kind: u8,
    flags: u8,
    epoch: u16,
    sequence: u64,
    stored: usize,
    plain: usize,
    crc: u32,
}

impl Head {
    fn parse(header: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let size = |at: usize| {
            let bytes = word(at);
            usize::try_from(bytes).ok().filter(|size| *size <= PAYLOAD_LIMIT).ok_or(FrameError::Length { bytes })
        };
        Ok(Self {
            kind: header[4],
            flags: header[5],
            epoch: u16::from_le_bytes([header[6], header[7]]),
            sequence: u64::from(word(8)) | u64::from(word(12)) << 32,
            stored: size(16)?,
            plain: size(20)?,
            crc: word(24),
        })
    }

    /// Checks the whole frame and takes its payload out.
    fn open(self, mut bytes: Vec<u8>) -> Result<Frame, FrameError> {
        bytes[24..28].fill(0);
        let expected = crc32c::crc32c(&bytes);
        if expected != self.crc {
            return Err(FrameError::Checksum { found: self.crc, expected });
        }
        let unknown = FrameError::Unknown { kind: self.kind, flags: self.flags };
        let Some(kind) = FrameKind::from_code(self.kind).filter(|_| self.flags & !COMPRESSED == 0) else {
            return Err(unknown);
        };
        let payload = if self.flags & COMPRESSED == 0 {
            if self.stored != self.plain {
                return Err(FrameError::Compression);
            }
            bytes.split_off(HEADER_BYTES)
        } else {
            let plain = lz4_flex::block::decompress(&bytes[HEADER_BYTES..], self.plain);
            plain.ok().filter(|plain| plain.len() == self.plain).ok_or(FrameError::Compression)?
        };
        Ok(Frame { kind, epoch: self.epoch, sequence: self.sequence, payload })
    }
}

/// Reads until `bytes` has `length` bytes or the source ends. Memory grows with what arrives, not with what is promised.
fn fill(source: &mut impl Read, bytes: &mut Vec<u8>, length: usize) -> io::Result<()> {
    let missing = length.saturating_sub(bytes.len()) as u64;
    source.by_ref().take(missing).read_to_end(bytes).map(|_| ())
}

/// Length as a field of the header.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("payloads are bounded")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: Vec<u8>) -> Frame {
        Frame { kind: FrameKind::Entries, epoch: 3, sequence: 1 << 40, payload }
    }

    #[test]
    fn frames_come_back_compressed_or_not() {
        let repetitive = frame(vec![7; 5000]);
        assert!(repetitive.to_bytes(true).len() < 200);
        for compress in [false, true] {
            for original in [frame(vec![]), frame(b"short".to_vec()), repetitive.clone()] {
                let bytes = original.to_bytes(compress);
                assert_eq!(Frame::read(&mut bytes.as_slice()).unwrap(), Some(original));
            }
        }
        assert!(Frame::read(&mut io::empty()).unwrap().is_none());
    }

    #[test]
    fn any_flipped_bit_and_any_truncation_is_noticed() {
        let bytes = frame(b"some payload".to_vec()).to_bytes(false);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::read(&mut damaged.as_slice()).is_err(), "bit {bit}");
        }
        for length in 1..bytes.len() {
            let error = Frame::read(&mut &bytes[..length]).unwrap_err();
            assert!(matches!(error, FrameError::Truncated), "{length} bytes: {error}");
        }
    }

    #[test]
    fn promised_lengths_cost_nothing() {
        let mut bytes = frame(vec![1]).to_bytes(false);
        bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Frame::read(&mut bytes.as_slice()), Err(FrameError::Length { bytes: u32::MAX })));
    }
}
