//! A thread for each running domain: listens to its emulator, and does what is missing of what the user wants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use uuid::Uuid;
use virtft_domain::{Domain, FaultTolerance, Mode};
use virtft_rpc::pair::{abort, commit, hello, prepare};

use super::control::{self, Status, Subscription};
use super::issue::Issue;
use super::peer::{Peer, PeerError};
use super::{Pair, options};
use crate::vm::definition::complete;
use crate::vm::entry::{Entry, Run, RunningReason};
use crate::vm::events::Lifecycle;
use crate::vm::{Hypervisor, image, reference};

/// Figures are asked for this often; what a user wants is looked at as often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The socket is there before the machine runs.
const SOCKET_WITHIN: Duration = Duration::from_secs(20);
/// After a failed attempt at a pair: doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A backup whose primary does not come is given up.
const PRIMARY_WITHIN: Duration = Duration::from_secs(60);

/// When the next attempt at a pair is due.
struct Attempts {
    due: Instant,
    pause: Duration,
    /// What the backup's daemon was told that the domain is.
    told: Option<Description>,
}

impl Hypervisor {
    /// Follows the emulator of a running domain to its end.
    pub fn follow(self: &Arc<Self>, uuid: Uuid, pid: i32) {
        let hypervisor = Arc::clone(self);
        let spawned =
            std::thread::Builder::new().name("follower".into()).spawn(move || hypervisor.follow_on(uuid, pid));
        if let Err(error) = spawned {
            tracing::error!("the domain {uuid} cannot be followed, and will not be protected: {error}");
        }
    }

