//! The root bus: configuration mechanisms, address decoding, INTx.
//!
//! Device 0 is the host bridge; the functions follow as devices 1, 2, ... in the order of the configuration. When
//! software lets BARs overlap, the lowest device number answers; RAM and the platform's own devices come before all of
//! them because the platform asks the bus last.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::config::{ConfigSpace, Identity};
use super::{BarAccess, BarWindow, DeliverError, PartState, PciError, PciFunction};
use crate::context::{DeviceContext, Effect, InterruptLine};
use crate::io::{Input, Output};
use crate::snapshot::{RestoreError, Snapshot};

/// Device numbers beside the host bridge.
const DEVICE_LIMIT: usize = 31;
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const ADDRESS_ENABLE: u32 = 1 << 31;
/// Lines that INTA pins are joined to.
const FIRST_LINE: u8 = 16;
const LINES: u8 = 8;

/// The line that carries INTA of a device: the `_PRT` of the DSDT must say the same.
#[must_use]
pub fn interrupt_line(device: u8) -> InterruptLine {
    InterruptLine(FIRST_LINE + device % LINES)
}

/// The host bridge: configuration space and nothing else. The identity is the one of a generic PCIe host.
#[derive(Debug)]
pub struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    fn new() -> Self {
        let identity = Identity {
            vendor: 0x1b36,
            device: 0x0008,
            revision: 0,
            class: 0x06_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        };
        Self { config: ConfigSpace::new(identity) }
    }
}

#[derive(Debug)]
struct Decode {
    slot: usize,
    window: BarWindow,
}

/// The root bus with its functions.
#[derive(Debug)]
pub struct PciHost {
    bridge: HostBridge,
    functions: Vec<Box<dyn PciFunction>>,
    /// Register behind port 0xcf8.
    address: u32,
    /// Decoded BARs in the order of device numbers; rebuilt after each configuration write.
    decodes: Vec<Decode>,
    /// Which functions assert INTA; rebuilt from them.
    asserted: Vec<bool>,
}

/// Saved state of [`PciHost`]; decoding and line levels are rebuilt from the functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciHostState {
    /// Register behind port 0xcf8.
    pub address: u32,
    /// Configuration space of the host bridge.
    pub bridge: Vec<u8>,
    /// The functions in the order of their device numbers.
    pub functions: Vec<PartState>,
}

impl PciHost {
    /// Puts the functions on the bus and gives their BARs addresses from `window`, in order.
    ///
    /// # Errors
    /// When there are too many functions, or the window is too small for their BARs.
    pub fn new(window: Range<u64>, mut functions: Vec<Box<dyn PciFunction>>) -> Result<Self, PciError> {
        if functions.len() > DEVICE_LIMIT {
            return Err(PciError::TooManyDevices { count: functions.len(), limit: DEVICE_LIMIT });
        }
        let mut next = window.start;
        for function in &mut functions {
            let name = function.name();
            for (bar, size_bytes) in function.bar_sizes() {
                let full = PciError::WindowFull { name, size_bytes };
                let Some(base) = next.checked_next_multiple_of(size_bytes) else { return Err(full) };
                match base.checked_add(size_bytes) {
                    Some(end) if end <= window.end => next = end,
                    _ => return Err(full),
                }
                function.assign_bar(bar, base);
            }
        }
        let asserted = vec![false; functions.len()];
        let mut host = Self { bridge: HostBridge::new(), functions, address: 0, decodes: Vec::new(), asserted };
        host.rebuild_decodes();
        Ok(host)
    }

    /// Number of functions beside the host bridge; their device numbers are 1 to this.
    #[must_use]
    pub fn function_count(&self) -> usize {
        self.functions.len()
    }

    /// The functions in the order of their device numbers.
    pub fn functions(&self) -> impl Iterator<Item = &dyn PciFunction> {
        self.functions.iter().map(AsRef::as_ref)
    }

    /// Reads 1, 2 or 4 bytes at ports 0xcf8 to 0xcff. Port 0xcf8 is there only as a whole register; the bytes in
    /// between belong to others (0xcf9 is the reset control register).
    pub fn io_read(&mut self, cx: &mut DeviceContext<'_>, port: u16, size: usize) -> u32 {
        let unclaimed = ones(size);
        match port {
            CONFIG_ADDRESS if size == 4 => self.address,
            CONFIG_DATA..=0xcff if self.address & ADDRESS_ENABLE != 0 => {
                let byte = usize::from(port - CONFIG_DATA);
                let [register, device_function, bus, _] = self.address.to_le_bytes();
                if bus != 0 || byte + size > 4 {
                    return unclaimed;
                }
                let dword = self.config_read(cx, device_function, usize::from(register & 0xfc));
                (dword >> (8 * byte)) & unclaimed
            }
            _ => unclaimed,
        }
    }

