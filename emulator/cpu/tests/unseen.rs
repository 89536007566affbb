//! Nothing of the implementation shows: a run is the same however it is cut into calls, whenever translations and
//! decoded code are dropped, and after save and restore.
//!
//! The guest is random bytes executed in 64-bit user mode, with memory, page tables and its own code all within reach
//! of its stores, and handlers in supervisor mode that go on at another place. Whatever it does (also shutting
//! down), a straight run and a disturbed run must end in the same state.

use virtft_cpu::bus::{Bus, BusContext, CpuSignal, Refused};
use virtft_cpu::memory::GuestRam;
use virtft_cpu::state::{CpuState, Segment, TableRegister};
use virtft_cpu::{Core, CoreState, RunExit};
use vm_memory::{Bytes, GuestAddress};

const RAM: u64 = 2 << 20;
const PML4: u64 = 0x1000;
const IDT: u64 = 0x5000;
const GDT: u64 = 0x6000;
const HANDLER: u64 = 0x7000;
const CODE: u64 = 0x10000;
const CODE_SIZE: u64 = 0x3000;
const TSS: u64 = 0x8000;
/// How many events were handled.
const EVENTS: u64 = 0x8800;
const STACK: u64 = 0x20000;
const HANDLER_STACK: u64 = 0x9f00;
const STEPS: u64 = 20_000;

/// SplitMix64: enough for test data.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Ports and device memory that answer by address and position, and a timer whose interrupt comes every 997 steps.
struct Board {
    next_tick: u64,
    pending: bool,
}

impl Bus for Board {
    fn mmio_read(&mut self, cx: BusContext, address: u64, _size: usize) -> u64 {
        address.wrapping_mul(0x9e37) ^ cx.count
    }
    fn mmio_write(&mut self, _: BusContext, _: u64, _: usize, _: u64) {}
    fn port_read(&mut self, cx: BusContext, port: u16, _: usize) -> u32 {
        u32::from(port) ^ (cx.count & 0xffff) as u32
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
        count * 7
    }
    fn interrupt(&self, _: usize) -> bool {
        self.pending
    }
    fn acknowledge(&mut self, _: BusContext) -> Option<u8> {
        std::mem::take(&mut self.pending).then_some(0x30)
    }
    fn signal(&self, _: usize) -> bool {
        false
    }
    fn take_signal(&mut self, _: usize) -> Option<CpuSignal> {
        None
    }
    fn deadline(&self) -> u64 {
        self.next_tick
    }
    fn advance(&mut self, count: u64) {
        while self.next_tick <= count {
            self.next_tick += 997;
            self.pending = true;
        }
    }
    fn attention(&self) -> bool {
        false
    }
    fn random(&mut self) -> u64 {
        4
    }
}

/// The low four bytes of an immediate.
fn low32(value: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = value.to_le_bytes();
    [a, b, c, d]
}

