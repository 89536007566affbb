//! The `replay` command: does a recorded run again and compares it.
//!
//! One confined thread replays; output channels have their own. There is no clock, no network and no disk, unless the log was
//! recorded without disk data. When the run goes another way than the log says, [`narrow`] looks for the place.

mod disks;
mod narrow;
mod session;
mod source;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtft_machine::io::{CharPort, InstructionCount, Output};

use crate::chardev::{CharDevice, CharHandle};
use crate::cli::{ReplayArguments, Speed};
use crate::driver::RunEnd;
use crate::driver::milestones::Perturbations;
use crate::exit::ExitStatus;
use crate::guest;
use crate::queue::InputQueue;
use crate::seccomp::{Confinement, ThreadClass};
use crate::signals::Signals;
use crate::threads;
use session::SessionFiles;
pub use session::{Reached, Session, SessionError, SessionStop};
pub use source::{LogFile, LogSource};

/// Steps after which signals and the pace are looked at.
const SLICE: u64 = 1_000_000;

/// Replays a log.
///
/// # Errors
/// One line that says why it could not begin.
pub fn replay(arguments: &ReplayArguments) -> Result<RunEnd, String> {
    if arguments.serial.len() > 2 {
        return Err("--serial is given more than twice; the machine has two serial ports".into());
    }
    let log = LogFile::open(&arguments.log)?;
    let read = |option, path: &Option<std::path::PathBuf>| {
        path.as_deref().map(|path| session::read_whole(option, path)).transpose()
    };
    let files = SessionFiles {
        kernel: read("--kernel", &arguments.kernel)?,
        initrd: read("--initrd", &arguments.initrd)?,
        disks: arguments.disk.clone(),
    };
    let signals = Signals::block().map_err(|error| error.to_string())?;
    let confinement = if arguments.no_seccomp { Ok(Confinement::disabled()) } else { Confinement::new() };
    let confinement = confinement.map_err(|error| error.to_string())?;
    let session = match Session::open(&log, &files, arguments.from_snapshot) {
        Ok(session) => session,
        Err(SessionError::Log(error)) => return Ok(incomplete(arguments, &error.to_string())),
        Err(error) => return Err(format!("{}: {error}", arguments.log.display())),
    };
    let queue = Arc::new(InputQueue::default());
    signals.start(&confinement, Arc::clone(&queue)).map_err(|error| error.to_string())?;
    let channels = open_channels(arguments, &confinement, &queue)?;
    let pass = Pass { log, files, session, queue, channels, arguments: arguments.clone(), started: Instant::now() };
    let (sender, receiver) = std::sync::mpsc::channel();
    let body = move || {
        let _ = sender.send(pass.run());
    };
    let thread = threads::spawn("replay", ThreadClass::Disk, &confinement, body).map_err(|error| error.to_string())?;
    confinement.enter(ThreadClass::Control).map_err(|error| error.to_string())?;
    let end = receiver.recv();
    let panicked = thread.join().is_err();
    Ok(end.unwrap_or_else(|_| {
        let status = if panicked { "panicked" } else { "ended" };
        RunEnd::with_report(ExitStatus::Internal, format!("the replaying thread {status}; see the log above"))
    }))
}

fn incomplete(arguments: &ReplayArguments, reason: &str) -> RunEnd {
    RunEnd::with_report(ExitStatus::LogIncomplete, format!("{}: {reason}", arguments.log.display()))
}

fn open_channels(
    arguments: &ReplayArguments,
    confinement: &Confinement,
    queue: &Arc<InputQueue>,
) -> Result<BTreeMap<CharPort, CharHandle>, String> {
    let serial = arguments.serial.iter().zip(0_u8..).map(|(option, index)| (CharPort::Serial(index), option));
    let console = arguments.console.iter().zip(0_u8..).map(|(option, index)| (CharPort::Console(index), option));
    let debug = arguments.debugcon.iter().map(|option| (CharPort::DebugCon, &option.0));
    let mut channels = BTreeMap::new();
    for (port, option) in serial.chain(console).chain(debug) {
        let failed = |error| format!("{port:?}: {error}");
        let device = CharDevice::open(option, false).map_err(failed)?.waiting_for_its_reader();
        if let Some(path) = &device.pty {
            eprintln!("{port:?}: {}", path.display());
        }
        channels.insert(port, device.start(port, confinement, Arc::clone(queue)).map_err(failed)?);
    }
    Ok(channels)
}

