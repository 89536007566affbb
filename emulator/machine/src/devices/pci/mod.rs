//! PCI Express: one root bus with the devices integrated into the root complex.
//!
//! [`PciHost`] owns the bus. It decodes both configuration mechanisms (ports 0xcf8 and 0xcfc, and ECAM), hands
//! accesses to the functions behind it, assigns every BAR at construction (there is no firmware that would), and
//! joins the INTA pins to lines 16 to 23. A function is anything that implements [`PciFunction`]; it sees
//! configuration accesses in whole registers with a byte mask, as on the wire.
//!
//! Deviations from a real root complex: functions have no PCI Express capability and no extended configuration
//! space (it reads as zeroes), there is one function per device, and neither power management nor error
//! reporting exists.

pub mod config;
mod host;
pub mod msix;

#[cfg(test)]
mod tests;

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use host::{HostBridge, PciHost, PciHostState, interrupt_line};

use crate::context::DeviceContext;
use crate::io::{DeviceIndex, Input, Output, RequestId};
use crate::snapshot::{RestoreError, Snapshot};

/// A machine that cannot be put together.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PciError {
    /// More functions than device numbers on the bus.
    #[error("{count} PCI devices were asked for, the bus has room for {limit}")]
    TooManyDevices {
        /// Devices asked for.
        count: usize,
        /// Device numbers that are left beside the host bridge.
        limit: usize,
    },
    /// The window for device memory is too small.
    #[error("no room for {size_bytes} bytes of {name} in the window for PCI device memory")]
    WindowFull {
        /// The function whose BAR did not fit.
        name: &'static str,
        /// Size of the BAR.
        size_bytes: u64,
    },
}

/// An input that does not belong to this machine at this position: a fault of the host or of a log.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DeliverError {
    /// No device takes this kind of input or has this index.
    #[error("the machine has no device for this input: {what}")]
    NoDevice {
        /// The input without its bytes.
        what: String,
    },
    /// A completion for a request that is not in flight.
    #[error("disk {device:?} has no request {request:?} in flight")]
    UnknownRequest {
        /// The disk.
        device: DeviceIndex,
        /// The request named by the completion.
        request: RequestId,
    },
    /// A completion with the wrong amount of data.
    #[error("disk {device:?}, request {request:?}: {found} bytes were read where {expected} were asked for")]
    DataLength {
        /// The disk.
        device: DeviceIndex,
        /// The request named by the completion.
        request: RequestId,
        /// Bytes asked for.
        expected: usize,
        /// Bytes delivered.
        found: usize,
    },
    /// A packet without its 12-byte header.
    #[error("network device {device:?}: a packet of {found} bytes has no room for its header")]
    PacketHeader {
        /// The network device.
        device: DeviceIndex,
        /// Bytes delivered.
        found: usize,
    },
}

/// A memory BAR that is decoded at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarWindow {
    /// Index of the (lower) register, 0 to 5.
    pub bar: usize,
    /// First physical address.
    pub base: u64,
    /// Size in bytes, a power of two.
    pub size: u64,
}

/// State of one function, encoded by its own type, with what is needed to refuse a wrong one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartState {
    /// [`Snapshot::KIND`] of the function.
    pub kind: String,
    /// [`Snapshot::VERSION`] of the function.
    pub version: u16,
    /// [`Snapshot::State`] in postcard encoding.
    pub bytes: Vec<u8>,
}

impl PartState {
    /// Saves a part.
    ///
    /// # Panics
    /// Never: the state types hold only values that postcard can encode.
    pub fn of<T: Snapshot>(part: &T) -> Self {
        let bytes = postcard::to_allocvec(&part.save()).expect("state types are plain data");
        Self { kind: T::KIND.into(), version: T::VERSION, bytes }
    }

