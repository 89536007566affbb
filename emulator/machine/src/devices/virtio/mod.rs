//! Virtio 1.x devices behind PCI (OASIS virtio 1.2).
//!
//! [`transport::VirtioPci`] is the PCI function: capabilities, common configuration, notification, interrupts. The
//! devices know virtqueues and their own configuration only, by the trait [`VirtioDevice`]:
//!
//! | device | module | queues |
//! |---|---|---|
//! | disk | [`block`] | 1 or more request queues |
//! | network | [`net`] | receive, transmit, control |
//! | console | [`console`] | receive and transmit per port, control pair |
//! | entropy | [`rng`] | 1 |
//! | balloon | [`balloon`] | inflate, deflate, statistics, reporting |
//!
//! Determinism: a request is read from guest memory at the notification and its result is written there at the
//! notification or at an input, so every access to guest memory has a definite position.
//!
//! A driver that breaks the rules of the rings (an index out of range, a loop, an address outside RAM) stops its own
//! device: it is counted, the device shows NEEDS_RESET, and works again after a reset. Work per call is bounded by the size of
//! the queue.

pub mod balloon;
pub mod block;
pub mod console;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod net;
pub mod queue;
pub mod rng;
#[cfg(any(test, feature = "fuzzing"))]
pub mod testing;
pub mod transport;

#[cfg(test)]
mod tests;

use std::fmt::Debug;

use thiserror::Error;

use crate::devices::pci::DeliverError;
use crate::io::{Input, Output};
use crate::snapshot::Snapshot;
use queue::{RingError, Rings};

/// The bit of a feature number.
#[must_use]
pub const fn feature(number: u32) -> u64 {
    1 << number
}

/// What a device is, for the PCI header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioIdentity {
    /// Name for messages and counters.
    pub name: &'static str,
    /// Virtio device type.
    pub device_type: u32,
    /// PCI class code, 0xbbssii.
    pub class: u32,
}

/// Why a device could not take an input.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DeviceError {
    /// The driver broke its rings: the device needs a reset.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The input cannot have happened.
    #[error(transparent)]
    Input(#[from] DeliverError),
}

/// A virtio device without its transport.
///
/// The transport calls the queue methods only between DRIVER_OK and a reset; [`VirtioDevice::deliver`] comes at any
/// time, with rings that hand out nothing while the driver is not ready.
pub trait VirtioDevice: Snapshot + Debug + Send {
    /// What the device is.
    fn identity(&self) -> VirtioIdentity;

    /// Device-specific features that are offered; those of rings and transport are added by the transport.
    fn features(&self) -> u64;

    /// True when the features that the driver accepted make sense together.
    fn accepts_features(&self, accepted: u64) -> bool;

    /// Largest size of each queue, a power of two.
    fn queue_sizes(&self) -> Vec<u16>;

    /// The whole configuration structure as it is now.
    fn config(&self) -> Vec<u8>;

    /// The driver wrote `data` at `offset` of the configuration structure.
    ///
    /// # Errors
    /// When it makes the device look at a broken ring.
    fn write_config(&mut self, rings: &mut Rings<'_, '_>, offset: u64, data: &[u8]) -> Result<(), RingError>;

    /// The driver is ready: features are final.
    ///
    /// # Errors
    /// When it makes the device look at a broken ring.
    fn activate(&mut self, rings: &mut Rings<'_, '_>) -> Result<(), RingError>;

    /// The driver has put something into a queue that is enabled.
    ///
    /// # Errors
    /// When the driver broke the ring or the rules of the device: it will need a reset.
    fn notify(&mut self, rings: &mut Rings<'_, '_>, queue: u16) -> Result<(), RingError>;

    /// True when the input is for this device.
    fn accepts(&self, input: &Input) -> bool;

    /// Takes an input.
    ///
    /// # Errors
    /// When the driver broke the ring, or the input cannot have happened.
    fn deliver(&mut self, rings: &mut Rings<'_, '_>, input: &Input) -> Result<(), DeviceError>;

    /// Outputs whose completion is still to come, in the order of their requests.
    fn in_flight(&self) -> Vec<Output>;

    /// The driver or the machine resets the device. What is in flight outside stays known, its results are dropped.
    fn reset(&mut self);

    /// Events counted since power-on, by name.
    fn counters(&self) -> Vec<(&'static str, u64)>;
}

/// Constants of the bindings that fill one byte.
pub(crate) const fn byte(value: u32) -> u8 {
    value.to_le_bytes()[0]
}

/// Offsets and lengths that were checked against a small bound.
pub(crate) fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
