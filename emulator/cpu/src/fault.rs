//! Exceptions before they are delivered.

use crate::core::Core;
use crate::op::Stop;

/// Vectors of the architectural exceptions (Intel SDM volume 3, table 6-1).
pub mod vector {
    /// #DE divide error.
    pub const DE: u8 = 0;
    /// #DB debug.
    pub const DB: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// #BP breakpoint.
    pub const BP: u8 = 3;
    /// #OF overflow.
    pub const OF: u8 = 4;
    /// #BR bound range.
    pub const BR: u8 = 5;
    /// #UD invalid opcode.
    pub const UD: u8 = 6;
    /// #NM device not available.
    pub const NM: u8 = 7;
    /// #DF double fault.
    pub const DF: u8 = 8;
    /// #TS invalid TSS.
    pub const TS: u8 = 10;
    /// #NP segment not present.
    pub const NP: u8 = 11;
    /// #SS stack fault.
    pub const SS: u8 = 12;
    /// #GP general protection.
    pub const GP: u8 = 13;
    /// #PF page fault.
    pub const PF: u8 = 14;
    /// #MF x87 error.
    pub const MF: u8 = 16;
    /// #AC alignment check.
    pub const AC: u8 = 17;
    /// #XM SIMD floating point.
    pub const XM: u8 = 19;
}

/// An exception that an instruction raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub code: Option<u32>,
    /// Address for CR2, set when the fault is delivered as #PF.
    pub address: u64,
    /// Bits that a #DB sets in DR6.
    pub dr6: u64,
}

impl Fault {
    pub const fn new(vector: u8, code: Option<u32>) -> Self {
        Self { vector, code, address: 0, dr6: 0 }
    }
}

impl Core {
    /// Notes an exception without error code; the caller returns the result as its error.
    #[cold]
    pub(crate) fn raise(&mut self, vector: u8) -> Stop {
        self.fault = Fault::new(vector, None);
        Stop::Fault
    }

    /// Notes an exception with error code.
    #[cold]
    pub(crate) fn raise_code(&mut self, vector: u8, code: u32) -> Stop {
        self.fault = Fault::new(vector, Some(code));
        Stop::Fault
    }

    /// #UD.
    #[cold]
    pub(crate) fn ud(&mut self) -> Stop {
        self.raise(vector::UD)
    }

    /// #GP with a selector or zero as error code.
    #[cold]
    pub(crate) fn gp(&mut self, code: u32) -> Stop {
        self.raise_code(vector::GP, code)
    }

    /// #PF: `code` as in Intel SDM volume 3, figure 4-12.
    #[cold]
    pub(crate) fn pf(&mut self, address: u64, code: u32) -> Stop {
        self.fault = Fault { vector: vector::PF, code: Some(code), address, dr6: 0 };
        Stop::Fault
    }
}
