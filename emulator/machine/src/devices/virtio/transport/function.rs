//! [`VirtioPci`] as a PCI function: configuration space, the BAR, INTA.

use super::{
    BAR_SIZE, COMMON, DEVICE, ISR, MSIX_PENDING, MSIX_TABLE, NOTIFY, NOTIFY_MULTIPLIER, Registers, VirtQueue, VirtioPci,
};
use crate::context::DeviceContext;
use crate::devices::pci::config::{COMMAND_INTX_DISABLE, COMMAND_MASTER, COMMAND_MEMORY, STATUS_INTERRUPT};
use crate::devices::pci::{BarAccess, BarWindow, DeliverError, PartState, PciFunction, read_image, value_of};
use crate::devices::virtio::{VirtioDevice, to_usize};
use crate::io::{Input, Output};
use crate::snapshot::RestoreError;

/// Register that holds the status in its upper half.
const STATUS_REGISTER: usize = 4;

impl<D: VirtioDevice> VirtioPci<D> {
    /// What software asked for in the access capability: a place in the BAR, if it is a legal one.
    fn window_access(&self) -> Option<BarAccess> {
        let fields: [u8; 16] = self.config.bytes(self.access_capability);
        let offset = value_of(&fields[8..12]);
        let size = to_usize(value_of(&fields[12..16]));
        let legal = matches!(size, 1 | 2 | 4) && offset.is_multiple_of(size as u64) && offset < BAR_SIZE;
        (fields[4] == 0 && legal).then_some(BarAccess { offset, size })
    }

    fn read_device_config(&self, offset: u64, size: usize) -> u64 {
        read_image(&self.device.config(), offset, size)
    }

    /// Follows a write to the command or MSI-X control register.
    fn follow_config(&mut self, cx: &mut DeviceContext<'_>, was_live: bool) {
        let control = self.msix_control();
        self.msix.configure(control, cx.effects);
        if !was_live && self.is_live() {
            self.kick_all(cx);
        }
    }
}

impl<D: VirtioDevice> PciFunction for VirtioPci<D> {
    fn name(&self) -> &'static str {
        self.device.identity().name
    }

    fn config_read(&mut self, cx: &mut DeviceContext<'_>, register: usize) -> u32 {
        if register == self.access_capability + 16
            && let Some(access) = self.window_access()
        {
            let value = self.bar_read(cx, 0, access);
            return u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX);
        }
        let value = self.config.read(register);
        let interrupt = register == STATUS_REGISTER && self.registers.isr != 0;
        if interrupt { value | (u32::from(STATUS_INTERRUPT) << 16) } else { value }
    }

    fn config_write(&mut self, cx: &mut DeviceContext<'_>, register: usize, value: u32, mask: u32) {
        if register == self.access_capability + 16 {
            if let Some(access) = self.window_access() {
                self.bar_write(cx, 0, access, u64::from(value & mask));
            }
            return;
        }
        let was_live = self.is_live();
        self.config.write(register, value, mask);
        self.follow_config(cx, was_live);
    }

    fn bar_sizes(&self) -> Vec<(usize, u64)> {
        self.config.bars().to_vec()
    }

    fn assign_bar(&mut self, bar: usize, base: u64) {
        self.config.assign_bar(bar, base);
    }

    fn windows(&self) -> Vec<BarWindow> {
        if !self.config.command_has(COMMAND_MEMORY) {
            return Vec::new();
        }
        let window = |&(bar, size): &(usize, u64)| BarWindow { bar, base: self.config.bar_base(bar), size };
        self.config.bars().iter().map(window).collect()
    }

    fn bar_read(&mut self, _cx: &mut DeviceContext<'_>, _bar: usize, access: BarAccess) -> u64 {
        let BarAccess { offset, size } = access;
        match offset {
            COMMON..ISR => self.common_read(offset, size),
            // Reading the status acknowledges it, which takes INTA down.
            ISR => u64::from(std::mem::take(&mut self.registers.isr)),
            DEVICE..NOTIFY => self.read_device_config(offset - DEVICE, size),
            MSIX_TABLE..MSIX_PENDING => self.msix.table_read(offset - MSIX_TABLE, size),
            MSIX_PENDING..BAR_SIZE => self.msix.pending_read(offset - MSIX_PENDING, size),
            _ => 0,
        }
    }

    fn bar_write(&mut self, cx: &mut DeviceContext<'_>, _bar: usize, access: BarAccess, value: u64) {
        let BarAccess { offset, size } = access;
        match offset {
            COMMON..ISR => self.common_write(cx, offset, size, value),
            DEVICE..NOTIFY => {
                let bytes = value.to_le_bytes();
                let data = &bytes[..size.min(8)];
                self.with_driver(cx, |device, rings| device.write_config(rings, offset - DEVICE, data));
            }
            NOTIFY..MSIX_TABLE => {
                let queue = (offset - NOTIFY) / u64::from(NOTIFY_MULTIPLIER);
                self.notify(cx, u16::try_from(queue).unwrap_or(u16::MAX));
            }
            MSIX_TABLE..MSIX_PENDING => self.msix.table_write(offset - MSIX_TABLE, size, value, cx.effects),
            _ => self.registers.counters.ignored_writes += 1,
        }
    }

    fn intx_level(&self) -> bool {
        self.registers.isr != 0 && !self.msix.enabled() && !self.config.command_has(COMMAND_INTX_DISABLE)
    }

    fn accepts(&self, input: &Input) -> bool {
        self.device.accepts(input)
    }

    fn deliver(&mut self, cx: &mut DeviceContext<'_>, input: &Input) -> Result<(), DeliverError> {
        if !self.config.command_has(COMMAND_MASTER) {
            self.registers.counters.inputs_without_master += 1;
        }
        self.with_rings(cx, |device, rings| device.deliver(rings, input))
    }

    fn in_flight(&self) -> Vec<Output> {
        self.device.in_flight()
    }

    fn reset(&mut self) {
        self.config.reset();
        self.msix.reset();
        self.registers = Registers { counters: self.registers.counters, ..Registers::default() };
        self.queues.iter_mut().for_each(VirtQueue::reset);
        self.device.reset();
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.registers.counters.named();
        counters.extend(self.device.counters());
        counters
    }

    fn save_part(&self) -> PartState {
        PartState::of(self)
    }

    fn restore_part(&mut self, state: PartState) -> Result<(), RestoreError> {
        state.restore_into(self)
    }
}
