//! Virtqueues as the devices use them: split rings on `virtio-queue`, every chain checked before it is used.
//!
//! A chain is taken apart once, when it is popped: each buffer must be non-empty and lie in RAM, readable buffers
//! come before writable ones, and the chain must end. After that a device cannot fail on a bad address.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtft_cpu::memory::GuestMemory;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VRING_AVAIL_F_NO_INTERRUPT};
use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{feature, to_usize};
use crate::context::DeviceContext;
use crate::snapshot::{RestoreError, Snapshot};

/// Most buffers in one chain, indirect ones included.
pub const CHAIN_LIMIT: usize = 1024;
/// The vector that means none.
pub const NO_VECTOR: u16 = 0xffff;

/// What a driver did wrong with a queue.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RingError {
    /// The ring itself is not usable.
    #[error("the ring cannot be used: {0}")]
    Ring(String),
    /// A chain that loops, leaves its table, or does not end.
    #[error("chain {head} is malformed")]
    Malformed {
        /// First descriptor.
        head: u16,
    },
    /// More than [`CHAIN_LIMIT`] buffers.
    #[error("chain {head} has more than {CHAIN_LIMIT} buffers")]
    TooLong {
        /// First descriptor.
        head: u16,
    },
    /// A buffer that is empty or not in RAM.
    #[error("chain {head} has a buffer of {length} bytes at {address:#x}")]
    Buffer {
        /// First descriptor.
        head: u16,
        /// Guest physical address.
        address: u64,
        /// Length in bytes.
        length: u32,
    },
    /// A readable buffer behind a writable one.
    #[error("chain {head} has a readable buffer behind a writable one")]
    Order {
        /// First descriptor.
        head: u16,
    },
    /// A request that the device type does not allow.
    #[error("chain {head}: {reason}")]
    Protocol {
        /// First descriptor.
        head: u16,
        /// What is wrong.
        reason: &'static str,
    },
}

/// A buffer in guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Guest physical address.
    pub address: u64,
    /// Length in bytes, at least 1.
    pub length: u32,
}

/// A descriptor chain, taken apart and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// First descriptor: the name of the chain in the used ring.
    pub head: u16,
    /// What the driver gives.
    pub readable: Vec<Buffer>,
    /// Where the device answers.
    pub writable: Vec<Buffer>,
}

impl Chain {
    /// An error of this chain.
    #[must_use]
    pub fn protocol(&self, reason: &'static str) -> RingError {
        RingError::Protocol { head: self.head, reason }
    }
}

/// Bytes in a list of buffers.
#[must_use]
pub fn length_of(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.length)).sum()
}

/// Cuts a list of buffers at `at`: the buffers before and after that byte.
#[must_use]
pub fn split(buffers: &[Buffer], at: u64) -> (Vec<Buffer>, Vec<Buffer>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut left = at;
    for &buffer in buffers {
        let first = u32::try_from(left).unwrap_or(u32::MAX).min(buffer.length);
        if first > 0 {
            before.push(Buffer { address: buffer.address, length: first });
        }
        if first < buffer.length {
            let address = buffer.address.wrapping_add(u64::from(first));
            after.push(Buffer { address, length: buffer.length - first });
        }
        left -= u64::from(first);
    }
    (before, after)
}

/// Copies at most `limit` bytes out of the buffers.
///
/// # Errors
/// When a buffer is not in RAM, which a popped chain rules out.
pub fn gather(memory: &GuestMemory, buffers: &[Buffer], limit: usize) -> Result<Vec<u8>, RingError> {
    let length = to_usize(length_of(buffers)).min(limit);
    let mut bytes = vec![0; length];
    let mut done = 0;
    for buffer in buffers {
        let end = done + (buffer.length as usize).min(length - done);
        memory
            .read_slice(&mut bytes[done..end], GuestAddress(buffer.address))
            .map_err(|error| RingError::Ring(error.to_string()))?;
        done = end;
    }
    Ok(bytes)
}

/// Copies `bytes` into the buffers; returns how many fitted.
///
/// # Errors
/// When a buffer is not in RAM, which a popped chain rules out.
pub fn scatter(memory: &GuestMemory, buffers: &[Buffer], bytes: &[u8]) -> Result<usize, RingError> {
    let mut done = 0;
    for buffer in buffers {
        let end = done + (buffer.length as usize).min(bytes.len() - done);
        memory
            .write_slice(&bytes[done..end], GuestAddress(buffer.address))
            .map_err(|error| RingError::Ring(error.to_string()))?;
        done = end;
    }
    Ok(done)
}

