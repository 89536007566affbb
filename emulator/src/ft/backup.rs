//! The `backup` command: follows a primary by replaying its log, and runs its machine when this host has won.

use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use virtft_machine::Machine;
use virtft_machine::io::{BlockOperation, DeviceIndex, InstructionCount, Output};
use virtft_replay::LogHeader;
use virtft_replay::header::DiskData;

use super::disks::ReplicaDisks;
use super::engine::{BackupLink, EngineHandle, REBUILT_ENTRIES, Verdict};
use super::fence::Fence;
use super::generation::Marks;
use super::pieces::Pieces;
use super::setup::{Fittings, Setup};
use super::shared::SharedDisks;
use super::{ProtectedGuest, SharedBackends};
use crate::cli::{BackupArguments, ClockMode, DiskPolicy, RunArguments};
use crate::disk::DiskFacts;
use crate::driver::{Milestones, RunEnd, snapshot};
use crate::entropy;
use crate::exit::ExitStatus;
use crate::guest::MachineGuest;
use crate::host::{CopySink, Host};
use crate::queue::InputQueue;
use crate::replay::{LogSource, Session, SessionError, SessionStop};
use crate::run::{self, TakeOver, VcpuThread};
use crate::script::Script;
use crate::seccomp::Confinement;
use crate::signals::Signals;

/// Steps after which the replaying thread looks up.
const SLICE: u64 = 1_000_000;
/// After the log has ended, the verdict is there or comes at once.
const VERDICT_LIMIT: Duration = Duration::from_secs(5);

/// What the copies hold that were the VM's before; what is in a fresh image is not worth reading.
fn pieces_of(disks: &mut Option<ReplicaDisks>, devices: &RunArguments) -> Result<Pieces, String> {
    match disks {
        Some(disks) if Marks::of(devices.writable_images()).are_there() => disks.pieces(),
        Some(_) | None => Ok(Pieces::new()),
    }
}

/// Everything of a backup that is not its machine.
struct Replica {
    host: Host,
    facts: Vec<DiskFacts>,
    link: Arc<BackupLink>,
    queue: Arc<InputQueue>,
    backends: SharedBackends,
    confinement: Confinement,
    copies: CopySink,
    guest_link: Arc<super::Link>,
    engine: EngineHandle,
    post_mortem: Option<PathBuf>,
    memory_bytes: Arc<AtomicU64>,
    /// Where the disks are shared with the primary.
    shared: Option<SharedDisks>,
    fault: Option<u64>,
    /// It acknowledges and does not follow: for measurements.
    ack_only: bool,
}

/// Waits for a primary, follows it, and takes over when it must.
///
/// # Errors
/// One line that says why it could not begin.
pub fn backup(arguments: &BackupArguments) -> Result<RunEnd, String> {
    let mut ft = arguments.ft.clone();
    ft.listen_tls = arguments.listen.tls;
    let option = ft.ft.clone().ok_or("--ft is missing: name at least an arbiter")?;
    let setup = Setup::new(&ft)?;
    let post_mortem = ft.post_mortem.clone();
    if let Some(folder) = post_mortem.as_ref().filter(|folder| !folder.is_dir()) {
        return Err(format!("--post-mortem {}: there is no such folder; make it first", folder.display()));
    }
    let devices = RunArguments::for_backup(arguments);
    devices.check().map_err(|error| error.to_string())?;
    let address = arguments.listen.resolve()?;
    let signals = Signals::block().map_err(|error| error.to_string())?;
    let confinement = if arguments.no_seccomp { Ok(Confinement::disabled()) } else { Confinement::new() };
    let confinement = confinement.map_err(|error| error.to_string())?;
    let fence = Fence::start(&option.fence, ft.name.as_deref().unwrap_or_default())?;
    let (host, shared_facts) = match option.disks {
        DiskPolicy::Replicated => (Host::open(&devices), None),
        DiskPolicy::Shared => {
            let facts = Host::look_at_disks(&devices).map_err(|error| error.to_string())?;
            (Host::open_without_disks(&devices), Some(facts))
        }
    };
    let mut host = host.map_err(|error| error.to_string())?;
    let listener = TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| format!("--listen {}: {error}; is another backup running?", arguments.listen))?;
    let queue = Arc::new(InputQueue::default());
    signals.start(&confinement, Arc::clone(&queue)).map_err(|error| error.to_string())?;
    let link = Arc::new(BackupLink::default());
    let backends = SharedBackends::default();
    let facts = shared_facts.clone().unwrap_or_else(|| host.disk_facts());
    let fittings = Fittings {
        queue: Arc::clone(&queue),
        backends: backends.clone(),
        disks: facts.clone(),
        macs: host.macs(),
        images: devices.writable_images(),
        memory_bytes: 0,
        paused: false,
    };
    let (copies, guest_link) = (Arc::clone(&setup.copies), Arc::clone(&setup.link));
    let memory_bytes = Arc::clone(&setup.memory_bytes);
    let disks = shared_facts.is_none().then(|| ReplicaDisks::new(host.take_disks()));
    let engine = setup.start_backup(fittings, listener, Arc::clone(&link))?;
    let replica = Replica {
        host,
        facts,
        link,
        queue,
        backends,
        confinement,
        copies,
        guest_link,
        engine,
        post_mortem,
        memory_bytes,
        shared: shared_facts.is_some().then(|| SharedDisks { devices: devices.clone(), fence }),
        fault: arguments.inject_fault,
        ack_only: arguments.ack_only,
    };
    let mut disks = disks;
    match pieces_of(&mut disks, &devices) {
        Ok(pieces) => replica.link.holds(pieces),
        Err(reason) => return Ok(replica.over(ExitStatus::Io, &reason)),
    }
    replica.follow(disks)
}

