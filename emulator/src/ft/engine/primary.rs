//! The primary's part of the ft thread.

use std::collections::VecDeque;

use virtft_ft::{Hello, Message, PROTOCOL_VERSION, Primary, PrimaryAction, PrimaryEvent, PrimaryState};
use virtft_machine::io::{Output, RequestId};
use virtft_replay::Recorder;
use virtft_replay::frame::FrameKind;

use super::super::MACHINE;
use super::super::arbiter::{Question, Reply};
use super::super::copy::{COPY_BIT, DiskCopy};
use super::super::generation::Copy;
use super::super::link::{Item, Order};
use super::{Engine, Role};
use crate::cli::DiskPolicy;
use crate::control::Status;
use crate::disk::Completion;
use crate::entropy;
use crate::ft::PeerUrl;

/// Unacknowledged bytes with which no further piece of a disk is read.
const COPY_AHEAD: u64 = 8 << 20;

/// See the module's description.
#[derive(Debug)]
pub(super) struct PrimaryRole {
    node: Primary,
    pub peer: PeerUrl,
    /// Outputs that wait, and the number of the first.
    held: VecDeque<Output>,
    first: u64,
    next: u64,
    copy: DiskCopy,
    /// The machine was told to begin its log.
    ordered: bool,
    /// The log's opening is through: pieces of disks may follow.
    begun: bool,
    /// The machine stands still until the disks are copied.
    machine_waits: bool,
    transferred: bool,
    pause_ms: Option<u64>,
    end: u64,
    throttle: u16,
    /// A disk of this host has failed: the backup is to take over as soon as it can.
    failing: Option<u8>,
}

impl PrimaryRole {
    pub fn connected(&mut self, now: u64) -> Vec<PrimaryAction> {
        self.node.handle(PrimaryEvent::Connected, now)
    }

    pub fn disconnected(&mut self, now: u64) -> Vec<PrimaryAction> {
        self.node.handle(PrimaryEvent::Disconnected, now)
    }

    pub fn message(&mut self, epoch: u64, message: Message, now: u64) -> Vec<PrimaryAction> {
        if let Message::Pieces { disk, first, digests, last } = &message {
            self.copy.they_have(*disk, *first, digests.clone(), *last);
        }
        self.node.handle(PrimaryEvent::Message(epoch, message), now)
    }

    pub fn tick(&mut self, now: u64) -> Vec<PrimaryAction> {
        let mut actions = self.node.handle(PrimaryEvent::Tick, now);
        actions.extend(self.give_up(now));
        actions
    }

    /// With a disk that fails on this host alone, the other one is better.
    fn give_up(&mut self, now: u64) -> Vec<PrimaryAction> {
        if self.failing.is_some() { self.node.handle(PrimaryEvent::Failover, now) } else { Vec::new() }
    }

    pub fn leave(&mut self, reason: &str, now: u64) -> Vec<PrimaryAction> {
        self.node.handle(PrimaryEvent::Leave(reason.into()), now)
    }

    /// A planned switch, if there is a backup that can take over.
    pub fn failover(&mut self, now: u64) -> Result<Vec<PrimaryAction>, String> {
        let actions = self.node.handle(PrimaryEvent::Failover, now);
        if self.node.state() == PrimaryState::HandingOver {
            Ok(actions)
        } else {
            Err("the VM is not protected yet".into())
        }
    }

    pub fn replied(&mut self, reply: &Reply, now: u64) -> Vec<PrimaryAction> {
        match reply {
            Reply::Answered(key, answer) if *key == self.node.key() => {
                self.node.handle(PrimaryEvent::Answered(*answer), now)
            }
            Reply::Recorded(key, done) if *key == self.node.key() => {
                self.node.handle(PrimaryEvent::Recorded(*done), now)
            }
            // Of an epoch that is over, or for a backup.
            Reply::Answered(..) | Reply::Recorded(..) | Reply::Confirmed(_) => Vec::new(),
        }
    }

    /// Something of the vCPU thread; also the bytes that the log grew by.
    pub fn item(&mut self, item: Item, now: u64) -> (Vec<PrimaryAction>, u64) {
        let event = match item {
            Item::Begin(bytes) => return self.log(&bytes, now),
            Item::Frame(frame) => {
                self.begun |= frame.kind == FrameKind::Snapshot;
                return self.log(&frame.to_bytes(true), now);
            }
            Item::Output(output) => {
                self.held.push_back(output);
                self.next += 1;
                PrimaryEvent::Output { number: self.next - 1, mark: self.end }
            }
            Item::Progress(guest_ns) => PrimaryEvent::Progress { guest_ns },
            Item::DiskWritten(disk, offset, length) => {
                self.copy.written(disk, offset, length);
                return (Vec::new(), 0);
            }
            Item::NeedDisks => {
                self.machine_waits = true;
                return (Vec::new(), 0);
            }
            Item::Transferred(pause_ms) => {
                self.transferred = true;
                self.pause_ms = Some(pause_ms);
                return (Vec::new(), 0);
            }
            Item::Paused => PrimaryEvent::Paused,
            Item::Standing(paused) => PrimaryEvent::Standing(paused),
            Item::DiskFailed(disk) => {
                self.failing = Some(disk);
                return (self.give_up(now), 0);
            }
        };
        (self.node.handle(event, now), 0)
    }

