//! The primary's side of a pair: from the connection over the transfer to protection, and to running alone again.
//!
//! ```text
//!              Welcome              Verified             recorded at
//!                                                       the arbiter
//!   Connecting -----> Transferring -----> Recording ---------------> Protected
//!       |                  |                  |                          |   \  failover
//!       | peer silent, refused, or it leaves: |  not answered in time,   |    v
//!       v                  v                  |  then as if protected    |  HandingOver --> Stopped
//!     Alone <--------------+                  v                          v     |
//!       ^                                  Deciding <------ silence, leaving --+
//!       +---------- won ----------------------+------- lost ------> Stopped
//! ```
//!
//! Until the pair is recorded, the backup cannot ask for the epoch, and outputs leave at once. From then on an output waits until
//! the backup has received the log up to the mark behind it; the backup is armed when it has everything that led to outputs
//! which left before. The machine runs in every state but `HandingOver` and `Stopped`.

use std::collections::VecDeque;

use crate::PROTOCOL_VERSION;
use crate::arbiter::{Answer, EpochKey};
use crate::message::{Hello, MAX_LOG_BYTES, Message, bounded};
use crate::timing::Timing;
use crate::window::SendWindow;

/// Most bytes of log on their way to the backup at a time: what is behind waits in the window.
const IN_FLIGHT_BYTES: u64 = 4 << 20;

/// Where the primary stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrimaryState {
    /// The peer is being connected to for the first time.
    Connecting,
    /// State and log are on their way; the backup is not armed.
    Transferring,
    /// The arbiter is asked to record the pair.
    Recording,
    /// The backup may take over at any time; it has said so when [`Primary::is_confirmed`].
    Protected,
    /// The machine stands still for a planned switch.
    HandingOver,
    /// The arbiter is asked who may go on alone.
    Deciding,
    /// Without a backup; this node is done.
    Alone,
    /// The machine must not run here any more; this node is done.
    Stopped,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrimaryEvent<'a> {
    /// A connection to the peer exists.
    Connected,
    /// It broke, or could not be made.
    Disconnected,
    /// A message of the peer and its epoch.
    Message(u64, Message),
    /// The machine's log grew.
    Log(&'a [u8]),
    /// The machine emitted output number `number`, counted from 0; the log up to `mark` leads to it. It is held until
    /// [`PrimaryAction::Release`] names it.
    Output {
        /// Number of the output.
        number: u64,
        /// Offset of the log.
        mark: u64,
    },
    /// The machine's own guest time, for lag control.
    Progress {
        /// Nanoseconds of guest time.
        guest_ns: u64,
    },
    /// The pair was recorded durably, or not.
    Recorded(bool),
    /// The arbiter's answer to [`PrimaryAction::TestAndSet`].
    Answered(Answer),
    /// An operator made the machine stand still, or go on: before anything of it that comes later.
    Standing(bool),
    /// An operator asks for a planned switch.
    Failover,
    /// The machine stands still, as [`PrimaryAction::Pause`] asked; the whole log was handed over before.
    Paused,
    /// Protection is given up, by an operator or because the transfer cannot go on: one sentence.
    Leave(String),
    /// Time has passed.
    Tick,
}

/// What the driver must do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrimaryAction {
    /// Connect to the peer; answer with `Connected` or `Disconnected`.
    Connect,
    /// Send a message in this epoch.
    Send(u64, Message),
    /// Close the connection.
    Disconnect,
    /// Let every output below this number leave.
    Release(u64),
    /// Record durably at the arbiter that the pair exists: answer with `Recorded`.
    Record(EpochKey),
    /// Test and set: answer with `Answered`.
    TestAndSet(EpochKey),
    /// Stop the machine between two steps, hand over the rest of its log, then answer with `Paused`.
    Pause,
    /// Let a paused machine go on.
    Resume,
    /// Slow the machine: parts of 1000 of its time that it stands still; 0 is full speed.
    Throttle(u16),
    /// The backup is protecting: for status and log.
    Protected,
    /// The machine goes on without a backup; the next epoch and why. The log need not be kept.
    Alone {
        /// Epoch that a next pair would have.
        epoch: u64,
        /// One sentence.
        reason: String,
    },
    /// The machine must not run any more, and nothing it holds may leave.
    Stop {
        /// One sentence.
        reason: String,
        /// The backup runs it, as an operator wished.
        handed_over: bool,
    },
}

