//! The backup's part of the ft thread.

use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use virtft_ft::message::{MAX_PIECES, bounded, encode};
use virtft_ft::{Backup, BackupAction, BackupEvent, BackupState, Decoder, Hello, Message};
use virtft_machine::io::Output;

use super::super::MACHINE;
use super::super::arbiter::{Question, Reply};
use super::super::generation::Copy;
use super::super::growing::GrowingLog;
use super::super::pieces::Pieces;
use super::super::retained::Retained;
use super::super::transport::Transport;
use super::{ANNOUNCE_FOR, Engine, EngineParts, Role};
use crate::control::Status;
use crate::replay::Reached;

/// Entries behind the snapshot that a log begins with: the digest of CPUs and devices, that of memory. When they are replayed, the machine
/// is the primary's.
pub const REBUILT_ENTRIES: u64 = 2;

/// What the ft thread decided about a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes live.
    Live {
        /// Why.
        reason: String,
        /// The primary wished it, and stands still.
        planned: bool,
        /// An operator made the machine stand still.
        paused: bool,
    },
    /// It is thrown away: why.
    Stop(String),
}

#[derive(Debug, Default)]
struct State {
    retained: Retained,
    /// What this side's copies of disks hold; `None` while they are read.
    pieces: Option<Pieces>,
    /// How far the replay has come.
    reached: Arc<Reached>,
    /// The replaying thread can be no replica any more.
    failure: Option<String>,
    verdict: Option<Verdict>,
}

/// What the replaying thread and the ft thread share.
#[derive(Debug, Default)]
pub struct BackupLink {
    /// The log as it arrives.
    pub log: Arc<GrowingLog>,
    state: Mutex<State>,
    decided: Condvar,
}

impl BackupLink {
    /// The replay begins: where it says how far it has come.
    pub fn follows(&self, reached: Arc<Reached>) {
        self.lock().reached = reached;
    }

    /// The copies of the disks were read: a primary may come.
    pub fn holds(&self, pieces: Pieces) {
        self.lock().pieces = Some(pieces);
    }

    /// The replayed machine emitted an output.
    pub fn emitted(&self, output: Output) {
        self.lock().retained.add(output);
    }

    /// What consoles have shown on the primary's host.
    pub fn take_scrollback(&self) -> Vec<Output> {
        self.lock().retained.take_scrollback()
    }

    /// Outputs that the primary may not have released.
    pub fn take_retained(&self) -> (Vec<Output>, u64) {
        self.lock().retained.take()
    }

    /// This side can be no replica any more.
    pub fn fail(&self, reason: &str) {
        self.lock().failure = Some(reason.to_owned());
    }

    /// Waits for the verdict, for at most so long.
    #[must_use]
    pub fn verdict(&self, limit: Duration) -> Option<Verdict> {
        let undecided = |state: &mut State| state.verdict.is_none();
        let waited = self.decided.wait_timeout_while(self.lock(), limit, undecided);
        waited.unwrap_or_else(PoisonError::into_inner).0.verdict.clone()
    }

    fn decide(&self, verdict: Verdict) {
        self.lock().verdict = Some(verdict);
        self.decided.notify_all();
        // What is there is replayed to its end.
        self.log.close();
    }

    /// Every update is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct BackupRole {
    node: Backup,
    listener: Option<TcpListener>,
    link: Arc<BackupLink>,
    told_rebuilt: bool,
    /// How the images are marked.
    copy: Option<Copy>,
}

impl BackupRole {
    pub fn new(parts: &EngineParts, listener: TcpListener, link: Arc<BackupLink>) -> Self {
        let node = Backup::new(&parts.vm, MACHINE, parts.protection.timing);
        Self { node, listener: Some(listener), link, told_rebuilt: false, copy: None }
    }

    /// Where primaries come in, once it is known what this side has.
    pub fn listener(&self) -> Option<&TcpListener> {
        self.listener.as_ref().filter(|_| self.link.lock().pieces.is_some())
    }

    pub fn connected(&mut self, now: u64) -> Vec<BackupAction> {
        self.node.handle(BackupEvent::Connected, now)
    }

    pub fn disconnected(&mut self, now: u64) -> Vec<BackupAction> {
        self.node.handle(BackupEvent::Disconnected, now)
    }

