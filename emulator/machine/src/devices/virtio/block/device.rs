//! The disk itself.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::{Bytes, GuestAddress};

use super::inflight::{InFlight, Reply, Request};
use super::request::{Parsed, Rules};
use super::{BlockConfig, QUEUE_LIMIT, QUEUE_SIZE, RANGE_SECTORS, SECTOR_SIZE};
use crate::context::Effect;
use crate::devices::pci::DeliverError;
use crate::devices::virtio::queue::{RingError, Rings, length_of, scatter};
use crate::devices::virtio::{DeviceError, VirtioDevice, VirtioIdentity, byte, feature, to_usize};
use crate::io::{BlockOperation, BlockStatus, DeviceIndex, Input, Output, RequestId};
use crate::snapshot::{RestoreError, Snapshot};

/// Offset of the writeback field in the configuration structure.
const CONFIG_WRITEBACK: u64 = 32;

/// Requests since power-on, by their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlockCounters {
    /// Requests taken from the rings.
    pub requests: u64,
    /// Requests that failed because of the guest or the host.
    pub errors: u64,
    /// Requests of a kind that is not supported.
    pub unsupported: u64,
    /// Requests that had to wait for an overlapping one.
    pub held_back: u64,
    /// Completions whose chain was gone after a reset.
    pub abandoned: u64,
}

/// A virtio disk.
#[derive(Debug)]
pub struct Block {
    config: BlockConfig,
    in_flight: InFlight,
    /// The writeback field: the driver wants a write cache.
    writeback: bool,
    counters: BlockCounters,
}

/// Saved state of a [`Block`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDeviceState {
    /// The disk, so that a state cannot be put into another one.
    pub index: DeviceIndex,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Unfinished requests.
    pub in_flight: InFlight,
    /// The writeback field.
    pub writeback: bool,
    /// Counted since power-on.
    pub counters: BlockCounters,
}

impl Block {
    /// A disk. Queue count and block sizes are brought into their ranges.
    #[must_use]
    pub fn new(mut config: BlockConfig) -> Self {
        config.queues = config.queues.clamp(1, QUEUE_LIMIT);
        config.block_size = config.block_size.clamp(512, 4096).next_power_of_two();
        config.physical_block_size = config.physical_block_size.max(config.block_size).next_power_of_two();
        Self { config, in_flight: InFlight::default(), writeback: true, counters: BlockCounters::default() }
    }

    /// Requests since power-on.
    #[must_use]
    pub fn counters(&self) -> BlockCounters {
        self.counters
    }

    /// A completed write must survive a crash of the host without a flush.
    fn write_through(&self, rings: &Rings<'_, '_>) -> bool {
        if rings.has(VIRTIO_BLK_F_CONFIG_WCE) { !self.writeback } else { !rings.has(VIRTIO_BLK_F_FLUSH) }
    }

    fn serve(&mut self, rings: &mut Rings<'_, '_>, queue: u16) -> Result<(), RingError> {
        while self.in_flight.has_room() {
            let Some(chain) = rings.pop(queue)? else {
                rings.arm(queue)?;
                break;
            };
            self.counters.requests += 1;
            let rules = Rules::new(&self.config, |number| rings.has(number));
            let (reply, parsed) = rules.parse(rings.memory(), queue, &chain)?;
            match parsed {
                Parsed::Operation(operation) => {
                    self.in_flight.add(operation, Some(reply));
                    let issued = self.issue(rings);
                    self.counters.held_back += u64::from(!issued);
                }
                Parsed::GetId => {
                    let mut serial = self.config.serial.clone().into_bytes();
                    serial.resize(VIRTIO_BLK_ID_BYTES as usize, 0);
                    self.answer(rings, &reply, BlockStatus::Ok, &serial)?;
                }
                Parsed::Done(status) => self.answer(rings, &reply, status, &[])?,
            }
        }
        Ok(())
    }

    /// Hands out what may go; true when there was something.
    fn issue(&mut self, rings: &mut Rings<'_, '_>) -> bool {
        let issued = self.in_flight.issue();
        let any = !issued.is_empty();
        for (id, operation) in issued {
            rings.cx.effects.push(Effect::Output(self.output(id, operation)));
        }
        any
    }

