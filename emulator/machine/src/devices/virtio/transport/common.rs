//! The common configuration structure (virtio 1.2, 4.1.4.3).
//!
//! Registers may be read with any size. They are written whole, 64-bit ones also by halves; other writes are ignored
//! and counted.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_F_VERSION_1,
};
use virtio_queue::QueueT;

use super::{DRIVER_OK, NO_VECTOR, VirtioPci, checked_vector};
use crate::context::DeviceContext;
use crate::devices::pci::read_image;
use crate::devices::virtio::queue::{RingError, event_idx};
use crate::devices::virtio::{VirtioDevice, byte, feature};

const FEATURES_OK: u8 = byte(VIRTIO_CONFIG_S_FEATURES_OK);
/// Bits that a driver may set.
const DRIVER_BITS: u8 = byte(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FAILED);
/// Bytes of the structure up to queue_reset, which is not offered and reads as zero.
const SIZE: usize = 60;

impl<D: VirtioDevice> VirtioPci<D> {
    pub(super) fn common_read(&self, offset: u64, size: usize) -> u64 {
        let registers = &self.registers;
        let mut image = [0; SIZE];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &registers.device_feature_select.to_le_bytes());
        put(4, &half(self.features(), registers.device_feature_select).to_le_bytes());
        put(8, &registers.driver_feature_select.to_le_bytes());
        put(12, &half(registers.driver_features, registers.driver_feature_select).to_le_bytes());
        put(16, &registers.config_vector.to_le_bytes());
        put(18, &u16::try_from(self.queues.len()).unwrap_or(u16::MAX).to_le_bytes());
        put(20, &[registers.status, registers.generation]);
        put(22, &registers.queue_select.to_le_bytes());
        put(26, &NO_VECTOR.to_le_bytes());
        // A queue that does not exist has size 0.
        if let Some(slot) = self.queues.get(usize::from(registers.queue_select)) {
            put(24, &slot.queue.size().to_le_bytes());
            put(26, &slot.vector.to_le_bytes());
            put(28, &u16::from(slot.queue.ready()).to_le_bytes());
            put(30, &registers.queue_select.to_le_bytes());
            put(32, &slot.queue.desc_table().to_le_bytes());
            put(40, &slot.queue.avail_ring().to_le_bytes());
            put(48, &slot.queue.used_ring().to_le_bytes());
        }
        read_image(&image, offset, size)
    }

    pub(super) fn common_write(&mut self, cx: &mut DeviceContext<'_>, offset: u64, size: usize, value: u64) {
        let [low, high] = words(value);
        let [a, b, ..] = value.to_le_bytes();
        let short = u16::from_le_bytes([a, b]);
        match (offset, size) {
            (0, 4) => self.registers.device_feature_select = low,
            (8, 4) => self.registers.driver_feature_select = low,
            (12, 4) => self.write_features(low),
            (16, 2) => self.registers.config_vector = checked_vector(short, self.msix.len()),
            (20, 1) => self.write_status(cx, a),
            (22, 2) => self.registers.queue_select = short,
            (24 | 26 | 28, 2) => self.write_queue(cx, offset, short),
            (32 | 36 | 40 | 44 | 48 | 52, 4) => self.write_queue_address(offset, low),
            (32 | 40 | 48, 8) => {
                self.write_queue_address(offset, low);
                self.write_queue_address(offset + 4, high);
            }
            _ => self.registers.counters.ignored_writes += 1,
        }
    }

    fn write_features(&mut self, value: u32) {
        let registers = &mut self.registers;
        if registers.status & FEATURES_OK != 0 {
            registers.counters.ignored_writes += 1;
            return;
        }
        let (value, old) = (u64::from(value), registers.driver_features);
        match registers.driver_feature_select {
            0 => registers.driver_features = (old & !0xffff_ffff) | value,
            1 => registers.driver_features = (old & 0xffff_ffff) | (value << 32),
            _ => {}
        }
    }

    fn write_status(&mut self, cx: &mut DeviceContext<'_>, value: u8) {
        if value == 0 {
            self.reset_device();
            return;
        }
        let added = value & !self.registers.status;
        self.registers.status |= added & DRIVER_BITS;
        if added & FEATURES_OK != 0 && self.features_fit() {
            self.registers.status |= FEATURES_OK;
            let event_idx = event_idx(self.registers.driver_features);
            self.queues.iter_mut().for_each(|slot| slot.queue.set_event_idx(event_idx));
        }
        if added & DRIVER_OK != 0 && self.registers.status & FEATURES_OK != 0 {
            self.registers.status |= DRIVER_OK;
            self.with_driver(cx, |device, rings| device.activate(rings));
            self.kick_all(cx);
        }
    }

    fn features_fit(&self) -> bool {
        let accepted = self.registers.driver_features;
        accepted & !self.features() == 0
            && accepted & feature(VIRTIO_F_VERSION_1) != 0
            && self.device.accepts_features(accepted)
    }

    fn write_queue(&mut self, cx: &mut DeviceContext<'_>, offset: u64, value: u16) {
        let vectors = self.msix.len();
        let event_idx = event_idx(self.registers.driver_features);
        let Some(slot) = self.queues.get_mut(usize::from(self.registers.queue_select)) else {
            self.registers.counters.ignored_writes += 1;
            return;
        };
        match offset {
            26 => slot.vector = checked_vector(value, vectors),
            // What an enabled queue looks like may not change before a reset; nor can it be disabled.
            _ if slot.queue.ready() => self.registers.counters.ignored_writes += 1,
            24 if value.is_power_of_two() && value <= slot.queue.max_size() => slot.queue.set_size(value),
            28 if value == 1 => {
                slot.queue.set_event_idx(event_idx);
                slot.queue.set_ready(true);
                if slot.queue.avail_ring() == 0 || !slot.queue.is_valid(cx.memory) {
                    slot.queue.set_ready(false);
                    self.break_device(cx, RingError::Ring("a ring is not in RAM".into()));
                }
            }
            _ => self.registers.counters.ignored_writes += 1,
        }
    }

    fn write_queue_address(&mut self, offset: u64, value: u32) {
        match self.queues.get_mut(usize::from(self.registers.queue_select)) {
            Some(slot) if !slot.queue.ready() => match offset {
                32 => slot.queue.set_desc_table_address(Some(value), None),
                36 => slot.queue.set_desc_table_address(None, Some(value)),
                40 => slot.queue.set_avail_ring_address(Some(value), None),
                44 => slot.queue.set_avail_ring_address(None, Some(value)),
                48 => slot.queue.set_used_ring_address(Some(value), None),
                _ => slot.queue.set_used_ring_address(None, Some(value)),
            },
            _ => self.registers.counters.ignored_writes += 1,
        }
    }
}

/// Half of the features as selected; zero for selectors above 1.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => words(features)[0],
        1 => words(features)[1],
        _ => 0,
    }
}

/// The low and the high 32 bits.
fn words(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}
