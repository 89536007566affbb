//! Architectural state of one vCPU, as plain data.
//!
//! [`CpuState`] is what is saved, restored and digested. The live engine keeps the general registers and the
//! arithmetic flags in faster forms and converts (`core.rs`); everything else is used from here as it is.

use serde::{Deserialize, Serialize};

/// ES, the first of the six segment registers in encoding order.
pub const ES: usize = 0;
/// CS.
pub const CS: usize = 1;
/// SS.
pub const SS: usize = 2;
/// DS.
pub const DS: usize = 3;
/// FS.
pub const FS: usize = 4;
/// GS.
pub const GS: usize = 5;

/// A segment register with its hidden part (Intel SDM volume 3, 3.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Descriptor bits 40 to 55: type 3:0, S 4, DPL 6:5, P 7, (limit bits, zero) 11:8, AVL 12, L 13, D/B 14, G 15.
    pub flags: u16,
}

/// [`Segment::flags`] bit: accessed.
pub const SEG_ACCESSED: u16 = 1;
/// [`Segment::flags`] bit: writable (data) or readable (code).
pub const SEG_RW: u16 = 1 << 1;
/// [`Segment::flags`] bit: expand-down (data) or conforming (code).
pub const SEG_DC: u16 = 1 << 2;
/// [`Segment::flags`] bit: executable.
pub const SEG_CODE: u16 = 1 << 3;
/// [`Segment::flags`] bit S: code or data, not system.
pub const SEG_S: u16 = 1 << 4;
/// [`Segment::flags`] bit P: present. A null selector loads flags without it.
pub const SEG_P: u16 = 1 << 7;
/// [`Segment::flags`] bit L: 64-bit code.
pub const SEG_L: u16 = 1 << 13;
/// [`Segment::flags`] bit D/B: 32-bit default size or stack.
pub const SEG_DB: u16 = 1 << 14;
/// [`Segment::flags`] bit G: limit counted in pages.
pub const SEG_G: u16 = 1 << 15;

impl Segment {
    /// Descriptor privilege level, 0 to 3.
    #[must_use]
    pub const fn dpl(&self) -> u8 {
        (self.flags >> 5 & 3) as u8
    }

    /// True when `size` bytes (at least one) at `offset` lie inside the limit; expand-down data segments included.
    #[must_use]
    pub const fn contains(&self, offset: u64, size: u64) -> bool {
        let last = offset + (size - 1);
        let limit = self.limit as u64;
        if self.flags & SEG_CODE == 0 && self.flags & SEG_DC != 0 {
            let top = if self.flags & SEG_DB != 0 { 0xffff_ffff } else { 0xffff };
            offset > limit && last <= top
        } else {
            last <= limit
        }
    }

    /// A real-mode segment: base is the selector times 16, limit 64 KiB, writable data.
    #[must_use]
    pub const fn real(selector: u16) -> Self {
        let flags = SEG_P | SEG_S | SEG_RW | SEG_ACCESSED;
        Self { selector, base: (selector as u64) << 4, limit: 0xffff, flags }
    }
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableRegister {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes (size minus one).
    pub limit: u16,
}

/// An 80-bit x87 register as it lies in memory: 64-bit significand with explicit integer bit, then sign and exponent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Float80 {
    /// Significand.
    pub mantissa: u64,
    /// Sign in bit 15, biased exponent below it.
    pub sign_exponent: u16,
}

/// x87 state. MMX registers are the mantissas of the physical registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FpuState {
    /// R0 to R7 by physical number (not relative to TOP).
    pub regs: [Float80; 8],
    /// Control word.
    pub control: u16,
    /// Status word, TOP in bits 13:11.
    pub status: u16,
    /// Abridged tags as FXSAVE has them: bit n set when physical register n is not empty.
    pub tags: u8,
    /// Last opcode (11 bits).
    pub opcode: u16,
    /// Last instruction pointer.
    pub instruction: u64,
    /// Last operand pointer.
    pub operand: u64,
    /// Selector of the last instruction (legacy modes).
    pub instruction_selector: u16,
    /// Selector of the last operand (legacy modes).
    pub operand_selector: u16,
}

impl Default for FpuState {
    /// State after FNINIT and at reset for our model.
    fn default() -> Self {
        Self {
            regs: [Float80::default(); 8],
            control: 0x37f,
            status: 0,
            tags: 0,
            opcode: 0,
            instruction: 0,
            operand: 0,
            instruction_selector: 0,
            operand_selector: 0,
        }
    }
}

/// SSE state, with room for the 256-bit registers of a later CPU model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorState {
    /// YMM0 to YMM15 as four 64-bit words, least significant first; XMM is words 0 and 1. Words 2 and 3 are
    /// zero in `virtft-v2`.
    pub regs: [[u64; 4]; 16],
    /// MXCSR.
    pub mxcsr: u32,
}

