//! A test case and what came of it.

use crate::fp::Fp;
use crate::layout::{DATA_BYTES, window_offset};

/// Longest instruction that is tried; those over 15 bytes raise #GP.
pub const LONGEST: usize = 18;

/// One or several instructions and the state they start from.
#[derive(Debug, Clone)]
pub struct Case {
    /// The bytes of the instruction, or of several.
    pub bytes: Vec<u8>,
    /// How many instructions they are; one that is repeated or not valid counts as one.
    pub count: u64,
    /// Where the first byte lies; bytes beyond the code pages are not there.
    pub rip: u64,
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15.
    pub gpr: [u64; 16],
    /// RFLAGS.
    pub rflags: u64,
    /// x87 and SSE.
    pub fp: Fp,
    /// FS base.
    pub fs_base: u64,
    /// GS base.
    pub gs_base: u64,
    /// The writable data pages.
    pub data: Box<[u8; DATA_BYTES]>,
}

impl Case {
    /// Replaces bytes of the writable data; what does not fit is left out.
    pub fn poke(&mut self, address: u64, bytes: &[u8]) {
        let Some(offset) = window_offset(address, bytes.len()) else { return };
        if let Some(to) = self.data.get_mut(offset..offset + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    /// Up to 16 bytes of the writable data.
    #[must_use]
    pub fn peek(&self, address: u64, size: usize) -> Option<u128> {
        let offset = window_offset(address, size)?;
        let from = self.data.get(offset..offset + size)?;
        let mut bytes = [0; 16];
        bytes.get_mut(..size)?.copy_from_slice(from);
        Some(u128::from_le_bytes(bytes))
    }
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The instruction retired; RIP is the next one.
    Retired,
    /// An exception.
    Exception {
        /// Its vector.
        vector: u8,
        /// Error code, zero for vectors without one.
        code: u64,
        /// CR2 of a #PF, else zero.
        address: u64,
    },
    /// It did not end in the time it had.
    Hang,
    /// The engine could not deliver an exception.
    TripleFault,
}

/// State after a case.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub event: Event,
    /// RIP: of the next instruction, or what an exception pushed.
    pub rip: u64,
    /// General registers.
    pub gpr: [u64; 16],
    /// RFLAGS.
    pub rflags: u64,
    /// x87 and SSE.
    pub fp: Fp,
    /// FS base.
    pub fs_base: u64,
    /// GS base.
    pub gs_base: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
    /// The writable data pages.
    pub data: Box<[u8; DATA_BYTES]>,
}

impl Outcome {
    /// An empty outcome, to be filled.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            event: Event::Hang,
            rip: 0,
            gpr: [0; 16],
            rflags: 0,
            fp: Fp::default(),
            fs_base: 0,
            gs_base: 0,
            selectors: [0; 6],
            data: Box::new([0; DATA_BYTES]),
        }
    }
}
