//! Tests: against the host's own unit where processors agree, against known answers where they do not, and directed ones
//! for what a host's user space cannot show.

mod answers;
mod answers_table;
mod directed;
mod host;
mod native;
mod save_areas;

use crate::bus::{Bus, BusContext, CpuSignal, Refused};
use crate::core::Core;
use crate::memory::GuestRam;
use crate::mmu::{cr0, cr4, efer};
use crate::op::{Done, Stop};
use crate::ops;
use crate::state::{CS, Float80, SEG_CODE, SEG_DB, SEG_L, SEG_P, SEG_RW, SEG_S};

/// A computer without devices.
struct NoBus;

impl Bus for NoBus {
    fn mmio_read(&mut self, _cx: BusContext, _address: u64, _size: usize) -> u64 {
        u64::MAX
    }
    fn mmio_write(&mut self, _cx: BusContext, _address: u64, _size: usize, _value: u64) {}
    fn port_read(&mut self, _cx: BusContext, _port: u16, _size: usize) -> u32 {
        u32::MAX
    }
    fn port_write(&mut self, _cx: BusContext, _port: u16, _size: usize, _value: u32) {}
    fn msr_read(&mut self, _cx: BusContext, _index: u32) -> Result<u64, Refused> {
        Err(Refused)
    }
    fn msr_write(&mut self, _cx: BusContext, _index: u32, _value: u64) -> Result<(), Refused> {
        Err(Refused)
    }
    fn cr8_read(&mut self, _cx: BusContext) -> u64 {
        0
    }
    fn cr8_write(&mut self, _cx: BusContext, _value: u64) {}
    fn tsc(&self, count: u64) -> u64 {
        count
    }
    fn interrupt(&self, _cpu: usize) -> bool {
        false
    }
    fn acknowledge(&mut self, _cx: BusContext) -> Option<u8> {
        None
    }
    fn signal(&self, _cpu: usize) -> bool {
        false
    }
    fn take_signal(&mut self, _cpu: usize) -> Option<CpuSignal> {
        None
    }
    fn deadline(&self) -> u64 {
        u64::MAX
    }
    fn advance(&mut self, _count: u64) {}
    fn attention(&self) -> bool {
        false
    }
    fn random(&mut self) -> u64 {
        0
    }
}

/// Where tests have their memory operand; RSI points there.
const OPERAND: u64 = 0x2000;

/// A vCPU in 64-bit mode without paging, with everything that x87, SSE and XSAVE need switched on.
fn guest() -> Core {
    let ram = GuestRam::new(1 << 20).expect("a megabyte");
    let mut core = Core::new(ram, 1, Box::new(NoBus));
    core.sys.efer = efer::LME | efer::LMA;
    core.sys.segs[CS].flags = SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_L;
    core.sys.cr0 = cr0::PE | cr0::NE | cr0::MP | cr0::ET;
    core.sys.cr4 = cr4::OSFXSR | cr4::OSXSAVE;
    core.sys.xcr0 = 3;
    core.update_mode();
    core.r[6] = OPERAND;
    core
}

/// Executes one instruction directly: no fetch, no counting, no delivery.
fn execute(core: &mut Core, bytes: &[u8]) -> Done {
    let mode = core.code_mode();
    let mut decoder = iced_x86::Decoder::with_ip(mode.bits(), bytes, 0, iced_x86::DecoderOptions::NONE);
    let instruction = decoder.decode();
    assert_eq!(instruction.len(), bytes.len(), "{bytes:02x?} is one instruction");
    let op = ops::translate(&instruction, bytes, 0, mode);
    (op.run)(core, &op)
}

fn write_memory(core: &mut Core, address: u64, bytes: &[u8]) {
    for (at, &byte) in (address..).zip(bytes) {
        core.write::<u8>(at, 6, byte).expect("test memory");
    }
}

fn read_memory(core: &mut Core, address: u64, size: usize) -> Vec<u8> {
    (address..).take(size).map(|at| core.read::<u8>(at, 6).expect("test memory")).collect()
}