fn machine(seed: u64) -> Core {
    let mut random = Random(seed);
    let ram = GuestRam::new(RAM).expect("2 MiB of RAM");
    let memory = ram.memory();
    let put = |address: u64, value: u64| memory.write_obj(value, GuestAddress(address)).expect("inside RAM");
    put(PML4, (PML4 + 0x1000) | 7);
    put(PML4 + 0x1000, (PML4 + 0x2000) | 7);
    put(PML4 + 0x2000, (PML4 + 0x3000) | 7);
    for page in 0..512u64 {
        // The pages of the handlers belong to the supervisor.
        let rights = if (5..10).contains(&page) { 3 } else { 7 };
        put(PML4 + 0x3000 + page * 8, page << 12 | rights);
    }
    for vector in 0..256u64 {
        let offset = HANDLER + (vector & 7) * 64;
        put(IDT + vector * 16, (offset & 0xffff) | 8 << 16 | 0x8e01 << 32 | (offset >> 16) << 48);
        put(IDT + vector * 16 + 8, 0);
    }
    put(GDT + 8, 0x00af_9b00_0000_ffff);
    put(GDT + 16, 0x00cf_9300_0000_ffff);
    put(GDT + 0x28, 0x00af_fb00_0000_ffff);
    put(GDT + 0x30, 0x00cf_f300_0000_ffff);
    put(TSS + 0x24, HANDLER_STACK);
    for entry in 0..8u64 {
        // inc qword [EVENTS]; imul rax, [EVENTS], K; and eax, 0x2fff; add rax, CODE
        let mut code = vec![0x48, 0xff, 0x04, 0x25];
        code.extend(low32(EVENTS));
        code.extend([0x48, 0x69, 0x04, 0x25]);
        code.extend(low32(EVENTS));
        code.extend(low32(0x0001_2345 + entry * 0x777));
        code.extend([0x25, 0xff, 0x2f, 0, 0, 0x48, 0x05]);
        code.extend(low32(CODE));
        // push SS, RSP, RFLAGS, CS, RIP; iretq
        for value in [0x33, STACK, 0x202, 0x2b] {
            code.push(0x68);
            code.extend(low32(value));
        }
        code.extend([0x50, 0x48, 0xcf]);
        memory.write_slice(&code, GuestAddress(HANDLER + entry * 64)).expect("inside RAM");
    }
    for address in (CODE..CODE + CODE_SIZE).step_by(8) {
        put(address, random.next());
    }
    let mut state = CpuState::power_on(true);
    state.sys.cr0 = 0x8001_0033;
    state.sys.cr4 = 0x0004_06a0;
    state.sys.efer = 0x501;
    state.sys.cr3 = PML4;
    state.sys.gdtr = TableRegister { base: GDT, limit: 0xff };
    state.sys.idtr = TableRegister { base: IDT, limit: 0xfff };
    state.sys.tr = Segment { selector: 0x18, base: TSS, limit: 0x67, flags: 0x8b };
    state.sys.cpl = 3;
    let data = Segment { selector: 0x33, base: 0, limit: u32::MAX, flags: 0xc0f3 };
    state.sys.segs = [data; 6];
    state.sys.segs[1] = Segment { selector: 0x2b, base: 0, limit: u32::MAX, flags: 0xa0fb };
    for register in &mut state.gpr {
        *register = random.below(RAM);
    }
    state.gpr[4] = STACK;
    state.rip = CODE;
    state.rflags = 0x202;
    let mut core = Core::new(ram, 1, Box::new(Board { next_tick: 997, pending: false }));
    core.set_cpu(0, &state);
    core
}

fn memory_of(core: &Core) -> Vec<u8> {
    (0..core.ram().page_count()).flat_map(|page| core.ram().page(page)).collect()
}

/// Outcome of a run: exit, state, memory.
fn outcome(core: &Core, exit: RunExit) -> (RunExit, CoreState, Vec<u8>) {
    (exit, core.save(), memory_of(core))
}

fn disturbed(seed: u64) -> (RunExit, CoreState, Vec<u8>) {
    let mut random = Random(seed ^ 0xd157);
    let mut core = machine(seed);
    loop {
        let next = (core.count() + 1 + random.below(700)).min(STEPS);
        let exit = core.run(next);
        if exit != RunExit::Count || core.count() == STEPS {
            return outcome(&core, exit);
        }
        match random.below(4) {
            0 => core.flush_caches(),
            1 => {
                let saved = core.save();
                core.restore(&saved).expect("its own state");
            }
            2 => {
                core.take_dirty_pages();
            }
            _ => {}
        }
    }
}

#[test]
fn disturbances_do_not_show() {
    let mut shutdowns = 0;
    for seed in 0..400 {
        let mut core = machine(seed);
        let exit = core.run(STEPS);
        let straight = outcome(&core, exit);
        let other = disturbed(seed);
        assert_eq!(straight.0, other.0, "seed {seed}: exit");
        assert_eq!(straight.1, other.1, "seed {seed}: state");
        let differs = straight.2.iter().zip(&other.2).position(|(a, b)| a != b);
        let bytes = differs.map(|at| (at, straight.2[at], other.2[at]));
        assert_eq!(bytes, None, "seed {seed}: memory at (address, straight, disturbed)");
        shutdowns += u64::from(exit != RunExit::Count);
    }
    assert!(shutdowns < 100, "{shutdowns} of 400 guests ended early: the test would see too little");
}

#[test]
fn run_stops_exactly() {
    let mut core = machine(7);
    for until in (1..2000).step_by(3) {
        assert_eq!(core.run(until), RunExit::Count);
        assert_eq!(core.count(), until);
    }
}
