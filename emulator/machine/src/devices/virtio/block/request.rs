//! From a descriptor chain to an operation.

use virtft_cpu::memory::GuestMemory;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::inflight::Reply;
use super::{BlockConfig, RANGE_SECTORS, REQUEST_BYTES, SECTOR_SIZE};
use crate::devices::pci::value_of;
use crate::devices::virtio::queue::{Buffer, Chain, RingError, gather, length_of, split};
use crate::io::{BlockOperation, BlockStatus};

/// Bytes of the header: type, priority, sector.
const HEADER: u64 = 16;
/// Bytes of one range in a discard or write-zeroes request.
const RANGE: u64 = 16;

/// What a chain asks for.
#[derive(Debug)]
pub(super) enum Parsed {
    /// To be done outside.
    Operation(BlockOperation),
    /// The serial number.
    GetId,
    /// Answered at once.
    Done(BlockStatus),
}

/// What decides about a request beside the request itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub config: &'a BlockConfig,
    /// Features that the driver accepted, as far as they matter here.
    pub discard: bool,
    pub write_zeroes: bool,
}

impl<'a> Rules<'a> {
    pub fn new(config: &'a BlockConfig, has: impl Fn(u32) -> bool) -> Self {
        Self { config, discard: has(VIRTIO_BLK_F_DISCARD), write_zeroes: has(VIRTIO_BLK_F_WRITE_ZEROES) }
    }

    /// Parses a chain: where its reply goes, and what it asks for.
    pub fn parse(&self, memory: &GuestMemory, queue: u16, chain: &Chain) -> Result<(Reply, Parsed), RingError> {
        let readable = length_of(&chain.readable);
        let writable = length_of(&chain.writable);
        if readable < HEADER || writable == 0 {
            return Err(chain.protocol("a disk request without room for header or status"));
        }
        let (header, payload) = split(&chain.readable, HEADER);
        let (data, status) = split(&chain.writable, writable - 1);
        let header = gather(memory, &header, 16)?;
        let status = status.first().map_or(0, |buffer| buffer.address);
        let kind = u32::try_from(value_of(&header[..4])).unwrap_or(u32::MAX);
        let sector = value_of(&header[8..16]);
        let parsed = match kind {
            VIRTIO_BLK_T_IN => self.read(sector, length_of(&data)),
            VIRTIO_BLK_T_OUT => self.write(memory, sector, &payload)?,
            VIRTIO_BLK_T_FLUSH => Parsed::Operation(BlockOperation::Flush),
            VIRTIO_BLK_T_GET_ID if length_of(&data) < u64::from(VIRTIO_BLK_ID_BYTES) => failed(),
            VIRTIO_BLK_T_GET_ID => Parsed::GetId,
            VIRTIO_BLK_T_DISCARD if self.discard => self.range(memory, &payload, false)?,
            VIRTIO_BLK_T_WRITE_ZEROES if self.write_zeroes => self.range(memory, &payload, true)?,
            _ => Parsed::Done(BlockStatus::Unsupported),
        };
        Ok((Reply { queue, head: chain.head, data, status }, parsed))
    }

    /// Byte offset of a range of sectors on the disk.
    fn place(&self, sector: u64, length: u64) -> Option<u64> {
        let visible = self.config.size_bytes / SECTOR_SIZE * SECTOR_SIZE;
        let offset = sector.checked_mul(SECTOR_SIZE)?;
        let end = offset.checked_add(length)?;
        (length.is_multiple_of(SECTOR_SIZE) && end <= visible).then_some(offset)
    }

    fn read(&self, sector: u64, length: u64) -> Parsed {
        match (self.place(sector, length), u32::try_from(length)) {
            (Some(_), Ok(0)) => Parsed::Done(BlockStatus::Ok),
            (Some(offset), Ok(size)) if length <= REQUEST_BYTES => {
                Parsed::Operation(BlockOperation::Read { offset, length: size })
            }
            _ => failed(),
        }
    }

    fn write(&self, memory: &GuestMemory, sector: u64, payload: &[Buffer]) -> Result<Parsed, RingError> {
        let length = length_of(payload);
        if self.config.read_only || length > REQUEST_BYTES {
            return Ok(failed());
        }
        match self.place(sector, length) {
            Some(_) if length == 0 => Ok(Parsed::Done(BlockStatus::Ok)),
            Some(offset) => {
                let data = gather(memory, payload, usize::MAX)?;
                Ok(Parsed::Operation(BlockOperation::Write { offset, data }))
            }
            None => Ok(failed()),
        }
    }

    /// Discard and write-zeroes with one range, as max_discard_seg and max_write_zeroes_seg say.
    fn range(&self, memory: &GuestMemory, payload: &[Buffer], zeroes: bool) -> Result<Parsed, RingError> {
        if self.config.read_only || length_of(payload) != RANGE {
            return Ok(failed());
        }
        let bytes = gather(memory, payload, 16)?;
        let sectors = u32::try_from(value_of(&bytes[8..12])).unwrap_or(u32::MAX);
        let flags = u32::try_from(value_of(&bytes[12..16])).unwrap_or(u32::MAX);
        let allowed = if zeroes { VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP } else { 0 };
        if flags & !allowed != 0 {
            return Ok(Parsed::Done(BlockStatus::Unsupported));
        }
        let length = u64::from(sectors) * SECTOR_SIZE;
        let Some(offset) = self.place(value_of(&bytes[..8]), length) else { return Ok(failed()) };
        Ok(match sectors {
            0 => Parsed::Done(BlockStatus::Ok),
            _ if sectors > RANGE_SECTORS => failed(),
            _ if zeroes => Parsed::Operation(BlockOperation::WriteZeroes { offset, length, unmap: flags != 0 }),
            _ => Parsed::Operation(BlockOperation::Discard { offset, length }),
        })
    }
}

fn failed() -> Parsed {
    Parsed::Done(BlockStatus::IoError)
}
