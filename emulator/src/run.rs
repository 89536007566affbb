//! The `run` command from start to end.
//!
//! Order: everything that can be refused is opened and read first; then the machine is made; then the threads
//! start, each confined; then this thread confines itself and waits for the vCPU thread. The machine itself
//! comes from the caller, so that this crate's tests run without one.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use virtft_machine::io::{ClockAnchor, DeviceIndex, Input, InstructionCount, Output};

use crate::cli::{ClockMode, OptionError, RunArguments};
use crate::disk::DiskFacts;
use crate::driver::real::RealDriver;
use crate::driver::virtual_clock::VirtualDriver;
use crate::driver::{DriverError, Guest, Milestones, OutputSink, RunEnd, snapshot};
use crate::entropy;
use crate::exit::ExitStatus;
use crate::ft::{EngineHandle, Fittings, Setup, SharedBackends};
use crate::host::{Host, HostError};
use crate::net::NetFacts;
use crate::queue::InputQueue;
use crate::script::{Script, ScriptError, ScriptPlayer};
use crate::seccomp::{Confinement, SeccompError, ThreadClass};
use crate::signals::Signals;
use crate::threads;

/// The RTC of a run with the virtual clock starts at 2024-01-01 00:00:00 UTC.
const VIRTUAL_UNIX_NS: u64 = 1_704_067_200_000_000_000;

/// Why a run did not start: one line. Nothing was changed.
#[derive(Debug, Error)]
pub enum StartError {
    /// Options that do not fit together.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A kernel, initial RAM disk or snapshot cannot be read.
    #[error("{what} {path}: {reason}")]
    File {
        /// The option.
        what: &'static str,
        /// The file.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The input script.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// A backend.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A file to be written.
    #[error(transparent)]
    Milestone(#[from] DriverError),
    /// The filters.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// The machine: kernel format, memory that cannot be had, a snapshot of another machine.
    #[error("{0}")]
    Machine(String),
    /// Threads or random numbers ran out.
    #[error("{0}; close other programs and try again")]
    System(#[from] std::io::Error),
}

/// Everything that a machine is made from.
pub struct MachinePlan<'a> {
    /// The command line: memory, vCPUs, `append`, number of serial ports and consoles.
    pub arguments: &'a RunArguments,
    /// The kernel image; `None` when a snapshot is continued.
    pub kernel: Option<Vec<u8>>,
    /// The initial RAM disk.
    pub initrd: Option<Vec<u8>>,
    /// The machine's part of a snapshot.
    pub snapshot: Option<Vec<u8>>,
    /// One for each disk.
    pub disks: Vec<DiskFacts>,
    /// One for each network device.
    pub nets: Vec<NetFacts>,
    /// Digests the content of every disk; takes as long as reading them does.
    pub digest_disks: &'a dyn Fn() -> Result<Vec<u128>, String>,
    /// For threads that belong to the machine.
    pub confinement: &'a Confinement,
}

impl std::fmt::Debug for MachinePlan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachinePlan").field("arguments", &self.arguments).finish_non_exhaustive()
    }
}

