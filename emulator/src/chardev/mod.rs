//! Character backends: what the machine's serial ports and consoles are connected to.
//!
//! Each has one thread between two bounded buffers (see [`buffer`]): the vCPU thread never waits for a reader,
//! except for the disk under a log file.

mod buffer;
mod endpoint;
mod escape;
mod pump;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use thiserror::Error;
use virtft_machine::io::CharPort;

use crate::cli::CharOption;
use crate::queue::InputQueue;
use crate::seccomp::Confinement;
use crate::socket::SocketFile;
use crate::sys::Waker;
use crate::threads::{self, ThreadClass};
use buffer::{OutputBuffer, Overflow};
use endpoint::{Endpoint, RawTerminal};

/// Why a character channel has no backend: one line with the way out.
#[derive(Debug, Error)]
pub enum CharError {
    /// A path cannot be used.
    #[error("{path} {reason}", path = path.display())]
    Path {
        /// The socket or file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Threads, descriptors or terminals ran out.
    #[error("character device: {0}")]
    System(io::Error),
}

/// An opened backend whose thread is not running yet.
#[derive(Debug)]
pub struct CharDevice {
    /// `None` discards.
    endpoint: Option<Endpoint>,
    overflow: Overflow,
    /// Path of a new pseudo-terminal, to be told to the user.
    pub pty: Option<PathBuf>,
}

impl CharDevice {
    /// Opens a backend. Without `with_input`, what is typed is left alone.
    ///
    /// # Errors
    /// See [`CharError`].
    pub fn open(option: &CharOption, with_input: bool) -> Result<Self, CharError> {
        let mut pty = None;
        let mut overflow = Overflow::DropOldest;
        let endpoint = match option {
            CharOption::Stdio => Some(Endpoint::stdio(with_input)?),
            CharOption::Pty => {
                let (endpoint, path) = Endpoint::pty()?;
                pty = Some(path);
                Some(endpoint)
            }
            CharOption::Unix { path, server } => Some(Endpoint::unix(path, *server)?),
            CharOption::File(path) => {
                overflow = Overflow::Wait;
                Some(Endpoint::file(path)?)
            }
            CharOption::Null => None,
        };
        Ok(Self { endpoint, overflow, pty })
    }

    /// Output waits for its reader and is never dropped: for runs that have no time to lose.
    #[must_use]
    pub fn waiting_for_its_reader(mut self) -> Self {
        self.overflow = Overflow::Wait;
        self
    }

    /// Starts the thread; what is typed goes to `queue` as input of `port`.
    ///
    /// # Errors
    /// When threads or descriptors have run out.
    pub fn start(
        self,
        port: CharPort,
        confinement: &Confinement,
        queue: Arc<InputQueue>,
    ) -> Result<CharHandle, CharError> {
        let shared = Arc::new(Shared {
            output: OutputBuffer::new(self.overflow),
            waker: Waker::new().map_err(CharError::System)?,
            stopping: AtomicBool::new(false),
        });
        let Some(mut endpoint) = self.endpoint else {
            return Ok(CharHandle { shared, thread: None, _terminal: None, _socket: None });
        };
        shared.output.set_reader(endpoint.connection.is_some());
        let (terminal, socket) = (endpoint.terminal.take(), endpoint.socket.take());
        let pump = pump::Pump::new(port, endpoint, Arc::clone(&shared), queue);
        let name = match port {
            CharPort::Serial(index) => format!("serial-{index}"),
            CharPort::Console(index) => format!("console-{index}"),
            CharPort::DebugCon => "debugcon".to_owned(),
        };
        let thread =
            threads::spawn(&name, ThreadClass::Io, confinement, move || pump.run()).map_err(CharError::System)?;
        Ok(CharHandle { shared, thread: Some(thread), _terminal: terminal, _socket: socket })
    }
}

/// What the vCPU thread and the channel's thread share.
#[derive(Debug)]
struct Shared {
    output: OutputBuffer,
    waker: Waker,
    stopping: AtomicBool,
}

/// Writes to a channel by way of its thread. Dropping it lets the last output leave, then restores the terminal.
#[derive(Debug)]
pub struct CharHandle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _terminal: Option<RawTerminal>,
    _socket: Option<SocketFile>,
}

impl CharHandle {
    /// Appends output of the guest.
    pub fn transmit(&self, data: &[u8]) {
        if self.thread.is_some() && self.shared.output.push(data) {
            self.shared.waker.wake();
        }
    }

    /// Bytes that nobody read in time.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.output.dropped()
    }
}

impl Drop for CharHandle {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.waker.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a character thread panicked");
        }
    }
}
