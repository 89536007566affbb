//! Speed of the engine on a few small loops, without a machine around it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a benchmark looks at the clock")]

use std::time::Instant;
use virtft_cpu::Core;
use virtft_cpu::bus::{Bus, BusContext, CpuSignal, Refused};
use virtft_cpu::memory::GuestRam;
use virtft_cpu::state::{CpuState, Segment};
use vm_memory::{Bytes, GuestAddress};

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

fn main() {
    let programs: &[(&str, &[u8])] = &[
        // add rax,1; xor rbx,rax; shl rbx,3; sub rcx,1; jnz
        (
            "alu",
            &[0x48, 0x83, 0xc0, 0x01, 0x48, 0x31, 0xc3, 0x48, 0xc1, 0xe3, 0x03, 0x48, 0x83, 0xe9, 0x01, 0x75, 0xef],
        ),
        // mov rax,[rsi]; add [rsi+8],rax; mov [rsi+16],rbx; dec rcx; jnz
        ("memory", &[0x48, 0x8b, 0x06, 0x48, 0x01, 0x46, 0x08, 0x48, 0x89, 0x5e, 0x10, 0x48, 0xff, 0xc9, 0x75, 0xf0]),
        // call +2; jmp back; ret
        ("call", &[0xe8, 0x02, 0, 0, 0, 0xeb, 0xf9, 0xc3]),
    ];
    for (name, code) in programs {
        let ram = GuestRam::new(16 << 20).expect("ram");
        ram.memory().write_slice(code, GuestAddress(0x1000)).expect("in ram");
        // identity page tables with 2 MiB pages
        ram.memory().write_obj(0x3003u64, GuestAddress(0x2000)).expect("ram");
        ram.memory().write_obj(0x4003u64, GuestAddress(0x3000)).expect("ram");
        for i in 0..8u64 {
            ram.memory().write_obj(i << 21 | 0x83, GuestAddress(0x4000 + i * 8)).expect("ram");
        }
        let mut core = Core::new(ram, 1, Box::new(NoBus));
        let mut s = CpuState::power_on(true);
        s.sys.cr0 = 0x8000_0011;
        s.sys.cr4 = 0x20;
        s.sys.efer = 0x500;
        s.sys.cr3 = 0x2000;
        let code_seg = Segment { selector: 8, base: 0, limit: u32::MAX, flags: 0xa09b };
        let data = Segment { selector: 16, base: 0, limit: u32::MAX, flags: 0xc093 };
        s.sys.segs = [data, code_seg, data, data, data, data];
        s.rip = 0x1000;
        s.gpr[4] = 0x80000;
        s.gpr[6] = 0x90000;
        s.gpr[1] = u64::MAX;
        core.set_cpu(0, &s);
        let n = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(300_000_000);
        let t = Instant::now();
        let exit = core.run(n);
        let e = t.elapsed();
        println!(
            "{name}: {exit:?} count {} {:.0} MIPS rip {:x}",
            core.count(),
            core.count() as f64 / e.as_secs_f64() / 1e6,
            core.cpu(0).rip
        );
    }
}