/// See the module's description.
#[derive(Debug)]
pub struct Primary {
    hello: Hello,
    timing: Timing,
    state: PrimaryState,
    window: SendWindow,
    sent: u64,
    connected: bool,
    welcomed: bool,
    verified: bool,
    armed: bool,
    confirmed: bool,
    paused: bool,
    /// An operator makes the machine stand still.
    standing: bool,
    /// Highest mark of an output that left without waiting.
    free_mark: u64,
    /// Outputs that wait: number and mark.
    held: VecDeque<(u64, u64)>,
    released: u64,
    told_released: u64,
    heard_ns: u64,
    beat_ns: u64,
    retry_ns: u64,
    ticked_ns: u64,
    /// Last acknowledgement that brought something.
    progress_ns: u64,
    guest_ns: u64,
    executed_ns: u64,
    throttle: u16,
    reason: String,
    asking: bool,
}

impl Primary {
    /// A primary that wants the peer as its backup in `hello`'s epoch, from now on.
    #[must_use]
    pub fn new(hello: Hello, timing: Timing, now_ns: u64) -> (Self, Vec<PrimaryAction>) {
        let hello = Hello { protocol: PROTOCOL_VERSION, ..hello };
        let node = Self {
            hello,
            timing,
            state: PrimaryState::Connecting,
            window: SendWindow::default(),
            sent: 0,
            connected: false,
            welcomed: false,
            verified: false,
            armed: false,
            confirmed: false,
            paused: false,
            standing: false,
            free_mark: 0,
            held: VecDeque::new(),
            released: 0,
            told_released: 0,
            heard_ns: now_ns,
            beat_ns: now_ns,
            retry_ns: now_ns,
            ticked_ns: now_ns,
            progress_ns: now_ns,
            guest_ns: 0,
            executed_ns: 0,
            throttle: 0,
            reason: String::new(),
            asking: false,
        };
        (node, vec![PrimaryAction::Connect])
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> PrimaryState {
        self.state
    }

    /// Whether the backup has said that it may take over.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Outputs that wait for an acknowledgement.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Bytes of log that the backup has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> u64 {
        self.window.end() - self.window.start()
    }

    /// How far the backup is behind, in nanoseconds of guest time.
    #[must_use]
    pub fn lag_ns(&self) -> u64 {
        if self.verified { self.guest_ns.saturating_sub(self.executed_ns) } else { 0 }
    }

    /// The key of this epoch.
    #[must_use]
    pub fn key(&self) -> EpochKey {
        EpochKey { vm: self.hello.vm.clone(), incarnation: self.hello.incarnation, epoch: self.hello.epoch }
    }

    /// Takes an event at a time of the driver's monotonic clock.
    pub fn handle(&mut self, event: PrimaryEvent<'_>, now_ns: u64) -> Vec<PrimaryAction> {
        let mut actions = Vec::new();
        if matches!(self.state, PrimaryState::Alone | PrimaryState::Stopped) {
            // Whatever still comes out of the machine has nobody to wait for. A stopped one has nothing to say.
            if let (PrimaryState::Alone, PrimaryEvent::Output { number, .. }) = (self.state, &event) {
                actions.push(PrimaryAction::Release(number + 1));
            }
            return actions;
        }
        match event {
            PrimaryEvent::Connected => {
                (self.connected, self.welcomed) = (true, false);
                self.send(Message::Hello(self.hello.clone()), &mut actions);
            }
            PrimaryEvent::Disconnected => self.disconnected(now_ns),
            PrimaryEvent::Message(epoch, message) if epoch == self.hello.epoch => {
                self.heard_ns = now_ns;
                self.message(message, now_ns, &mut actions);
            }
            PrimaryEvent::Message(..) => {}
            PrimaryEvent::Log(bytes) => self.window.append(bytes),
            PrimaryEvent::Output { number, mark } => self.held.push_back((number, mark)),
            PrimaryEvent::Progress { guest_ns } => self.guest_ns = guest_ns,
            PrimaryEvent::Recorded(done) => self.recorded(done, now_ns),
            PrimaryEvent::Answered(answer) => self.answered(answer, now_ns, &mut actions),
            PrimaryEvent::Standing(paused) => {
                self.standing = paused;
                if self.welcomed {
                    self.send(Message::Standing { paused }, &mut actions);
                }
            }
            PrimaryEvent::Failover if self.state == PrimaryState::Protected && self.confirmed => {
                self.state = PrimaryState::HandingOver;
                actions.push(PrimaryAction::Pause);
            }
            PrimaryEvent::Failover => {}
            PrimaryEvent::Paused => {
                self.paused = true;
                self.hand_over(&mut actions);
            }
            PrimaryEvent::Leave(reason) => {
                self.send(Message::Dismiss { reason: bounded(&reason) }, &mut actions);
                self.part(reason, now_ns, &mut actions);
            }
            PrimaryEvent::Tick => self.tick(now_ns, &mut actions),
        }
        self.settle(&mut actions);
        actions
    }

