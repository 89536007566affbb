//! What the control socket does with the machine itself.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use virtft_machine::io::Input;

use super::request::{Request, Response, Statistics};
use super::status::SharedStatus;
use crate::driver::Task;
use crate::exit::ExitStatus;
use crate::ft::SharedBackends;
use crate::queue::InputQueue;

/// The vCPU thread looks up many times a second; a snapshot of a large machine takes its time.
const PATIENCE: Duration = Duration::from_secs(10);
const SAVE_PATIENCE: Duration = Duration::from_secs(600);
/// Bytes of a page of the balloon.
const PAGE: u64 = 4096;
/// More keys at once than anybody types.
const SCANCODE_LIMIT: usize = 256;

/// A machine as its operator reaches it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// To the vCPU thread.
    pub queue: Arc<InputQueue>,
    /// Its devices on this host; empty in a backup.
    pub backends: SharedBackends,
    /// Memory in bytes; 0 in a backup, before it has gone live.
    pub memory_bytes: Arc<AtomicU64>,
}

impl Machine {
    /// Carries out a request about the machine. `None` when it is about something else.
    pub fn carry_out(&self, request: &Request, status: &SharedStatus) -> Option<Response> {
        let result = match request {
            Request::Pause => self.stand_still(true, status),
            Request::Resume => self.stand_still(false, status),
            Request::PowerButton => self.deliver(Input::PowerButton),
            Request::Reset => self.deliver(Input::Reset),
            Request::Nmi => self.deliver(Input::Nmi),
            Request::Quit => {
                self.queue.request_stop(ExitStatus::Stopped);
                Ok(())
            }
            Request::Link { device, up } => self.plug(*device, *up),
            Request::Balloon { bytes } => self.balloon(*bytes),
            Request::Keyboard { scancodes } if scancodes.len() > SCANCODE_LIMIT => {
                Err(format!("more than {SCANCODE_LIMIT} scan codes at once; send them in parts"))
            }
            Request::Keyboard { scancodes } => self.deliver(Input::Keyboard { scancodes: scancodes.clone() }),
            Request::Statistics => return Some(self.statistics().map_or_else(Response::Refused, Response::Statistics)),
            Request::Save { path } => self.save(path),
            Request::Status | Request::Subscribe | Request::Failover | Request::Protect { .. } | Request::Unprotect => {
                return None;
            }
        };
        Some(result.map_or_else(Response::Refused, |()| Response::Done))
    }

    /// A backup's machine is its primary's: nothing is done to it here.
    fn check_here(&self) -> Result<(), String> {
        let here = self.backends.with(|_| ()).is_some();
        here.then_some(()).ok_or_else(|| "the machine runs on another host, or is ending; ask there".to_owned())
    }

    fn deliver(&self, input: Input) -> Result<(), String> {
        self.check_here()?;
        self.queue.push(input);
        Ok(())
    }

    fn stand_still(&self, paused: bool, status: &SharedStatus) -> Result<(), String> {
        self.check_here()?;
        let (answer, answered) = channel();
        self.queue.push_task(if paused { Task::Pause(answer) } else { Task::Resume(answer) });
        wait(&answered, PATIENCE)??;
        status.update(|status| status.paused = paused);
        Ok(())
    }

    fn plug(&self, device: u8, up: bool) -> Result<(), String> {
        self.check_here()?;
        let found = self.backends.with(|backends| backends.plug(device, up));
        found.unwrap_or(false).then_some(()).ok_or_else(|| format!("the machine has no network device {device}"))
    }

    fn balloon(&self, bytes: u64) -> Result<(), String> {
        self.check_here()?;
        let memory = self.memory_bytes.load(Ordering::Relaxed);
        let wanted = memory
            .checked_sub(bytes)
            .ok_or_else(|| format!("the machine has {memory} bytes of memory; it cannot be given {bytes}"))?;
        let pages = u32::try_from(wanted / PAGE).map_err(|error| error.to_string())?;
        self.deliver(Input::BalloonTarget { pages })
    }

    fn statistics(&self) -> Result<Statistics, String> {
        self.check_here()?;
        let (answer, answered) = channel();
        self.queue.push_task(Task::Look(answer));
        let look = wait(&answered, PATIENCE)?;
        let disks = self.backends.with(|backends| backends.disk_counters()).unwrap_or_default();
        let counters = look.counters.into_iter().chain(disks).collect();
        Ok(Statistics { count: look.count.0, guest_ns: look.time_ns, counters })
    }

    fn save(&self, path: &Path) -> Result<(), String> {
        self.check_here()?;
        let file = File::options().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| format!("{}: it cannot be made ({error})", path.display()))?;
        let (answer, answered) = channel();
        self.queue.push_task(Task::Save(file, answer));
        let result = wait(&answered, SAVE_PATIENCE).and_then(|result| result);
        if result.is_err() {
            // What is there is no snapshot.
            let _ = std::fs::remove_file(path);
        }
        result.map_err(|reason| format!("{}: {reason}", path.display()))
    }
}

/// The answer to a task.
fn wait<T>(answered: &Receiver<T>, patience: Duration) -> Result<T, String> {
    answered.recv_timeout(patience).map_err(|_| "the machine is ending".to_owned())
}
