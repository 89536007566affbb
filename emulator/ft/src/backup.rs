//! The backup's side of a pair: receives the log, acknowledges it, and goes live when it has won the epoch.
//!
//! ```text
//!                                                    Armed, and the pair
//!            Hello             state rebuilt         found at the arbiter
//!   Waiting ------> Receiving --------------> Verified -----> Armed
//!                       |                        |              |  silence, hung up, Handover
//!                       +--- silence ------------+              v
//!                                  v                         Deciding --- won --> Live
//!                               Stopped <------------ lost -----+
//! ```
//!
//! Acknowledgements say received, not executed: what is acknowledged is replayed before the machine goes live. Before the
//! backup asks for the epoch it stops acknowledging, for good.

use crate::PROTOCOL_VERSION;
use crate::arbiter::{Answer, EpochKey, Token};
use crate::message::{Hello, Message, bounded};
use crate::timing::{MS, Timing};

/// Where the backup stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupState {
    /// No primary has connected yet.
    Waiting,
    /// State and log arrive.
    Receiving,
    /// The state was rebuilt and compared.
    Verified,
    /// It may take over.
    Armed,
    /// The arbiter is asked who may go on alone.
    Deciding,
    /// It has won: the machine runs here; this node is done.
    Live,
    /// It is no replica any more; this node is done.
    Stopped,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupEvent {
    /// A primary connected.
    Connected,
    /// The connection broke.
    Disconnected,
    /// A message of the peer and its epoch.
    Message(u64, Message),
    /// The machine was rebuilt from the transferred state, and the first digest behind it agrees.
    Rebuilt,
    /// The answer to [`BackupAction::Confirm`]: whether the pair is there with the primary's token; `None` when the arbiter does
    /// not answer.
    Confirmed(Option<bool>),
    /// How far the replay has come.
    Executed {
        /// Nanoseconds of guest time.
        guest_ns: u64,
    },
    /// The arbiter's answer to [`BackupAction::TestAndSet`].
    Answered(Answer),
    /// This side can be no replica any more: its digests differ, its disk fails, it is told to end. One sentence.
    Leave(String),
    /// Time has passed.
    Tick,
}

/// What the driver must do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupAction {
    /// Send a message in this epoch.
    Send(u64, Message),
    /// Close the connection; another may be made.
    Disconnect,
    /// Keep these bytes, which follow what was kept before, and replay them.
    Keep(Vec<u8>),
    /// Outputs below this number have left the primary: the copies kept may go.
    Forget(u64),
    /// Look whether the pair is recorded with this token: answer with `Confirmed`.
    Confirm(EpochKey, Token),
    /// Test and set: answer with `Answered`.
    TestAndSet(EpochKey),
    /// Everything kept is replayed, then the machine runs here; the next epoch.
    GoLive {
        /// Epoch that a next pair would have.
        epoch: u64,
        /// One sentence.
        reason: String,
        /// The primary wished it, and stands still.
        planned: bool,
        /// An operator made the machine stand still: it does so here, too.
        paused: bool,
    },
    /// Throw the replica away.
    Stop {
        /// One sentence.
        reason: String,
    },
}

/// See the module's description.
#[derive(Debug)]
pub struct Backup {
    vm: String,
    machine: String,
    timing: Timing,
    state: BackupState,
    hello: Option<Hello>,
    connected: bool,
    received: u64,
    executed_ns: u64,
    handover: Option<u64>,
    planned: bool,
    paused: bool,
    heard_ns: u64,
    beat_ns: u64,
    retry_ns: u64,
    ticked_ns: u64,
    reason: String,
    asking: bool,
    /// The primary has recorded the pair.
    arming: bool,
}