    fn disconnected(&mut self, now_ns: u64) {
        self.connected = false;
        self.welcomed = false;
        self.retry_ns = now_ns + self.timing.connect_retry_ns;
    }

    fn message(&mut self, message: Message, now_ns: u64, actions: &mut Vec<PrimaryAction>) {
        // A side that has asked for the epoch never goes back.
        if self.state == PrimaryState::Deciding {
            return;
        }
        match message {
            Message::Welcome { received } if received < self.window.start() => {
                self.part("the backup was started again, and has lost what it had".into(), now_ns, actions);
            }
            Message::Welcome { received } => {
                self.welcomed = true;
                self.window.acknowledge(received);
                self.sent = self.window.start();
                self.progress_ns = now_ns;
                if self.state == PrimaryState::Connecting {
                    self.state = PrimaryState::Transferring;
                }
                // What was said last on a connection that broke may not have arrived.
                self.told_released = 0;
                self.send(Message::Standing { paused: self.standing }, actions);
                if self.armed {
                    self.send(Message::Armed, actions);
                }
                self.hand_over(actions);
            }
            Message::Ack { received, executed_ns } => {
                if received > self.window.start() || executed_ns > self.executed_ns {
                    self.progress_ns = now_ns;
                }
                self.window.acknowledge(received);
                self.executed_ns = self.executed_ns.max(executed_ns);
            }
            Message::Verified => self.verified = true,
            Message::Confirmed => {
                if self.armed && !std::mem::replace(&mut self.confirmed, true) {
                    actions.push(PrimaryAction::Protected);
                }
            }
            Message::Refuse { reason } => self.part(format!("the peer refuses: {reason}"), now_ns, actions),
            Message::Leaving { reason } => self.part(format!("the backup left: {reason}"), now_ns, actions),
            Message::TookOver if self.state == PrimaryState::HandingOver => {
                self.stop("the backup has taken over, as was asked".into(), true, actions);
            }
            // Pieces are for whoever copies the disks.
            Message::Heartbeat | Message::Pieces { .. } => {}
            // Nothing that a backup says.
            Message::TookOver
            | Message::Hello(_)
            | Message::Log { .. }
            | Message::Armed
            | Message::Released { .. }
            | Message::Dismiss { .. }
            | Message::Standing { .. }
            | Message::Handover { .. } => {}
        }
    }

    fn recorded(&mut self, done: bool, now_ns: u64) {
        if self.state != PrimaryState::Recording {
            return;
        }
        self.asking = false;
        if done {
            self.state = PrimaryState::Protected;
        } else {
            // It may have been recorded all the same; asking again is harmless.
            self.retry_ns = now_ns + self.timing.arbiter_retry_ns;
        }
    }

    fn answered(&mut self, answer: Answer, now_ns: u64, actions: &mut Vec<PrimaryAction>) {
        if self.state != PrimaryState::Deciding {
            return;
        }
        self.asking = false;
        match answer {
            Answer::Won => self.alone(actions),
            Answer::Lost => {
                self.stop(format!("{}; the backup has won the epoch and runs the VM", self.reason), false, actions);
            }
            Answer::Unreachable => self.retry_ns = now_ns + self.timing.arbiter_retry_ns,
        }
    }

