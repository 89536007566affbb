//! What users do to a domain: start, shut down, reboot, destroy, reset, suspend, resume.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use uuid::Uuid;
use virtft_domain::{Domain, FaultTolerance, Mode};
use virtft_rpc::DomainRef;
use virtft_rpc::pair::{hello, holds};

use super::command::Role;
use super::definition::complete;
use super::entry::{Entry, OffReason, Run, RunningReason, Wish};
use super::events::{Happening, Lifecycle};
use super::launch::{Launched, launch};
use super::status::Status;
use super::{Hypervisor, reference};
use crate::error::DriverError;
use crate::ft::peer::Peer;
use crate::ft::{control, options, serve};
use crate::host;

/// How long an emulator may take to close its disks before it is killed.
const DESTROY_GRACE: Duration = Duration::from_secs(5);
/// How long a planned switch may take, and how often is looked.
const SWITCH_WAIT: Duration = Duration::from_secs(60);
const SWITCH_LOOK: Duration = Duration::from_millis(50);
/// How long the kernel may take to end a killed process.
const KILL_WAIT: Duration = Duration::from_secs(30);

/// How a domain is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// The session with which it ends.
    pub owner: Option<u64>,
    /// It stands still before its first step.
    pub paused: bool,
    /// A saved state is passed over, and removed.
    pub forgets_saved: bool,
    /// The saved state from which it goes on.
    pub state: Option<PathBuf>,
}

