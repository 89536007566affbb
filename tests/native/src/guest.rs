//! Runs test cases in the interpreter: 64-bit mode, privilege level 3, the same addresses as in this process.
//!
//! Exceptions go through an IDT like a real kernel's, so that their delivery is compared too: each vector has a
//! handler address of its own, and what was pushed is read from the kernel's stack.

use virtft_cpu::bus::{Bus, BusContext, CpuSignal, Refused};
use virtft_cpu::memory::{GuestRam, MemoryError};
use virtft_cpu::state::{
    CS, CpuState, ES, FS, GS, SEG_ACCESSED, SEG_CODE, SEG_DB, SEG_G, SEG_L, SEG_P, SEG_RW, SEG_S, SS, Segment,
    TableRegister,
};
use virtft_cpu::{Core, RunExit};
use vm_memory::{Bytes, GuestAddress};

use crate::case::{Case, Event, Outcome};
use crate::fp::Fp;
use crate::layout::{CODE, CODE_BYTES, CODE_SIZE, CONSTANT, DATA, INT3, PAGE, selector};

// Physical addresses.
const PML4: u64 = 0x1000;
const LOW_TABLES: u64 = 0x2000;
const KERNEL_TABLES: u64 = 0x6000;
const KERNEL_PAGES: u64 = 0xa000;
const CODE_AT: u64 = 0x10000;
const DATA_AT: u64 = 0x20000;

/// Linear address of the kernel's pages: descriptor tables, handlers, stack.
const KERNEL: u64 = 0xffff_9a5a_4560_0000;
const GDT: u64 = KERNEL;
const IDT: u64 = KERNEL + PAGE;
const TSS: u64 = KERNEL + 2 * PAGE;
const HANDLERS: u64 = KERNEL + 3 * PAGE;
const STACK: u64 = KERNEL + 4 * PAGE;
const KERNEL_COUNT: u64 = 5;
/// The instruction HLT.
const HLT: u8 = 0xf4;
/// Bytes between handlers.
const HANDLER_STEP: u64 = 16;
const TSS_SELECTOR: u16 = 0x40;
const TSS_LIMIT: u16 = 0x67;

// Page-table entry bits, accessed and dirty set.
const USER: u64 = 0x67;
const USER_CODE: u64 = 0x65;
const SUPERVISOR: u64 = 0x63;
const NO_EXECUTE: u64 = 1 << 63;

/// The trap flag.
const TF: u64 = 1 << 8;

/// Most steps that one instruction may take: iterations of a repeated one.
const MOST_STEPS: u64 = 1 << 17;

/// The interpreter as a place to run cases.
#[derive(Debug)]
pub struct Guest {
    core: Core,
    base: CpuState,
}

impl Guest {
    /// Makes a guest. `constant` fills the read-only page.
    ///
    /// # Errors
    /// When the host has no memory.
    pub fn new(constant: &[u8]) -> Result<Self, MemoryError> {
        let ram = GuestRam::new(1 << 20)?;
        let mut guest = Self { core: Core::new(ram, 1, Box::new(NoBus)), base: base_state() };
        guest.write(CODE_AT, &[INT3; CODE_BYTES]);
        guest.write(DATA_AT + CONSTANT - DATA, &constant[..constant.len().min(4096)]);
        guest.write_page_tables();
        guest.write_system_tables();
        guest.core.flush_caches();
        Ok(guest)
    }

    /// Runs a case. The outcome's buffer is reused.
    pub fn run(&mut self, case: &Case, outcome: &mut Outcome) {
        let offset = case.rip - CODE;
        let room = usize::try_from(CODE_SIZE - offset).unwrap_or(0);
        let length = case.bytes.len().min(room);
        self.write(CODE_AT + offset, &case.bytes[..length]);
        self.write(DATA_AT, &case.data[..]);
        let (fpu, vector) = case.fp.engine_state();
        let mut state = CpuState { gpr: case.gpr, rip: case.rip, fpu, vector, ..self.base };
        state.rflags = case.rflags | 0x202;
        state.sys.segs[FS].base = case.fs_base;
        state.sys.segs[GS].base = case.gs_base;
        self.core.set_cpu(0, &state);
        self.step(case, outcome);
        self.write(CODE_AT + offset, &vec![INT3; length]);
        let read = self.core.ram().memory().read_slice(&mut outcome.data[..], GuestAddress(DATA_AT));
        assert!(read.is_ok(), "the data pages are RAM");
    }