    /// The pair ends. Who may go on is decided by the arbiter, unless the backup was never able to ask it.
    fn part(&mut self, reason: String, now_ns: u64, actions: &mut Vec<PrimaryAction>) {
        self.reason = reason;
        actions.push(PrimaryAction::Disconnect);
        self.connected = false;
        self.welcomed = false;
        match self.state {
            PrimaryState::Connecting | PrimaryState::Transferring => self.alone(actions),
            PrimaryState::Recording | PrimaryState::Protected | PrimaryState::HandingOver => {
                if self.state == PrimaryState::HandingOver {
                    self.paused = false;
                    actions.push(PrimaryAction::Resume);
                }
                self.state = PrimaryState::Deciding;
                self.retry_ns = now_ns;
                self.asking = false;
                self.ask(now_ns, actions);
            }
            PrimaryState::Deciding | PrimaryState::Alone | PrimaryState::Stopped => {}
        }
    }

    fn ask(&mut self, now_ns: u64, actions: &mut Vec<PrimaryAction>) {
        if !self.asking && now_ns >= self.retry_ns {
            self.asking = true;
            let key = self.key();
            actions.push(match self.state {
                PrimaryState::Recording => PrimaryAction::Record(key),
                _ => PrimaryAction::TestAndSet(key),
            });
        }
    }

    fn alone(&mut self, actions: &mut Vec<PrimaryAction>) {
        // The epoch of a pair that was never recorded is still free.
        let epoch = self.hello.epoch + u64::from(self.state == PrimaryState::Deciding);
        self.state = PrimaryState::Alone;
        if let Some(&(number, _)) = self.held.back() {
            actions.push(PrimaryAction::Release(number + 1));
        }
        self.held.clear();
        self.set_throttle(0, actions);
        actions.push(PrimaryAction::Alone { epoch, reason: self.reason.clone() });
    }

    fn stop(&mut self, reason: String, handed_over: bool, actions: &mut Vec<PrimaryAction>) {
        self.state = PrimaryState::Stopped;
        self.held.clear();
        actions.push(PrimaryAction::Disconnect);
        actions.push(PrimaryAction::Stop { reason, handed_over });
    }

    fn tick(&mut self, now_ns: u64, actions: &mut Vec<PrimaryAction>) {
        // A side that slept itself has heard nothing, which says nothing about the other one.
        self.heard_ns = now_ns.min(self.heard_ns + self.timing.asleep_ns(self.ticked_ns, now_ns));
        self.ticked_ns = now_ns;
        if matches!(self.state, PrimaryState::Deciding | PrimaryState::Recording) {
            self.ask(now_ns, actions);
        }
        if self.state == PrimaryState::Deciding {
            return;
        }
        let silent = now_ns.saturating_sub(self.heard_ns);
        let limit = match self.state {
            PrimaryState::Connecting => self.timing.transfer_timeout_ns,
            _ => self.timing.timeout_ns,
        };
        if silent > limit {
            let text = format!("the backup was silent for {} ms", silent / crate::timing::MS);
            return self.part(text, now_ns, actions);
        }
        let stuck = now_ns.saturating_sub(self.progress_ns);
        if self.state == PrimaryState::Transferring && stuck > self.timing.transfer_timeout_ns {
            let text = format!("the transfer made no progress for {} s", stuck / (1000 * crate::timing::MS));
            return self.part(text, now_ns, actions);
        }
        if !self.connected && now_ns >= self.retry_ns {
            self.retry_ns = now_ns + self.timing.connect_retry_ns;
            actions.push(PrimaryAction::Connect);
        }
        if self.connected && now_ns >= self.beat_ns {
            self.beat_ns = now_ns + self.timing.heartbeat_ns;
            self.send(Message::Heartbeat, actions);
            self.control_lag(actions);
        }
    }

    /// After any event: what may leave leaves, the log goes on its way, and the next state is entered if it is time.
    fn settle(&mut self, actions: &mut Vec<PrimaryAction>) {
        if self.welcomed {
            self.send_log(actions);
        }
        let waits =
            !matches!(self.state, PrimaryState::Connecting | PrimaryState::Transferring | PrimaryState::Recording);
        let mut free = self.released;
        while let Some(&(number, mark)) = self.held.front()
            && (!waits || mark <= self.window.start())
        {
            self.held.pop_front();
            free = number + 1;
            self.free_mark = self.free_mark.max(mark);
        }
        if free > self.released {
            self.released = free;
            actions.push(PrimaryAction::Release(free));
        }
        if self.welcomed && self.released > self.told_released {
            self.told_released = self.released;
            self.send(Message::Released { outputs: self.released }, actions);
        }
        if self.state == PrimaryState::Transferring && self.verified {
            self.state = PrimaryState::Recording;
            self.asking = true;
            actions.push(PrimaryAction::Record(self.key()));
        }
        if self.state == PrimaryState::Protected
            && !self.armed
            && self.welcomed
            && self.free_mark <= self.window.start()
        {
            self.armed = true;
            self.send(Message::Armed, actions);
        }
    }

