//! The test computer in the modes that tests start from.

use iced_x86::code_asm::CodeAssembler;
use virtft_cpu::memory::GuestRam;
use virtft_cpu::state::{CS, CpuState, SS, Segment, TableRegister};
use virtft_cpu::{Core, RunExit};
use vm_memory::{Bytes, GuestAddress};

use super::board::Board;
use super::tables::*;

/// What a handler finds on its stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub error: Option<u64>,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// A machine of one or more vCPUs.
pub struct Machine {
    pub core: Core,
    next_table: u64,
}

/// Flags of a flat ring-0 64-bit code segment, as the GDT has them.
const CODE64: u16 = 0xa09b;
const DATA: u16 = 0xc093;

impl Machine {
    fn empty(vcpus: usize) -> Self {
        let ram = GuestRam::new(RAM).expect("8 MiB of RAM");
        Self { core: Core::new(ram, vcpus, Box::new(Board::default())), next_table: SPARE_TABLES }
    }

    /// 64-bit mode at CPL 0, all RAM mapped one to one with 4 KiB pages, user pages where the map says so.
    pub fn long() -> Self {
        let mut machine = Self::empty(1);
        for page in 0..RAM >> 12 {
            let address = page << 12;
            let user = (USER_CODE..USER_CODE + 0x1_0000).contains(&address);
            machine.map(address, address, P | W | if user { U } else { 0 });
        }
        for (index, entry) in gdt(9).into_iter().enumerate() {
            machine.put(GDT + 8 * index as u64, entry);
        }
        for vector in 0..=255 {
            machine.put_bytes(handler(vector), &[0xf4]);
            machine.set_gate(vector, gate(handler(vector), KERNEL_CODE, 14, 0, 0));
        }
        machine.put_unaligned(TSS + 4, RSP0);
        for ist in 0..7 {
            machine.put_unaligned(TSS + 36 + 8 * ist, IST1 + 0x1_0000 * ist);
        }
        // The I/O map lies behind the TSS and allows nothing.
        machine.put_bytes(TSS + 0x66, &(TSS_SIZE as u16).to_le_bytes());
        machine.put_bytes(TSS + TSS_SIZE, &[0xff; 0x2001]);
        let cpu = Self::long_state();
        machine.core.set_cpu(0, &cpu);
        machine
    }

    /// The state that [`Machine::long`] starts in.
    fn long_state() -> CpuState {
        let mut cpu = CpuState::power_on(true);
        let data = Segment { selector: KERNEL_DATA, base: 0, limit: 0xffff_ffff, flags: DATA };
        cpu.sys.segs = [data; 6];
        cpu.sys.segs[CS] = Segment { selector: KERNEL_CODE, base: 0, limit: 0xffff_ffff, flags: CODE64 };
        cpu.sys.tr = Segment { selector: TASK, base: TSS, limit: 0x20ff, flags: 0x8b };
        cpu.sys.ldtr = Segment::default();
        cpu.sys.gdtr = TableRegister { base: GDT, limit: 16 * 8 - 1 };
        cpu.sys.idtr = TableRegister { base: IDT, limit: 256 * 16 - 1 };
        // PE, ET, NE, WP, PG; PAE, OSFXSR, OSXMMEXCPT; SCE, LME, LMA, NXE.
        cpu.sys.cr0 = 0x8001_0031;
        cpu.sys.cr3 = PML4;
        cpu.sys.cr4 = 0x620;
        cpu.sys.efer = 0xd01;
        cpu.sys.star = 0x0018_0008 << 32;
        cpu.gpr[4] = STACK;
        cpu.rip = CODE;
        cpu.rflags = 2;
        cpu
    }