    pub fn message(&mut self, epoch: u64, message: Message, now: u64) -> Vec<BackupAction> {
        self.node.handle(BackupEvent::Message(epoch, message), now)
    }

    pub fn replied(&mut self, reply: &Reply, now: u64) -> Vec<BackupAction> {
        match reply {
            Reply::Answered(_, answer) => self.node.handle(BackupEvent::Answered(*answer), now),
            Reply::Confirmed(found) => self.node.handle(BackupEvent::Confirmed(*found), now),
            Reply::Recorded(..) => Vec::new(),
        }
    }

    /// Looks at what the replaying thread has said, then at the time.
    pub fn tick(&mut self, now: u64) -> Vec<BackupAction> {
        let (reached, failure) = {
            let mut state = self.link.lock();
            (Arc::clone(&state.reached), state.failure.take())
        };
        let rebuilt = reached.entries.load(Ordering::Relaxed) >= REBUILT_ENTRIES;
        let guest_ns = reached.guest_ns.load(Ordering::Relaxed);
        let mut actions = self.node.handle(BackupEvent::Executed { guest_ns }, now);
        if rebuilt && !self.told_rebuilt {
            self.told_rebuilt = true;
            actions.extend(self.node.handle(BackupEvent::Rebuilt, now));
        }
        if let Some(reason) = failure {
            actions.extend(self.node.handle(BackupEvent::Leave(reason), now));
        }
        actions.extend(self.node.handle(BackupEvent::Tick, now));
        actions
    }

    /// Whether nothing is left to say: the last message has left with the flush behind it.
    pub fn may_end(&self) -> bool {
        self.link.lock().failure.is_none()
    }

    pub fn show(&self, status: &mut Status) {
        "backup".clone_into(&mut status.role);
        let state = match self.node.state() {
            BackupState::Waiting if self.listener().is_none() => "reading its copies of the disks",
            BackupState::Waiting => "waiting for a primary",
            BackupState::Receiving => "receiving",
            BackupState::Verified => "verified",
            BackupState::Armed => "protecting",
            BackupState::Deciding => "waiting for the arbiter",
            BackupState::Live => "live",
            BackupState::Stopped => "stopped",
        };
        state.clone_into(&mut status.state);
        status.log_bytes = self.node.received();
    }
}

/// Connections that may wait to introduce themselves, and for how long: more, or longer, and the oldest is closed.
const NEWCOMERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection of somebody unknown. It does not disturb the primary's before it has said who it is.
#[derive(Debug)]
pub(super) struct Newcomer {
    transport: Transport,
    decoder: Decoder,
    since: Instant,
}

impl Newcomer {
    /// Its introduction, when that is here; an error when it is not worth waiting for.
    fn hello(&mut self) -> Result<Option<(u64, Hello)>, String> {
        if self.since.elapsed() > PATIENCE {
            return Err("it said nothing".into());
        }
        let mut bytes = Vec::new();
        let open = self.transport.read(&mut bytes).map_err(|error| error.to_string())?;
        self.transport.flush().map_err(|error| error.to_string())?;
        self.decoder.push(&bytes);
        match self.decoder.next_message().map_err(|error| error.to_string())? {
            Some((epoch, Message::Hello(hello))) => Ok(Some((epoch, hello))),
            Some(_) => Err("it did not introduce itself".into()),
            None if open => Ok(None),
            None => Err("it hung up".into()),
        }
    }
}

impl AsFd for Newcomer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

impl Engine {
    pub(super) fn accept(&mut self) {
        let Role::Backup(role) = &self.role else { return };
        let Some(Ok((stream, address))) = role.listener().map(TcpListener::accept) else { return };
        match Transport::server(stream, self.security()) {
            Err(error) => tracing::warn!("connection from {address}: {error}"),
            Ok(transport) => {
                if self.newcomers.len() >= NEWCOMERS {
                    self.newcomers.remove(0);
                }
                self.newcomers.push(Newcomer { transport, decoder: Decoder::default(), since: Instant::now() });
            }
        }
    }

