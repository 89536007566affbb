//! A thread that can do nothing but compute.
#![allow(unsafe_code, reason = "prctl, mallopt and RDTSC")]

use std::collections::BTreeMap;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Memory management.
const MEMORY: [libc::c_long; 7] = [
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
];

/// What the end of a thread needs: none of these tells anything about the host.
const THREAD_END: [libc::c_long; 5] =
    [libc::SYS_exit, libc::SYS_futex, libc::SYS_sigaltstack, libc::SYS_rt_sigprocmask, libc::SYS_set_robust_list];

fn filter() -> BpfProgram {
    let rules: BTreeMap<i64, Vec<_>> = MEMORY.into_iter().chain(THREAD_END).map(|call| (call, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64);
    filter.and_then(TryInto::try_into).expect("the filter is sound")
}

/// Runs `body` on a thread of its own inside the sandbox. A breach kills the process.
pub fn run<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let program = filter();
    let thread = thread::Builder::new().stack_size(8 << 20).spawn(move || {
        // SAFETY: sets a flag of this thread alone.
        let trapped = unsafe { libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV) };
        assert_eq!(trapped, 0, "RDTSC cannot be made to trap");
        settle_allocator();
        seccompiler::apply_filter(&program).expect("the filter is taken");
        body()
    });
    thread.expect("a thread can be had").join().expect("the body ends well")
}

/// The C library's allocator reads a setting of the kernel when it gives memory of a thread back for the first time, and
/// remembers it: let it do so before the filter is on.
fn settle_allocator() {
    // SAFETY: sets a threshold of the allocator, which then stays as it is.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10) };
    let blocks: Vec<Vec<u8>> = (0..200).map(|size| vec![1; 60_000 + size]).collect();
    std::hint::black_box(&blocks);
    for block in blocks.into_iter().rev() {
        drop(block);
    }
}

/// RDTSC, which traps inside.
pub fn read_counter() -> u64 {
    // SAFETY: reads a register.
    unsafe { std::arch::x86_64::_rdtsc() }
}