impl Replica {
    /// Replays what comes, to its end.
    fn follow(self, disks: Option<ReplicaDisks>) -> Result<RunEnd, String> {
        let stopper = self.stop_when_asked();
        let source = LogSource::Growing(Arc::clone(&self.link.log));
        let session = Session::follow(source, disks, |header| self.check(header));
        let end = session.and_then(|mut session| self.replay(&mut session).map(|stop| (session, stop)));
        stopper.store(true, std::sync::atomic::Ordering::Relaxed);
        match end {
            Ok((_, SessionStop::Ended(_))) => Ok(self.over(ExitStatus::Clean, "the guest of the primary has ended")),
            Ok((session, _)) => match self.link.verdict(VERDICT_LIMIT) {
                Some(Verdict::Live { .. }) if self.ack_only => Ok(self.over(
                    ExitStatus::Internal,
                    "this backup has only acknowledged: there is nothing that could run here",
                )),
                Some(Verdict::Live { reason, planned, paused }) => self.go_live(session, &reason, planned, paused),
                Some(Verdict::Stop(reason)) => Ok(self.over(ExitStatus::RunsElsewhere, &reason)),
                None => Ok(self.over(ExitStatus::Internal, "the log ended without a verdict")),
            },
            Err(error) => Ok(self.failed(&error)),
        }
    }

    fn replay(&self, session: &mut Session) -> Result<SessionStop, SessionError> {
        let mut fault = self.fault;
        self.link.follows(session.reached());
        loop {
            if self.ack_only && session.replayer().entries() >= REBUILT_ENTRIES {
                // As one that is never behind: the primary is not to be slowed for it.
                session.reached().guest_ns.store(u64::MAX, Ordering::Relaxed);
                self.link.log.discard();
                return Ok(SessionStop::Unfinished);
            }
            if fault.is_some_and(|count| session.machine.count().0 >= count) {
                fault = None;
                session.machine.disturb();
            }
            let until = InstructionCount(session.machine.count().0.saturating_add(SLICE));
            let stop = session.run(until, &mut |_, output| match output {
                Output::NetTransmit { .. } | Output::CharTransmit { .. } => self.link.emitted(output),
                // Only a shared disk's come here. A read changes nothing, so nobody waited for it.
                Output::Block { operation: BlockOperation::Read { .. }, .. } | Output::BalloonInflate { .. } => {}
                Output::Block { .. } => self.link.emitted(output),
            })?;
            if stop != SessionStop::Limit {
                return Ok(stop);
            }
        }
    }

    /// Whether the primary's machine fits the devices given here.
    fn check(&self, header: &LogHeader) -> Result<(), String> {
        let theirs_shared = header.disk_data == DiskData::InLog;
        if theirs_shared != self.shared.is_some() {
            let says = |shared| if shared { "shared" } else { "replicated" };
            let (theirs, ours) = (says(theirs_shared), says(self.shared.is_some()));
            return Err(format!(
                "the primary has disks={theirs}, this backup was given disks={ours}; give both the same"
            ));
        }
        let nets = self.host.net_facts();
        if header.disks.len() != self.facts.len() || header.nets.len() != nets.len() {
            return Err(format!(
                "the primary's machine has {} disks and {} network devices, this backup was given {} and {}",
                header.disks.len(),
                header.nets.len(),
                self.facts.len(),
                nets.len()
            ));
        }
        for (index, (theirs, ours)) in header.disks.iter().zip(&self.facts).enumerate() {
            if theirs.read_only != ours.readonly || theirs.size_bytes > ours.size {
                return Err(format!(
                    "disk {index} of the primary has {} bytes (read-only: {}), the one given here has {} ({})",
                    theirs.size_bytes, theirs.read_only, ours.size, ours.readonly
                ));
            }
        }
        Ok(())
    }

