//! Whole machines that run small programs.
//!
//! The programs are Multiboot images assembled here: 32-bit flat code at 1 MiB.

use iced_x86::code_asm::*;

use super::*;
use crate::boot::BootSource;
use crate::devices::virtio::block::BlockConfig;
use crate::io::{CharPort, DeviceIndex};

const LOAD: u64 = 0x10_0000;
const HEADER_BYTES: usize = 32;
const APIC: u64 = 0xfee0_0000;
/// Where programs put their interrupt table and count their ticks.
const TABLE: u64 = 0x11_0000;
const TICKS: u64 = 0x11_1000;
/// Memory that programs write over and over.
const ARENA: u64 = 0x20_0000;

type Assembler = CodeAssembler;
type Program = fn(&mut Assembler) -> Result<(), IcedError>;

fn image(program: Program) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(32).unwrap();
    program(&mut assembler).unwrap();
    let code = assembler.assemble(LOAD + HEADER_BYTES as u64).unwrap();
    let (magic, flags, load) = (0x1bad_b002u32, 1u32 << 16, 0x10_0000u32);
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let header = [magic, flags, checksum, load, load, 0, 0, load + 32];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.extend(code);
    image
}

fn config(program: Program, vcpus: usize) -> MachineConfig {
    let boot = BootSource { kernel: image(program).into(), initrd: None, command_line: "test".into() };
    let mut config = MachineConfig::new(boot);
    config.memory_bytes = 16 << 20;
    config.vcpus = vcpus;
    config.clock = ClockMode::Virtual { rate: 10 << 32 };
    config
}

fn machine(program: Program) -> Machine {
    Machine::new(config(program, 1)).unwrap()
}

/// Runs to an end, collecting what is written to COM1.
fn run_to_end(machine: &mut Machine) -> (Vec<u8>, StopReason) {
    let mut text = Vec::new();
    loop {
        let reason = machine.run(InstructionCount(50_000_000));
        take_text(machine, &mut text);
        if reason != StopReason::Outputs {
            return (text, reason);
        }
    }
}

fn take_text(machine: &mut Machine, text: &mut Vec<u8>) {
    for output in machine.take_outputs() {
        match output {
            Output::CharTransmit { port: CharPort::Serial(0), data } => text.extend(data),
            other => panic!("{other:?}"),
        }
    }
}

fn print(a: &mut Assembler, text: &str) -> Result<(), IcedError> {
    a.mov(edx, 0x3f8)?;
    for byte in text.bytes() {
        a.mov(al, u32::from(byte))?;
        a.out(dx, al)?;
    }
    Ok(())
}

fn power_off(a: &mut Assembler) -> Result<(), IcedError> {
    a.mov(edx, 0x604)?;
    a.mov(eax, 0x2000 | 5 << 10)?;
    a.out(dx, ax)?;
    let mut end = a.create_label();
    a.set_label(&mut end)?;
    a.hlt()?;
    a.jmp(end)
}

fn hello(a: &mut Assembler) -> Result<(), IcedError> {
    print(a, "hello")?;
    power_off(a)
}

#[test]
fn a_program_prints_and_powers_off() {
    let mut machine = machine(hello);
    assert_eq!(run_to_end(&mut machine), (b"hello".to_vec(), StopReason::Off { status: 0 }));
    assert_eq!(machine.run(InstructionCount(u64::MAX)), StopReason::Off { status: 0 }, "off is final");
    machine.deliver(&Input::Reset).unwrap();
    assert_eq!(machine.run(InstructionCount(u64::MAX)), StopReason::Reset);
    assert_eq!(run_to_end(&mut machine), (b"hello".to_vec(), StopReason::Off { status: 0 }));
}

