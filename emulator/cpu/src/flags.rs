//! RFLAGS in the form the interpreter works with.
//!
//! The arithmetic flags are kept as the values they follow from, so that an ALU operation stores a few words
//! and computes no flag that nobody reads. The form is private to the running engine: state is always saved as
//! the architectural word.

/// Carry flag.
pub const CF: u64 = 1;
/// Bit 1, always set.
pub const RESERVED_ONE: u64 = 1 << 1;
/// Parity flag.
pub const PF: u64 = 1 << 2;
/// Auxiliary carry flag.
pub const AF: u64 = 1 << 4;
/// Zero flag.
pub const ZF: u64 = 1 << 6;
/// Sign flag.
pub const SF: u64 = 1 << 7;
/// Trap flag.
pub const TF: u64 = 1 << 8;
/// Interrupt enable flag.
pub const IF: u64 = 1 << 9;
/// Direction flag.
pub const DF: u64 = 1 << 10;
/// Overflow flag.
pub const OF: u64 = 1 << 11;
/// I/O privilege level, two bits.
pub const IOPL: u64 = 3 << 12;
/// Nested task.
pub const NT: u64 = 1 << 14;
/// Resume flag.
pub const RF: u64 = 1 << 16;
/// Virtual-8086 mode.
pub const VM: u64 = 1 << 17;
/// Alignment check, and access control for SMAP.
pub const AC: u64 = 1 << 18;
/// CPUID present.
pub const ID: u64 = 1 << 21;
/// The six arithmetic flags.
pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
/// All other flags that exist in our CPU model (no VIF, no VIP).
pub const CONTROL: u64 = TF | IF | DF | IOPL | NT | RF | VM | AC | ID;

/// RFLAGS, decomposed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flags {
    /// ZF is set when this is zero.
    pub zero: u64,
    /// SF is bit 63; PF is the even parity of the low byte.
    pub sign_parity: u64,
    /// CF.
    pub carry: bool,
    /// OF.
    pub overflow: bool,
    /// AF is bit 4.
    pub aux: u8,
    /// The other flags, in place.
    pub control: u64,
}

impl Flags {
    pub fn from_bits(bits: u64) -> Self {
        let mut flags =
            Self { zero: 0, sign_parity: 0, carry: false, overflow: false, aux: 0, control: bits & CONTROL };
        flags.set_arithmetic(bits);
        flags
    }

    /// The architectural word.
    pub fn bits(&self) -> u64 {
        self.control | RESERVED_ONE | self.arithmetic()
    }

    /// The six arithmetic flags in place.
    pub fn arithmetic(&self) -> u64 {
        u64::from(self.carry)
            | u64::from(self.pf()) << 2
            | u64::from(self.aux & 0x10)
            | u64::from(self.zf()) << 6
            | u64::from(self.sf()) << 7
            | u64::from(self.overflow) << 11
    }

    /// Sets the six arithmetic flags from a word; other bits are ignored.
    pub fn set_arithmetic(&mut self, bits: u64) {
        self.zero = u64::from(bits & ZF == 0);
        self.sign_parity = (bits & SF) << 56 | u64::from(bits & PF == 0);
        self.carry = bits & CF != 0;
        self.overflow = bits & OF != 0;
        self.aux = (bits & AF) as u8;
    }

    /// ZF, SF and PF of a result that is sign-extended from its operand size.
    #[inline(always)]
    pub fn set_result(&mut self, sign_extended: u64) {
        self.zero = sign_extended;
        self.sign_parity = sign_extended;
    }

    #[inline(always)]
    pub fn zf(&self) -> bool {
        self.zero == 0
    }

    #[inline(always)]
    pub fn sf(&self) -> bool {
        self.sign_parity >> 63 != 0
    }

    #[inline(always)]
    pub fn pf(&self) -> bool {
        (self.sign_parity as u8).count_ones() & 1 == 0
    }

    /// True when the given control flag is set.
    #[inline(always)]
    pub fn has(&self, flag: u64) -> bool {
        self.control & flag != 0
    }

    /// Condition code `cc` as encoded in Jcc, SETcc and CMOVcc (Intel SDM volume 1, appendix B).
    #[inline(always)]
    pub fn condition(&self, cc: u8) -> bool {
        let value = match cc >> 1 {
            0 => self.overflow,
            1 => self.carry,
            2 => self.zf(),
            3 => self.carry || self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.overflow,
            _ => self.zf() || self.sf() != self.overflow,
        };
        value != (cc & 1 != 0)
    }
}