    fn follow_on(self: &Arc<Self>, uuid: Uuid, pid: i32) {
        let path = self.paths.control(uuid);
        let started = Instant::now();
        let mut subscription = loop {
            match Subscription::open(&path) {
                Ok(subscription) => break subscription,
                Err(error) if started.elapsed() > SOCKET_WITHIN => {
                    tracing::error!("{}: the emulator cannot be followed ({error})", path.display());
                    return;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
            if !self.is_run(uuid, pid) {
                return;
            }
        };
        let mut attempts = Attempts { due: Instant::now(), pause: FIRST_RETRY, told: None };
        loop {
            let status = match subscription.next(LOOK_EVERY) {
                Ok(Some(status)) => Some(status),
                Ok(None) => control::status(&path).ok(),
                Err(_) => return,
            };
            if !self.is_run(uuid, pid) {
                return;
            }
            if let Some(status) = status {
                self.note(uuid, status);
            }
            self.guard(uuid, &mut attempts);
        }
    }

    fn is_run(&self, uuid: Uuid, pid: i32) -> bool {
        self.registry().get(uuid).is_ok_and(|entry| entry.run.as_ref().is_some_and(|run| run.process.pid() == pid))
    }

    /// The emulator has said how things stand.
    fn note(self: &Arc<Self>, uuid: Uuid, status: Status) {
        let mut registry = self.registry();
        let Ok(entry) = registry.get_mut(uuid) else { return };
        let Some(run) = &mut entry.run else { return };
        let took_over = run.protection.backup.is_some() && status.role != "backup" && status.failovers > 0;
        run.protection.status = Some(status);
        if took_over {
            drop(registry);
            self.took_over(uuid);
        }
    }

    /// Another host's domain runs here now: it is this host's.
    fn took_over(self: &Arc<Self>, uuid: Uuid) {
        let mut registry = self.registry();
        let Ok(entry) = registry.get_mut(uuid) else { return };
        let Some(run) = &mut entry.run else { return };
        let Some(backup) = run.protection.backup.take() else { return };
        let status = run.protection.status.clone().unwrap_or_default();
        tracing::warn!("domain '{}' runs here now: {}", run.base.name, status.last_event);
        run.is_paused = status.paused;
        run.reason = RunningReason::Migrated;
        let base = Arc::clone(&run.base);
        if let Some(xml) = &backup.definition {
            // One that this version does not understand is worth less than the machine that runs.
            let definition = complete(xml).map_or_else(|_| base, Arc::new);
            if let Err(error) = self.store.save(&definition) {
                tracing::error!("the definition of '{}' cannot be kept here: {error}", definition.name);
            }
            entry.definition = Some(definition);
            entry.autostart = backup.autostart;
            if let Err(error) = self.store.set_autostart(entry.name(), backup.autostart) {
                tracing::error!("{error}");
            }
        }
        self.save_status(entry);
        let dom = reference(entry);
        drop(registry);
        self.tell(&dom, Lifecycle::StartedMigrated);
        if !status.paused {
            self.tell(&dom, Lifecycle::ResumedMigrated);
        }
    }

    /// Does what is missing.
    fn guard(self: &Arc<Self>, uuid: Uuid, attempts: &mut Attempts) {
        let Some(view) = self.view(uuid) else { return };
        match &view {
            View { is_backup: true, waits_for_nobody: true, .. } => {
                tracing::warn!("the backup of '{}' is given up: its primary did not come", view.domain.name);
                self.kill_backup(uuid);
            }
            View { is_backup: true, .. } => {}
            View { wanted: None, status, pair, .. } if status.role == "primary" => {
                self.unprotect(uuid, pair.as_ref());
            }
            View { status, pair: Some(pair), .. } if status.is_protected() && !pair.committed => {
                attempts.pause = FIRST_RETRY;
                self.commit(uuid, pair);
            }
            View { status, pair: Some(pair), .. }
                if status.is_protected() && attempts.told.as_ref() != Some(&view.description) =>
            {
                attempts.told = self.describe(&view.domain, &view.description, pair).then(|| view.description.clone());
            }
            View { wanted: Some(wanted), status, .. }
                if status.role == "unprotected" && Instant::now() >= attempts.due =>
            {
                let result = self.protect(uuid, &view.domain, wanted);
                attempts.due = Instant::now() + attempts.pause;
                attempts.pause = (attempts.pause * 2).min(LAST_RETRY);
                if let Err(issue) = result {
                    tracing::warn!("domain '{}': {}: {}", view.domain.name, issue.name, issue.text);
                    self.set_issue(uuid, issue);
                }
            }
            _ => {}
        }
    }

    fn view(&self, uuid: Uuid) -> Option<View> {
        let registry = self.registry();
        let entry = registry.get(uuid).ok()?;
        let run = entry.run.as_ref()?;
        let protection = &run.protection;
        let status = protection.status.clone()?;
        // What was accepted is understood; a definition of a later version may not be.
        let wanted = FaultTolerance::of(&run.base).ok().flatten().filter(|wanted| wanted.mode == Mode::Replay);
        let waits = status.state == "waiting for a primary";
        let is_old = protection.since.is_some_and(|since| since.elapsed() > PRIMARY_WITHIN);
        Some(View {
            domain: Arc::clone(&run.base),
            description: Description {
                live: Arc::clone(&run.base),
                definition: entry.definition.clone(),
                autostart: entry.autostart,
            },
            wanted,
            is_backup: protection.backup.is_some(),
            waits_for_nobody: waits && is_old,
            pair: protection.pair.clone(),
            status,
        })
    }

    /// Changes what is known of a run's protection, and keeps it.
    fn change_protection(&self, uuid: Uuid, change: impl FnOnce(&mut Run)) {
        let mut registry = self.registry();
        let Ok(entry) = registry.get_mut(uuid) else { return };
        if let Ok(run) = Entry::running_mut(entry) {
            change(run);
        }
        self.save_status(entry);
    }

    fn set_issue(&self, uuid: Uuid, issue: Issue) {
        self.change_protection(uuid, |run| run.protection.issue = Some(issue));
    }

    /// One attempt at a pair, with the first host that agrees.
    fn protect(self: &Arc<Self>, uuid: Uuid, domain: &Domain, wanted: &FaultTolerance) -> Result<(), Issue> {
        let mut last = Issue::new("no-host", "every host that is named is this one; name another");
        for uri in &wanted.hosts {
            match self.prepare_at(uuid, domain, uri) {
                Ok(None) => {}
                Ok(Some(url)) => {
                    let request = json!({
                        "command": "protect",
                        "peer": url,
                        "ft": options::text(wanted, self.paths.pki.folder.as_deref()),
                    });
                    match control::ask(&self.paths.control(uuid), &request) {
                        Ok(_) => {
                            self.change_protection(uuid, |run| run.protection.issue = None);
                            return Ok(());
                        }
                        Err(reason) => last = Issue::new("emulator-refused", reason),
                    }
                }
                Err(PeerError::Unreachable(reason)) => last = Issue::new("peer-unreachable", reason),
                Err(PeerError::Refused(reason)) => last = Issue::new("peer-refused", format!("{uri}: {reason}")),
            }
        }
        Err(last)
    }

    /// Has another host start a backup; `None` when that host is this one.
    fn prepare_at(&self, uuid: Uuid, domain: &Domain, uri: &str) -> Result<Option<String>, PeerError> {
        let mut peer = Peer::connect(uri, &self.paths.pki)?;
        let other = peer.call::<hello::Call>(&hello::Args {})?;
        if other.host == self.host {
            return Ok(None);
        }
        if other.emulator != super::prepare::EMULATOR_VERSION {
            let ours = super::prepare::EMULATOR_VERSION;
            let reason =
                format!("its emulator is version {}, this host's is {ours}; a pair needs the same", other.emulator);
            return Err(PeerError::Refused(reason));
        }
        let token = Uuid::new_v4();
        let known = |entry: &Entry| Ok((entry.autostart, entry.definition.as_ref().map(|domain| domain.to_xml(None))));
        let (autostart, definition) = self.with(uuid, known).unwrap_or_default();
        let sizes = domain.devices.disks.iter().map(|disk| {
            let format = disk.format.unwrap_or(virtft_domain::DiskFormat::Raw);
            image::sizes(disk.source.path(), format).map(|sizes| sizes.capacity)
        });
        let disk_sizes = sizes.collect::<Result<Vec<_>, _>>();
        let disk_sizes =
            disk_sizes.map_err(|error| PeerError::Refused(format!("a disk cannot be looked at here: {error}")))?;
        // Noted before anything is begun: whoever comes after this daemon knows whom to tell.
        let pair = Pair { uri: uri.to_owned(), token, committed: false };
        self.change_protection(uuid, |run| run.protection.pair = Some(pair));
        let xml = domain.to_xml(None);
        let args = prepare::Args { token, host: self.host, xml, definition, disk_sizes, autostart };
        Ok(Some(peer.call::<prepare::Call>(&args)?.url))
    }

    /// Tells the backup's daemon what the domain is now; false when it must be told again.
    fn describe(&self, domain: &Domain, description: &Description, pair: &Pair) -> bool {
        let args = prepare::Args {
            token: pair.token,
            host: self.host,
            xml: domain.to_xml(None),
            definition: description.definition.as_ref().map(|domain| domain.to_xml(None)),
            // The disks are what they were.
            disk_sizes: Vec::new(),
            autostart: description.autostart,
        };
        let told = Peer::connect(&pair.uri, &self.paths.pki).and_then(|mut peer| peer.call::<prepare::Call>(&args));
        if let Err(error) = &told {
            tracing::debug!("description for {}: {error:?}", pair.uri);
        }
        told.is_ok()
    }

    fn commit(&self, uuid: Uuid, pair: &Pair) {
        let told = Peer::connect(&pair.uri, &self.paths.pki)
            .and_then(|mut peer| peer.call::<commit::Call>(&commit::Args { domain: uuid, token: pair.token }));
        match told {
            Ok(_) => self.change_protection(uuid, |run| {
                if let Some(known) = run.protection.pair.as_mut().filter(|known| known.token == pair.token) {
                    known.committed = true;
                }
            }),
            Err(error) => tracing::debug!("commit at {}: {error:?}", pair.uri),
        }
    }

    fn unprotect(&self, uuid: Uuid, pair: Option<&Pair>) {
        if let Err(reason) = control::order(&self.paths.control(uuid), "unprotect") {
            tracing::debug!("unprotect: {reason}");
        }
        if let Some(pair) = pair {
            let args = abort::Args { domain: uuid, token: pair.token };
            // It ends by itself, too, when its primary says so.
            let _ = Peer::connect(&pair.uri, &self.paths.pki).and_then(|mut peer| peer.call::<abort::Call>(&args));
        }
        self.change_protection(uuid, |run| {
            run.protection.pair = None;
            run.protection.issue = None;
        });
    }

    /// Ends the process of a backup that nobody needs.
    pub fn kill_backup(&self, uuid: Uuid) {
        let registry = self.registry();
        let run = registry.get(uuid).ok().and_then(|entry| entry.run.as_ref());
        if let Some(run) = run.filter(|run| run.protection.backup.is_some()) {
            run.process.signal(Signal::KILL);
        }
    }
}

/// What another host must know of a domain to go on with it.
#[derive(Clone, PartialEq)]
struct Description {
    live: Arc<Domain>,
    definition: Option<Arc<Domain>>,
    autostart: bool,
}

/// What the follower decides by.
struct View {
    domain: Arc<Domain>,
    description: Description,
    wanted: Option<FaultTolerance>,
    is_backup: bool,
    waits_for_nobody: bool,
    pair: Option<Pair>,
    status: Status,
}
