//! System calls that each thread may make once the machine runs.
//!
//! The guest is hostile by assumption. A thread that a guest took over can use what its class lists and
//! nothing else: no thread may open files, start programs or change memory to be executable. A call outside
//! the list ends the process with SIGSYS; only opening a file by name fails with EACCES instead, because the
//! C library's allocator and the panic handler try it in passing. The filters are on by default;
//! `--no-seccomp` is for debuggers.
//!
//! | class | does | may, beyond memory, locks, time and logging |
//! |---|---|---|
//! | `Vcpu` | runs the guest | write to descriptors it has (event counters, digest log, snapshot) |
//! | `Disk` | executes block requests | read, write, punch holes and sync in files already open |
//! | `Io` | moves bytes and frames | poll, read, write, accept and connect unix sockets |
//! | `Control` | starts up, waits, cleans up | end its child processes, restore the terminal, rename and unlink |

use std::collections::BTreeMap;
use std::sync::Arc;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use thiserror::Error;

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ThreadClass {
    /// Runs the guest.
    Vcpu,
    /// Executes block requests.
    Disk,
    /// Moves bytes and frames.
    Io,
    /// Starts up, waits for signals and for the end, cleans up.
    Control,
}

impl ThreadClass {
    const ALL: [Self; 4] = [Self::Vcpu, Self::Disk, Self::Io, Self::Control];
}

/// The filters could not be built or installed.
#[derive(Debug, Error)]
pub enum SeccompError {
    /// A filter does not compile: a defect of this program.
    #[error("seccomp filter: {0}")]
    Build(#[from] seccompiler::BackendError),
    /// The kernel refused the filter.
    #[error("seccomp filter refused ({0}); the kernel needs CONFIG_SECCOMP_FILTER, or run with --no-seccomp")]
    Install(#[from] seccompiler::Error),
}

/// Filters ready to be installed; cheap to clone.
#[derive(Debug, Clone)]
pub struct Confinement {
    programs: Option<Arc<Programs>>,
}

#[derive(Debug)]
struct Programs {
    /// Fails what is tried in passing; the filters of the classes admit it.
    refusals: BpfProgram,
    classes: BTreeMap<ThreadClass, BpfProgram>,
}

impl Confinement {
    /// Compiles the filters.
    ///
    /// # Errors
    /// When a filter does not compile.
    pub fn new() -> Result<Self, SeccompError> {
        let mut classes = BTreeMap::new();
        for class in ThreadClass::ALL {
            classes.insert(class, build(class)?);
        }
        Ok(Self { programs: Some(Arc::new(Programs { refusals: build_refusals()?, classes })) })
    }

    /// No filters at all.
    #[must_use]
    pub fn disabled() -> Self {
        Self { programs: None }
    }

    /// Confines the calling thread, and every thread that it starts later, for good. Also sets
    /// `no_new_privs`.
    ///
    /// # Errors
    /// When the kernel refuses the filter.
    pub fn enter(&self, class: ThreadClass) -> Result<(), SeccompError> {
        let Some(programs) = &self.programs else { return Ok(()) };
        // The kernel runs both and obeys the stricter answer.
        seccompiler::apply_filter(&programs.refusals)?;
        if let Some(program) = programs.classes.get(&class) {
            seccompiler::apply_filter(program)?;
        }
        Ok(())
    }
}

/// Memory, locks, time, thread exit, logging to standard error, and what a panic needs.
const COMMON: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
];

const VCPU: &[i64] = &[libc::SYS_fsync, libc::SYS_close];

const DISK: &[i64] = &[
    libc::SYS_close,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_statx,
];

const IO: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_fsync,
    libc::SYS_getsockopt,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_writev,
];

