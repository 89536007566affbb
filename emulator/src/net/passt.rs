//! A `passt` process for one network device: the unprivileged default.
//!
//! passt translates the guest's frames to ordinary sockets of the host. It gets one end of a socket pair and
//! ends by itself when the other end closes, so it cannot outlive this process, however that ends.
//!
//! Known of passt itself: the version of March 2023 (Debian 12) stops taking acknowledgements once the guest has
//! closed its own direction of a TCP connection, so a guest that half-closes and then receives (`nc </dev/null`)
//! gets the first 64 KiB again and again. It does so under QEMU too.

use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::NetError;
use crate::seccomp::Confinement;
use crate::threads::{self, ThreadClass};

/// A running passt. Dropping it waits for its end; close the connection first.
#[derive(Debug)]
pub struct Passt {
    child: Child,
}

impl Passt {
    /// Starts passt and returns our end of the connection.
    ///
    /// # Errors
    /// When it is not installed or ends at once.
    pub fn start() -> Result<(Self, UnixStream), NetError> {
        let failed = |error: io::Error| NetError::Passt(describe_start(&error));
        // The child's end stays open across exec, ours does not.
        let (ours, theirs): (OwnedFd, OwnedFd) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())
                .map_err(|error| failed(error.into()))?;
        fcntl(&ours, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| failed(error.into()))?;
        let child = Command::new("passt")
            .args(["--foreground", "--quiet", "--fd", &theirs.as_raw_fd().to_string()])
            // Ctrl-C is for the guest's power button; the network stays until the guest is down.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        drop(theirs);
        let mut passt = Self { child };
        passt.check_start()?;
        Ok((passt, UnixStream::from(ours)))
    }

    /// passt has no sign of readiness; what goes wrong goes wrong in its first moments.
    fn check_start(&mut self) -> Result<(), NetError> {
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(10));
            if let Ok(Some(status)) = self.child.try_wait() {
                let last = self.child.stderr.take().and_then(|stderr| spoken_lines(stderr).last());
                let said = last.unwrap_or_else(|| "nothing".to_owned());
                return Err(NetError::Passt(format!(
                    "it ended at once ({status}, saying: {said}); try 'passt --foreground' by itself, or --net none"
                )));
            }
        }
        Ok(())
    }

    /// Logs what passt says, on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn log_output(&mut self, confinement: &Confinement) -> io::Result<()> {
        let Some(stderr) = self.child.stderr.take() else { return Ok(()) };
        threads::spawn("passt-log", ThreadClass::Io, confinement, move || {
            for line in spoken_lines(stderr) {
                tracing::info!("passt: {line}");
            }
        })
        .map(drop)
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        for _ in 0..50 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // It missed the end of the connection.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What passt says, without its complaints that there is no syslog here.
fn spoken_lines(stderr: ChildStderr) -> impl Iterator<Item = String> {
    let said_something = |line: &String| !line.trim().is_empty() && !line.contains("to syslog");
    BufReader::new(stderr).lines().map_while(Result::ok).filter(said_something)
}

fn describe_start(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "it is not installed; install the package 'passt', or use --net tap=NAME or --net none".to_owned()
        }
        _ => format!("it cannot be started ({error}); use --net tap=NAME or --net none"),
    }
}