    /// 32-bit protected mode at CPL 0 without paging; gates of type 14; the TSS names the stack [`RSP0`] for ring 0.
    pub fn protected() -> Self {
        let mut machine = Self::empty(1);
        for (index, entry) in gdt(9).into_iter().enumerate() {
            machine.put(GDT + 8 * index as u64, entry);
        }
        for vector in 0..=255 {
            machine.put_bytes(handler(vector), &[0xf4]);
            let low = gate(handler(vector), KERNEL_CODE32, 14, 0, 0)[0];
            machine.put(IDT + 8 * u64::from(vector), low);
        }
        machine.put_bytes(TSS + 4, &(RSP0 as u32).to_le_bytes());
        machine.put_bytes(TSS + 8, &KERNEL_DATA.to_le_bytes());
        machine.put_bytes(TSS + 0x66, &(TSS_SIZE as u16).to_le_bytes());
        machine.put_bytes(TSS + TSS_SIZE, &[0xff; 0x2001]);
        let mut cpu = Self::long_state();
        cpu.sys.segs[CS] = Segment { selector: KERNEL_CODE32, base: 0, limit: 0xffff_ffff, flags: 0xc09b };
        cpu.sys.idtr.limit = 256 * 8 - 1;
        cpu.sys.cr0 = 0x31;
        cpu.sys.cr3 = 0;
        cpu.sys.cr4 = 0;
        cpu.sys.efer = 0;
        machine.core.set_cpu(0, &cpu);
        machine
    }

    /// Real mode with CS base zero; the interrupt table at 0 leads to the stubs.
    pub fn real() -> Self {
        let mut machine = Self::empty(1);
        for vector in 0..=255 {
            machine.put_bytes(handler(vector), &[0xf4]);
            machine.put_bytes(4 * u64::from(vector), &(handler(vector) as u32).to_le_bytes());
        }
        let mut cpu = CpuState::power_on(true);
        for segment in &mut cpu.sys.segs {
            segment.selector = 0;
            segment.base = 0;
        }
        cpu.sys.idtr = TableRegister { base: 0, limit: 0x3ff };
        cpu.gpr[4] = 0x8000;
        cpu.rip = 0x7000;
        machine.core.set_cpu(0, &cpu);
        machine
    }

    /// The bus.
    pub fn board(&mut self) -> &mut Board {
        let bus: &mut dyn std::any::Any = self.core.bus_mut();
        bus.downcast_mut().expect("the kit's own bus")
    }

    /// Writes an 8-byte word of RAM. The engine's caches see it as a device's write.
    pub fn put(&mut self, address: u64, value: u64) {
        self.put_bytes(address, &value.to_le_bytes());
    }

    fn put_unaligned(&mut self, address: u64, value: u64) {
        self.put_bytes(address, &value.to_le_bytes());
    }

    pub fn put_bytes(&mut self, address: u64, bytes: &[u8]) {
        self.core.ram().memory().write_slice(bytes, GuestAddress(address)).expect("inside RAM");
    }

    /// Reads an 8-byte word of RAM.
    pub fn get(&self, address: u64) -> u64 {
        self.core.ram().memory().read_obj(GuestAddress(address)).expect("inside RAM")
    }

    pub fn get16(&self, address: u64) -> u16 {
        self.core.ram().memory().read_obj(GuestAddress(address)).expect("inside RAM")
    }

    pub fn get32(&self, address: u64) -> u32 {
        self.core.ram().memory().read_obj(GuestAddress(address)).expect("inside RAM")
    }

    /// Sets a 64-bit gate.
    pub fn set_gate(&mut self, vector: u8, entry: [u64; 2]) {
        self.put(IDT + 16 * u64::from(vector), entry[0]);
        self.put(IDT + 16 * u64::from(vector) + 8, entry[1]);
    }

    /// Sets a descriptor of the GDT.
    pub fn set_descriptor(&mut self, selector: u16, entry: u64) {
        self.put(GDT + u64::from(selector & !7), entry);
    }

    /// Physical address of the entry of the given level (0: 4 KiB page) for a linear address; tables on the way are
    /// made with all rights.
    pub fn entry(&mut self, linear: u64, level: u32) -> u64 {
        let mut table = PML4;
        for above in (level + 1..4).rev() {
            let at = table + (linear >> (12 + 9 * above) & 0x1ff) * 8;
            if self.get(at) & P == 0 {
                let fresh = self.next_table;
                self.next_table += 0x1000;
                self.put(at, fresh | P | W | U);
            }
            table = self.get(at) & 0x000f_ffff_ffff_f000;
        }
        table + (linear >> (12 + 9 * level) & 0x1ff) * 8
    }

