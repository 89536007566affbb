//! Virtio over PCI (virtio 1.2, 4.1), modern interface only.
//!
//! One 64-bit memory BAR holds everything:
//!
//! | offset | what |
//! |---|---|
//! | 0x0000 | common configuration |
//! | 0x1000 | interrupt status |
//! | 0x2000 | device configuration |
//! | 0x3000 | notification, 4 bytes per queue |
//! | 0x4000 | MSI-X table |
//! | 0x6000 | MSI-X pending bits |
//!
//! The device status:
//!
//! ```text
//!  0 --ACKNOWLEDGE, DRIVER--> --FEATURES_OK (refused if the features do not fit)--> --DRIVER_OK--> live
//!  live --broken ring--> NEEDS_RESET --0 written--> 0
//! ```
//!
//! Without bus mastering the device is not live. When it becomes live, all enabled queues are looked at once, so a
//! notification that came too early is not lost.

mod common;
mod function;
mod state;

use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;

pub use state::{Registers, TransportCounters, VirtioPciState};

use super::queue::{NO_VECTOR, RingError, Rings, Signals, VirtQueue};
use super::{DeviceError, VirtioDevice, byte, feature};
use crate::context::DeviceContext;
use crate::devices::pci::DeliverError;
use crate::devices::pci::config::{COMMAND_MASTER, ConfigSpace, Identity};
use crate::devices::pci::msix::{self, MsiX, MsiXControl};

/// Size of the BAR in bytes.
pub const BAR_SIZE: u64 = 0x8000;
/// Offset of the common configuration in the BAR.
pub const COMMON: u64 = 0;
/// Offset of the interrupt status in the BAR.
pub const ISR: u64 = 0x1000;
/// Offset of the device configuration in the BAR.
pub const DEVICE: u64 = 0x2000;
/// Offset of the notification area in the BAR.
pub const NOTIFY: u64 = 0x3000;
/// Offset of the MSI-X table in the BAR.
pub const MSIX_TABLE: u64 = 0x4000;
/// Offset of the MSI-X pending bits in the BAR.
pub const MSIX_PENDING: u64 = 0x6000;
/// Bytes between the notification registers of neighbouring queues.
pub const NOTIFY_MULTIPLIER: u32 = 4;

const REGION_SIZE: u32 = 0x1000;
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

const DRIVER_OK: u8 = byte(VIRTIO_CONFIG_S_DRIVER_OK);
const NEEDS_RESET: u8 = byte(VIRTIO_CONFIG_S_NEEDS_RESET);

/// Vendor-specific capability.
const CAPABILITY_VENDOR: u8 = 0x09;
/// Types of virtio capabilities (virtio 1.2, 4.1.4).
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_ISR: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI_ACCESS: u8 = 5;

/// A virtio device as a PCI function.
#[derive(Debug)]
pub struct VirtioPci<D> {
    config: ConfigSpace,
    /// Where the capability for access through configuration space is.
    access_capability: usize,
    msix_capability: usize,
    msix: MsiX,
    registers: Registers,
    queues: Vec<VirtQueue>,
    device: D,
    /// What broke the rings last; for people, not part of the state.
    last_error: Option<RingError>,
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// Puts a device behind PCI. One MSI-X vector per queue and one for configuration changes.
    pub fn new(device: D) -> Self {
        let identity = device.identity();
        let queues: Vec<_> = device.queue_sizes().into_iter().map(VirtQueue::new).collect();
        let vectors = u16::try_from(queues.len() + 1).unwrap_or(u16::MAX);
        let (config, [access_capability, msix_capability]) =
            config_space(identity.device_type, identity.class, vectors);
        Self {
            config,
            access_capability,
            msix_capability,
            msix: MsiX::new(vectors),
            registers: Registers::default(),
            queues,
            device,
            last_error: None,
        }
    }

    /// The device behind the transport.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// What broke the rings last.
    pub fn last_error(&self) -> Option<&RingError> {
        self.last_error.as_ref()
    }

    /// All features offered.
    fn features(&self) -> u64 {
        self.device.features()
            | feature(VIRTIO_F_VERSION_1)
            | feature(VIRTIO_RING_F_INDIRECT_DESC)
            | feature(VIRTIO_RING_F_EVENT_IDX)
    }

    fn is_live(&self) -> bool {
        self.registers.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK && self.config.command_has(COMMAND_MASTER)
    }

    /// Calls the device with its rings, then sends the interrupts that are due.
    fn with_rings(
        &mut self,
        cx: &mut DeviceContext<'_>,
        call: impl FnOnce(&mut D, &mut Rings<'_, '_>) -> Result<(), DeviceError>,
    ) -> Result<(), DeliverError> {
        let live = self.is_live();
        let mut rings = Rings::new(cx, &mut self.queues, self.registers.driver_features, live);
        let result = call(&mut self.device, &mut rings);
        match rings.finish() {
            Ok(signals) => self.signal(cx, &signals),
            Err(error) => self.break_device(cx, error),
        }
        match result {
            Ok(()) => Ok(()),
            Err(DeviceError::Ring(error)) => {
                self.break_device(cx, error);
                Ok(())
            }
            Err(DeviceError::Input(error)) => Err(error),
        }
    }