#[test]
fn a_guest_reset_starts_over() {
    fn program(a: &mut Assembler) -> Result<(), IcedError> {
        // CMOS survives the reset: count the boots in it.
        let mut again = a.create_label();
        a.mov(al, 0x50)?;
        a.out(0x70, al)?;
        a.in_(al, 0x71)?;
        a.inc(eax)?;
        a.mov(ecx, eax)?;
        a.out(0x71, al)?;
        print(a, "boot ")?;
        a.cmp(cl, 3)?;
        a.jb(again)?;
        power_off(a)?;
        a.set_label(&mut again)?;
        a.mov(edx, 0xcf9)?;
        a.mov(al, 6)?;
        a.out(dx, al)?;
        a.hlt()
    }
    let mut machine = machine(program);
    assert_eq!(run_to_end(&mut machine), (b"boot ".to_vec(), StopReason::Reset));
    let count = machine.count();
    assert_eq!(run_to_end(&mut machine), (b"boot ".to_vec(), StopReason::Reset));
    assert!(machine.count() > count, "the count goes on");
    assert_eq!(run_to_end(&mut machine), (b"boot ".to_vec(), StopReason::Off { status: 0 }));
}

#[test]
fn the_debug_exit_port_gives_a_status() {
    fn program(a: &mut Assembler) -> Result<(), IcedError> {
        a.mov(al, 0x10)?;
        a.out(0xf4, al)?;
        a.hlt()
    }
    assert_eq!(run_to_end(&mut machine(program)).1, StopReason::Off { status: 0x21 });
}

#[test]
fn a_triple_fault_is_reported() {
    fn program(a: &mut Assembler) -> Result<(), IcedError> {
        a.mov(eax, 0x1234_5678)?;
        a.ud2()
    }
    let mut machine = machine(program);
    let StopReason::TripleFault(report) = run_to_end(&mut machine).1 else { panic!("no triple fault") };
    let text = report.to_string();
    assert!(text.contains("triple fault on vCPU 0"), "{text}");
    assert!(text.contains("rax 0000000012345678"), "{text}");
    assert!(text.contains("ud2"), "{text}");
    assert!(report.history.iter().any(|line| line.contains("mov eax")), "{text}");
    machine.deliver(&Input::Reset).unwrap();
    assert_eq!(machine.run(InstructionCount(u64::MAX)), StopReason::Reset);
}

/// Sets up gate 0x20 for the code at the address in EAX.
fn set_gate(a: &mut Assembler) -> Result<(), IcedError> {
    a.mov(ecx, eax)?;
    a.and(eax, 0xffff)?;
    a.or(eax, 0x0010_0000)?;
    a.mov(dword_ptr(TABLE + 0x20 * 8), eax)?;
    a.and(ecx, 0xffff_0000u32 as i32)?;
    a.or(ecx, 0x8e00)?;
    a.mov(dword_ptr(TABLE + 0x20 * 8 + 4), ecx)?;
    // The operand of LIDT is put together on the stack.
    a.push(0x11)?;
    a.push(0x7ff)?;
    a.mov(word_ptr(esp + 2), 0)?;
    a.mov(dword_ptr(esp + 2), 0x11_0000)?;
    a.lidt(ptr(esp))
}

/// Ticks every 50 µs, works in between, and ends after 100 ticks.
fn ticker(a: &mut Assembler) -> Result<(), IcedError> {
    let (mut start, mut work, mut off, mut on) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.mov(esp, 0x9_0000)?;
    // The return address is the one of the handler.
    a.call(start)?;
    a.pushad()?;
    a.inc(dword_ptr(TICKS))?;
    a.test(dword_ptr(TICKS), 0x7)?;
    a.jne(on)?;
    print(a, ".")?;
    a.set_label(&mut on)?;
    a.cmp(dword_ptr(TICKS), 100)?;
    a.je(off)?;
    a.mov(dword_ptr(APIC + 0xb0), 0)?;
    a.popad()?;
    a.iretd()?;
    a.set_label(&mut off)?;
    power_off(a)?;

    a.set_label(&mut start)?;
    a.pop(eax)?;
    set_gate(a)?;
    for (offset, value) in [(0xf0, 0x1ff), (0x3e0, 0xb), (0x320, 0x2_0020), (0x380, 50_000)] {
        a.mov(dword_ptr(APIC + offset), value)?;
    }
    a.sti()?;
    a.set_label(&mut work)?;
    a.inc(ebx)?;
    a.rdtsc()?;
    a.add(eax, ebx)?;
    a.rol(eax, 7)?;
    a.imul_3(esi, ebx, 0x10cd)?;
    a.and(esi, 0xf_fffc)?;
    a.xor(dword_ptr(esi + ARENA), eax)?;
    a.test(ebx, 0x3ff)?;
    a.jne(work)?;
    a.hlt()?;
    a.jmp(work)
}

