//! Starting an emulator, and knowing that it runs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use virtft_domain::Domain;

use super::command::{Role, Terminals, arguments, distribute_terminals, program};
use super::entry::HostNames;
use super::network::{self, Taps};
use super::process::{End, Process};
use crate::error::DriverError;
use crate::ft::control;
use crate::paths::Paths;

/// How long an emulator may take to open what it was told.
const START_WAIT: Duration = Duration::from_secs(60);
/// How long the kernel may take to end it when it took longer.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const START_POLL: Duration = Duration::from_millis(10);
/// A log larger than this is put aside before the next start.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// A machine that was started.
#[derive(Debug)]
pub struct Launched {
    /// The emulator.
    pub process: Process,
    /// What its devices are called.
    pub names: HostNames,
}

/// Starts a domain's emulator and waits until the guest runs.
///
/// # Errors
/// When it cannot be started or ends before that; nothing of it is left then.
pub fn launch(domain: &Domain, paths: &Paths, role: &Role<'_>) -> Result<Launched, DriverError> {
    let failed = |reason: String| DriverError::Start { name: domain.name.clone(), reason };
    let taps = Taps::make(domain, paths)?;
    let log = Log::open(&paths.log, &domain.name)?;
    let program = program(domain, &paths.emulator);
    let mut command = Command::new(&program);
    let control = paths.control(domain.known_uuid());
    command.args(arguments(domain, &taps.names, &control, role)).current_dir("/").stdin(Stdio::null());
    // What is typed at the daemon's terminal is not for the guests, and they outlive the daemon.
    command.process_group(0);
    let (stdout, stderr) = (log.file.try_clone(), log.file.try_clone());
    command.stdout(stdout.map_err(|error| failed(error.to_string()))?);
    command.stderr(stderr.map_err(|error| failed(error.to_string()))?);
    tracing::debug!("starting {command:?}");
    let child = command.spawn().map_err(|error| failed(format!("{}: {error}", Path::new(&program).display())))?;
    // The descriptor below replaces the handle of the standard library: it works for the children of former daemons too.
    let pid = i32::try_from(child.id()).map_err(|error| failed(error.to_string()))?;
    let process = Process::open(pid).map_err(|error| failed(error.to_string()))?;
    let is_ready = || match role {
        Role::Run { .. } => process.is_confined(),
        // One that waits for its primary is confined when it runs the machine.
        Role::Backup { .. } => control::status(&control).is_ok(),
    };
    wait_until_it_runs(&process, &log, is_ready).map_err(failed)?;
    let (serials, consoles) = distribute_terminals(domain, &Terminals::parse(&log.said()));
    let (taps, made) = taps.keep();
    Ok(Launched { process, names: HostNames { serials, consoles, taps, made } })
}

/// Removes what a machine has left on the host.
pub fn clean_up(names: &HostNames) {
    network::remove(&names.made);
}

fn wait_until_it_runs(process: &Process, log: &Log, is_ready: impl Fn() -> bool) -> Result<(), String> {
    let mut deadline = Instant::now() + START_WAIT;
    let mut was_killed = false;
    loop {
        match process.try_end() {
            Some(_) if was_killed => return Err(format!("it was not ready within {} s", START_WAIT.as_secs())),
            Some(End::Status(status)) => return Err(format!("{} (status {status})", log.last_line())),
            Some(End::Signal(signal)) => return Err(format!("{} (signal {signal})", log.last_line())),
            Some(End::Unknown) => return Err(log.last_line()),
            None if is_ready() => return Ok(()),
            None if Instant::now() > deadline && was_killed => return Err("it does not end".into()),
            None if Instant::now() > deadline => {
                // Its end is collected below.
                process.signal(Signal::KILL);
                was_killed = true;
                deadline = Instant::now() + KILL_WAIT;
            }
            None => std::thread::sleep(START_POLL),
        }
    }
}

/// What an emulator says, in a file for all runs of a domain.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    /// Where this run's begins.
    start: u64,
}

impl Log {
    fn open(folder: &Path, name: &str) -> Result<Self, DriverError> {
        let path = folder.join(format!("{name}.log"));
        let open = || {
            fs::create_dir_all(folder)?;
            if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
                fs::rename(&path, folder.join(format!("{name}.log.1")))?;
            }
            let file = File::options().append(true).create(true).mode(0o600).open(&path)?;
            let start = file.metadata()?.size();
            Ok::<_, io::Error>((file, start))
        };
        let (file, start) = open().map_err(DriverError::system("cannot write", &path))?;
        Ok(Self { path, file, start })
    }

    /// All that was said in this run.
    fn said(&self) -> String {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let start = usize::try_from(self.start).unwrap_or(usize::MAX);
        String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
    }

    fn last_line(&self) -> String {
        let said = self.said();
        let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
        let last = last.map(|line| line.strip_prefix("virtft-emulator: ").unwrap_or(line));
        last.map_or_else(|| "it said nothing".to_owned(), str::to_owned)
    }
}