    /// Writes 1, 2 or 4 bytes at ports 0xcf8 to 0xcff.
    pub fn io_write(&mut self, cx: &mut DeviceContext<'_>, port: u16, size: usize, value: u32) {
        match port {
            CONFIG_ADDRESS if size == 4 => self.address = value & 0x80ff_fffc,
            CONFIG_DATA..=0xcff if self.address & ADDRESS_ENABLE != 0 => {
                let byte = usize::from(port - CONFIG_DATA);
                let [register, device_function, bus, _] = self.address.to_le_bytes();
                if bus == 0 && byte + size <= 4 {
                    let mask = ones(size) << (8 * byte);
                    let register = usize::from(register & 0xfc);
                    self.config_write(cx, device_function, register, [value << (8 * byte), mask]);
                }
            }
            _ => {}
        }
    }

    /// Reads 1, 2, 4 or 8 bytes at an offset of the ECAM window.
    pub fn ecam_read(&mut self, cx: &mut DeviceContext<'_>, offset: u64, size: usize) -> u64 {
        if size == 8 {
            let low = self.ecam_read(cx, offset, 4);
            return low | (self.ecam_read(cx, offset.saturating_add(4), 4) << 32);
        }
        let byte = offset & 3;
        match ecam_target(offset) {
            Some((device_function, register)) if byte + (size as u64) <= 4 => {
                u64::from((self.config_read(cx, device_function, register) >> (8 * byte)) & ones(size))
            }
            _ => u64::from(ones(size)),
        }
    }

    /// Writes 1, 2, 4 or 8 bytes at an offset of the ECAM window.
    pub fn ecam_write(&mut self, cx: &mut DeviceContext<'_>, offset: u64, size: usize, value: u64) {
        if size == 8 {
            self.ecam_write(cx, offset, 4, value & 0xffff_ffff);
            self.ecam_write(cx, offset.saturating_add(4), 4, value >> 32);
            return;
        }
        let byte = offset & 3;
        if let Some((device_function, register)) = ecam_target(offset)
            && byte + (size as u64) <= 4
        {
            let [a, b, c, d, ..] = value.to_le_bytes();
            let value = u32::from_le_bytes([a, b, c, d]);
            let mask = ones(size) << (8 * byte);
            self.config_write(cx, device_function, register, [value << (8 * byte), mask]);
        }
    }

    /// Reads device memory; `None` when no BAR holds the whole access.
    pub fn mmio_read(&mut self, cx: &mut DeviceContext<'_>, address: u64, size: usize) -> Option<u64> {
        let (slot, bar, access) = self.find(address, size)?;
        let value = self.functions[slot].bar_read(cx, bar, access);
        self.update_line(cx, slot);
        Some(value)
    }

    /// Writes device memory; false when no BAR holds the whole access.
    pub fn mmio_write(&mut self, cx: &mut DeviceContext<'_>, address: u64, size: usize, value: u64) -> bool {
        let Some((slot, bar, access)) = self.find(address, size) else { return false };
        self.functions[slot].bar_write(cx, bar, access, value);
        self.update_line(cx, slot);
        true
    }

    /// Hands an input to the function it is for.
    ///
    /// # Errors
    /// When no function takes it, or it cannot have happened in this state.
    pub fn deliver(&mut self, cx: &mut DeviceContext<'_>, input: &Input) -> Result<(), DeliverError> {
        let Some(slot) = self.functions.iter().position(|function| function.accepts(input)) else {
            return Err(DeliverError::NoDevice { what: describe(input) });
        };
        let result = self.functions[slot].deliver(cx, input);
        self.update_line(cx, slot);
        result
    }

    /// Outputs whose completion is still to come: what must be issued again after a restore or a failover.
    #[must_use]
    pub fn in_flight(&self) -> Vec<Output> {
        self.functions.iter().flat_map(|function| function.in_flight()).collect()
    }

    /// Resets the bus and everything on it. Requests in flight go on outside; their results are dropped.
    pub fn reset(&mut self, cx: &mut DeviceContext<'_>) {
        self.address = 0;
        self.bridge.config.reset();
        for slot in 0..self.functions.len() {
            self.functions[slot].reset();
            self.update_line(cx, slot);
        }
        self.rebuild_decodes();
    }

    fn config_read(&mut self, cx: &mut DeviceContext<'_>, device_function: u8, register: usize) -> u32 {
        match slot_of(device_function) {
            Some(0) => self.bridge.config.read(register),
            Some(device) if device <= self.functions.len() => {
                let slot = device - 1;
                let value = self.functions[slot].config_read(cx, register);
                self.update_line(cx, slot);
                value
            }
            _ => u32::MAX,
        }
    }