    /// Whoever introduces itself well becomes the peer; the others leave the present one alone.
    pub(super) fn hear_newcomers(&mut self) {
        for mut newcomer in std::mem::take(&mut self.newcomers) {
            let Role::Backup(role) = &self.role else { return };
            match newcomer.hello() {
                Ok(None) => self.newcomers.push(newcomer),
                Err(reason) => tracing::info!("a connection was closed: {reason}"),
                Ok(Some((epoch, hello))) => {
                    if let Some(reason) = role.node.objection(&hello) {
                        let refusal = Message::Refuse { reason: bounded(&reason) };
                        // Whoever is refused may have gone.
                        let _ = newcomer.transport.send(&encode(epoch, &refusal));
                        newcomer.transport.close();
                        continue;
                    }
                    self.disconnected();
                    self.connected(newcomer.transport);
                    self.decoder = newcomer.decoder;
                    self.message(epoch, Message::Hello(hello));
                }
            }
        }
    }

    pub(super) fn do_backup(&mut self, actions: Vec<BackupAction>) {
        for action in actions {
            let Role::Backup(role) = &mut self.role else { return };
            match action {
                BackupAction::Send(epoch, message) => {
                    let begins = matches!(message, Message::Welcome { received: 0 });
                    self.send(epoch, &message);
                    if begins {
                        self.tell_pieces(epoch);
                    }
                }
                BackupAction::Disconnect => {
                    // A refusal must reach whom it is for.
                    self.flush();
                    self.disconnected();
                }
                BackupAction::Keep(bytes) => {
                    self.log_bytes += bytes.len() as u64;
                    role.link.log.append(&bytes);
                }
                BackupAction::Forget(outputs) => role.link.lock().retained.forget(outputs),
                BackupAction::Confirm(key, token) => self.ask(Question::Confirm(key, token)),
                BackupAction::TestAndSet(key) => {
                    self.note("the arbiter is asked who may go on alone");
                    self.ask(Question::TestAndSet(key));
                }
                BackupAction::GoLive { epoch, reason, planned, paused } => {
                    self.go_live(epoch, Verdict::Live { reason, planned, paused });
                }
                BackupAction::Stop { reason } => {
                    role.link.decide(Verdict::Stop(reason.clone()));
                    self.flush();
                    self.role = Role::Stopped;
                    self.note(&reason);
                }
            }
        }
        self.note_copy();
    }

    /// Says what this side's copies hold, so that only what differs is sent.
    fn tell_pieces(&mut self, epoch: u64) {
        let Role::Backup(role) = &self.role else { return };
        let pieces = role.link.lock().pieces.clone().unwrap_or_default();
        for (disk, digests) in (0..).zip(pieces) {
            for (part, chunk) in (0_u64..).zip(digests.chunks(MAX_PIECES)) {
                let first = part * MAX_PIECES as u64;
                self.send(epoch, &Message::Pieces { disk, first, digests: chunk.to_vec(), last: false });
            }
        }
        self.send(epoch, &Message::Pieces { disk: 0, first: 0, digests: Vec::new(), last: true });
    }

    /// A copy that is overwritten is marked before, and one that is complete afterwards.
    fn note_copy(&mut self) {
        let Role::Backup(role) = &mut self.role else { return };
        let Some(hello) = role.node.hello() else { return };
        let copy = if role.node.state() == BackupState::Armed { Copy::Replica } else { Copy::Incomplete };
        if role.node.state() == BackupState::Deciding || role.copy == Some(copy) {
            return;
        }
        role.copy = Some(copy);
        (self.parts.incarnation, self.epoch) = (hello.incarnation, hello.epoch);
        self.mark(self.epoch, copy);
    }

    fn go_live(&mut self, epoch: u64, verdict: Verdict) {
        let Role::Backup(role) = &mut self.role else { return };
        let (reason, paused) = match &verdict {
            Verdict::Live { reason, paused, .. } => (reason.clone(), *paused),
            Verdict::Stop(reason) => (reason.clone(), false),
        };
        role.link.decide(verdict);
        self.role = Role::Alone;
        self.disconnected();
        self.epoch = epoch;
        self.mark(epoch, Copy::Primary);
        let now = Instant::now();
        self.announce_until = Some((now, now + ANNOUNCE_FOR));
        self.next_spare = (!self.parts.protection.spares.is_empty()).then_some(now + self.spare_delay);
        self.note(&format!("this host takes over: {reason}"));
        self.update(|status| {
            status.failovers += 1;
            status.paused = paused;
        });
    }
}