    /// Once the machine stands still and the backup is there: the end of the log, and then the word.
    fn hand_over(&mut self, actions: &mut Vec<PrimaryAction>) {
        if self.state == PrimaryState::HandingOver && self.paused && self.welcomed {
            self.send_log(actions);
            self.send(Message::Handover { end: self.window.end() }, actions);
        }
    }

    fn send_log(&mut self, actions: &mut Vec<PrimaryAction>) {
        let limit = self.window.start() + IN_FLIGHT_BYTES;
        while self.welcomed && self.sent < self.window.end() && self.sent < limit {
            let bytes = self.window.read(self.sent, MAX_LOG_BYTES);
            let offset = self.sent;
            self.sent += bytes.len() as u64;
            self.send(Message::Log { offset, bytes }, actions);
        }
    }

    /// Small steps: the further behind the backup is, the more of its time the primary stands still.
    fn control_lag(&mut self, actions: &mut Vec<PrimaryAction>) {
        const STEP: u16 = 50;
        const MOST: u16 = 900;
        let lag = self.lag_ns();
        let throttle = if lag > 2 * self.timing.lag_target_ns {
            (self.throttle + 2 * STEP).min(MOST)
        } else if lag > self.timing.lag_target_ns {
            (self.throttle + STEP).min(MOST)
        } else {
            self.throttle.saturating_sub(STEP)
        };
        self.set_throttle(throttle, actions);
    }

    fn set_throttle(&mut self, throttle: u16, actions: &mut Vec<PrimaryAction>) {
        if throttle != self.throttle {
            self.throttle = throttle;
            actions.push(PrimaryAction::Throttle(throttle));
        }
    }

    fn send(&self, message: Message, actions: &mut Vec<PrimaryAction>) {
        if self.connected {
            actions.push(PrimaryAction::Send(self.hello.epoch, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timing::MS;

    /// A primary whose backup is so far behind, after so many heartbeats; what it was throttled to.
    fn throttled(node: &mut Primary, now_ns: &mut u64, lag_ms: u64, beats: u64) -> Option<u16> {
        let mut last = None;
        for _ in 0..beats {
            *now_ns += 100 * MS;
            let guest_ns = *now_ns;
            node.handle(PrimaryEvent::Progress { guest_ns }, *now_ns);
            let ack = Message::Ack { received: 0, executed_ns: guest_ns - lag_ms * MS };
            node.handle(PrimaryEvent::Message(1, ack), *now_ns);
            for action in node.handle(PrimaryEvent::Tick, *now_ns) {
                if let PrimaryAction::Throttle(throttle) = action {
                    last = Some(throttle);
                }
            }
        }
        last
    }

    #[test]
    fn a_backup_that_is_behind_slows_the_primary_in_steps_and_lets_it_go_again() {
        let (vm, machine) = ("guest".to_owned(), "m".to_owned());
        let hello = Hello { protocol: 0, vm, incarnation: 1, epoch: 1, machine, session: [1; 16], token: [2; 16] };
        let mut now_ns = 10_000 * MS;
        let (mut node, _) = Primary::new(hello, Timing::default(), now_ns);
        node.handle(PrimaryEvent::Connected, now_ns);
        node.handle(PrimaryEvent::Message(1, Message::Welcome { received: 0 }), now_ns);
        node.handle(PrimaryEvent::Message(1, Message::Verified), now_ns);
        assert_eq!(throttled(&mut node, &mut now_ns, 100, 5), None, "below the target lag");
        // What the backup has executed does not go back, so the lag grows by a heartbeat each time: 200, 300, 300 ms.
        assert_eq!(throttled(&mut node, &mut now_ns, 300, 3), Some(100), "in small steps");
        // 400, 500, 600 ms.
        assert_eq!(throttled(&mut node, &mut now_ns, 1000, 3), Some(350), "in larger ones when it is far behind");
        assert_eq!(throttled(&mut node, &mut now_ns, 1000, 30), Some(900), "never to a standstill");
        assert_eq!(throttled(&mut node, &mut now_ns, 50, 30), Some(0), "and back to full speed");
    }
}