/// State and memory at the end of a run.
fn digests(machine: &mut Machine) -> (StateDigest, StateDigest, InstructionCount) {
    (machine.state_digest(), machine.memory_digest(), machine.count())
}

#[test]
fn timer_interrupts_arrive_and_idle_time_is_skipped() {
    let mut machine = machine(ticker);
    assert_eq!(run_to_end(&mut machine), (b"............".to_vec(), StopReason::Off { status: 0 }));
    let time_ns = machine.now_ns();
    assert!((5_000_000..5_200_000).contains(&time_ns), "100 ticks of 50 µs: {time_ns} ns");
    assert!(machine.count().0 * 10 < time_ns, "the guest slept between the ticks");
}

#[test]
fn the_cut_of_a_run_never_shows() {
    let mut whole = machine(ticker);
    let end = run_to_end(&mut whole);
    for seed in 1..=3u64 {
        let mut cut = machine(ticker);
        let mut random = seed;
        let mut text = Vec::new();
        let reason = loop {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let step = 1 + (random >> 33) % if seed == 1 { 40 } else { 4000 };
            let until = cut.count().0 + step;
            let reason = cut.run(InstructionCount(until));
            take_text(&mut cut, &mut text);
            match reason {
                StopReason::Count => assert_eq!(cut.count().0, until),
                StopReason::Outputs => {}
                other => break other,
            }
            match (random >> 20) % 8 {
                0 => cut.flush_caches(),
                1 => {
                    let saved = cut.save();
                    let decoded = MachineSnapshot::from_bytes(&saved.to_bytes()).unwrap();
                    assert_eq!(decoded, saved);
                    cut.restore(decoded).unwrap();
                }
                2 => {
                    cut.memory_digest();
                }
                _ => {}
            }
        };
        assert_eq!((text, reason), end, "seed {seed}");
        assert_eq!(digests(&mut cut), digests(&mut whole), "seed {seed}");
    }
}

#[test]
fn a_restored_machine_goes_on_in_another_one() {
    let mut original = machine(ticker);
    while original.run(InstructionCount(60_000)) == StopReason::Outputs {
        original.take_outputs();
    }
    let mut copy = machine(ticker);
    // What the copy did before must leave no trace.
    copy.run(InstructionCount(9000));
    copy.write_page(3000, &[7; 4096]).unwrap();
    let (state, memory) = (original.save(), original.save_memory());
    copy.restore_memory(&memory).unwrap();
    copy.restore(state).unwrap();
    assert_eq!(digests(&mut copy), digests(&mut original));
    assert_eq!(run_to_end(&mut copy), run_to_end(&mut original));
    assert_eq!(digests(&mut copy), digests(&mut original));
}

#[test]
fn snapshots_of_other_machines_are_refused() {
    let saved = machine(ticker).save();
    let error = machine(hello).restore(saved.clone()).unwrap_err();
    assert!(matches!(error, SnapshotError::OtherMachine { what: "kernel digest", .. }), "{error}");
    let mut other = Machine::new(config(ticker, 2)).unwrap();
    let before = other.state_digest();
    assert!(matches!(other.restore(saved.clone()), Err(SnapshotError::OtherMachine { .. })));
    assert_eq!(other.state_digest(), before);
    let mut with_disk = config(ticker, 1);
    with_disk.disks.push(BlockConfig::new(DeviceIndex(0), 1 << 20));
    let mut with_disk = Machine::new(with_disk).unwrap();
    let before = with_disk.state_digest();
    assert!(matches!(with_disk.restore(saved), Err(SnapshotError::Part(_))));
    assert_eq!(with_disk.state_digest(), before, "a refused snapshot changes nothing");
    assert!(MachineSnapshot::from_bytes(b"junk").is_err());
}