impl Hypervisor {
    /// Starts a domain that is defined, from its saved state where there is one.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start(self: &Arc<Self>, uuid: Uuid, mut start: Start) -> Result<DomainRef, DriverError> {
        let _job = self.begin_job(uuid)?;
        let base = {
            let mut registry = self.registry();
            let entry = registry.get_mut(uuid)?;
            check_off(entry)?;
            let saved = if start.forgets_saved { None } else { self.saved(entry)? };
            match saved {
                None => Arc::clone(entry.persistent()?),
                Some((base, state)) => {
                    start.state = Some(state);
                    base
                }
            }
        };
        let dom = self.launch_as(&base, &start)?;
        // The domain runs on from it, or without it.
        self.remove_saved(uuid)?;
        Ok(dom)
    }

    /// Starts a domain from its XML. It is transient unless it was defined before.
    ///
    /// # Errors
    /// When the XML is not accepted, its name or UUID are taken, or it cannot be started.
    pub fn create_xml(self: &Arc<Self>, xml: &str, start: &Start) -> Result<DomainRef, DriverError> {
        let base = Arc::new(complete(xml)?);
        let uuid = base.known_uuid();
        check_off(self.registry().claim(&base)?)?;
        let started = self.begin_job(uuid).and_then(|_job| {
            check_off(self.registry().get(uuid)?)?;
            self.launch_as(&base, start)
        });
        if started.is_err() {
            self.registry().forget_if_gone(uuid);
        }
        started
    }

    /// Starts the machine; the caller has the job.
    fn launch_as(self: &Arc<Self>, base: &Arc<Domain>, start: &Start) -> Result<DomainRef, DriverError> {
        let uuid = base.known_uuid();
        self.check_nowhere_else(base)?;
        let launched = self.launch_own(base, start);
        let mut registry = self.registry();
        let Launched { process, names } = match launched {
            Ok(launched) => launched,
            Err(error) => {
                registry.get_mut(uuid)?.off = OffReason::Failed;
                return Err(error);
            }
        };
        let id = registry.next_id();
        let is_restored = start.state.is_some();
        let reason = if is_restored { RunningReason::Restored } else { RunningReason::Booted };
        let run = Run { names, owner: start.owner, reason, is_paused: start.paused, ..Run::new(id, base, process) };
        let entry = registry.get_mut(uuid)?;
        let process = run.process.clone();
        entry.run = Some(run);
        self.save_status(entry);
        let dom = reference(entry);
        drop(registry);
        tracing::info!("domain '{}' runs as process {}", dom.name, process.pid());
        self.tell(&dom, if is_restored { Lifecycle::StartedRestored } else { Lifecycle::Booted });
        if start.paused {
            self.tell(&dom, Lifecycle::Paused);
        }
        let pid = process.pid();
        self.watch(uuid, process);
        self.follow(uuid, pid);
        Ok(dom)
    }

    /// Starts the emulator of a domain of this host.
    pub(super) fn launch_own(&self, base: &Domain, start: &Start) -> Result<Launched, DriverError> {
        let wanted = FaultTolerance::of(base)?.filter(|wanted| wanted.mode == Mode::Replay);
        let ft = wanted.map(|wanted| options::text(&wanted, self.paths.pki.folder.as_deref()));
        launch(base, &self.paths, &Role::Run { ft: ft.as_deref(), state: start.state.as_deref(), paused: start.paused })
    }

    /// A domain that another of its hosts runs is not started here. A host that does not answer is no reason not to: the arbiter and the marks
    /// beside the disks decide then.
    fn check_nowhere_else(&self, base: &Domain) -> Result<(), DriverError> {
        let Some(wanted) = FaultTolerance::of(base)?.filter(|wanted| wanted.mode == Mode::Replay) else {
            return Ok(());
        };
        for uri in &wanted.hosts {
            let args = holds::Args { domain: base.known_uuid() };
            let answer = Peer::connect(uri, &self.paths.pki).and_then(|mut peer| {
                let other = peer.call::<hello::Call>(&hello::Args {})?;
                Ok(if other.host == self.host { None } else { Some(peer.call::<holds::Call>(&args)?.what) })
            });
            if let Ok(Some(what)) = answer
                && serve::is_running(what)
            {
                return Err(DriverError::Invalid(format!("the domain '{}' runs at {uri}", base.name)));
            }
        }
        Ok(())
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// When the domain does not run, or the button was pressed before.
    pub fn shutdown(self: &Arc<Self>, uuid: Uuid) -> Result<(), DriverError> {
        self.press_power(uuid, false)
    }

    /// Presses the power button, and starts the machine again when the guest has powered off.
    ///
    /// # Errors
    /// As [`Hypervisor::shutdown`].
    pub fn reboot(self: &Arc<Self>, uuid: Uuid) -> Result<(), DriverError> {
        self.press_power(uuid, true)
    }

    fn press_power(self: &Arc<Self>, uuid: Uuid, restarts: bool) -> Result<(), DriverError> {
        let _job = self.begin_job(uuid)?;
        let mut registry = self.registry();
        let entry = registry.get_mut(uuid)?;
        entry.check_own()?;
        let name = entry.name().to_owned();
        let run = entry.running_mut()?;
        if run.is_paused {
            return Err(DriverError::Invalid(format!("the domain '{name}' is paused")));
        }
        if run.power_pressed && run.restarts == restarts {
            let reason = format!(
                "the power button of '{name}' was pressed already and the guest has not answered; it can be destroyed"
            );
            return Err(DriverError::Invalid(reason));
        }
        // Asked for the other thing before the guest has answered: only what follows is changed.
        if !run.power_pressed {
            run.process.signal(Signal::TERM);
        }
        run.power_pressed = true;
        run.restarts = restarts;
        self.save_status(entry);
        Ok(())
    }

    /// Ends the machine at once.
    ///
    /// # Errors
    /// When the domain does not run, or its process cannot be ended.
    pub fn destroy(self: &Arc<Self>, uuid: Uuid) -> Result<(), DriverError> {
        let _job = self.begin_job(uuid)?;
        self.end_process(uuid, Wish::Destroy)
    }

    /// Ends the machine at once and starts it again. Memory is lost with it, as when a computer's reset button is pressed:
    /// it is another process.
    ///
    /// # Errors
    /// When the domain does not run, or its process cannot be ended.
    pub fn reset(self: &Arc<Self>, uuid: Uuid) -> Result<(), DriverError> {
        let _job = self.begin_job(uuid)?;
        self.end_process(uuid, Wish::Reset)
    }

    /// Lets the backup take over, as planned; returns when it has.
    ///
    /// # Errors
    /// When the domain is not protected, its backup is not at `uri`, or the switch fails: then it runs on here.
    pub fn switch(self: &Arc<Self>, uuid: Uuid, uri: &str) -> Result<(), DriverError> {
        let _job = self.begin_job(uuid)?;
        {
            let mut registry = self.registry();
            let entry = registry.get_mut(uuid)?;
            entry.check_own()?;
            let name = entry.name().to_owned();
            let run = entry.running_mut()?;
            let is_protected = run.protection.status.as_ref().is_some_and(control::Status::is_protected);
            let Some(pair) = run.protection.pair.as_ref().filter(|_| is_protected) else {
                let reason = "is not protected: name the other host in its ft element, and wait for ft.state=protected";
                return Err(DriverError::Invalid(format!("the domain '{name}' {reason}")));
            };
            if pair.uri != uri {
                return Err(DriverError::Invalid(format!(
                    "the backup of '{name}' is at {}, and only it can take over",
                    pair.uri
                )));
            }
            run.wish = Some(Wish::Switch);
        }
        let begun = control::order(&self.paths.control(uuid), "failover").map_err(DriverError::Failed);
        let switched = begun.and_then(|()| self.wait_until_off(uuid));
        if switched.is_err()
            && let Ok(run) = self.registry().get_mut(uuid).and_then(Entry::running_mut)
        {
            run.wish.take_if(|wish| *wish == Wish::Switch);
        }
        switched
    }

    pub(super) fn wait_until_off(&self, uuid: Uuid) -> Result<(), DriverError> {
        let deadline = Instant::now() + SWITCH_WAIT;
        let mut registry = self.registry();
        loop {
            let status = match registry.get(uuid).ok().and_then(|entry| entry.run.as_ref()) {
                None => return Ok(()),
                Some(run) => run.protection.status.clone().unwrap_or_default(),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let switches = registry
                .get(uuid)
                .is_ok_and(|entry| entry.run.as_ref().is_some_and(|run| run.wish == Some(Wish::Switch)));
            let failed = switches && status.role == "unprotected" && status.state == "running";
            if failed || left.is_zero() {
                return Err(DriverError::Failed(format!("the domain did not end here: {}", status.last_event)));
            }
            registry = self.wait_changed(registry, left.min(SWITCH_LOOK));
        }
    }

    /// Ends the process and waits until its end was dealt with.
    fn end_process(&self, uuid: Uuid, wish: Wish) -> Result<(), DriverError> {
        let mut registry = self.registry();
        let entry = registry.get_mut(uuid)?;
        entry.check_own()?;
        let dom = reference(entry);
        let run = entry.running_mut()?;
        let pid = run.process.pid();
        run.wish = Some(wish);
        if wish == Wish::Destroy {
            self.tell(&dom, Lifecycle::ShutdownByHost);
        }
        // Two different signals, for equal ones may become one: the second ends the emulator in order.
        for signal in [Signal::TERM, Signal::INT] {
            run.process.signal(signal);
        }
        let process = run.process.clone();
        let is_there =
            |entry: &Entry| entry.run.as_ref().is_some_and(|run| run.process.pid() == pid && run.wish.is_some());
        for (wait, last) in [(DESTROY_GRACE, false), (KILL_WAIT, true)] {
            let deadline = Instant::now() + wait;
            loop {
                if registry.get(uuid).map_or(true, |entry| !is_there(entry)) {
                    return Ok(());
                }
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                registry = self.wait_changed(registry, left);
            }
            if !last {
                process.signal(Signal::KILL);
            }
        }
        Err(DriverError::Failed(format!("the emulator of '{}' cannot be ended", dom.name)))
    }

    /// Makes the machine stand still, and its time with it.
    ///
    /// # Errors
    /// When the domain does not run, or its emulator does not answer.
    pub fn suspend(self: &Arc<Self>, uuid: Uuid) -> Result<(), DriverError> {
        self.pause(uuid, true)
    }

    /// Lets the machine go on.
    ///
    /// # Errors
    /// When the domain is not paused.
    pub fn resume(self: &Arc<Self>, uuid: Uuid) -> Result<(), DriverError> {
        self.pause(uuid, false)
    }

    fn pause(self: &Arc<Self>, uuid: Uuid, pause: bool) -> Result<(), DriverError> {
        let _job = self.begin_job(uuid)?;
        {
            let registry = self.registry();
            let entry = registry.get(uuid)?;
            entry.check_own()?;
            if entry.running()?.is_paused == pause {
                let not_paused = || DriverError::Invalid(format!("the domain '{}' is not paused", entry.name()));
                return if pause { Ok(()) } else { Err(not_paused()) };
            }
        }
        let order = if pause { "pause" } else { "resume" };
        control::order(&self.paths.control(uuid), order).map_err(DriverError::Failed)?;
        let mut registry = self.registry();
        let entry = registry.get_mut(uuid)?;
        let run = entry.running_mut()?;
        run.is_paused = pause;
        run.reason = RunningReason::Unpaused;
        self.save_status(entry);
        let dom = reference(entry);
        drop(registry);
        self.tell(&dom, if pause { Lifecycle::Paused } else { Lifecycle::Unpaused });
        Ok(())
    }

    /// Ends the machines that were to end with a session.
    pub fn end_session(self: &Arc<Self>, session: u64) {
        self.events.end_session(session);
        let owned: Vec<Uuid> = {
            let registry = self.registry();
            let is_owned = |entry: &&Entry| entry.run.as_ref().is_some_and(|run| run.owner == Some(session));
            registry.all().filter(is_owned).map(Entry::uuid).collect()
        };
        for uuid in owned {
            if let Err(error) = self.destroy(uuid) {
                tracing::warn!("a domain that was to end with its client: {error}");
            }
        }
    }

    /// Writes what another daemon must know of the run. A failure is logged: the machine runs, and may well go on.
    pub(crate) fn save_status(&self, entry: &Entry) {
        let Some(run) = &entry.run else { return };
        if let Err(error) = Status::new(run, host::boot_id()).save(&self.paths.run, entry.uuid()) {
            tracing::error!("the domain '{}' would not be found again: {error}", entry.name());
        }
    }

    /// Tells of a change in a domain's life.
    pub(crate) fn tell(&self, dom: &DomainRef, change: Lifecycle) {
        self.events.tell(dom, &Happening::Lifecycle(change));
    }
}

fn check_off(entry: &Entry) -> Result<(), DriverError> {
    match entry.run {
        Some(_) => Err(DriverError::Invalid(format!("the domain '{}' is already running", entry.name()))),
        None => Ok(()),
    }
}
