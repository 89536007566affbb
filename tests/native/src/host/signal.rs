//! Into a test case and out of it.
//!
//! A case is entered by `rt_sigreturn` from a signal frame made by hand: the kernel loads every register of it, the stack
//! pointer and x87 and SSE state included. It is left by a signal, since all that is around the instruction is INT3
//! or not mapped; the frame that the kernel writes is the outcome. The handler does not return: it restores
//! what [`enter`] saved.

#![allow(unsafe_code, reason = "enters code with arbitrary registers and comes back by a signal")]

use std::arch::naked_asm;
use std::io;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// x87 and SSE state in a signal frame; the last 48 bytes tell the kernel what follows it (here nothing).
#[repr(C, align(64))]
#[derive(Debug, Clone)]
pub struct FpImage(pub [u8; 512]);

/// `struct ucontext` of Linux on x86-64, as the kernel lays it out in a signal frame.
#[repr(C)]
#[derive(Debug, Clone)]
pub struct Context {
    pub flags: u64,
    pub link: u64,
    pub stack_base: u64,
    pub stack_flags: u64,
    pub stack_size: u64,
    /// R8 to R15, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP.
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub error: u64,
    pub trap: u64,
    pub oldmask: u64,
    pub cr2: u64,
    pub fp: *mut FpImage,
    pub reserved: [u64; 8],
    pub sigmask: u64,
}

/// Where the encodings' registers lie in [`Context::gpr`].
pub const GPR_SLOT: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];

/// [`Context::flags`]: the stack segment is in the frame, and to be taken as it is.
pub const CONTEXT_FLAGS: u64 = 2 | 4;

/// Host stack pointer while a case runs; zero while none does.
static HOST_RSP: AtomicU64 = AtomicU64::new(0);
static HOST_FS: AtomicU64 = AtomicU64::new(0);
static HOST_GS: AtomicU64 = AtomicU64::new(0);
/// FS base of the case: before and after it.
pub static CASE_FS: AtomicU64 = AtomicU64::new(0);
/// GS base of the case: before and after it.
pub static CASE_GS: AtomicU64 = AtomicU64::new(0);
/// ES, DS, FS and GS after the case, from the lowest bits up. Before it all are null, as Linux starts programs.
pub static SELECTORS: AtomicU64 = AtomicU64::new(0);
/// The signal that ended the case.
pub static SIGNAL: AtomicU64 = AtomicU64::new(0);
/// The frame of that signal, on the signal stack until the next one.
pub static FRAME: AtomicPtr<Context> = AtomicPtr::new(std::ptr::null_mut());

/// Loads the state of `context` and returns when a signal ended the case.
///
/// # Safety
/// The handlers must be installed, and the code at the context's RIP must end in a signal without touching memory
/// of this process.
#[unsafe(naked)]
pub unsafe extern "C" fn enter(context: *const Context) {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "rdfsbase rax",
        "mov [rip + {host_fs}], rax",
        "rdgsbase rax",
        "mov [rip + {host_gs}], rax",
        "mov rax, [rip + {case_fs}]",
        "mov rcx, [rip + {case_gs}]",
        "mov [rip + {host_rsp}], rsp",
        "wrfsbase rax",
        "wrgsbase rcx",
        "mov rsp, rdi",
        "mov eax, 15", // rt_sigreturn
        "syscall",
        "ud2",
        host_fs = sym HOST_FS, host_gs = sym HOST_GS, host_rsp = sym HOST_RSP,
        case_fs = sym CASE_FS, case_gs = sym CASE_GS,
    )
}

/// The handler of every signal. It runs with the case's FS base and flags until it has put both right.
#[unsafe(naked)]
unsafe extern "C" fn leave(signal: i32, info: *mut libc::siginfo_t, context: *mut Context) {
    naked_asm!(
        "push 0x202", // AC, NT and ID may be set
        "popfq",
        "cmp qword ptr [rip + {host_rsp}], 0",
        "je {own}",
        "rdfsbase rax",
        "mov [rip + {case_fs}], rax",
        "rdgsbase rax",
        "mov [rip + {case_gs}], rax",
        "mov word ptr [rip + {selectors}], es",
        "mov word ptr [rip + {selectors} + 2], ds",
        "mov word ptr [rip + {selectors} + 4], fs",
        "mov word ptr [rip + {selectors} + 6], gs",
        "xor eax, eax",
        "mov es, eax",
        "mov ds, eax",
        "mov fs, eax",
        "mov gs, eax",
        "mov rax, [rip + {host_fs}]",
        "wrfsbase rax",
        "mov rax, [rip + {host_gs}]",
        "wrgsbase rax",
        "mov eax, edi",
        "mov [rip + {signal}], rax",
        "mov [rip + {frame}], rdx",
        "mov rsp, [rip + {host_rsp}]",
        "mov qword ptr [rip + {host_rsp}], 0",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
        "ret",
        host_fs = sym HOST_FS, host_gs = sym HOST_GS, host_rsp = sym HOST_RSP,
        case_fs = sym CASE_FS, case_gs = sym CASE_GS, signal = sym SIGNAL, frame = sym FRAME, selectors = sym SELECTORS,
        own = sym own_fault,
    )
}

/// A signal that no case caused: takes its default effect when the faulting instruction is tried again.
extern "C" fn own_fault(signal: i32) {
    // SAFETY: `signal` and `SIG_DFL` are valid arguments, and the call is async-signal-safe.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// The signal stack: base and size in bytes.
#[derive(Debug, Clone, Copy)]
pub struct SignalStack {
    pub base: u64,
    pub size: usize,
}

const STACK_SIZE: usize = 256 << 10;
const SIGNALS: [i32; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGALRM];

/// Installs the handlers, and a timer that ends cases that hang.
///
/// # Errors
/// What the host says when it refuses.
pub fn install() -> io::Result<SignalStack> {
    let memory = Box::leak(vec![0_u8; STACK_SIZE].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK_SIZE };
    // SAFETY: the memory is never freed.
    check(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) })?;
    // SAFETY: an all-zero sigset_t and sigaction are valid values.
    let (mut alarm, mut action): (libc::sigset_t, libc::sigaction) = unsafe { std::mem::zeroed() };
    // SAFETY: both calls write the set only.
    check(unsafe { libc::sigemptyset(&raw mut alarm) | libc::sigaddset(&raw mut alarm, libc::SIGALRM) })?;
    // Outside cases the timer's signal waits.
    // SAFETY: the set is initialised.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const alarm, std::ptr::null_mut()) })?;
    action.sa_sigaction = leave as *const () as usize;
    action.sa_mask = alarm;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    for signal in SIGNALS {
        // SAFETY: the action is complete, and the handler has the signature of SA_SIGINFO.
        check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) })?;
    }
    let tick = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
    let timer = libc::itimerval { it_interval: tick, it_value: tick };
    // SAFETY: the timer value is complete.
    check(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) })?;
    FRAME.store(std::ptr::null_mut(), Ordering::Relaxed);
    Ok(SignalStack { base: memory.as_ptr() as u64, size: STACK_SIZE })
}

/// The error of a system call that returned -1.
pub fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