    /// Restores a part; on an error the part is unchanged.
    ///
    /// # Errors
    /// When the state is of another kind or version, does not decode, or does not fit the part.
    pub fn restore_into<T: Snapshot>(self, part: &mut T) -> Result<(), RestoreError> {
        if self.kind != T::KIND || self.version != T::VERSION {
            return Err(RestoreError::Version {
                kind: T::KIND,
                version: T::VERSION,
                found_kind: self.kind,
                found_version: self.version,
            });
        }
        let invalid = |reason: String| RestoreError::Invalid { kind: T::KIND, reason };
        let (state, rest) = postcard::take_from_bytes(&self.bytes).map_err(|error| invalid(error.to_string()))?;
        if !rest.is_empty() {
            return Err(invalid(format!("{} bytes too many", rest.len())));
        }
        part.restore(state)
    }
}

/// A PCI function on the root bus.
///
/// Every call happens at one position; what it causes is in the context's effects. A function never asserts its
/// INTA line itself: the host compares [`PciFunction::intx_level`] after each call.
pub trait PciFunction: Debug + Send {
    /// Name for error messages and counters.
    fn name(&self) -> &'static str;

    /// Reads the configuration register at `register`, a multiple of 4 below 4096 (zero from 256 on).
    fn config_read(&mut self, cx: &mut DeviceContext<'_>, register: usize) -> u32;

    /// Writes the bytes of `value` that `mask` selects (0xff per byte) to the register at `register`.
    fn config_write(&mut self, cx: &mut DeviceContext<'_>, register: usize, value: u32, mask: u32);

    /// The memory BARs as (index of the lower register, size in bytes).
    fn bar_sizes(&self) -> Vec<(usize, u64)>;

    /// Gives a BAR its address, now and after every reset.
    fn assign_bar(&mut self, bar: usize, base: u64);

    /// The BARs that are decoded at present; none while memory space is disabled in the command register.
    fn windows(&self) -> Vec<BarWindow>;

    /// Reads inside a BAR.
    fn bar_read(&mut self, cx: &mut DeviceContext<'_>, bar: usize, access: BarAccess) -> u64;

    /// Writes inside a BAR.
    fn bar_write(&mut self, cx: &mut DeviceContext<'_>, bar: usize, access: BarAccess, value: u64);

    /// True while the function asserts INTA.
    fn intx_level(&self) -> bool;

    /// True when the input is for this function.
    fn accepts(&self, input: &Input) -> bool;

    /// Takes an input for which [`PciFunction::accepts`] is true.
    ///
    /// # Errors
    /// When the input cannot have happened to this device in this state.
    fn deliver(&mut self, cx: &mut DeviceContext<'_>, input: &Input) -> Result<(), DeliverError>;

    /// Outputs handed out whose completion is still to come, in the order of their requests.
    fn in_flight(&self) -> Vec<Output>;

    /// Back to the state after power-on, except for what is in flight.
    fn reset(&mut self);

    /// Events counted since power-on, by name.
    fn counters(&self) -> Vec<(&'static str, u64)>;

    /// Saves the state.
    fn save_part(&self) -> PartState;

    /// Restores the state; on an error the function is unchanged.
    ///
    /// # Errors
    /// When the state does not fit this function.
    fn restore_part(&mut self, state: PartState) -> Result<(), RestoreError>;
}

/// Where in a BAR an access goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarAccess {
    /// Offset in bytes.
    pub offset: u64,
    /// 1, 2, 4 or 8.
    pub size: usize,
}

/// The little-endian value of up to 8 bytes.
pub(crate) fn value_of(bytes: &[u8]) -> u64 {
    let mut image = [0; 8];
    let length = bytes.len().min(8);
    image[..length].copy_from_slice(&bytes[..length]);
    u64::from_le_bytes(image)
}

/// `size` bytes at `offset` of a register image as a little-endian value; bytes behind its end are zero.
pub(crate) fn read_image(image: &[u8], offset: u64, size: usize) -> u64 {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(image.len());
    let end = start.saturating_add(size.min(8)).min(image.len());
    value_of(&image[start..end])
}
