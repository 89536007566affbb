//! Runs the machine on a thread that can reach nothing of the host: its seccomp filter admits memory management and
//! the end of the thread, and RDTSC traps. The digests must be those of a run on an ordinary thread.
//!
//!     purity VMLINUZ INITRD [STEPS]
//!
//! A source of non-determinism in the machine either needs a system call, which kills the process here, or the
//! processor's own counter, which traps (prctl PR_SET_TSC, Linux), or it makes the digests differ.
#![expect(unsafe_code, reason = "prctl(PR_SET_TSC) has no safe wrapper")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, ensure};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
use virtft_machine::boot::BootSource;
use virtft_machine::clock::ClockMode;
use virtft_machine::io::{Input, InstructionCount};
use virtft_machine::{Machine, MachineConfig, StopReason};

/// Steps of a run when none are given: Debian's kernel is past its own decompression and well into its drivers.
const STEPS: u64 = 600_000_000;
/// Steps between digests of CPUs and devices.
const DIGEST_EVERY: u64 = 10_000_000;
/// Guest nanoseconds per step, 32 fraction bits.
const RATE: u64 = 10 << 32;

/// What the pure thread may call: memory management, and what the end of a thread takes.
const ALLOWED: [i64; 11] = [
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_exit,
    libc::SYS_rseq,
];

/// Digests of CPUs and devices by position, then of memory at the end, then the console's text.
type Trace = (Vec<(u64, u128)>, u128, Vec<u8>);

fn run(boot: BootSource, steps: u64) -> Result<Trace, String> {
    let config =
        MachineConfig { vcpus: 2, clock: ClockMode::Virtual { rate: RATE }, balloon: true, ..MachineConfig::new(boot) };
    let mut machine = Machine::new(config).map_err(|error| error.to_string())?;
    for input in [Input::EntropySeed([7; 32]), Input::RtcOrigin { unix_ns: 1_704_067_200_000_000_000 }] {
        machine.deliver(&input).map_err(|error| error.to_string())?;
    }
    let mut digests = Vec::new();
    let mut console = Vec::new();
    while machine.count().0 < steps {
        let until = (machine.count().0 / DIGEST_EVERY + 1) * DIGEST_EVERY;
        match machine.run(InstructionCount(until)) {
            StopReason::Count => digests.push((machine.count().0, machine.state_digest().0)),
            StopReason::Outputs => {
                for output in machine.take_outputs() {
                    if let virtft_machine::io::Output::CharTransmit { data, .. } = output {
                        console.extend(data);
                    }
                }
            }
            other => return Err(format!("the guest stopped at {}: {other:?}", machine.count().0)),
        }
    }
    Ok((digests, machine.memory_digest().0, console))
}

fn filter() -> anyhow::Result<BpfProgram> {
    let rules: BTreeMap<i64, _> = ALLOWED.into_iter().map(|call| (call, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

/// RDTSC and RDTSCP raise SIGSEGV on this thread from now on.
fn trap_time_stamp_counter() -> std::io::Result<()> {
    // SAFETY: this operation takes one integer and changes this thread only.
    let result = unsafe { libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn compare() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, initrd, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: purity VMLINUZ INITRD [STEPS]");
    };
    let steps = rest.first().map_or(Ok(STEPS), |text| text.parse()).context("STEPS is a number")?;
    let read = |path: &str| std::fs::read(path).with_context(|| path.to_owned());
    let boot = BootSource {
        kernel: read(kernel)?.into(),
        initrd: Some(Arc::from(read(initrd)?)),
        command_line: "console=ttyS0 virtft.cmd=poweroff".to_owned(),
    };
    let plain = run(boot.clone(), steps).map_err(anyhow::Error::msg)?;
    let program = filter()?;
    let pure = std::thread::Builder::new().spawn(move || {
        trap_time_stamp_counter().map_err(|error| error.to_string())?;
        apply_filter(&program).map_err(|error| error.to_string())?;
        run(boot, steps)
    })?;
    let pure = pure.join().map_err(|_| anyhow::anyhow!("the pure thread panicked"))?.map_err(anyhow::Error::msg)?;
    ensure!(!plain.2.is_empty(), "the guest printed nothing in {steps} steps");
    for (one, other) in plain.0.iter().zip(&pure.0) {
        ensure!(one == other, "digests differ at step {}: {:032x} and {:032x}", one.0, one.1, other.1);
    }
    ensure!(plain == pure, "memory or console differ after {steps} steps");
    println!("    {} digests of {steps} steps equal, {} bytes of console", plain.0.len() + 1, plain.2.len());
    Ok(())
}

fn main() -> ExitCode {
    match compare() {
        Ok(()) => {
            println!("purity: 1 passed, 0 failed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("purity: {error:#}");
            println!("purity: 0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}