    /// `write` is the value and the mask of the bytes written.
    fn config_write(&mut self, cx: &mut DeviceContext<'_>, device_function: u8, register: usize, write: [u32; 2]) {
        let [value, mask] = write;
        match slot_of(device_function) {
            Some(0) => self.bridge.config.write(register, value, mask),
            Some(device) if device <= self.functions.len() => {
                let slot = device - 1;
                self.functions[slot].config_write(cx, register, value, mask);
                self.rebuild_decodes();
                self.update_line(cx, slot);
            }
            _ => {}
        }
    }

    fn find(&self, address: u64, size: usize) -> Option<(usize, usize, BarAccess)> {
        let inside = |decode: &&Decode| {
            let offset = address.wrapping_sub(decode.window.base);
            offset < decode.window.size && size as u64 <= decode.window.size - offset
        };
        let Decode { slot, window } = self.decodes.iter().find(inside)?;
        Some((*slot, window.bar, BarAccess { offset: address - window.base, size }))
    }

    fn rebuild_decodes(&mut self) {
        self.decodes.clear();
        for (slot, function) in self.functions.iter().enumerate() {
            // A BAR that runs over the end of the address space (as while it is sized) is not decoded.
            let valid = |window: &BarWindow| window.base.checked_add(window.size).is_some();
            let windows = function.windows().into_iter().filter(valid);
            self.decodes.extend(windows.map(|window| Decode { slot, window }));
        }
    }

    /// INTA pins of several functions share a line: it is high while any of them asserts it.
    fn update_line(&mut self, cx: &mut DeviceContext<'_>, slot: usize) {
        let level = self.functions[slot].intx_level();
        if level == self.asserted[slot] {
            return;
        }
        let line = line_of(slot);
        let shared = |asserted: &[bool]| asserted.iter().enumerate().any(|(other, &on)| on && line_of(other) == line);
        let before = shared(&self.asserted);
        self.asserted[slot] = level;
        let after = shared(&self.asserted);
        if before != after {
            cx.effects.push(Effect::Line(line, after));
        }
    }

    fn try_restore(&mut self, state: PciHostState) -> Result<(), RestoreError> {
        let PciHostState { address, bridge, functions } = state;
        if functions.len() != self.functions.len() {
            let reason = format!("{} functions, this machine has {}", functions.len(), self.functions.len());
            return Err(RestoreError::Invalid { kind: Self::KIND, reason });
        }
        self.bridge.config.restore(bridge)?;
        for (function, state) in self.functions.iter_mut().zip(functions) {
            function.restore_part(state)?;
        }
        self.address = address & 0x80ff_fffc;
        self.asserted = self.functions.iter().map(|function| function.intx_level()).collect();
        self.rebuild_decodes();
        Ok(())
    }
}

impl Snapshot for PciHost {
    const KIND: &'static str = "pci-host";
    const VERSION: u16 = 1;
    type State = PciHostState;

    fn save(&self) -> PciHostState {
        let Self { bridge: HostBridge { config }, functions, address, decodes: _, asserted: _ } = self;
        PciHostState {
            address: *address,
            bridge: config.save(),
            functions: functions.iter().map(|function| function.save_part()).collect(),
        }
    }

    /// Line levels are not sent again: the interrupt controllers restore their own inputs.
    fn restore(&mut self, state: PciHostState) -> Result<(), RestoreError> {
        let old = self.save();
        let result = self.try_restore(state);
        if result.is_err() {
            self.try_restore(old).expect("a machine accepts its own state");
        }
        result
    }
}

fn line_of(slot: usize) -> InterruptLine {
    interrupt_line(u8::try_from(slot + 1).unwrap_or(u8::MAX))
}

/// The device number of function 0; other functions do not exist.
fn slot_of(device_function: u8) -> Option<usize> {
    (device_function & 7 == 0).then_some(usize::from(device_function >> 3))
}

/// Device and function byte, and register, of an ECAM offset on bus 0.
fn ecam_target(offset: u64) -> Option<(u8, usize)> {
    let device_function = u8::try_from(offset >> 12).ok()?;
    let register = usize::try_from(offset & 0xffc).ok()?;
    Some((device_function, register))
}

/// All bits of `size` bytes.
fn ones(size: usize) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

fn describe(input: &Input) -> String {
    match input {
        Input::NetReceive { device, .. } => format!("a packet for network device {}", device.0),
        Input::NetLink { device, .. } => format!("the link of network device {}", device.0),
        Input::BlockCompletion { device, request, .. } => {
            format!("the completion of request {} of disk {}", request.0, device.0)
        }
        Input::CharReceive { port, .. } => format!("bytes for {port:?}"),
        Input::BalloonTarget { pages } => format!("a balloon target of {pages} pages"),
        _ => "it is not for a PCI device".into(),
    }
}