/// One virtqueue with its interrupt vector.
#[derive(Debug)]
pub struct VirtQueue {
    pub(super) queue: Queue,
    pub(super) vector: u16,
    /// Chains that may still be popped in this call: bounds the work even if the ring lies inside a buffer.
    budget: u16,
    /// Something was put into the used ring in this call.
    used: bool,
}

/// Saved state of a [`VirtQueue`]; the per-call fields are at rest between calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtQueueState {
    /// Size that the driver chose.
    pub size: u16,
    /// The queue is enabled.
    pub ready: bool,
    /// Ring addresses: descriptors, available, used.
    pub addresses: [u64; 3],
    /// Next entry of the available ring to look at.
    pub next_avail: u16,
    /// Next entry of the used ring to fill.
    pub next_used: u16,
    /// Event indices were negotiated.
    pub event_idx: bool,
    /// MSI-X vector, or [`NO_VECTOR`].
    pub vector: u16,
}

impl VirtQueue {
    /// A disabled queue.
    ///
    /// # Panics
    /// When `max_size` is not a power of two between 1 and 32768.
    #[must_use]
    pub fn new(max_size: u16) -> Self {
        let queue = Queue::new(max_size).expect("queue sizes are powers of two");
        Self { queue, vector: NO_VECTOR, budget: 0, used: false }
    }

    pub(super) fn reset(&mut self) {
        self.queue.reset();
        self.vector = NO_VECTOR;
        self.used = false;
    }

    fn pop(&mut self, memory: &GuestMemory) -> Result<Option<Chain>, RingError> {
        if !self.queue.ready() || self.budget == 0 {
            return Ok(None);
        }
        let ring_error = |error: virtio_queue::Error| RingError::Ring(error.to_string());
        let Some(descriptors) = self.queue.iter(memory).map_err(ring_error)?.next() else { return Ok(None) };
        self.budget -= 1;
        let head = descriptors.head_index();
        let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
        // A chain that is cut short (by a loop, a bad index or a bad table) ends in a descriptor that has a successor.
        let mut complete = false;
        for descriptor in descriptors {
            if chain.readable.len() + chain.writable.len() == CHAIN_LIMIT {
                return Err(RingError::TooLong { head });
            }
            let (address, length) = (descriptor.addr(), descriptor.len());
            if length == 0 || !GuestMemoryBackend::check_range(memory, address, length as usize) {
                return Err(RingError::Buffer { head, address: address.0, length });
            }
            let buffer = Buffer { address: address.0, length };
            if descriptor.is_write_only() {
                chain.writable.push(buffer);
            } else if chain.writable.is_empty() {
                chain.readable.push(buffer);
            } else {
                return Err(RingError::Order { head });
            }
            complete = !descriptor.has_next();
        }
        if complete { Ok(Some(chain)) } else { Err(RingError::Malformed { head }) }
    }

    /// True when the driver wants to hear of what was used in this call.
    fn wants_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, RingError> {
        let ring_error = |error: String| RingError::Ring(error);
        if self.queue.event_idx_enabled() {
            return self.queue.needs_notification(memory).map_err(|error| ring_error(error.to_string()));
        }
        let flags: u16 = memory
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Acquire)
            .map_err(|error| ring_error(error.to_string()))?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }
}

impl Snapshot for VirtQueue {
    const KIND: &'static str = "virtqueue";
    const VERSION: u16 = 1;
    type State = VirtQueueState;

    fn save(&self) -> VirtQueueState {
        let Self { queue, vector, budget: _, used: _ } = self;
        let state = queue.state();
        VirtQueueState {
            size: state.size,
            ready: state.ready,
            addresses: [state.desc_table, state.avail_ring, state.used_ring],
            next_avail: state.next_avail,
            next_used: state.next_used,
            event_idx: state.event_idx_enabled,
            vector: *vector,
        }
    }

    fn restore(&mut self, state: VirtQueueState) -> Result<(), RestoreError> {
        let [desc_table, avail_ring, used_ring] = state.addresses;
        let queue = Queue::try_from(QueueState {
            max_size: self.queue.max_size(),
            next_avail: state.next_avail,
            next_used: state.next_used,
            event_idx_enabled: state.event_idx,
            size: state.size,
            ready: state.ready,
            desc_table,
            avail_ring,
            used_ring,
        });
        let invalid =
            |error: virtio_queue::Error| RestoreError::Invalid { kind: Self::KIND, reason: error.to_string() };
        *self = Self { queue: queue.map_err(invalid)?, vector: state.vector, budget: 0, used: false };
        Ok(())
    }
}