    fn output(&self, id: u64, operation: BlockOperation) -> Output {
        Output::Block { device: self.config.index, request: RequestId(id), operation }
    }

    /// Writes data and status, and gives the chain back.
    fn answer(
        &mut self,
        rings: &mut Rings<'_, '_>,
        reply: &Reply,
        status: BlockStatus,
        data: &[u8],
    ) -> Result<(), RingError> {
        let code = match status {
            BlockStatus::Ok => VIRTIO_BLK_S_OK,
            BlockStatus::IoError => VIRTIO_BLK_S_IOERR,
            BlockStatus::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        self.counters.errors += u64::from(status == BlockStatus::IoError);
        self.counters.unsupported += u64::from(status == BlockStatus::Unsupported);
        if !rings.is_live() {
            self.counters.abandoned += 1;
            return Ok(());
        }
        let written = scatter(rings.memory(), &reply.data, data)?;
        let code = byte(code);
        rings
            .memory()
            .write_obj(code, GuestAddress(reply.status))
            .map_err(|error| RingError::Ring(error.to_string()))?;
        rings.complete(reply.queue, reply.head, written + 1)
    }

    /// Takes the completed request out, if it fits what is in flight.
    fn finish(&mut self, id: RequestId, status: BlockStatus, data: &[u8]) -> Result<Request, DeliverError> {
        let device = self.config.index;
        let unknown = DeliverError::UnknownRequest { device, request: id };
        let Some(request) = self.in_flight.requests.get(&id.0).filter(|request| request.issued) else {
            return Err(unknown);
        };
        let expected = match request.operation {
            BlockOperation::Read { length, .. } if status == BlockStatus::Ok => to_usize(u64::from(length)),
            _ => 0,
        };
        if data.len() != expected {
            return Err(DeliverError::DataLength { device, request: id, expected, found: data.len() });
        }
        self.in_flight.requests.remove(&id.0).ok_or(unknown)
    }

    fn complete(
        &mut self,
        rings: &mut Rings<'_, '_>,
        request: Request,
        status: BlockStatus,
        data: &[u8],
    ) -> Result<(), RingError> {
        let changes = !matches!(request.operation, BlockOperation::Read { .. } | BlockOperation::Flush);
        match request.reply {
            None => self.counters.abandoned += 1,
            Some(reply) if changes && status == BlockStatus::Ok && self.write_through(rings) => {
                self.in_flight.add(BlockOperation::Flush, Some(reply));
            }
            Some(reply) => self.answer(rings, &reply, status, data)?,
        }
        Ok(())
    }
}

impl VirtioDevice for Block {
    fn identity(&self) -> VirtioIdentity {
        VirtioIdentity { name: "virtio-block", device_type: VIRTIO_ID_BLOCK, class: 0x01_8000 }
    }

    fn features(&self) -> u64 {
        let mut features = feature(VIRTIO_BLK_F_SEG_MAX)
            | feature(VIRTIO_BLK_F_BLK_SIZE)
            | feature(VIRTIO_BLK_F_TOPOLOGY)
            | feature(VIRTIO_BLK_F_FLUSH)
            | feature(VIRTIO_BLK_F_CONFIG_WCE);
        let optional = [
            (self.config.read_only, VIRTIO_BLK_F_RO),
            (self.config.discard && !self.config.read_only, VIRTIO_BLK_F_DISCARD),
            (self.config.write_zeroes && !self.config.read_only, VIRTIO_BLK_F_WRITE_ZEROES),
            (self.config.queues > 1, VIRTIO_BLK_F_MQ),
        ];
        for (_, number) in optional.into_iter().filter(|&(offered, _)| offered) {
            features |= feature(number);
        }
        features
    }