    fn log(&mut self, bytes: &[u8], now: u64) -> (Vec<PrimaryAction>, u64) {
        self.end += bytes.len() as u64;
        (self.node.handle(PrimaryEvent::Log(bytes), now), bytes.len() as u64)
    }

    /// A piece of a disk was read for the copy.
    pub fn copied(&mut self, disk: u8, completion: Completion, now: u64) -> (Vec<PrimaryAction>, u64) {
        if completion.status != virtft_machine::io::BlockStatus::Ok {
            let reason = format!("disk {disk} cannot be read or flushed on this host, so that no other can follow it");
            return (self.leave(&reason, now), 0);
        }
        if self.copy.flushed(disk) {
            return (Vec::new(), 0);
        }
        let Some(part) = self.copy.read(disk, completion.request, completion.data) else { return (Vec::new(), 0) };
        self.log(&Recorder::disk_frame(&part).to_bytes(true), now)
    }

    pub fn is_transferring(&self) -> bool {
        !self.transferred
    }

    /// Whether nothing of the machine waits for the backup.
    pub fn is_acknowledged(&self) -> bool {
        self.held.is_empty() && self.node.unacknowledged() == 0
    }

    pub fn show(&self, status: &mut Status) {
        "primary".clone_into(&mut status.role);
        let state = match self.node.state() {
            PrimaryState::Connecting => "connecting",
            PrimaryState::Transferring => "transferring",
            PrimaryState::Recording => "waiting for the arbiter to record the pair",
            PrimaryState::Protected if self.node.is_confirmed() => "protected",
            PrimaryState::Protected => "waiting for the backup to find the pair at the arbiter",
            PrimaryState::HandingOver => "handing over",
            PrimaryState::Deciding => "waiting for the arbiter",
            PrimaryState::Alone => "running",
            PrimaryState::Stopped => "stopped",
        };
        state.clone_into(&mut status.state);
        status.peer = Some(self.peer.to_string());
        status.lag_ms = self.node.lag_ns() / 1_000_000;
        status.unacknowledged_bytes = self.node.unacknowledged();
        status.outputs_held = self.held.len() as u64;
        status.throttle = self.throttle;
        status.transfer_pause_ms = self.pause_ms;
        let (left, total) = self.copy.progress();
        let copied = total.saturating_sub(left) * 1000 / total.max(1);
        status.disk_bytes_kept = self.copy.kept_bytes();
        status.disks_copied = (!self.transferred && total > 0).then(|| u16::try_from(copied).unwrap_or(1000));
    }
}