/// The exception that an instruction raised.
fn fault(core: &mut Core, done: Done) -> u8 {
    assert_eq!(done, Err(Stop::Fault));
    core.fault.vector
}

fn expect_fault(core: &mut Core, instruction: &[u8], vector: u8) {
    let done = execute(core, instruction);
    assert_eq!(fault(core, done), vector, "{instruction:02x?}");
}

fn run(core: &mut Core, instruction: &[u8]) {
    execute(core, instruction).unwrap_or_else(|_| panic!("{instruction:02x?}: vector {}", core.fault.vector));
}

fn word(core: &mut Core, offset: u64) -> u16 {
    let bytes = read_memory(core, OPERAND + offset, 2);
    u16::from_le_bytes([bytes[0], bytes[1]])
}

fn quad(core: &mut Core, offset: u64) -> u64 {
    core.read::<u64>(OPERAND + offset, 6).expect("test memory")
}

/// A vCPU in 32-bit or 16-bit code, protected or real-address mode, with recognisable pointers.
fn legacy(bits32: bool, protected: bool) -> Core {
    let mut core = guest();
    core.sys.efer = 0;
    core.sys.segs[CS].flags = core.sys.segs[CS].flags & !SEG_L | if bits32 { SEG_DB } else { 0 };
    if !protected {
        core.sys.cr0 &= !cr0::PE;
    }
    for segment in &mut core.sys.segs[2..] {
        segment.limit = 0xffff;
    }
    core.update_mode();
    core.fpu.instruction = 0x000a_bcde;
    core.fpu.operand = 0x000f_1234;
    core.fpu.opcode = 0x5a5;
    core
}

/// A small generator with a fixed sequence.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// Significands with few bits, with long runs, near rounding boundaries of every format, and any.
    fn significand(&mut self) -> u64 {
        match self.below(6) {
            0 => 1 << self.below(64),
            1 => u64::MAX << self.below(64),
            2 => u64::MAX >> self.below(64),
            3 => {
                let at = [10, 11, 12, 39, 40, 41, 63][self.below(7) as usize];
                (self.next() << at).wrapping_add(self.below(3)).wrapping_sub(1) ^ 1 << (at - 1)
            }
            4 => self.below(1000) << self.below(54),
            _ => self.next(),
        }
    }

    /// Any value of the 80-bit format, with a taste for special ones.
    fn float(&mut self) -> Float80 {
        let sign = (self.next() as u16) & 0x8000;
        let (exponent, mantissa) = match self.below(24) {
            0 => (0, 0),
            1 => (0x7fff, 1 << 63),
            2 => (0x7fff, 3 << 62 | self.significand() >> 2),
            3 => (0x7fff, 1 << 63 | self.significand() >> 2),
            4 => (0, self.significand() & !(1 << 63)),
            5 => (0, self.significand() | 1 << 63),
            6 => (self.below(0x8000) as u16, self.significand() & !(1 << 63)),
            7 => (0x3fff, 1 << 63),
            8 => (1 + self.below(70) as u16, self.significand() | 1 << 63),
            9 => (0x7ffe - self.below(70) as u16, self.significand() | 1 << 63),
            10 => (0x3fff - 127 - 25 + self.below(30) as u16, self.significand() | 1 << 63),
            11 => (0x3fff + 127 - 2 + self.below(4) as u16, self.significand() | 1 << 63),
            12 => (0x3fff - 1023 - 54 + self.below(60) as u16, self.significand() | 1 << 63),
            13 => (0x3fff + 1023 - 2 + self.below(4) as u16, self.significand() | 1 << 63),
            14 => (self.below(0x8000) as u16, self.significand() | 1 << 63),
            15..=17 => {
                let value = self.next() >> self.below(64);
                let shift = value.leading_zeros().min(63);
                (0x3fff + 63 - shift as u16, (value | 1) << shift | 1 << 63)
            }
            18 => (0x3fff - 70 + self.below(140) as u16, 1 << 63),
            _ => (0x3fff - 66 + self.below(140) as u16, self.significand() | 1 << 63),
        };
        Float80 { mantissa, sign_exponent: sign | exponent }
    }
}