    fn accepts_features(&self, _accepted: u64) -> bool {
        // The block features do not depend on one another.
        true
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.config.queues)]
    }

    fn config(&self) -> Vec<u8> {
        let block_size = self.config.block_size;
        let physical = self.config.physical_block_size;
        let exponent = (physical / block_size).trailing_zeros();
        let minimum = u16::try_from(physical / block_size).unwrap_or(u16::MAX);
        let mut bytes = Vec::with_capacity(60);
        bytes.extend((self.config.size_bytes / SECTOR_SIZE).to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        // A chain has a header and a status beside the data.
        bytes.extend(u32::from(QUEUE_SIZE - 2).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(block_size.to_le_bytes());
        bytes.extend([byte(exponent), 0]);
        bytes.extend(minimum.to_le_bytes());
        bytes.extend((self.config.optimal_io_size / block_size).to_le_bytes());
        bytes.extend([u8::from(self.writeback), 0]);
        bytes.extend(self.config.queues.to_le_bytes());
        // Discard: sectors, ranges, alignment. Write-zeroes: sectors, ranges, may unmap.
        let alignment = u32::try_from(u64::from(block_size) / SECTOR_SIZE).unwrap_or(1);
        for value in [RANGE_SECTORS, 1, alignment, RANGE_SECTORS, 1] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend([1, 0, 0, 0]);
        bytes
    }

    fn write_config(&mut self, rings: &mut Rings<'_, '_>, offset: u64, data: &[u8]) -> Result<(), RingError> {
        if let (CONFIG_WRITEBACK, [value]) = (offset, data)
            && rings.has(VIRTIO_BLK_F_CONFIG_WCE)
        {
            self.writeback = *value != 0;
        }
        Ok(())
    }

    fn activate(&mut self, _rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        Ok(())
    }

    fn notify(&mut self, rings: &mut Rings<'_, '_>, queue: u16) -> Result<(), RingError> {
        self.serve(rings, queue)
    }

    fn accepts(&self, input: &Input) -> bool {
        matches!(input, Input::BlockCompletion { device, .. } if *device == self.config.index)
    }

    fn deliver(&mut self, rings: &mut Rings<'_, '_>, input: &Input) -> Result<(), DeviceError> {
        let Input::BlockCompletion { request, status, data, .. } = input else { return Ok(()) };
        let finished = self.finish(*request, *status, data)?;
        let completed = self.complete(rings, finished, *status, data);
        // Even when the driver broke its rings, requests that were held back behind this one go on.
        self.issue(rings);
        completed?;
        for queue in 0..self.config.queues {
            self.serve(rings, queue)?;
        }
        Ok(())
    }

    fn in_flight(&self) -> Vec<Output> {
        let issued = self.in_flight.requests.iter().filter(|(_, request)| request.issued);
        issued.map(|(id, request)| self.output(*id, request.operation.clone())).collect()
    }

    fn reset(&mut self) {
        self.in_flight.abandon();
        self.writeback = true;
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let BlockCounters { requests, errors, unsupported, held_back, abandoned } = self.counters;
        vec![
            ("requests", requests),
            ("errors", errors),
            ("unsupported", unsupported),
            ("held_back", held_back),
            ("abandoned", abandoned),
        ]
    }
}

impl Snapshot for Block {
    const KIND: &'static str = "virtio-block";
    const VERSION: u16 = 1;
    type State = BlockDeviceState;

    fn save(&self) -> BlockDeviceState {
        let Self { config, in_flight, writeback, counters } = self;
        BlockDeviceState {
            index: config.index,
            size_bytes: config.size_bytes,
            in_flight: in_flight.clone(),
            writeback: *writeback,
            counters: *counters,
        }
    }

    fn restore(&mut self, state: BlockDeviceState) -> Result<(), RestoreError> {
        let invalid = |reason: String| Err(RestoreError::Invalid { kind: Self::KIND, reason });
        let BlockDeviceState { index, size_bytes, in_flight, writeback, counters } = state;
        if (index, size_bytes) != (self.config.index, self.config.size_bytes) {
            return invalid(format!("it is disk {} of {size_bytes} bytes", index.0));
        }
        for (id, request) in &in_flight.requests {
            let data = request.reply.as_ref().map_or(0, |reply| length_of(&reply.data));
            let fits = match request.operation {
                BlockOperation::Read { length, .. } => request.reply.is_none() || data == u64::from(length),
                _ => true,
            };
            if *id >= in_flight.next_id || !fits {
                return invalid(format!("request {id} is not one of this disk"));
            }
        }
        (self.in_flight, self.writeback, self.counters) = (in_flight, writeback, counters);
        Ok(())
    }
}