impl Engine {
    /// Begins to make a backup.
    pub(super) fn protect(&mut self, peer: PeerUrl) -> Result<(), String> {
        let session = entropy::fresh_seed().map_err(|error| error.to_string())?;
        let mut name = [0; 16];
        name.copy_from_slice(&session[..16]);
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            vm: self.parts.vm.clone(),
            incarnation: self.parts.incarnation,
            epoch: self.epoch,
            machine: MACHINE.into(),
            session: name,
            token: self.parts.token,
        };
        let copy = match self.parts.protection.disks {
            DiskPolicy::Replicated => DiskCopy::of(&self.parts.disks),
            DiskPolicy::Shared => self.begin_sharing()?,
        };
        let (node, actions) = Primary::new(hello, self.parts.protection.timing, self.now_ns());
        self.log_bytes = 0;
        self.rate = (std::time::Instant::now(), 0);
        self.note(&format!("a backup is made at {peer}"));
        self.role = Role::Primary(Box::new(PrimaryRole {
            node,
            peer,
            held: VecDeque::new(),
            first: 0,
            next: 0,
            copy,
            ordered: false,
            begun: false,
            machine_waits: false,
            transferred: false,
            pause_ms: None,
            end: 0,
            throttle: 0,
            failing: None,
        }));
        self.parts.link.set_disks_ready(false);
        self.parts.link.set_direct(false);
        self.do_primary(actions);
        Ok(())
    }

    /// From now on what was completed on a disk is still there when this host has died.
    fn begin_sharing(&self) -> Result<DiskCopy, String> {
        let flush = Some(RequestId(COPY_BIT));
        let begun = self.parts.backends.with(|backends| backends.set_durable(true, flush));
        begun
            .unwrap_or(false)
            .then(|| DiskCopy::flush_of(&self.parts.disks))
            .ok_or_else(|| "a disk's thread has died".into())
    }

    /// Reads pieces of disks as fast as the channel takes them, and tells the machine when all is copied.
    pub(super) fn copy_disks(&mut self) {
        let Role::Primary(role) = &mut self.role else { return };
        if !role.begun || role.transferred {
            return;
        }
        while role.node.unacknowledged() < COPY_AHEAD
            && let Some((disk, request, offset, length)) = role.copy.next_read()
        {
            let submitted = self.parts.backends.with(|backends| backends.copy_read(disk, request, offset, length));
            if submitted != Some(true) {
                tracing::error!("disk {disk}: its thread has died");
            }
        }
        self.parts.link.set_disks_ready(role.copy.nearly_done());
        if role.machine_waits && role.copy.done() {
            role.machine_waits = false;
            self.order(Order::DisksCopied);
        }
    }

    pub(super) fn do_primary(&mut self, actions: Vec<PrimaryAction>) {
        for action in actions {
            let Role::Primary(role) = &mut self.role else { return };
            match action {
                PrimaryAction::Connect => {
                    let peer = role.peer.clone();
                    self.connect_to(&peer);
                }
                PrimaryAction::Send(epoch, message) => self.send(epoch, &message),
                PrimaryAction::Disconnect => self.disconnected(),
                PrimaryAction::Release(below) => {
                    let count = usize::try_from(below.saturating_sub(role.first)).unwrap_or(usize::MAX);
                    let leaving: Vec<Output> = role.held.drain(..count.min(role.held.len())).collect();
                    role.first = below.max(role.first);
                    leaving.into_iter().for_each(|output| self.release(output));
                }
                PrimaryAction::Record(key) => self.ask(Question::Record(key)),
                PrimaryAction::TestAndSet(key) => {
                    self.note("the arbiter is asked who may go on alone");
                    self.ask(Question::TestAndSet(key));
                }
                PrimaryAction::Pause => self.order(Order::Pause),
                PrimaryAction::Resume => self.order(Order::Resume),
                PrimaryAction::Throttle(throttle) => {
                    role.throttle = throttle;
                    self.parts.link.set_throttle(throttle);
                }
                PrimaryAction::Protected => {
                    self.spare_delay = super::SPARE_DELAY;
                    let peer = role.peer.clone();
                    self.note(&format!("protected by {peer}"));
                }
                PrimaryAction::Alone { epoch, reason } => self.alone(epoch, &reason),
                PrimaryAction::Stop { reason, handed_over } => {
                    let (reason, wished) = match role.failing {
                        Some(disk) if handed_over => {
                            (format!("the backup has taken over: disk {disk} failed on this host"), false)
                        }
                        _ => (reason, handed_over),
                    };
                    self.role = Role::Stopped;
                    self.note(&reason);
                    self.order(Order::Stop(reason, wished));
                }
            }
        }
        if let Role::Primary(role) = &self.role {
            self.parts.link.set_unacknowledged(role.node.unacknowledged());
        }
        self.begin_when_connected();
    }

    /// The machine begins its log when the peer has agreed: a peer that refuses costs nothing.
    fn begin_when_connected(&mut self) {
        let Role::Primary(role) = &mut self.role else { return };
        if role.node.state() == PrimaryState::Transferring && !role.ordered {
            role.ordered = true;
            self.held_alone = false;
            self.order(Order::Protect(self.parts.protection.disks));
        }
    }

    fn connect_to(&mut self, peer: &PeerUrl) {
        match self.connect(peer) {
            Ok(transport) => self.connected(transport),
            Err(reason) => {
                tracing::debug!("{reason}");
                let now = self.now_ns();
                let Role::Primary(role) = &mut self.role else { return };
                let actions = role.disconnected(now);
                self.do_primary(actions);
            }
        }
    }

    fn alone(&mut self, epoch: u64, reason: &str) {
        if epoch != self.epoch {
            self.epoch = epoch;
            self.mark(epoch, Copy::Primary);
        }
        self.role = Role::Alone;
        // A disk whose thread has died is noticed by its machine.
        let _ = self.parts.backends.with(|backends| backends.set_durable(false, None));
        self.disconnected();
        self.parts.link.set_throttle(0);
        self.parts.link.set_unacknowledged(0);
        self.order(Order::Abandon);
        self.note(&format!("the VM runs without a backup: {reason}"));
        if self.parts.protection.pause_alone {
            self.held_alone = true;
            self.order(Order::Pause);
        }
        if !self.parts.protection.spares.is_empty() {
            self.next_spare = Some(std::time::Instant::now() + self.spare_delay);
            self.spare_delay = (self.spare_delay * 2).min(super::SPARE_DELAY_LIMIT);
        }
    }
}