const CONTROL: &[i64] = &[
    libc::SYS_close,
    libc::SYS_fsync,
    libc::SYS_fstat,
    libc::SYS_kill,
    libc::SYS_munlockall,
    libc::SYS_pidfd_send_signal,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// Tried in passing; fails with EACCES.
const REFUSED: &[i64] = &[libc::SYS_getcwd, libc::SYS_openat, libc::SYS_readlink];

fn build_refusals() -> Result<BpfProgram, SeccompError> {
    let rules = REFUSED.iter().map(|number| (*number, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

fn build(class: ThreadClass) -> Result<BpfProgram, SeccompError> {
    let own = match class {
        ThreadClass::Vcpu => VCPU,
        ThreadClass::Disk => DISK,
        ThreadClass::Io => IO,
        ThreadClass::Control => CONTROL,
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        COMMON.iter().chain(REFUSED).chain(own).map(|number| (*number, Vec::new())).collect();
    let not_executable = || {
        // The third argument is the protection; the bit for execution must be clear.
        let exec = masked(libc::PROT_EXEC);
        SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(exec), 0)
    };
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(vec![not_executable()?])?]);
    rules.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![not_executable()?])?]);
    match class {
        ThreadClass::Io => {
            rules.insert(libc::SYS_socket, one_of(0, &[libc::AF_UNIX])?);
            // Makes an accepted connection non-blocking.
            let nonblocking = i32::try_from(libc::FIONBIO).unwrap_or(0);
            rules.insert(libc::SYS_ioctl, one_of(1, &[nonblocking])?);
            rules.insert(
                libc::SYS_fcntl,
                one_of(1, &[libc::F_GETFD, libc::F_GETFL, libc::F_SETFL, libc::F_SETFD, libc::F_DUPFD_CLOEXEC])?,
            );
        }
        ThreadClass::Control => {
            let terminal = [libc::TCGETS, libc::TCSETS, libc::TCSETSW, libc::TCSETSF];
            let requests: Vec<i32> = terminal.iter().filter_map(|request| i32::try_from(*request).ok()).collect();
            rules.insert(libc::SYS_ioctl, one_of(1, &requests)?);
            // The standard library checks descriptors in debug builds before it closes them.
            rules.insert(libc::SYS_fcntl, one_of(1, &[libc::F_GETFD, libc::F_GETFL])?);
        }
        ThreadClass::Vcpu | ThreadClass::Disk => {
            rules.insert(libc::SYS_fcntl, one_of(1, &[libc::F_GETFD])?);
        }
    }
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

fn masked(value: i32) -> u64 {
    u64::from(value.unsigned_abs())
}

/// Rules that admit a call when its argument number `index` is one of `values`.
fn one_of(index: u8, values: &[i32]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |value: &i32| {
        let equal = SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, masked(*value))?;
        SeccompRule::new(vec![equal])
    };
    values.iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    /// The forbidden call kills the whole process, so it runs in a second instance of this test program.
    const PROBE: &str = "VIRTFT_SECCOMP_PROBE";

    fn run_probe(name: &str) -> std::process::ExitStatus {
        let program = std::env::current_exe().unwrap();
        Command::new(program)
            .args(["--exact", "seccomp::tests::probe_body", "--nocapture", "--test-threads=1"])
            .env(PROBE, name)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
    }

    #[test]
    fn probe_body() {
        let Ok(name) = std::env::var(PROBE) else { return };
        let (class, action) = name.split_once('-').unwrap();
        let class = match class {
            "vcpu" => ThreadClass::Vcpu,
            "disk" => ThreadClass::Disk,
            "io" => ThreadClass::Io,
            _ => ThreadClass::Control,
        };
        let action = action.to_owned();
        let confinement = Confinement::new().unwrap();
        let thread = crate::threads::spawn("probe", class, &confinement, move || match action.as_str() {
            "open" => {
                let error = std::fs::File::open("/etc/hostname").unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            }
            "remove" => drop(std::fs::remove_file("/nonexistent")),
            "exec" => drop(Command::new("/bin/true").status()),
            "inet" => drop(std::net::TcpListener::bind("127.0.0.1:0")),
            "unix" => drop(std::os::unix::net::UnixStream::connect("/nonexistent/socket")),
            "work" => {
                let (sender, receiver) = std::sync::mpsc::channel();
                sender.send(vec![1_u8; 64 << 20]).unwrap();
                assert_eq!(receiver.recv().unwrap().len(), 64 << 20);
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            other => panic!("no probe {other}"),
        });
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn forbidden_calls_end_the_process() {
        for probe in ["vcpu-exec", "io-exec", "control-exec", "io-inet", "vcpu-unix", "disk-unix", "io-remove"] {
            assert_eq!(run_probe(probe).signal(), Some(libc::SIGSYS), "{probe}");
        }
    }

    #[test]
    fn ordinary_work_goes_on() {
        for probe in ["vcpu-work", "disk-work", "io-work", "control-work", "io-unix", "control-remove"] {
            assert!(run_probe(probe).success(), "{probe}");
        }
    }

    #[test]
    fn files_cannot_be_opened_by_name() {
        for probe in ["vcpu-open", "disk-open", "io-open", "control-open"] {
            assert!(run_probe(probe).success(), "{probe}");
        }
    }
}
