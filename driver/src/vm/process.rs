//! An emulator's process, held by a descriptor, so that a signal never reaches another process of the same number.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use crate::host::tick_ns;

/// A process.
#[derive(Debug, Clone)]
pub struct Process {
    pid: Pid,
    start_ticks: u64,
    descriptor: Arc<OwnedFd>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a status.
    Status(i32),
    /// By a signal.
    Signal(i32),
    /// It was another daemon's child, so nobody can know.
    Unknown,
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode, in ns.
    pub user_ns: u64,
    /// CPU time in the kernel, in ns.
    pub system_ns: u64,
    /// Memory that it occupies, in KiB.
    pub resident_kib: u64,
}

impl Process {
    /// Takes hold of a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn open(pid: i32) -> io::Result<Self> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let pid = Pid::from_raw(pid).ok_or_else(gone)?;
        let descriptor = Arc::new(pidfd_open(pid, PidfdFlags::empty())?);
        // Read after the descriptor was opened: it is of this process, or of none.
        let stat = Stat::read(pid.as_raw_nonzero().get()).ok_or_else(gone)?;
        Ok(Self { pid, start_ticks: stat.start_ticks, descriptor })
    }

    /// Takes hold of a process that was started at a known time.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn open_same(pid: i32, start_ticks: u64) -> io::Result<Self> {
        let process = Self::open(pid)?;
        let is_same = process.start_ticks == start_ticks && !process.is_zombie();
        if is_same { Ok(process) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// When it started, in ticks since the host's boot.
    #[must_use]
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// A descriptor that becomes readable when the process has ended.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn end_descriptor(&self) -> io::Result<OwnedFd> {
        self.descriptor.try_clone()
    }

    /// Sends a signal; a process that has ended is none to send to, and that is no error.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&*self.descriptor, signal) {
            tracing::debug!("signal {signal:?} to process {}: {error}", self.pid());
        }
    }

    /// How it ended, once it has. Collects a child, so it can be asked once.
    #[must_use]
    pub fn try_end(&self) -> Option<End> {
        use std::os::fd::AsFd;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.descriptor.as_fd()), options) {
            Ok(None) => None,
            Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => End::Status(code),
                (None, Some(signal)) => End::Signal(signal),
                (None, None) => End::Unknown,
            }),
            // Not our child: then it has ended when it cannot be seen any more.
            Err(_) => Stat::read(self.pid())
                .is_none_or(|stat| stat.is_zombie || stat.start_ticks != self.start_ticks)
                .then_some(End::Unknown),
        }
    }

    /// True when its main thread has confined itself, which is the last thing that the emulator does before the guest
    /// runs and the proof that all that it was told could be opened.
    #[must_use]
    pub fn is_confined(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
    }

    /// What it has used; nothing once it has ended.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let Some(stat) = Stat::read(self.pid()).filter(|stat| stat.start_ticks == self.start_ticks) else {
            return Usage::default();
        };
        let page_kib = u64::try_from(rustix::param::page_size() / 1024).unwrap_or(4);
        Usage {
            user_ns: stat.user_ticks.saturating_mul(tick_ns()),
            system_ns: stat.system_ticks.saturating_mul(tick_ns()),
            resident_kib: stat.resident_pages.saturating_mul(page_kib),
        }
    }

    fn is_zombie(&self) -> bool {
        Stat::read(self.pid()).is_none_or(|stat| stat.is_zombie)
    }
}

/// `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    is_zombie: bool,
    user_ticks: u64,
    system_ticks: u64,
    start_ticks: u64,
    resident_pages: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is a name that may hold anything; the fields behind its last parenthesis are numbers.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse().ok();
        Some(Self {
            is_zombie: matches!(*fields.first()?, "Z" | "X"),
            user_ticks: number(11)?,
            system_ticks: number(12)?,
            start_ticks: number(19)?,
            resident_pages: number(21)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn stat_survives_odd_names() {
        let text = "12 (a) b)) S 1 12 12 0 -1 4194560 100 0 0 0 7 8 0 0 20 0 1 0 4242 1000 55 18446744073709551615";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.user_ticks, stat.system_ticks, stat.start_ticks, stat.resident_pages), (7, 8, 4242, 55));
        assert!(!stat.is_zombie);
        assert_eq!(Stat::parse("12 (a"), None);
    }

    #[test]
    fn a_child_is_followed_to_its_end() {
        #[allow(clippy::zombie_processes, reason = "it is collected through its descriptor, which is the test")]
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::open(pid).unwrap();
        assert_eq!(process.try_end(), None);
        assert!(Process::open_same(pid, process.start_ticks()).is_ok());
        assert!(Process::open_same(pid, process.start_ticks() + 1).is_err());
        process.signal(Signal::TERM);
        let end = std::iter::repeat_with(|| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            process.try_end()
        });
        assert_eq!(end.flatten().next(), Some(End::Signal(15)));
        assert!(Process::open_same(pid, process.start_ticks()).is_err());
        assert_eq!(process.usage(), Usage::default());
    }
}