/// One run through the log.
struct Pass {
    log: LogFile,
    files: SessionFiles,
    session: Session,
    queue: Arc<InputQueue>,
    channels: BTreeMap<CharPort, CharHandle>,
    arguments: ReplayArguments,
    started: Instant,
}

impl Pass {
    fn run(mut self) -> RunEnd {
        let start = self.session.machine.count();
        let start_ns = self.session.machine.now_ns();
        let mut perturbations = self.arguments.perturb.map(|seed| Perturbations::new(seed, start));
        let mut fault = self.arguments.inject_fault.filter(|fault| fault.count >= start.0);
        let end = self.arguments.until.unwrap_or(u64::MAX);
        loop {
            if self.queue.is_pending() {
                return self.summary(ExitStatus::Stopped, start, "stopped");
            }
            let count = self.session.machine.count().0;
            let stops = [
                Some(end),
                Some(count.saturating_add(SLICE)),
                perturbations.as_ref().map(Perturbations::next),
                fault.map(|fault| fault.count),
            ];
            let until = InstructionCount(stops.into_iter().flatten().fold(u64::MAX, u64::min));
            let channels = &self.channels;
            let stop = self.session.run(until, &mut |_, output| {
                if let Output::CharTransmit { port, data } = output
                    && let Some(channel) = channels.get(&port)
                {
                    channel.transmit(&data);
                }
            });
            match stop {
                Ok(SessionStop::Limit) => {}
                Ok(SessionStop::Ended(_)) => return self.summary(ExitStatus::Clean, start, "replayed to its end"),
                Ok(SessionStop::Unfinished) => {
                    return self.summary(
                        ExitStatus::LogIncomplete,
                        start,
                        "the log is unfinished; replayed as far as it goes",
                    );
                }
                Err(error) => return self.failed(error),
            }
            let count = self.session.machine.count();
            if count.0 >= end {
                return self.summary(ExitStatus::Clean, start, "replayed to --until");
            }
            if let Some(random) = &mut perturbations
                && random.next() == count.0
            {
                let (kind, details) = random.advance();
                if let Err(reason) = guest::perturb(&mut self.session.machine, kind, details) {
                    return RunEnd::with_report(ExitStatus::Internal, reason);
                }
            }
            if fault.is_some_and(|fault| fault.count == count.0) {
                fault = None;
                self.session.machine.disturb();
            }
            self.keep_pace(start_ns);
        }
    }

    /// With `--speed real`, waits until as much time has passed outside as inside.
    fn keep_pace(&self, start_ns: u64) {
        if self.arguments.speed == Speed::Real {
            let guest = Duration::from_nanos(self.session.machine.now_ns().saturating_sub(start_ns));
            std::thread::sleep(guest.saturating_sub(self.started.elapsed()));
        }
    }

    fn summary(self, status: ExitStatus, start: InstructionCount, what: &str) -> RunEnd {
        let Self { session, arguments, started, .. } = self;
        let steps = session.machine.count().0 - start.0;
        let seconds = started.elapsed().as_secs_f64();
        let text = format!(
            "{}: {what}: {steps} steps, {} entries, {} digests equal, in {seconds:.2} s",
            arguments.log.display(),
            session.replayer().entries(),
            session.replayer().digests(),
        );
        RunEnd::with_report(status, text)
    }

    fn failed(self, error: SessionError) -> RunEnd {
        match error {
            SessionError::Diverged(divergence) => {
                // The guest's output up to here leaves first.
                drop(self.channels);
                eprintln!("virtft-emulator: {}: {divergence}", self.arguments.log.display());
                let finding = narrow::narrow(&self.log, &self.files, &self.arguments, &divergence, self.session);
                RunEnd::with_report(ExitStatus::Diverged, finding)
            }
            SessionError::Log(error) => {
                let count = self.session.machine.count().0;
                incomplete(&self.arguments, &format!("{error}; replayed and equal up to count {count}"))
            }
            error => RunEnd::with_report(ExitStatus::Io, format!("{}: {error}", self.arguments.log.display())),
        }
    }
}