    /// The machine runs here from now on.
    fn go_live(self, session: Session, reason: &str, planned: bool, paused: bool) -> Result<RunEnd, String> {
        let guest_ns = session.machine.now_ns();
        // The time of a machine that stands still stands, too.
        let passed = if paused { Duration::ZERO } else { self.link.log.filled_at().elapsed() };
        let passed = u64::try_from(passed.as_nanos()).unwrap_or(0);
        let (machine, mut disks) = session.into_replica();
        if let Some(shared) = &self.shared {
            disks = shared.take_over(planned, &self.guest_link, &self.queue)?;
        }
        let Self { mut host, link, queue, backends, confinement, copies, guest_link, engine, memory_bytes, .. } = self;
        memory_bytes.store(machine.config().memory_bytes, Ordering::Relaxed);
        host.put_disks(disks);
        let links = (0..).zip(host.net_facts()).map(|(index, net)| (DeviceIndex(index), net.link_up)).collect();
        let started = host.start(&confinement, &queue, Some(&copies)).map_err(|error| error.to_string())?;
        backends.replace(Some(started));
        reissue(&machine, &backends);
        let scrollback = link.take_scrollback();
        let (retained, lost) = link.take_retained();
        if lost > 0 {
            tracing::error!("{lost} outputs could not be kept and may be lost");
        }
        tracing::warn!(count = machine.count().0, retained = retained.len(), "the machine runs here: {reason}");
        let guest = ProtectedGuest::new(MachineGuest::with(machine), guest_link);
        let vcpu = VcpuThread {
            guest: Box::new(guest),
            backends,
            queue,
            milestones: Milestones::default(),
            pending: snapshot::Pending::new(),
            script: Script::default(),
            seed: entropy::fresh_seed().map_err(|error| error.to_string())?,
            restored: true,
            links,
            clock: ClockMode::Real,
            paused,
            took_over: Some(TakeOver { time_ns: guest_ns.saturating_add(passed), scrollback, retained }),
        };
        run::wait_for(vcpu, &confinement, Some(engine)).map_err(|error| error.to_string())
    }

    /// This side is no replica any more.
    fn failed(self, error: &SessionError) -> RunEnd {
        let text = error.to_string();
        let verdict = self.link.verdict(Duration::ZERO);
        if let Some(Verdict::Stop(reason)) = verdict {
            return self.over(ExitStatus::RunsElsewhere, &reason);
        }
        self.link.fail(text.lines().next().unwrap_or("the replay failed"));
        self.guest_link.wake();
        // The primary is told before this process ends.
        let _ = self.link.verdict(VERDICT_LIMIT);
        if let Some(folder) = &self.post_mortem {
            match keep(folder, &text, &self.link.log.tail()) {
                Ok(place) => tracing::warn!("what is left of the replica is in {}", place.display()),
                Err(error) => tracing::error!("--post-mortem {}: {error}", folder.display()),
            }
        }
        let status = if matches!(error, SessionError::Diverged(_)) { ExitStatus::Diverged } else { ExitStatus::Io };
        self.over(status, &text)
    }

    fn over(self, status: ExitStatus, reason: &str) -> RunEnd {
        self.engine.finish();
        RunEnd::with_report(status, reason)
    }

    /// A signal ends a backup: it leaves, and the primary goes on alone. After the machine runs here, signals are the machine's.
    fn stop_when_asked(&self) -> Arc<std::sync::atomic::AtomicBool> {
        let live = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (queue, link, over, wake) =
            (Arc::clone(&self.queue), Arc::clone(&self.link), Arc::clone(&live), Arc::clone(&self.guest_link));
        std::thread::spawn(move || {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let soon = std::time::Instant::now() + Duration::from_millis(200);
                if queue.wait(Some(soon)) && !over.load(std::sync::atomic::Ordering::Relaxed) {
                    link.fail("the backup was told to end");
                    wake.wake();
                    return;
                }
            }
        });
        live
    }
}

/// Keeps the reason and the end of the log. They hold the guest's secrets: only this user may read them.
fn keep(folder: &Path, reason: &str, tail: &[u8]) -> std::io::Result<PathBuf> {
    let place = folder.join(format!("replica-{}", run::unix_ns()));
    std::fs::DirBuilder::new().mode(0o700).create(&place)?;
    std::fs::write(place.join("reason.txt"), reason)?;
    std::fs::write(place.join("log-tail.bin"), tail)?;
    Ok(place)
}

/// Requests that were in flight are made again: they are the machine's own, and doing them twice changes nothing.
fn reissue(machine: &Machine, backends: &SharedBackends) {
    use crate::driver::OutputSink as _;
    for output in machine.in_flight() {
        if let Err(error) = backends.clone().send(output) {
            tracing::error!("a disk request is lost: {error}");
        }
    }
}