impl Backup {
    /// A backup for the VM of this name, on a machine and CPU model of this name.
    #[must_use]
    pub fn new(vm: &str, machine: &str, timing: Timing) -> Self {
        Self {
            vm: vm.into(),
            machine: machine.into(),
            timing,
            state: BackupState::Waiting,
            hello: None,
            connected: false,
            received: 0,
            executed_ns: 0,
            handover: None,
            planned: false,
            paused: false,
            heard_ns: 0,
            beat_ns: 0,
            retry_ns: 0,
            ticked_ns: 0,
            reason: String::new(),
            asking: false,
            arming: false,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> BackupState {
        self.state
    }

    /// Bytes of the log received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The primary's introduction, after it connected.
    #[must_use]
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    fn epoch(&self) -> u64 {
        self.hello.as_ref().map_or(0, |hello| hello.epoch)
    }

    /// Takes an event at a time of the driver's monotonic clock.
    pub fn handle(&mut self, event: BackupEvent, now_ns: u64) -> Vec<BackupAction> {
        let mut actions = Vec::new();
        if matches!(self.state, BackupState::Live | BackupState::Stopped) {
            return actions;
        }
        match event {
            BackupEvent::Connected => self.connected = true,
            BackupEvent::Disconnected => self.connected = false,
            BackupEvent::Message(epoch, message) => self.message(epoch, message, now_ns, &mut actions),
            BackupEvent::Rebuilt => {
                if self.state == BackupState::Receiving {
                    self.state = BackupState::Verified;
                    self.send(Message::Verified, &mut actions);
                }
            }
            BackupEvent::Confirmed(answer) => self.confirmed(answer, now_ns, &mut actions),
            BackupEvent::Executed { guest_ns } => self.executed_ns = guest_ns,
            BackupEvent::Answered(answer) => self.answered(answer, now_ns, &mut actions),
            BackupEvent::Leave(reason) => {
                // Whoever has asked for the epoch may have won it: then nobody else goes on, and an operator must.
                self.send(Message::Leaving { reason: bounded(&reason) }, &mut actions);
                self.stop(reason, &mut actions);
            }
            BackupEvent::Tick => self.tick(now_ns, &mut actions),
        }
        actions
    }

    fn message(&mut self, epoch: u64, message: Message, now_ns: u64, actions: &mut Vec<BackupAction>) {
        if let Message::Hello(hello) = message {
            return self.greeted(hello, now_ns, actions);
        }
        // Once it has asked, the pair never resumes in this epoch.
        if self.hello.is_none() || epoch != self.epoch() || self.state == BackupState::Deciding {
            return;
        }
        self.heard_ns = now_ns;
        match message {
            Message::Log { offset, bytes } => self.log(offset, bytes, now_ns, actions),
            Message::Armed => {
                self.arming = true;
                if self.state == BackupState::Armed {
                    self.send(Message::Confirmed, actions);
                }
                self.confirm(now_ns, actions);
            }
            Message::Released { outputs } => actions.push(BackupAction::Forget(outputs)),
            Message::Standing { paused } => self.paused = paused,
            Message::Handover { end } => {
                self.handover = Some(end);
                self.hand_over_if_complete(now_ns, actions);
            }
            Message::Leaving { reason } => {
                let reason = format!("the primary left: {reason}");
                self.primary_gone(reason, now_ns, actions);
            }
            // It has said that it goes on: nothing is to be decided.
            Message::Dismiss { reason } => {
                self.stop(format!("the primary goes on without this backup: {reason}"), actions)
            }
            // Nothing that a primary says, or nothing to do.
            Message::Heartbeat
            | Message::Hello(_)
            | Message::Welcome { .. }
            | Message::Pieces { .. }
            | Message::Refuse { .. }
            | Message::Ack { .. }
            | Message::Verified
            | Message::Confirmed
            | Message::TookOver => {}
        }
    }

    /// Checks who connects; the first one becomes the primary, afterwards only its session is welcome.
    fn greeted(&mut self, hello: Hello, now_ns: u64, actions: &mut Vec<BackupAction>) {
        if let Some(reason) = self.objection(&hello) {
            let reason = bounded(&reason);
            actions.push(BackupAction::Send(hello.epoch, Message::Refuse { reason }));
            actions.push(BackupAction::Disconnect);
            return;
        }
        self.heard_ns = now_ns;
        if self.state == BackupState::Waiting {
            self.state = BackupState::Receiving;
            self.hello = Some(hello);
        }
        self.send(Message::Welcome { received: self.received }, actions);
        // What was said on a connection that broke may not have arrived.
        if matches!(self.state, BackupState::Verified | BackupState::Armed) {
            self.send(Message::Verified, actions);
        }
    }

    /// Why whoever introduces itself so is not welcome, if it is not.
    #[must_use]
    pub fn objection(&self, hello: &Hello) -> Option<String> {
        if hello.protocol != PROTOCOL_VERSION {
            return Some(format!(
                "the primary speaks protocol {} and the backup {PROTOCOL_VERSION}: install the same virtft on both hosts",
                hello.protocol
            ));
        }
        if hello.machine != self.machine {
            return Some(format!(
                "the primary's machine is {} and the backup's {}: install the same virtft on both hosts",
                hello.machine, self.machine
            ));
        }
        if hello.vm != self.vm {
            return Some(format!("the backup was started for the VM '{}', not for '{}'", self.vm, hello.vm));
        }
        match &self.hello {
            Some(known) if known != hello => Some("the backup serves another primary already".into()),
            Some(_) if self.state == BackupState::Deciding => Some("the backup has asked for the epoch".into()),
            _ => None,
        }
    }

    fn log(&mut self, offset: u64, mut bytes: Vec<u8>, now_ns: u64, actions: &mut Vec<BackupAction>) {
        let Some(known) = self.received.checked_sub(offset) else {
            // A gap: on one connection that cannot be, so the connection is not what it seems.
            actions.push(BackupAction::Disconnect);
            return;
        };
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(bytes.len());
        bytes.drain(..known);
        if !bytes.is_empty() {
            self.received += bytes.len() as u64;
            actions.push(BackupAction::Keep(bytes));
        }
        self.acknowledge(actions);
        self.hand_over_if_complete(now_ns, actions);
    }

    fn acknowledge(&self, actions: &mut Vec<BackupAction>) {
        self.send(Message::Ack { received: self.received, executed_ns: self.executed_ns }, actions);
    }

    fn hand_over_if_complete(&mut self, now_ns: u64, actions: &mut Vec<BackupAction>) {
        if self.handover.is_some_and(|end| self.received >= end) && self.state == BackupState::Armed {
            self.planned = true;
            self.decide("a planned switch".into(), now_ns, actions);
        }
    }

    fn primary_gone(&mut self, reason: String, now_ns: u64, actions: &mut Vec<BackupAction>) {
        match self.state {
            BackupState::Armed => self.decide(reason, now_ns, actions),
            // It has nothing yet: the next primary is as welcome.
            BackupState::Receiving if self.received == 0 => {
                self.state = BackupState::Waiting;
                self.hello = None;
                actions.push(BackupAction::Disconnect);
            }
            BackupState::Receiving | BackupState::Verified => {
                self.stop(format!("{reason}, before the VM was protected"), actions);
            }
            BackupState::Waiting | BackupState::Deciding | BackupState::Live | BackupState::Stopped => {}
        }
    }

    fn decide(&mut self, reason: String, now_ns: u64, actions: &mut Vec<BackupAction>) {
        self.state = BackupState::Deciding;
        self.asking = false;
        self.reason = reason;
        self.retry_ns = now_ns;
        self.ask(now_ns, actions);
    }

    fn ask(&mut self, now_ns: u64, actions: &mut Vec<BackupAction>) {
        if let Some(hello) = self.hello.as_ref().filter(|_| !self.asking && now_ns >= self.retry_ns) {
            self.asking = true;
            actions.push(BackupAction::TestAndSet(key(hello)));
        }
    }

    /// Before it may ever ask, the backup looks whether it reaches the arbiter that the primary reaches.
    fn confirm(&mut self, now_ns: u64, actions: &mut Vec<BackupAction>) {
        let due = self.arming && self.state == BackupState::Verified && !self.asking && now_ns >= self.retry_ns;
        if let Some(hello) = self.hello.as_ref().filter(|_| due) {
            self.asking = true;
            actions.push(BackupAction::Confirm(key(hello), hello.token));
        }
    }

    fn confirmed(&mut self, answer: Option<bool>, now_ns: u64, actions: &mut Vec<BackupAction>) {
        if self.state != BackupState::Verified {
            return;
        }
        self.asking = false;
        match answer {
            Some(true) => {
                self.state = BackupState::Armed;
                self.send(Message::Confirmed, actions);
                self.hand_over_if_complete(now_ns, actions);
            }
            Some(false) => {
                let reason = "the arbiter does not have the pair: the two hosts do not reach the same one";
                self.send(Message::Leaving { reason: reason.into() }, actions);
                self.stop(reason.into(), actions);
            }
            None => self.retry_ns = now_ns + self.timing.arbiter_retry_ns,
        }
    }

    fn answered(&mut self, answer: Answer, now_ns: u64, actions: &mut Vec<BackupAction>) {
        if self.state != BackupState::Deciding {
            return;
        }
        self.asking = false;
        match answer {
            Answer::Won => {
                self.state = BackupState::Live;
                self.send(Message::TookOver, actions);
                let (reason, planned, paused) = (self.reason.clone(), self.planned, self.paused);
                actions.push(BackupAction::GoLive { epoch: self.epoch() + 1, reason, planned, paused });
            }
            Answer::Lost => {
                self.stop(format!("{}; the primary has won the epoch and goes on", self.reason), actions);
            }
            Answer::Unreachable => self.retry_ns = now_ns + self.timing.arbiter_retry_ns,
        }
    }

    fn stop(&mut self, reason: String, actions: &mut Vec<BackupAction>) {
        self.state = BackupState::Stopped;
        actions.push(BackupAction::Disconnect);
        actions.push(BackupAction::Stop { reason });
    }

    fn tick(&mut self, now_ns: u64, actions: &mut Vec<BackupAction>) {
        // A side that slept itself has heard nothing, which says nothing about the other one.
        self.heard_ns = now_ns.min(self.heard_ns + self.timing.asleep_ns(self.ticked_ns, now_ns));
        self.ticked_ns = now_ns;
        match self.state {
            BackupState::Waiting | BackupState::Live | BackupState::Stopped => return,
            BackupState::Deciding => return self.ask(now_ns, actions),
            BackupState::Receiving | BackupState::Verified | BackupState::Armed => {}
        }
        let silent = now_ns.saturating_sub(self.heard_ns);
        if silent > self.timing.timeout_ns {
            return self.primary_gone(format!("the primary was silent for {} ms", silent / MS), now_ns, actions);
        }
        self.confirm(now_ns, actions);
        if now_ns >= self.beat_ns {
            self.beat_ns = now_ns + self.timing.heartbeat_ns;
            // Carries progress too.
            self.acknowledge(actions);
        }
    }

    fn send(&self, message: Message, actions: &mut Vec<BackupAction>) {
        if self.connected {
            actions.push(BackupAction::Send(self.epoch(), message));
        }
    }
}

/// What is decided at the end of a primary's epoch.
fn key(hello: &Hello) -> EpochKey {
    EpochKey { vm: hello.vm.clone(), incarnation: hello.incarnation, epoch: hello.epoch }
}
