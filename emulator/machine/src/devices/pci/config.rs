//! Configuration space with a type 0 header (PCI Local Bus 3.0, chapter 6).
//!
//! The space is an image of 256 bytes beside a mask of the bits that software may write. Sizing a BAR falls out of
//! this: the low bits of a BAR are not writable, so writing ones reads back as the size mask.

use crate::snapshot::{RestoreError, Snapshot};

/// Bytes of configuration space that a function has.
pub const CONFIG_SIZE: usize = 256;

/// Command register: the function answers to memory accesses.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command register: the function may access memory and send message-signalled interrupts.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command register: the function must not assert INTA.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status register: INTA would be asserted.
pub const STATUS_INTERRUPT: u16 = 1 << 3;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const BARS: usize = 0x10;
const CAPABILITY_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
const FIRST_CAPABILITY: usize = 0x40;
/// Memory BAR, 64 bits wide, not prefetchable (registers have read side effects).
const BAR_MEMORY_64: u8 = 0b0100;

/// What a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Base class, subclass and programming interface: 0xbbssii.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// The configuration space of one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_SIZE],
    /// Bits that software may write.
    writable: [u8; CONFIG_SIZE],
    power_on: [u8; CONFIG_SIZE],
    bars: Vec<(usize, u64)>,
    /// Where the next capability goes, and where its pointer is.
    capability_end: usize,
    capability_link: usize,
}