    /// Maps a 4 KiB page with the given bits.
    pub fn map(&mut self, linear: u64, physical: u64, bits: u64) {
        let at = self.entry(linear, 0);
        self.put(at, physical | bits);
    }

    /// State of vCPU 0.
    pub fn cpu(&self) -> CpuState {
        self.core.cpu(0)
    }

    /// Changes the state of vCPU 0.
    pub fn edit(&mut self, change: impl FnOnce(&mut CpuState)) {
        let mut cpu = self.core.cpu(0);
        change(&mut cpu);
        self.core.set_cpu(0, &cpu);
    }

    /// Assembles 64-bit code, loads it at `address` and returns its length.
    pub fn code64(&mut self, address: u64, write: impl FnOnce(&mut CodeAssembler)) -> u64 {
        self.code(64, address, write)
    }

    /// Assembles code of 16, 32 or 64 bits, loads it at `address` and returns its length.
    pub fn code(&mut self, bits: u32, address: u64, write: impl FnOnce(&mut CodeAssembler)) -> u64 {
        let mut assembler = CodeAssembler::new(bits).expect("16, 32 or 64");
        write(&mut assembler);
        let bytes = assembler.assemble(address).expect("valid code");
        self.put_bytes(address, &bytes);
        bytes.len() as u64
    }

    /// Goes to user mode in 64-bit code at [`USER_CODE`].
    pub fn enter_user(&mut self) {
        self.edit(|cpu| {
            cpu.sys.cpl = 3;
            let user = |selector, flags| Segment { selector, base: 0, limit: 0xffff_ffff, flags };
            cpu.sys.segs = [user(USER_SS, 0xc0f3); 6];
            cpu.sys.segs[CS] = user(USER_CS, 0xa0fb);
            cpu.sys.segs[SS] = user(USER_SS, 0xc0f3);
            cpu.gpr[4] = USER_STACK;
            cpu.rip = USER_CODE;
        });
    }

    /// Runs until the machine idles; at most 100 000 steps.
    #[track_caller]
    pub fn run(&mut self) {
        let exit = self.core.run(self.core.count() + 100_000);
        assert_eq!(exit, RunExit::Idle, "the machine should come to a HLT: {:x?}", self.cpu().rip);
    }

    /// Runs exactly `steps` steps.
    #[track_caller]
    pub fn step(&mut self, steps: u64) {
        let until = self.core.count() + steps;
        assert_eq!(self.core.run(until), RunExit::Count);
        assert_eq!(self.core.count(), until);
    }

    /// The vector whose stub the machine halted in, after [`Machine::run`].
    pub fn vector(&self) -> Option<u8> {
        let offset = self.cpu().rip.checked_sub(HANDLERS + 1)?;
        (offset % 16 == 0 && offset / 16 < 256).then_some((offset / 16) as u8)
    }

    /// Runs until a stub is reached, and returns vector and frame.
    #[track_caller]
    pub fn run_to_handler(&mut self) -> (u8, Frame) {
        self.run();
        let Some(vector) = self.vector() else { panic!("halted at {:x}, in no handler", self.cpu().rip) };
        (vector, self.frame(vector))
    }

    /// The frame at RSP.
    pub fn frame(&self, vector: u8) -> Frame {
        let rsp = self.cpu().gpr[4];
        let coded = matches!(vector, 8 | 10..=14 | 17);
        let at = rsp + if coded { 8 } else { 0 };
        Frame {
            error: coded.then(|| self.get(rsp)),
            rip: self.get(at),
            cs: self.get(at + 8),
            rflags: self.get(at + 16),
            rsp: self.get(at + 24),
            ss: self.get(at + 32),
        }
    }

    /// Runs and expects an exception with an error code, at `rip`.
    #[track_caller]
    pub fn expect_fault(&mut self, vector: u8, error: Option<u64>, rip: u64) {
        let (found, frame) = self.run_to_handler();
        assert_eq!((found, frame.error, frame.rip), (vector, error, rip), "{frame:x?}");
    }
}
