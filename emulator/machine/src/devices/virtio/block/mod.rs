//! Virtio disk (virtio 1.2, 5.2).
//!
//! A request is read from guest memory (descriptors and payload) when the driver notifies, becomes an
//! [`crate::io::Output::Block`], and ends when [`crate::io::Input::BlockCompletion`] arrives: only then are read data, status
//! and used ring written. In between it is state of this device: saved, restored, and listed for re-issue.
//!
//! - **Overlap**: a request that touches a sector of an earlier unfinished one waits inside, if one of the two changes
//!   it, so the outside never sees two such requests together and need not order them.
//! - **Flush** covers the writes that were completed before it (as the standard says), so it never waits.
//! - **Write-through** (the driver has no FLUSH, or turned the write cache off by CONFIG_WCE): a write is followed by a flush
//!   inside, and completes to the guest when that is done.
//! - **Bounds**: at most [`IN_FLIGHT_LIMIT`] requests and about [`IN_FLIGHT_BYTES`] of data in flight; further chains stay
//!   in the ring until something completes.
//! - **Reset**: requests in flight go on outside. Their results are dropped, but they still hold back later
//!   requests that overlap them.
//!
//! Not offered: geometry, size_max, secure erase, zones, SCSI commands.

mod device;
mod inflight;
mod request;

pub use device::{Block, BlockCounters, BlockDeviceState};
pub use inflight::{InFlight, Reply, Request};

use serde::{Deserialize, Serialize};

use crate::io::DeviceIndex;

/// Bytes of a sector: the unit of addresses.
pub const SECTOR_SIZE: u64 = 512;
/// Most requests that are unfinished outside or wait inside.
pub const IN_FLIGHT_LIMIT: usize = 256;
/// No further request is taken while so many bytes of data are in flight.
pub const IN_FLIGHT_BYTES: u64 = 64 << 20;
/// Most data in one request; a longer one fails with IOERR.
pub const REQUEST_BYTES: u64 = 32 << 20;
/// Most sectors in one discard or write-zeroes request: 1 GiB.
pub const RANGE_SECTORS: u32 = 1 << 21;
/// Largest size of a request queue.
pub const QUEUE_SIZE: u16 = 256;
/// Most request queues.
pub const QUEUE_LIMIT: u16 = 8;

/// What a disk looks like to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockConfig {
    /// Index among the machine's disks.
    pub index: DeviceIndex,
    /// Size in bytes; a rest below a sector is not visible.
    pub size_bytes: u64,
    /// Writes fail, and the guest is told so.
    pub read_only: bool,
    /// Serial number, at most 20 bytes are visible.
    pub serial: String,
    /// Logical block size in bytes: a power of two from 512 to 4096.
    pub block_size: u32,
    /// Physical block size in bytes: a power of two, at least the logical one.
    pub physical_block_size: u32,
    /// Best size of a transfer in bytes, or 0 if none is better.
    pub optimal_io_size: u32,
    /// Offer discard.
    pub discard: bool,
    /// Offer write-zeroes.
    pub write_zeroes: bool,
    /// Request queues: 1 to [`QUEUE_LIMIT`].
    pub queues: u16,
}

impl BlockConfig {
    /// A writable disk with 512-byte blocks, discard and write-zeroes, and one queue.
    #[must_use]
    pub fn new(index: DeviceIndex, size_bytes: u64) -> Self {
        Self {
            index,
            size_bytes,
            read_only: false,
            serial: String::new(),
            block_size: 512,
            physical_block_size: 512,
            optimal_io_size: 0,
            discard: true,
            write_zeroes: true,
            queues: 1,
        }
    }
}