impl ConfigSpace {
    /// A header without BARs and capabilities. Memory space is enabled from the start, since no firmware does it.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let mut bytes = [0; CONFIG_SIZE];
        bytes[0..2].copy_from_slice(&identity.vendor.to_le_bytes());
        bytes[2..4].copy_from_slice(&identity.device.to_le_bytes());
        bytes[8] = identity.revision;
        bytes[9..12].copy_from_slice(&identity.class.to_le_bytes()[..3]);
        bytes[0x2c..0x2e].copy_from_slice(&identity.subsystem_vendor.to_le_bytes());
        bytes[0x2e..0x30].copy_from_slice(&identity.subsystem.to_le_bytes());
        bytes[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_MEMORY.to_le_bytes());
        let mut writable = [0; CONFIG_SIZE];
        let command = COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE;
        writable[COMMAND..COMMAND + 2].copy_from_slice(&command.to_le_bytes());
        Self {
            bytes,
            writable,
            power_on: bytes,
            bars: Vec::new(),
            capability_end: FIRST_CAPABILITY,
            capability_link: CAPABILITY_POINTER,
        }
    }

    /// Adds a 64-bit memory BAR that occupies registers `bar` and `bar + 1`.
    ///
    /// # Panics
    /// When `bar` is above 4 or `size` is not a power of two of at least 16.
    pub fn add_bar(&mut self, bar: usize, size: u64) {
        assert!(bar <= 4 && size.is_power_of_two() && size >= 16, "BAR {bar} of {size} bytes");
        let at = BARS + 4 * bar;
        self.writable[at..at + 8].copy_from_slice(&(!(size - 1)).to_le_bytes());
        self.power_on[at] |= BAR_MEMORY_64;
        self.bytes[at] |= BAR_MEMORY_64;
        self.bars.push((bar, size));
    }

    /// Wires the function's interrupt to INTA. The line register is for software alone.
    pub fn add_interrupt_pin(&mut self) {
        self.bytes[INTERRUPT_PIN] = 1;
        self.power_on[INTERRUPT_PIN] = 1;
        self.writable[INTERRUPT_LINE] = 0xff;
    }

    /// Adds a capability: `body` follows the identifier and the link. `writable` marks the bits of the body that
    /// software may write; where it is shorter the rest is read-only. Returns the offset of the capability.
    ///
    /// # Panics
    /// When the space is full.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let at = self.capability_end;
        let end = at + 2 + body.len();
        assert!(end <= CONFIG_SIZE && writable.len() <= body.len(), "capability {id:#x} does not fit");
        self.bytes[at] = id;
        self.bytes[at + 2..end].copy_from_slice(body);
        self.writable[at + 2..at + 2 + writable.len()].copy_from_slice(writable);
        let [low, ..] = at.to_le_bytes();
        self.bytes[self.capability_link] = low;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.capability_link = at + 1;
        self.capability_end = end.next_multiple_of(4);
        self.power_on = self.bytes;
        at
    }

    /// The BARs as (index, size in bytes).
    #[must_use]
    pub fn bars(&self) -> &[(usize, u64)] {
        &self.bars
    }

    /// Sets the address of a BAR, now and after reset. The address must be a multiple of the size.
    pub fn assign_bar(&mut self, bar: usize, base: u64) {
        let at = BARS + 4 * bar;
        for (index, byte) in base.to_le_bytes().into_iter().enumerate() {
            let kept = !self.writable[at + index];
            self.bytes[at + index] = (self.bytes[at + index] & kept) | (byte & !kept);
        }
        self.power_on[at..at + 8].copy_from_slice(&self.bytes[at..at + 8]);
    }

    /// Address of a BAR, whether or not it is decoded.
    #[must_use]
    pub fn bar_base(&self, bar: usize) -> u64 {
        let at = BARS + 4 * bar;
        super::value_of(&self.bytes[at..at + 8]) & !0xf
    }

    /// The command register.
    #[must_use]
    pub fn command(&self) -> u16 {
        u16::from_le_bytes([self.bytes[COMMAND], self.bytes[COMMAND + 1]])
    }

    /// True when the bit of the command register is set.
    #[must_use]
    pub fn command_has(&self, bit: u16) -> bool {
        self.command() & bit != 0
    }

    /// The register at `register`, a multiple of 4; zero behind the end.
    #[must_use]
    pub fn read(&self, register: usize) -> u32 {
        match self.bytes.get(register..register + 4) {
            Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
            _ => 0,
        }
    }

    /// Writes the bytes of `value` that `mask` selects, as far as they are writable.
    pub fn write(&mut self, register: usize, value: u32, mask: u32) {
        if register + 4 > CONFIG_SIZE {
            return;
        }
        let bytes = value.to_le_bytes().into_iter().zip(mask.to_le_bytes());
        for (index, (byte, select)) in bytes.enumerate() {
            let taken = self.writable[register + index] & select;
            let old = self.bytes[register + index];
            self.bytes[register + index] = (old & !taken) | (byte & taken);
        }
    }

    /// `N` bytes from `at` on, for capabilities that the function interprets itself.
    ///
    /// # Panics
    /// When they reach behind the end of the space.
    #[must_use]
    pub fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.bytes[at..at + N]);
        bytes
    }

    /// Back to power-on values; BARs return to their assigned addresses.
    pub fn reset(&mut self) {
        self.bytes = self.power_on;
    }
}

impl Snapshot for ConfigSpace {
    const KIND: &'static str = "pci-config";
    const VERSION: u16 = 1;
    /// All 256 bytes; the read-only ones tell whether the function is the same.
    type State = Vec<u8>;

    fn save(&self) -> Vec<u8> {
        // The masks, the power-on image and the layout follow from the function's construction.
        let Self { bytes, writable: _, power_on: _, bars: _, capability_end: _, capability_link: _ } = self;
        bytes.to_vec()
    }

    fn restore(&mut self, state: Vec<u8>) -> Result<(), RestoreError> {
        let invalid = |reason: String| RestoreError::Invalid { kind: Self::KIND, reason };
        let bytes: [u8; CONFIG_SIZE] =
            state.try_into().map_err(|state: Vec<u8>| invalid(format!("{} bytes", state.len())))?;
        for (index, byte) in bytes.iter().enumerate() {
            if (byte ^ self.power_on[index]) & !self.writable[index] != 0 {
                return Err(invalid(format!("byte {index:#x} is {byte:#x}, this function differs")));
            }
        }
        self.bytes = bytes;
        Ok(())
    }
}