impl Default for VectorState {
    fn default() -> Self {
        Self { regs: [[0; 4]; 16], mxcsr: 0x1f80 }
    }
}

/// What a vCPU is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Activity {
    /// Executes instructions.
    #[default]
    Running,
    /// After HLT: waits for an interrupt, NMI or INIT.
    Halted,
    /// After reset or INIT of an application processor: waits for SIPI.
    WaitForStartup,
    /// After a triple fault: waits for reset.
    Shutdown,
}

/// Everything of a vCPU that is neither a general register, the flags nor floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemState {
    /// ES, CS, SS, DS, FS, GS.
    pub segs: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: TableRegister,
    /// Interrupt descriptor table.
    pub idtr: TableRegister,
    /// Control register 0.
    pub cr0: u64,
    /// Page-fault address.
    pub cr2: u64,
    /// Page-table root and PCID.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended control register 0.
    pub xcr0: u64,
    /// Current privilege level, 0 to 3.
    pub cpl: u8,
    /// IA32_EFER, LMA included.
    pub efer: u64,
    /// PAE page-directory-pointer entries, loaded with CR3 in PAE mode.
    pub pdptrs: [u64; 4],
    /// DR0 to DR3.
    pub debug_address: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_TSC_ADJUST: added to the machine's counter.
    pub tsc_adjust: u64,
    /// IA32_PAT; stored, without effect.
    pub pat: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_SPEC_CTRL; stored, without effect.
    pub spec_ctrl: u64,
    /// MTRR default type; stored, without effect.
    pub mtrr_def_type: u64,
    /// Fixed-range MTRRs in MSR order; stored, without effect.
    pub mtrr_fixed: [u64; 11],
    /// Variable-range MTRRs, base and mask pairs; stored, without effect.
    pub mtrr_variable: [u64; 16],
    /// What the vCPU is doing.
    pub activity: Activity,
    /// Interrupts are inhibited for one instruction (after STI or a load of SS).
    pub interrupt_shadow: bool,
    /// #DB traps are inhibited for one instruction too (after a load of SS).
    pub debug_shadow: bool,
    /// A #DB trap is due before the next instruction: the bits that it sets in DR6.
    pub pending_trap: u64,
    /// An NMI is being handled: further ones wait for IRET.
    pub nmi_blocked: bool,
    /// An NMI waits.
    pub nmi_pending: bool,
    /// True for the boot processor.
    pub bootstrap: bool,
}

/// The whole architectural state of one vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15.
    pub gpr: [u64; 16],
    /// Instruction pointer, relative to CS.base.
    pub rip: u64,
    /// RFLAGS; bit 1 always set.
    pub rflags: u64,
    /// System registers.
    pub sys: SystemState,
    /// x87 and MMX.
    pub fpu: FpuState,
    /// SSE.
    pub vector: VectorState,
}

impl CpuState {
    /// State after power-on (Intel SDM volume 3, table 10-1): real mode at F000:FFF0. Application processors wait
    /// for SIPI.
    #[must_use]
    pub fn power_on(bootstrap: bool) -> Self {
        let mut segs = [Segment::real(0); 6];
        segs[CS] = Segment {
            selector: 0xf000,
            base: 0xffff_0000,
            limit: 0xffff,
            flags: SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_ACCESSED,
        };
        let sys = SystemState {
            segs,
            ldtr: Segment { limit: 0xffff, flags: SEG_P | 2, ..Segment::default() },
            tr: Segment { limit: 0xffff, flags: SEG_P | 11, ..Segment::default() },
            gdtr: TableRegister { base: 0, limit: 0xffff },
            idtr: TableRegister { base: 0, limit: 0xffff },
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            xcr0: 1,
            cpl: 0,
            efer: 0,
            pdptrs: [0; 4],
            debug_address: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_aux: 0,
            tsc_adjust: 0,
            pat: 0x0007_0406_0007_0406,
            misc_enable: 1,
            spec_ctrl: 0,
            mtrr_def_type: 0,
            mtrr_fixed: [0; 11],
            mtrr_variable: [0; 16],
            activity: if bootstrap { Activity::Running } else { Activity::WaitForStartup },
            interrupt_shadow: false,
            debug_shadow: false,
            pending_trap: 0,
            nmi_blocked: false,
            nmi_pending: false,
            bootstrap,
        };
        let mut gpr = [0; 16];
        gpr[2] = u64::from(crate::cpuid::SIGNATURE);
        Self { gpr, rip: 0xfff0, rflags: 2, sys, fpu: FpuState::default(), vector: VectorState::default() }
    }
}