#[test]
fn the_memory_digest_follows_from_the_content() {
    let mut machine = machine(hello);
    let before = machine.memory_digest();
    machine.write_page(2000, &[0; 4096]).unwrap();
    assert_eq!(machine.memory_digest(), before, "zeroes count as untouched");
    machine.write_page(2000, &[1; 4096]).unwrap();
    let changed = machine.memory_digest();
    assert_ne!(changed, before);
    machine.write_page(2000, &[0; 4096]).unwrap();
    machine.write_page(2001, &[1; 4096]).unwrap();
    assert_ne!(machine.memory_digest(), changed, "the place counts");
    assert!(machine.take_dirty_pages().contains(&2001));
    assert!(machine.take_dirty_pages().is_empty());
    assert!(machine.write_page(1 << 40, &[0; 4096]).is_err());
}

/// The boot processor starts the others; each prints its number.
fn crowd(a: &mut Assembler) -> Result<(), IcedError> {
    let mut wait = a.create_label();
    // Real-mode code at 0x8000: fetch-and-add a number, print it, halt.
    //   mov ax, 1; lock xadd [0x9000], ax; add al, '0'; mov dx, 0x3f8; out dx, al; lock inc word [0x9002]; cli; hlt
    let start: [u8; 26] = [
        0xb8, 0x01, 0x00, 0xf0, 0x0f, 0xc1, 0x06, 0x00, 0x90, 0x04, 0x30, 0xba, 0xf8, 0x03, 0xee, 0xf0, 0xff, 0x06,
        0x02, 0x90, 0xfa, 0xf4, 0xeb, 0xfd, 0x90, 0x90,
    ];
    for (index, byte) in start.iter().enumerate() {
        a.mov(byte_ptr(0x8000 + index), u32::from(*byte))?;
    }
    a.mov(word_ptr(0x9000u64), 1)?;
    a.mov(word_ptr(0x9002u64), 0)?;
    a.mov(dword_ptr(APIC + 0xf0), 0x1ff)?;
    a.mov(dword_ptr(APIC + 0x300), 0xc_4500)?;
    a.mov(dword_ptr(APIC + 0x300), 0xc_4608)?;
    a.set_label(&mut wait)?;
    a.pause()?;
    a.cmp(word_ptr(0x9002u64), 3)?;
    a.jne(wait)?;
    print(a, "!")?;
    power_off(a)
}

#[test]
fn application_processors_start() {
    let run = || {
        let mut machine = Machine::new(config(crowd, 4)).unwrap();
        let (mut text, reason) = run_to_end(&mut machine);
        assert_eq!(reason, StopReason::Off { status: 0 });
        let result = (text.clone(), digests(&mut machine));
        text.sort_unstable();
        assert_eq!(text, b"!123");
        result
    };
    assert_eq!(run(), run());
}

#[test]
fn idle_without_a_timer_waits_for_an_input() {
    fn program(a: &mut Assembler) -> Result<(), IcedError> {
        a.cli()?;
        a.hlt()
    }
    let mut machine = machine(program);
    let idle = StopReason::Idle { next_deadline_ns: None };
    assert_eq!(machine.run(InstructionCount(u64::MAX)), idle);
    let count = machine.count();
    assert_eq!(machine.run(InstructionCount(u64::MAX)), idle);
    assert_eq!(machine.count(), count);
}

#[test]
fn impossible_configurations_are_refused() {
    for vcpus in [0, 9] {
        let error = Machine::new(config(hello, vcpus)).unwrap_err();
        assert!(matches!(error, MachineError::Vcpus { .. }), "{error}");
    }
    let mut odd = config(hello, 1);
    odd.memory_bytes = 12345;
    assert!(matches!(Machine::new(odd), Err(MachineError::Memory(_))));
    let mut disks = config(hello, 1);
    disks.disks.push(BlockConfig::new(DeviceIndex(1), 1 << 20));
    let error = Machine::new(disks).unwrap_err();
    assert_eq!(error.to_string(), "disk number 0 is configured with index 1");
    let mut many = config(hello, 1);
    many.disks = (0..40).map(|index| BlockConfig::new(DeviceIndex(index), 1 << 20)).collect();
    assert!(matches!(Machine::new(many), Err(MachineError::Pci(_))));
}
