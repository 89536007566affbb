//! MSI-X: the vector table, the pending bits, and both levels of masking (PCI Local Bus 3.0, 6.8.2).
//!
//! A vector that fires while it cannot be sent (masked, function masked, or bus mastering off) is remembered in its
//! pending bit and sent as soon as it can be. While MSI-X is disabled vectors do not fire: the function uses INTA.

use serde::{Deserialize, Serialize};

use crate::context::{Effect, Effects, MsiMessage};
use crate::snapshot::{RestoreError, Snapshot};

/// Bytes of one table entry.
pub const ENTRY_SIZE: u64 = 16;
/// Message control: MSI-X is enabled.
pub const CONTROL_ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
pub const CONTROL_MASK_ALL: u16 = 1 << 14;
/// Capability identifier.
pub const CAPABILITY_ID: u8 = 0x11;

const ENTRY_MASKED: u32 = 1;

/// One entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsiXEntry {
    /// Message address; the two low bits are zero.
    pub address: u64,
    /// Message data.
    pub data: u32,
    /// The vector is masked.
    pub masked: bool,
}

/// What software configured outside the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MsiXControl {
    /// MSI-X is enabled.
    pub enabled: bool,
    /// All vectors are masked.
    pub masked: bool,
    /// The function may write to memory (bus master).
    pub master: bool,
}

/// Table and pending bits of one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MsiX {
    entries: Vec<MsiXEntry>,
    pending: Vec<bool>,
    control: MsiXControl,
}

/// Saved state of [`MsiX`]. The control bits are rebuilt from configuration space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsiXState {
    /// The table.
    pub entries: Vec<MsiXEntry>,
    /// Pending bit of each vector.
    pub pending: Vec<bool>,
}

impl MsiX {
    /// A table of `vectors` masked entries, MSI-X disabled.
    #[must_use]
    pub fn new(vectors: u16) -> Self {
        let entry = MsiXEntry { address: 0, data: 0, masked: true };
        let vectors = usize::from(vectors);
        Self { entries: vec![entry; vectors], pending: vec![false; vectors], control: MsiXControl::default() }
    }

    /// Number of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True for a table without vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True while MSI-X replaces INTA.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.control.enabled
    }

    /// Follows the message control and command registers; sends what became sendable.
    pub fn configure(&mut self, control: MsiXControl, effects: &mut Effects) {
        self.control = control;
        self.send_pending(effects);
    }

    /// Sets the control bits without sending, after a restore.
    pub(crate) fn rebuild(&mut self, control: MsiXControl) {
        self.control = control;
    }

    /// Fires a vector. Vectors outside the table (NO_VECTOR) are ignored.
    pub fn fire(&mut self, vector: u16, effects: &mut Effects) {
        let vector = usize::from(vector);
        let Some(entry) = self.entries.get(vector) else { return };
        if !self.control.enabled {
            return;
        }
        if entry.masked || self.control.masked || !self.control.master {
            self.pending[vector] = true;
        } else {
            effects.push(message(entry));
        }
    }

    fn send_pending(&mut self, effects: &mut Effects) {
        let MsiXControl { enabled, masked, master } = self.control;
        if !enabled || masked || !master {
            return;
        }
        for (entry, pending) in self.entries.iter().zip(&mut self.pending) {
            if *pending && !entry.masked {
                *pending = false;
                effects.push(message(entry));
            }
        }
    }

    /// Reads from the table.
    #[must_use]
    pub fn table_read(&self, offset: u64, size: usize) -> u64 {
        let index = usize::try_from(offset / ENTRY_SIZE).unwrap_or(usize::MAX);
        let Some(entry) = self.entries.get(index) else { return 0 };
        let mut image = [0; 16];
        image[..8].copy_from_slice(&entry.address.to_le_bytes());
        image[8..12].copy_from_slice(&entry.data.to_le_bytes());
        image[12] = u8::from(entry.masked);
        super::read_image(&image, offset % ENTRY_SIZE, size)
    }

    /// Writes to the table: aligned accesses of 4 or 8 bytes; others are undefined and ignored here.
    pub fn table_write(&mut self, offset: u64, size: usize, value: u64, effects: &mut Effects) {
        let index = usize::try_from(offset / ENTRY_SIZE).unwrap_or(usize::MAX);
        let Some(entry) = self.entries.get_mut(index) else { return };
        let [low, high] = halves(value);
        match (offset % ENTRY_SIZE, size) {
            (at @ (0 | 4 | 8 | 12), 4) => entry.set(at, low),
            (at @ (0 | 8), 8) => {
                entry.set(at, low);
                entry.set(at + 4, high);
            }
            _ => return,
        }
        self.send_pending(effects);
    }

    /// Reads from the pending bit array.
    #[must_use]
    pub fn pending_read(&self, offset: u64, size: usize) -> u64 {
        let mut image = vec![0u8; self.pending.len().div_ceil(64) * 8];
        for (vector, _) in self.pending.iter().enumerate().filter(|&(_, &pending)| pending) {
            image[vector / 8] |= 1 << (vector % 8);
        }
        super::read_image(&image, offset, size)
    }

    /// Forgets what was pending: the function was reset by its driver.
    pub fn clear_pending(&mut self) {
        self.pending.fill(false);
    }

    /// Back to power-on: every vector masked, MSI-X disabled.
    pub fn reset(&mut self) {
        self.entries.fill(MsiXEntry { address: 0, data: 0, masked: true });
        self.pending.fill(false);
        self.control = MsiXControl::default();
    }
}

impl MsiXEntry {
    fn set(&mut self, at: u64, value: u32) {
        let value64 = u64::from(value);
        match at {
            0 => self.address = (self.address & !0xffff_ffff) | (value64 & !3),
            4 => self.address = (self.address & 0xffff_ffff) | (value64 << 32),
            8 => self.data = value,
            _ => self.masked = value & ENTRY_MASKED != 0,
        }
    }
}

fn message(entry: &MsiXEntry) -> Effect {
    Effect::Msi(MsiMessage { address: entry.address, data: entry.data })
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

impl Snapshot for MsiX {
    const KIND: &'static str = "pci-msix";
    const VERSION: u16 = 1;
    type State = MsiXState;

    fn save(&self) -> MsiXState {
        let Self { entries, pending, control: _ } = self;
        MsiXState { entries: entries.clone(), pending: pending.clone() }
    }

    fn restore(&mut self, state: MsiXState) -> Result<(), RestoreError> {
        let MsiXState { entries, pending } = state;
        if entries.len() != self.len() || pending.len() != self.len() {
            let reason = format!("{} vectors, this function has {}", entries.len(), self.len());
            return Err(RestoreError::Invalid { kind: Self::KIND, reason });
        }
        self.entries = entries;
        self.pending = pending;
        Ok(())
    }
}