    /// The same for calls that only a driver can cause.
    fn with_driver(
        &mut self,
        cx: &mut DeviceContext<'_>,
        call: impl FnOnce(&mut D, &mut Rings<'_, '_>) -> Result<(), RingError>,
    ) {
        let result = self.with_rings(cx, |device, rings| call(device, rings).map_err(DeviceError::Ring));
        debug_assert!(result.is_ok(), "a driver cannot cause {result:?}");
    }

    fn signal(&mut self, cx: &mut DeviceContext<'_>, signals: &Signals) {
        for &queue in &signals.queues {
            if self.msix.enabled() {
                let vector = self.queues[usize::from(queue)].vector;
                self.msix.fire(vector, cx.effects);
            } else {
                self.registers.isr |= ISR_QUEUE;
            }
        }
        if signals.config {
            self.registers.generation = self.registers.generation.wrapping_add(1);
            // A driver that is not ready reads the configuration anyway, and nobody would acknowledge INTA.
            if self.registers.status & DRIVER_OK != 0 {
                self.registers.isr |= ISR_CONFIG;
                self.msix.fire(self.registers.config_vector, cx.effects);
            }
        }
    }

    /// The driver broke the rules: the device waits for a reset.
    fn break_device(&mut self, cx: &mut DeviceContext<'_>, error: RingError) {
        self.registers.counters.ring_errors += 1;
        self.last_error = Some(error);
        let told = self.registers.status & DRIVER_OK != 0 && self.registers.status & NEEDS_RESET == 0;
        self.registers.status |= NEEDS_RESET;
        if told {
            self.signal(cx, &Signals { queues: Vec::new(), config: true });
        }
    }

    fn notify(&mut self, cx: &mut DeviceContext<'_>, queue: u16) {
        let ready = self.queues.get(usize::from(queue)).is_some_and(|slot| slot.queue.ready());
        if ready && self.is_live() {
            self.with_driver(cx, |device, rings| device.notify(rings, queue));
        } else {
            self.registers.counters.ignored_notifications += 1;
        }
    }

    /// Looks at every enabled queue: the device has just become live.
    fn kick_all(&mut self, cx: &mut DeviceContext<'_>) {
        for queue in (0u16..).take(self.queues.len()) {
            if self.queues[usize::from(queue)].queue.ready() && self.is_live() {
                self.with_driver(cx, |device, rings| device.notify(rings, queue));
            }
        }
    }

    /// The driver resets the device. The MSI-X table and configuration space stay.
    fn reset_device(&mut self) {
        self.registers = Registers { counters: self.registers.counters, ..Registers::default() };
        self.queues.iter_mut().for_each(VirtQueue::reset);
        self.msix.clear_pending();
        self.device.reset();
    }

    fn msix_control(&self) -> MsiXControl {
        let control = u16::from_le_bytes(self.config.bytes(self.msix_capability + 2));
        MsiXControl {
            enabled: control & msix::CONTROL_ENABLE != 0,
            masked: control & msix::CONTROL_MASK_ALL != 0,
            master: self.config.command_has(COMMAND_MASTER),
        }
    }
}

/// The header and the capabilities; the offsets of the access and MSI-X capabilities.
fn config_space(device_type: u32, class: u32, vectors: u16) -> (ConfigSpace, [usize; 2]) {
    let device = u16::try_from(0x1040 + device_type).unwrap_or(u16::MAX);
    let mut config = ConfigSpace::new(Identity {
        vendor: 0x1af4,
        device,
        revision: 1,
        class,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
    });
    config.add_bar(0, BAR_SIZE);
    config.add_interrupt_pin();
    let regions = [
        (CAP_COMMON, COMMON, REGION_SIZE),
        (CAP_ISR, ISR, REGION_SIZE),
        (CAP_DEVICE, DEVICE, REGION_SIZE),
        (CAP_NOTIFY, NOTIFY, REGION_SIZE),
    ];
    for (kind, offset, length) in regions {
        let mut body = capability_body(kind, offset, length);
        if kind == CAP_NOTIFY {
            body.extend(NOTIFY_MULTIPLIER.to_le_bytes());
            body[0] += 4;
        }
        config.add_capability(CAPABILITY_VENDOR, &body, &[]);
    }
    let mut body = capability_body(CAP_PCI_ACCESS, 0, 0);
    body.extend([0; 4]);
    body[0] += 4;
    // Software chooses BAR, offset and length; the data field is not memory but an access.
    let writable = [0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let access = config.add_capability(CAPABILITY_VENDOR, &body, &writable);
    let mut body = (vectors - 1).to_le_bytes().to_vec();
    for offset in [MSIX_TABLE, MSIX_PENDING] {
        body.extend_from_slice(&offset.to_le_bytes()[..4]);
    }
    let control = (msix::CONTROL_ENABLE | msix::CONTROL_MASK_ALL).to_le_bytes();
    let msix = config.add_capability(msix::CAPABILITY_ID, &body, &control);
    (config, [access, msix])
}

/// A virtio capability behind identifier and link: length, type, BAR 0, offset and length of the region.
fn capability_body(kind: u8, offset: u64, length: u32) -> Vec<u8> {
    let mut body = vec![16, kind, 0, 0, 0, 0];
    body.extend_from_slice(&offset.to_le_bytes()[..4]);
    body.extend(length.to_le_bytes());
    body
}

/// A vector that the table has, or none.
fn checked_vector(vector: u16, vectors: usize) -> u16 {
    if usize::from(vector) < vectors { vector } else { NO_VECTOR }
}