/// Runs a machine made by `make`; with `ft`, under the protection that it sets up.
///
/// # Errors
/// When it cannot be started.
pub fn run(
    arguments: &RunArguments,
    ft: Option<Setup>,
    make: impl FnOnce(MachinePlan<'_>) -> Result<Box<dyn Guest>, String>,
) -> Result<RunEnd, StartError> {
    arguments.check()?;
    let script = arguments.load_script()?.unwrap_or_default();
    let kernel = read_file("--kernel", arguments.kernel.as_deref())?;
    let initrd = read_file("--initrd", arguments.initrd.as_deref())?;
    let (pending, state) = read_snapshot(arguments)?;
    let seed = match (arguments.rng_seed, arguments.clock) {
        (Some(seed), _) => seed,
        (None, ClockMode::Virtual) => [0; 32],
        (None, ClockMode::Real) => entropy::fresh_seed()?,
    };
    let signals = Signals::block()?;
    let confinement = if arguments.no_seccomp { Confinement::disabled() } else { Confinement::new()? };
    let host = Host::open(arguments)?;
    let restored = state.is_some();
    let digest_disks = || host.digest_disks();
    let plan = MachinePlan {
        arguments,
        kernel,
        initrd,
        snapshot: state,
        disks: host.disk_facts(),
        nets: host.net_facts(),
        digest_disks: &digest_disks,
        confinement: &confinement,
    };
    // A device begins with its link up; a restored one has that of the snapshot, whose backend may have been another.
    let links = (0..).zip(&plan.nets).filter(|(_, net)| restored || !net.link_up);
    let links = links.map(|(index, net)| (DeviceIndex(index), net.link_up)).collect();
    let guest = make(plan).map_err(StartError::Machine)?;
    let milestones = open_milestones(arguments, guest.count())?;
    let queue = Arc::new(InputQueue::default());
    signals.start(&confinement, Arc::clone(&queue))?;
    let (disks, macs) = (host.disk_facts(), host.macs());
    let backends = SharedBackends::default();
    backends.replace(Some(host.start(&confinement, &queue, ft.as_ref().map(|setup| &setup.copies))?));
    let images = arguments.writable_images();
    let (fitted, memory_bytes) = (backends.clone(), arguments.memory);
    let fittings = Fittings {
        queue: Arc::clone(&queue),
        backends: fitted,
        disks,
        macs,
        images,
        memory_bytes,
        paused: arguments.paused,
    };
    let engine = ft.map(|setup| setup.start(fittings)).transpose().map_err(StartError::Machine)?;
    let vcpu = VcpuThread {
        guest,
        backends,
        queue,
        milestones,
        pending,
        script,
        seed,
        restored,
        links,
        clock: arguments.clock,
        paused: arguments.paused,
        took_over: None,
    };
    wait_for(vcpu, &confinement, engine)
}

/// Runs the vCPU thread and cleans up after it.
pub(crate) fn wait_for(
    vcpu: VcpuThread,
    confinement: &Confinement,
    engine: Option<EngineHandle>,
) -> Result<RunEnd, StartError> {
    let backends = vcpu.backends.clone();
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = threads::spawn("vcpu", ThreadClass::Vcpu, confinement, move || {
        // What the thread owned is cleaned up where that is allowed.
        let _ = sender.send(vcpu.run());
    })?;
    confinement.enter(ThreadClass::Control)?;
    let result = receiver.recv();
    let panicked = thread.join().is_err();
    if let Some(engine) = engine {
        engine.finish();
    }
    let Ok((end, mut milestones)) = result else {
        let status = if panicked { "panicked" } else { "ended" };
        return Ok(RunEnd::with_report(ExitStatus::Internal, format!("the vCPU thread {status}; see the log above")));
    };
    if let Some(backends) = backends.replace(None) {
        backends.log_losses();
    }
    match milestones.finish() {
        Err(error) if end.status == ExitStatus::Clean => Ok(error.into()),
        _ => Ok(end),
    }
}

/// How a backup's machine goes on.
#[derive(Debug)]
pub(crate) struct TakeOver {
    /// Guest time at which it should be: what it was plus what has passed since.
    pub time_ns: u64,
    /// What its consoles have shown.
    pub scrollback: Vec<Output>,
    /// Outputs that the primary may not have released.
    pub retained: Vec<Output>,
}

/// What the vCPU thread takes with it.
pub(crate) struct VcpuThread {
    pub guest: Box<dyn Guest>,
    pub backends: SharedBackends,
    pub queue: Arc<InputQueue>,
    pub milestones: Milestones,
    pub pending: snapshot::Pending,
    pub script: Script,
    pub seed: [u8; 32],
    pub restored: bool,
    /// Network devices whose link is not what the machine has, and whether their backend has a peer.
    pub links: Vec<(DeviceIndex, bool)>,
    pub clock: ClockMode,
    /// It stands still before its first step.
    pub paused: bool,
    /// Where another host's machine goes on here.
    pub took_over: Option<TakeOver>,
}

impl VcpuThread {
    fn run(self) -> (RunEnd, Milestones) {
        let Self {
            mut guest,
            mut backends,
            queue,
            mut milestones,
            pending,
            script,
            seed,
            restored,
            links,
            clock,
            paused,
            took_over,
        } = self;
        let end = match clock {
            ClockMode::Real => {
                guest.deliver(Input::EntropySeed(seed));
                match took_over {
                    None => guest.deliver(Input::RtcOrigin { unix_ns: unix_ns().saturating_sub(guest.time_ns()) }),
                    Some(take_over) => go_on(guest.as_mut(), &mut backends, take_over),
                }
                // Changes since then are in the queue. Under the virtual clock the script owns the links.
                for (device, up) in links {
                    guest.deliver(Input::NetLink { device, up });
                }
                RealDriver::new(guest.as_mut(), &mut backends, queue, &mut milestones, pending)
                    .standing_still(paused)
                    .run()
            }
            ClockMode::Virtual => {
                let player = ScriptPlayer::new(script, guest.count());
                // A restored machine goes on exactly as it would have without the snapshot.
                if !restored {
                    guest.deliver(Input::EntropySeed(seed));
                    guest.deliver(Input::RtcOrigin { unix_ns: VIRTUAL_UNIX_NS });
                }
                let mut driver =
                    VirtualDriver::new(guest.as_mut(), &mut backends, queue, &mut milestones, player, pending);
                if !restored {
                    driver.start_clock();
                }
                driver.run()
            }
        };
        let end = match guest.finish() {
            Err(error) if end.status == ExitStatus::Clean => error.into(),
            _ => end,
        };
        (end, milestones)
    }
}

/// Another host's machine goes on here: its clock is set, and what it had said and nobody may have heard is said.
fn go_on(guest: &mut dyn Guest, backends: &mut SharedBackends, take_over: TakeOver) {
    let time_ns = take_over.time_ns.max(guest.time_ns());
    guest.deliver(Input::ClockAnchor(ClockAnchor { time_ns, rate: virtft_machine::clock::RATE_ONE }));
    for output in take_over.scrollback.into_iter().chain(take_over.retained) {
        // Its device is there: the machine has the same ones.
        if let Err(error) = backends.send(output) {
            tracing::error!("an output is lost: {error}");
        }
    }
}

fn open_milestones(arguments: &RunArguments, start: InstructionCount) -> Result<Milestones, StartError> {
    let mut milestones = Milestones::default().with_max_count(arguments.max_count);
    if let (Some(every), Some(path)) = (arguments.digest_every, &arguments.digest_log) {
        milestones = milestones.with_digests(every, path)?;
    }
    for point in &arguments.save_at {
        milestones = milestones.with_save(point)?;
    }
    if let Some(seed) = arguments.perturb {
        milestones = milestones.with_perturbations(seed, start);
    }
    Ok(milestones)
}

fn read_file(what: &'static str, path: Option<&Path>) -> Result<Option<Vec<u8>>, StartError> {
    let Some(path) = path else { return Ok(None) };
    let failed = |reason: String| StartError::File { what, path: path.display().to_string(), reason };
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failed("there is no such file; check the path".to_owned()),
        std::io::ErrorKind::PermissionDenied => {
            failed("no permission to read it; change its mode, or copy it to where you may read".to_owned())
        }
        _ => failed(format!("it cannot be read ({error}); name a readable file")),
    })?;
    if bytes.is_empty() {
        return Err(failed("it is empty; copy it again".to_owned()));
    }
    Ok(Some(bytes))
}

fn read_snapshot(arguments: &RunArguments) -> Result<(snapshot::Pending, Option<Vec<u8>>), StartError> {
    let what = "--snapshot";
    let Some(bytes) = read_file(what, arguments.snapshot.as_deref())? else {
        return Ok((snapshot::Pending::new(), None));
    };
    let path = arguments.snapshot.as_deref().unwrap_or(Path::new("")).display().to_string();
    let (pending, state) =
        snapshot::parse(&bytes).map_err(|reason| StartError::File { what, path, reason: format!("it {reason}") })?;
    Ok((pending, Some(state.to_vec())))
}

/// Nanoseconds since 1970; zero for a host whose clock stands before that.
pub(crate) fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|duration| u64::try_from(duration.as_nanos()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