    /// Executes one instruction, all iterations of a repeated one included.
    fn step(&mut self, case: &Case, outcome: &mut Outcome) {
        if case.count > 1 {
            return self.run_sequence(case, outcome);
        }
        let last = self.core.count() + MOST_STEPS;
        while self.core.count() < last {
            let exit = self.core.run(self.core.count() + 1);
            let state = self.core.cpu(0);
            self.read_state(&state, outcome);
            if let RunExit::TripleFault { .. } = exit {
                outcome.event = Event::TripleFault;
                return;
            }
            if state.sys.cpl == 0 {
                self.read_exception(&state, outcome);
                return;
            }
            // As on the host, the next instruction is fetched: it is INT3 in the code pages, and faults elsewhere.
            let lands = state.rip.wrapping_sub(CODE) < CODE_SIZE;
            // Nor is it done when a single step is to be reported.
            if state.rip != case.rip && lands && case.rflags & TF == 0 {
                outcome.event = Event::Retired;
                return;
            }
        }
        outcome.event = Event::Hang;
    }

    /// Executes all instructions of a sequence, unless one faults: then the handler halts.
    fn run_sequence(&mut self, case: &Case, outcome: &mut Outcome) {
        let exit = self.core.run(self.core.count() + case.count);
        let state = self.core.cpu(0);
        self.read_state(&state, outcome);
        if let RunExit::TripleFault { .. } = exit {
            outcome.event = Event::TripleFault;
        } else if state.sys.cpl == 0 {
            self.read_exception(&state, outcome);
        } else {
            outcome.event = Event::Retired;
        }
    }

    fn read_state(&self, state: &CpuState, outcome: &mut Outcome) {
        outcome.rip = state.rip;
        outcome.gpr = state.gpr;
        outcome.rflags = state.rflags;
        outcome.fp = Fp::from_engine(&state.fpu, &state.vector);
        outcome.fs_base = state.sys.segs[FS].base;
        outcome.gs_base = state.sys.segs[GS].base;
        outcome.selectors = state.sys.segs.map(|segment| segment.selector);
    }

    /// Reads the frame that the delivery pushed: error code, RIP, CS, RFLAGS, RSP, SS.
    fn read_exception(&self, state: &CpuState, outcome: &mut Outcome) {
        let vector = state.rip.wrapping_sub(HANDLERS) / HANDLER_STEP;
        let vector = u8::try_from(vector).unwrap_or(u8::MAX);
        let with_code = matches!(vector, 8 | 10..=14 | 17);
        let mut frame = [0; 6];
        for (index, word) in frame.iter_mut().enumerate().skip(usize::from(!with_code)) {
            let at = state.gpr[4].wrapping_add(8 * (index as u64 - u64::from(!with_code)));
            *word = self.core.ram().read_u64(KERNEL_PAGES + at.wrapping_sub(KERNEL));
        }
        let [code, rip, cs, rflags, rsp, ss] = frame;
        outcome.selectors[CS] = u16::try_from(cs).unwrap_or(u16::MAX);
        outcome.selectors[SS] = u16::try_from(ss).unwrap_or(u16::MAX);
        outcome.rip = rip;
        outcome.rflags = rflags;
        outcome.gpr[4] = rsp;
        let address = if vector == 14 { state.sys.cr2 } else { 0 };
        outcome.event = Event::Exception { vector, code, address };
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        let written = self.core.ram().memory().write_slice(bytes, GuestAddress(address));
        assert!(written.is_ok(), "{address:#x} is RAM");
    }

    fn write_words(&self, address: u64, words: &[u64]) {
        for (index, word) in words.iter().enumerate() {
            self.write(address + 8 * index as u64, &word.to_le_bytes());
        }
    }

    /// Maps pages that lie in one 2 MiB region, with three levels of tables at `tables`.
    fn map(&self, tables: u64, linear: u64, pages: &[(u64, u64)]) {
        let index = |level: u32| 8 * (linear >> (12 + 9 * level) & 0x1ff);
        self.write_words(PML4 + index(3), &[tables | USER]);
        self.write_words(tables + index(2), &[(tables + PAGE) | USER]);
        self.write_words(tables + PAGE + index(1), &[(tables + 2 * PAGE) | USER]);
        let entries: Vec<u64> = pages.iter().map(|&(physical, bits)| physical | bits).collect();
        self.write_words(tables + 2 * PAGE + index(0), &entries);
    }

    fn write_page_tables(&self) {
        let data = |page: u64| DATA_AT + PAGE * page;
        self.map(LOW_TABLES, CODE, &[(CODE_AT, USER_CODE), (CODE_AT + PAGE, USER_CODE)]);
        let writable = USER | NO_EXECUTE;
        let constant = USER_CODE | NO_EXECUTE;
        self.map(LOW_TABLES, DATA, &[(data(0), writable), (data(1), writable), (data(2), constant)]);
        let kernel: Vec<_> = (0..KERNEL_COUNT).map(|page| (KERNEL_PAGES + PAGE * page, SUPERVISOR)).collect();
        self.map(KERNEL_TABLES, KERNEL, &kernel);
    }

