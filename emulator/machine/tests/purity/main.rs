//! The machine runs where nothing of the host can be reached.
//!
//! It is made and run on a thread whose seccomp filter admits memory management only (and what the end of a thread
//! needs), and on which RDTSC traps. The digests must be those of a run outside. Set `VIRTFT_PURITY_KERNEL`,
//! `VIRTFT_PURITY_INITRD` and `VIRTFT_PURITY_STEPS` to run a whole kernel in there too.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    reason = "the test stands outside the machine: it needs a thread, a child process and a clock to be refused"
)]

mod program;
mod sandbox;

use std::process::Command;
use std::sync::Arc;

use virtft_machine::boot::BootSource;
use virtft_machine::clock::{ClockMode, RATE_ONE};
use virtft_machine::devices::virtio::block::BlockConfig;
use virtft_machine::devices::virtio::net::NetConfig;
use virtft_machine::io::{CharPort, ClockAnchor, DeviceIndex, Input, InstructionCount, Output};
use virtft_machine::machine::{MachineSnapshot, StateDigest};
use virtft_machine::{Machine, MachineConfig, StopReason};

/// What a run leaves: how it ended, what it printed, digests of state and memory on the way.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    end: StopReason,
    text: Vec<u8>,
    digests: Vec<(StateDigest, StateDigest)>,
}

fn config(kernel: Vec<u8>, initrd: Option<Vec<u8>>, vcpus: usize) -> MachineConfig {
    let boot = BootSource {
        kernel: kernel.into(),
        initrd: initrd.map(Arc::from),
        command_line: "console=ttyS0 cryptomgr.notests".into(),
    };
    let mut config = MachineConfig::new(boot);
    config.memory_bytes = 256 << 20;
    config.vcpus = vcpus;
    config.clock = ClockMode::Virtual { rate: 10 * RATE_ONE };
    config.disks.push(BlockConfig::new(DeviceIndex(0), 8 << 20));
    config.nets.push(NetConfig::new(DeviceIndex(0), [0x52, 0x54, 0, 0, 0, 1]));
    config
}

/// Runs a machine with every kind of call: inputs, save, restore, flush, digests.
fn trace(config: MachineConfig, steps: u64) -> Trace {
    let mut machine = Machine::new(config).expect("the machine can be made");
    let mut trace = Trace { end: StopReason::Count, text: Vec::new(), digests: Vec::new() };
    let slice = (steps / 50).max(1);
    for round in 1..=50 {
        for input in inputs(&machine, round) {
            machine.deliver(&input).expect("the input is possible");
        }
        trace.end = run_slice(&mut machine, round * slice, &mut trace.text);
        trace.digests.push((machine.state_digest(), machine.memory_digest()));
        if round % 7 == 0 {
            let bytes = machine.save().to_bytes();
            let memory = machine.save_memory();
            machine.restore_memory(&memory).expect("memory fits its own machine");
            let state = MachineSnapshot::from_bytes(&bytes).expect("the encoding is sound");
            machine.restore(state).expect("a state fits its own machine");
        }
        if round % 5 == 0 {
            machine.flush_caches();
        }
        if !matches!(trace.end, StopReason::Count | StopReason::Reset) {
            break;
        }
    }
    trace
}

fn run_slice(machine: &mut Machine, until: u64, text: &mut Vec<u8>) -> StopReason {
    loop {
        let reason = machine.run(InstructionCount(until));
        for output in machine.take_outputs() {
            if let Output::CharTransmit { port: CharPort::Serial(0), data } = output {
                text.extend(data);
            }
        }
        if reason != StopReason::Outputs {
            return reason;
        }
    }
}

/// Inputs of every kind that needs no answer of the guest.
fn inputs(machine: &Machine, round: u64) -> Vec<Input> {
    let byte = u8::try_from(round).expect("few rounds");
    match round % 8 {
        1 => vec![Input::EntropySeed([byte; 32]), Input::RtcOrigin { unix_ns: 1_700_000_000_000_000_000 }],
        2 => vec![Input::CharReceive { port: CharPort::Serial(0), data: vec![byte; 40] }],
        3 => vec![Input::Keyboard { scancodes: vec![0x1e, 0x9e] }],
        4 => vec![Input::NetReceive { device: DeviceIndex(0), packet: vec![byte; 80] }],
        5 => vec![Input::NetLink { device: DeviceIndex(0), up: round % 16 == 5 }],
        6 => vec![Input::ClockAnchor(ClockAnchor { time_ns: machine.now_ns() + 12_345, rate: 10 * RATE_ONE })],
        _ => vec![],
    }
}

#[test]
fn a_machine_needs_nothing_of_the_host() {
    let config = config(program::image(), None, 2);
    let outside = trace(config.clone(), 2_000_000);
    assert!(outside.text.len() > 20, "the program printed: {:?}", String::from_utf8_lossy(&outside.text));
    let inside = sandbox::run(move || trace(config, 2_000_000));
    assert_eq!(inside, outside);
}

#[test]
fn a_kernel_needs_nothing_of_the_host() {
    let Ok(kernel) = std::env::var("VIRTFT_PURITY_KERNEL") else { return };
    let kernel = std::fs::read(kernel).expect("VIRTFT_PURITY_KERNEL can be read");
    let initrd = std::env::var("VIRTFT_PURITY_INITRD").ok();
    let initrd = initrd.map(|file| std::fs::read(file).expect("VIRTFT_PURITY_INITRD can be read"));
    let steps = std::env::var("VIRTFT_PURITY_STEPS").ok().and_then(|steps| steps.parse().ok());
    let steps = steps.unwrap_or(300_000_000);
    let config = config(kernel, initrd, 2);
    let outside = trace(config.clone(), steps);
    let inside = sandbox::run(move || trace(config, steps));
    assert_eq!(inside, outside);
}

/// What the sandbox must not admit, each run in a process of its own.
#[test]
fn the_sandbox_has_teeth() {
    for escape in ["reads_a_clock", "reads_the_counter", "reads_a_file"] {
        let program = std::env::current_exe().expect("the test knows its own file");
        let status = Command::new(program)
            .args(["--ignored", "--exact", &format!("escapes::{escape}"), "--test-threads=1"])
            .output()
            .expect("the test can be started")
            .status;
        assert_eq!(status.code(), None, "{escape} must end by a signal: {status}");
    }
}

mod escapes {
    //! Escapes: each must kill its process.

    use super::sandbox;

    #[test]
    #[ignore = "run by the_sandbox_has_teeth"]
    fn reads_a_clock() {
        sandbox::run(|| std::time::Instant::now().elapsed());
    }

    #[test]
    #[ignore = "run by the_sandbox_has_teeth"]
    fn reads_the_counter() {
        sandbox::run(sandbox::read_counter);
    }

    #[test]
    #[ignore = "run by the_sandbox_has_teeth"]
    fn reads_a_file() {
        sandbox::run(|| std::fs::read("/proc/self/stat").is_ok());
    }
}
