//! Virtio entropy device (virtio 1.2, 5.4): every buffer is filled at the notification, from the machine's own
//! generator.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::queue::{RingError, Rings, length_of, scatter};
use super::{DeviceError, VirtioDevice, VirtioIdentity, to_usize};
use crate::io::{Input, Output};
use crate::snapshot::{RestoreError, Snapshot};

/// Most bytes per buffer; what is behind them stays as it was, and the driver is told.
pub const BYTES_LIMIT: usize = 64 << 10;
/// Size of the queue.
pub const QUEUE_SIZE: u16 = 64;

/// A virtio entropy device.
#[derive(Debug, Default)]
pub struct Rng {
    bytes: u64,
}

/// Saved state of a [`Rng`]. The generator belongs to the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {
    /// Bytes given since power-on.
    pub bytes: u64,
}

impl Rng {
    /// An entropy device.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn identity(&self) -> VirtioIdentity {
        VirtioIdentity { name: "virtio-rng", device_type: VIRTIO_ID_RNG, class: 0x00_ff00 }
    }

    fn features(&self) -> u64 {
        0
    }

    fn accepts_features(&self, _accepted: u64) -> bool {
        // There are no features of its own.
        true
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn write_config(&mut self, _rings: &mut Rings<'_, '_>, _offset: u64, _data: &[u8]) -> Result<(), RingError> {
        Ok(())
    }

    fn activate(&mut self, _rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        Ok(())
    }

    fn notify(&mut self, rings: &mut Rings<'_, '_>, queue: u16) -> Result<(), RingError> {
        while let Some(chain) = rings.pop(queue)? {
            if chain.writable.is_empty() {
                return Err(chain.protocol("an entropy request without room for bytes"));
            }
            let mut bytes = vec![0; to_usize(length_of(&chain.writable)).min(BYTES_LIMIT)];
            rings.cx.entropy.fill(&mut bytes);
            let written = scatter(rings.memory(), &chain.writable, &bytes)?;
            self.bytes += written as u64;
            rings.complete(queue, chain.head, written)?;
        }
        rings.arm(queue)
    }

    fn accepts(&self, _input: &Input) -> bool {
        false
    }

    fn deliver(&mut self, _rings: &mut Rings<'_, '_>, _input: &Input) -> Result<(), DeviceError> {
        Ok(())
    }

    fn in_flight(&self) -> Vec<Output> {
        Vec::new()
    }

    /// Nothing but the counter is left between calls.
    fn reset(&mut self) {}

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("bytes", self.bytes)]
    }
}

impl Snapshot for Rng {
    const KIND: &'static str = "virtio-rng";
    const VERSION: u16 = 1;
    type State = RngState;

    fn save(&self) -> RngState {
        let Self { bytes } = self;
        RngState { bytes: *bytes }
    }

    fn restore(&mut self, state: RngState) -> Result<(), RestoreError> {
        let RngState { bytes } = state;
        self.bytes = bytes;
        Ok(())
    }
}