    /// GDT with Linux's selectors, IDT, TSS; handlers that halt.
    fn write_system_tables(&self) {
        self.write(KERNEL_PAGES + 3 * PAGE, &[HLT; 4096]);
        let descriptors = [
            0,
            0x00cf_9b00_0000_ffff,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0,
        ];
        self.write_words(KERNEL_PAGES, &descriptors);
        let low = u64::from(TSS_LIMIT) | (TSS & 0xff_ffff) << 16 | 0x8b << 40 | (TSS >> 24 & 0xff) << 56;
        self.write_words(KERNEL_PAGES + 8 * 8, &[low, TSS >> 32]);
        // Where Linux tells programs the number of their CPU.
        self.write_words(KERNEL_PAGES + 8 * 15, &[0x0040_f500_0000_0000]);
        // No I/O bitmap: its offset is beyond the limit. RSP0 lies four bytes into the TSS.
        self.write(KERNEL_PAGES + 2 * PAGE + 0x66, &(TSS_LIMIT + 1).to_le_bytes());
        self.write(KERNEL_PAGES + 2 * PAGE + 4, &(STACK + PAGE).to_le_bytes());
        for vector in 0..256 {
            let handler = HANDLERS + HANDLER_STEP * vector;
            // As Linux has them: user code may call #BP and #OF, nothing else.
            let dpl = if matches!(vector, 3 | 4) { 3 } else { 0 };
            let flags = 0x8e | dpl << 5;
            let low = handler & 0xffff | 0x10 << 16 | flags << 40 | (handler >> 16 & 0xffff) << 48;
            self.write_words(KERNEL_PAGES + PAGE + 16 * vector, &[low, handler >> 32]);
        }
    }
}

/// State of a user program under a 64-bit kernel.
fn base_state() -> CpuState {
    let mut state = CpuState::power_on(true);
    let user = SEG_P | SEG_S | SEG_RW | SEG_ACCESSED | SEG_G | 3 << 5;
    let code = Segment { selector: selector::USER_CODE, base: 0, limit: u32::MAX, flags: user | SEG_CODE | SEG_L };
    let data = Segment { selector: selector::USER_DATA, base: 0, limit: u32::MAX, flags: user | SEG_DB };
    // The hidden parts hold limit bits in flags 11:8, as descriptors do; the engine keeps them clear.
    let null = Segment::default();
    let sys = &mut state.sys;
    sys.segs = [null; 6];
    sys.segs[CS] = code;
    sys.segs[SS] = data;
    sys.segs[ES] = null;
    sys.tr = Segment { selector: TSS_SELECTOR, base: TSS, limit: u32::from(TSS_LIMIT), flags: SEG_P | 11 };
    sys.ldtr = Segment::default();
    sys.gdtr = TableRegister { base: GDT, limit: 0x7f };
    sys.idtr = TableRegister { base: IDT, limit: 0xfff };
    // PE, MP, ET, NE, WP, AM, PG.
    sys.cr0 = 0x8005_0033;
    sys.cr3 = PML4;
    // PAE, PGE, OSFXSR, OSXMMEXCPT, UMIP, FSGSBASE, OSXSAVE, SMEP, SMAP.
    sys.cr4 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 16 | 1 << 18 | 1 << 20 | 1 << 21;
    sys.xcr0 = 3;
    // SCE, LME, LMA, NXE.
    sys.efer = 1 | 1 << 8 | 1 << 10 | 1 << 11;
    sys.cpl = 3;
    state
}

/// A computer with nothing but RAM.
#[derive(Debug)]
struct NoBus;

impl Bus for NoBus {
    fn mmio_read(&mut self, _: BusContext, _: u64, _: usize) -> u64 {
        u64::MAX
    }
    fn mmio_write(&mut self, _: BusContext, _: u64, _: usize, _: u64) {}
    fn port_read(&mut self, _: BusContext, _: u16, _: usize) -> u32 {
        u32::MAX
    }
    fn port_write(&mut self, _: BusContext, _: u16, _: usize, _: u32) {}
    fn msr_read(&mut self, _: BusContext, _: u32) -> Result<u64, Refused> {
        Err(Refused)
    }
    fn msr_write(&mut self, _: BusContext, _: u32, _: u64) -> Result<(), Refused> {
        Err(Refused)
    }
    fn cr8_read(&mut self, _: BusContext) -> u64 {
        0
    }
    fn cr8_write(&mut self, _: BusContext, _: u64) {}
    fn tsc(&self, count: u64) -> u64 {
        count
    }
    fn interrupt(&self, _: usize) -> bool {
        false
    }
    fn acknowledge(&mut self, _: BusContext) -> Option<u8> {
        None
    }
    fn signal(&self, _: usize) -> bool {
        false
    }
    fn take_signal(&mut self, _: usize) -> Option<CpuSignal> {
        None
    }
    fn deadline(&self) -> u64 {
        u64::MAX
    }
    fn advance(&mut self, _: u64) {}
    fn attention(&self) -> bool {
        false
    }
    fn random(&mut self) -> u64 {
        0
    }
}
