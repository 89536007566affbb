//! SIGTERM, SIGINT and SIGHUP: the first presses the power button, the second stops the machine.
//!
//! The signals are blocked in every thread and taken by one that waits for them, so no handler ever
//! interrupts the vCPU thread.

use std::io;
use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal};
use virtft_machine::io::Input;

use crate::exit::ExitStatus;
use crate::queue::InputQueue;
use crate::seccomp::Confinement;
use crate::threads::{self, ThreadClass};

/// The signals, blocked in this thread and those it starts.
#[derive(Debug)]
pub struct Signals(SigSet);

impl Signals {
    /// Blocks the signals. To be called before any thread is started.
    ///
    /// # Errors
    /// As the system says.
    pub fn block() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self(set))
    }

    /// Starts the thread that waits for signals; it lives as long as the process.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(self, confinement: &Confinement, queue: Arc<InputQueue>) -> io::Result<()> {
        threads::spawn("signals", ThreadClass::Control, confinement, move || {
            let mut pressed = false;
            while let Ok(signal) = self.0.wait() {
                if pressed {
                    tracing::warn!("{signal}: the machine is stopped");
                    queue.request_stop(ExitStatus::Stopped);
                } else {
                    tracing::info!("{signal}: the power button is pressed; once more stops the machine");
                    queue.push(Input::PowerButton);
                }
                pressed = true;
            }
        })
        .map(drop)
    }
}