/// What a call causes towards the driver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Signals {
    /// Queues whose driver wants an interrupt, ascending.
    pub queues: Vec<u16>,
    /// The configuration changed.
    pub config: bool,
}

/// The queues of a device during one call.
///
/// While the driver is not ready (before DRIVER_OK, after NEEDS_RESET, without bus mastering) nothing is popped and
/// what is completed is dropped.
#[derive(Debug)]
pub struct Rings<'a, 'c> {
    /// The call's context.
    pub cx: &'a mut DeviceContext<'c>,
    queues: &'a mut [VirtQueue],
    features: u64,
    live: bool,
    config_changed: bool,
}

impl<'a, 'c> Rings<'a, 'c> {
    pub(super) fn new(cx: &'a mut DeviceContext<'c>, queues: &'a mut [VirtQueue], features: u64, live: bool) -> Self {
        for queue in &mut *queues {
            queue.budget = queue.queue.size();
        }
        Self { cx, queues, features, live, config_changed: false }
    }

    /// Guest RAM.
    #[must_use]
    pub fn memory(&self) -> &'c GuestMemory {
        self.cx.memory
    }

    /// True when the driver accepted the feature with this number.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        self.features & feature(number) != 0
    }

    /// True while the driver is ready and the device may access memory.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Takes the next chain of a queue; `None` when there is none, or the queue is not enabled.
    ///
    /// # Errors
    /// When the driver broke the ring.
    pub fn pop(&mut self, queue: u16) -> Result<Option<Chain>, RingError> {
        match self.queues.get_mut(usize::from(queue)) {
            Some(slot) if self.live => slot.pop(self.cx.memory),
            _ => Ok(None),
        }
    }

    /// Place of the next chain of a queue, for [`Rings::rewind`].
    #[must_use]
    pub fn position(&self, queue: u16) -> u16 {
        self.queues.get(usize::from(queue)).map_or(0, |slot| slot.queue.next_avail())
    }

    /// Puts back the chains popped since `position`; none of them may be completed.
    pub fn rewind(&mut self, queue: u16, position: u16) {
        if let Some(slot) = self.queues.get_mut(usize::from(queue)) {
            slot.queue.set_next_avail(position);
        }
    }

    /// Gives a chain back with `written` bytes in its writable buffers.
    ///
    /// # Errors
    /// When the used ring cannot be written.
    pub fn complete(&mut self, queue: u16, head: u16, written: usize) -> Result<(), RingError> {
        match self.queues.get_mut(usize::from(queue)) {
            Some(slot) if self.live && slot.queue.ready() => {
                let written = u32::try_from(written).unwrap_or(u32::MAX);
                slot.used = true;
                slot.queue.add_used(self.cx.memory, head, written).map_err(|error| RingError::Ring(error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Asks the driver to notify when it puts the next chain into the queue. Only event indices need this.
    ///
    /// # Errors
    /// When the used ring cannot be written.
    pub fn arm(&mut self, queue: u16) -> Result<(), RingError> {
        match self.queues.get_mut(usize::from(queue)) {
            Some(slot) if self.live && slot.queue.ready() && slot.queue.event_idx_enabled() => slot
                .queue
                .enable_notification(self.cx.memory)
                .map(|_| ())
                .map_err(|error| RingError::Ring(error.to_string())),
            _ => Ok(()),
        }
    }

    /// Tells the driver that the configuration structure changed.
    pub fn config_changed(&mut self) {
        self.config_changed = true;
    }

    /// Ends the call: which interrupts are due.
    pub(super) fn finish(self) -> Result<Signals, RingError> {
        let mut signals = Signals { queues: Vec::new(), config: self.config_changed };
        for (index, slot) in (0u16..).zip(self.queues.iter_mut()) {
            if std::mem::take(&mut slot.used) && slot.wants_interrupt(self.cx.memory)? {
                signals.queues.push(index);
            }
        }
        Ok(signals)
    }
}

/// True when event indices are among the features.
pub(super) fn event_idx(features: u64) -> bool {
    features & feature(VIRTIO_RING_F_EVENT_IDX) != 0
}
