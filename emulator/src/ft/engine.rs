//! The ft thread: drives a node of the protocol with sockets, time and the arbiter, and does what it says.

mod backup;
mod join;
mod primary;

use std::collections::VecDeque;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtft_ft::message::encode;
use virtft_ft::{Decoder, Message, Timing};

use super::arbiter::{ArbiterOption, ArbiterThread, Question, Reply};
use super::generation::{Copy, Marks};
use super::link::{Item, Link, Order};
use super::transport::{Security, Transport};
use super::url::PeerUrl;
use super::{SharedBackends, announce};
use crate::cli::{DiskPolicy, FtOption};
use crate::control::{Command, Place, Request, SharedStatus, Status};
use crate::disk::{Completion, DiskFacts};
use crate::queue::InputQueue;
pub use backup::{BackupLink, REBUILT_ENTRIES, Verdict};
use backup::{BackupRole, Newcomer};
pub(crate) use join::begin;
use primary::PrimaryRole;

/// The nodes are told of the time this often.
const TICK: Duration = Duration::from_millis(10);
/// With nothing to do it looks up only this often, in milliseconds.
const REST_MS: u128 = 1000;
/// Connecting takes at most so long: the thread does nothing else meanwhile.
const CONNECT_LIMIT: Duration = Duration::from_millis(150);
/// After its machine has ended, a primary waits so long for its last outputs to be acknowledged.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// New MAC addresses are announced again for so long, and so often.
const ANNOUNCE_FOR: Duration = Duration::from_secs(10);
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// After a lost backup the next spare is tried after this, doubled with each failure.
const SPARE_DELAY: Duration = Duration::from_secs(1);
const SPARE_DELAY_LIMIT: Duration = Duration::from_secs(300);

/// What an operator wants of a VM's protection.
#[derive(Debug, Clone, Default)]
pub struct Protection {
    /// Backups to be made: the first at once, the others after a failure.
    pub spares: VecDeque<PeerUrl>,
    /// When the backup is lost, the machine stands still instead of going on unprotected.
    pub pause_alone: bool,
    /// Times of the protocol.
    pub timing: Timing,
    /// Where the disks are.
    pub disks: DiskPolicy,
}

impl Protection {
    /// What an option says.
    #[must_use]
    pub fn of(option: &FtOption) -> Self {
        Self {
            spares: option.peer.iter().chain(&option.spares).cloned().collect(),
            pause_alone: option.pause_alone,
            timing: option.timing(),
            disks: option.disks,
        }
    }
}

/// What the ft thread is made from.
#[derive(Debug)]
pub struct EngineParts {
    /// Name of the VM.
    pub vm: String,
    /// Its incarnation; 0 in a backup, which learns it, and in a VM that was never to be protected.
    pub incarnation: u64,
    /// What an operator wants.
    pub protection: Protection,
    /// Who decides; `None` before the VM is to be protected.
    pub membership: Option<Membership>,
    /// To the vCPU thread.
    pub link: Arc<Link>,
    /// Wakes the vCPU thread.
    pub queue: Arc<InputQueue>,
    /// Where outputs go.
    pub backends: SharedBackends,
    /// This process's token at the arbiter.
    pub token: [u8; 16],
    /// Facts of the disks.
    pub disks: Vec<DiskFacts>,
    /// MAC addresses of the network devices.
    pub macs: Vec<[u8; 6]>,
    /// Beside the images.
    pub marks: Marks,
    /// Shared with the control thread.
    pub status: SharedStatus,
    /// From the control thread.
    pub commands: Receiver<Command>,
    /// Pieces of disks that were read for a copy.
    pub copied: Receiver<(u8, Completion)>,
    /// The control socket, removed at the end.
    pub control: Option<Place>,
}

/// A VM's place among those that can be protected.
#[derive(Debug)]
pub struct Membership {
    /// Which arbiter decides.
    pub option: ArbiterOption,
    /// Asks it.
    pub arbiter: ArbiterThread,
    /// Certificates; `None` for plain TCP.
    pub security: Option<Security>,
}

#[derive(Debug)]
enum Role {
    Alone,
    Primary(Box<PrimaryRole>),
    Backup(Box<BackupRole>),
    Stopped,
}

/// See the module's description.
#[derive(Debug)]
pub struct Engine {
    parts: EngineParts,
    role: Role,
    /// Epoch of the pair, or that the next one would have.
    epoch: u64,
    transport: Option<Transport>,
    decoder: Decoder,
    /// Connections to a backup that have not introduced themselves.
    newcomers: Vec<Newcomer>,
    origin: Instant,
    ending: Arc<AtomicBool>,
    ended_at: Option<Instant>,
    next_tick: Instant,
    announce_until: Option<(Instant, Instant)>,
    next_spare: Option<Instant>,
    spare_delay: Duration,
    /// The machine stands still because it has no backup.
    held_alone: bool,
    log_bytes: u64,
    rate: (Instant, u64),
}

/// The running ft thread.
#[derive(Debug)]
pub struct EngineHandle {
    ending: Arc<AtomicBool>,
    link: Arc<Link>,
    thread: Option<JoinHandle<()>>,
}

impl EngineHandle {
    /// The machine has ended: its last outputs leave, then the thread ends.
    pub fn finish(mut self) {
        self.ending.store(true, Ordering::Release);
        self.link.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the ft thread panicked");
        }
    }
}

impl Engine {
    /// An engine of a machine that runs here.
    #[must_use]
    pub fn new(parts: EngineParts) -> Self {
        let now = Instant::now();
        let next_spare = (!parts.protection.spares.is_empty()).then_some(now);
        Self {
            parts,
            role: Role::Alone,
            epoch: 1,
            transport: None,
            decoder: Decoder::default(),
            newcomers: Vec::new(),
            origin: now,
            ending: Arc::default(),
            ended_at: None,
            next_tick: now,
            announce_until: None,
            next_spare,
            spare_delay: SPARE_DELAY,
            held_alone: false,
            log_bytes: 0,
            rate: (now, 0),
        }
    }

    /// An engine of a backup, which listens here.
    #[must_use]
    pub fn backup(parts: EngineParts, listener: TcpListener, link: Arc<BackupLink>) -> Self {
        let mut engine = Self::new(parts);
        engine.next_spare = None;
        engine.role = Role::Backup(Box::new(BackupRole::new(&engine.parts, listener, link)));
        engine
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When there are no more threads.
    pub fn start(self) -> io::Result<EngineHandle> {
        let (ending, link) = (Arc::clone(&self.ending), Arc::clone(&self.parts.link));
        let body = move || {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.run())).is_err() {
                // Fail-stop: a replica whose protocol has failed is none. The other side goes on.
                tracing::error!("the ft thread panicked; this process ends, so that the other host goes on");
                std::process::abort();
            }
        };
        let thread = std::thread::Builder::new().name("ft".into()).spawn(body)?;
        Ok(EngineHandle { ending, link, thread: Some(thread) })
    }

    fn run(mut self) {
        self.update(|status| "started".clone_into(&mut status.last_event));
        while !self.is_over() {
            self.wait();
            self.accept();
            self.hear_newcomers();
            self.take_items();
            self.take_copied();
            self.receive();
            while let Some(reply) = self.parts.membership.as_ref().and_then(|member| member.arbiter.reply()) {
                self.replied(reply);
            }
            while let Ok(command) = self.parts.commands.try_recv() {
                let result = self.command(command.request);
                // Whoever asks for the status next sees what came of it.
                self.show();
                // A client that hung up does not want to know.
                let _ = command.answer.send(result);
            }
            if Instant::now() >= self.next_tick {
                self.next_tick = Instant::now() + TICK;
                self.tick();
            }
            self.flush();
        }
        drop(self.parts.control.take());
    }

    /// After its machine has ended, a primary stays until its outputs have left.
    fn is_over(&mut self) -> bool {
        if !self.ending.load(Ordering::Acquire) {
            return false;
        }
        let since = *self.ended_at.get_or_insert_with(Instant::now);
        match &self.role {
            Role::Primary(role) => role.is_acknowledged() || since.elapsed() > LAST_WORDS,
            Role::Backup(role) => role.may_end() || since.elapsed() > LAST_WORDS,
            Role::Alone | Role::Stopped => self.parts.link.set_direct(true),
        }
    }

    fn wait(&self) {
        // Alone with nothing to do, it would only keep the host from sleeping.
        let rests = matches!(self.role, Role::Alone | Role::Stopped)
            && self.announce_until.is_none()
            && self.next_spare.is_none()
            && !self.ending.load(Ordering::Acquire);
        let tick = self.next_tick.saturating_duration_since(Instant::now()).as_millis().min(10) + 1;
        let timeout = PollTimeout::try_from(if rests { REST_MS } else { tick }).unwrap_or(PollTimeout::ZERO);
        let mut fds = vec![PollFd::new(self.parts.link.wake_fd(), PollFlags::POLLIN)];
        if let Some(transport) = &self.transport {
            let write = if transport.wants_write() { PollFlags::POLLOUT } else { PollFlags::empty() };
            fds.push(PollFd::new(transport.as_fd(), PollFlags::POLLIN | write));
        }
        if let Role::Backup(role) = &self.role
            && let Some(listener) = role.listener()
        {
            fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        fds.extend(self.newcomers.iter().map(|newcomer| PollFd::new(newcomer.as_fd(), PollFlags::POLLIN)));
        // Interrupted or not: everything is looked at.
        let _ = poll(&mut fds, timeout);
        self.parts.link.woken();
    }

    fn connected(&mut self, transport: Transport) {
        self.transport = Some(transport);
        self.decoder = Decoder::default();
        let now = self.now_ns();
        match &mut self.role {
            Role::Primary(role) => {
                let actions = role.connected(now);
                self.do_primary(actions);
            }
            Role::Backup(role) => {
                let actions = role.connected(now);
                self.do_backup(actions);
            }
            Role::Alone | Role::Stopped => {}
        }
    }

    /// The connection is gone, if there was one.
    fn disconnected(&mut self) {
        let Some(transport) = self.transport.take() else { return };
        transport.close();
        let now = self.now_ns();
        match &mut self.role {
            Role::Primary(role) => {
                let actions = role.disconnected(now);
                self.do_primary(actions);
            }
            Role::Backup(role) => {
                let actions = role.disconnected(now);
                self.do_backup(actions);
            }
            Role::Alone | Role::Stopped => {}
        }
    }

    fn connect(&mut self, peer: &PeerUrl) -> Result<Transport, String> {
        let address = peer.resolve()?;
        let stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT).map_err(|error| format!("{peer}: {error}"))?;
        let security = if peer.tls { Some(self.security().ok_or("no certificates were loaded")?) } else { None };
        Transport::client(stream, &peer.host, security).map_err(|error| format!("{peer}: {error}"))
    }

    fn security(&self) -> Option<&Security> {
        self.parts.membership.as_ref()?.security.as_ref()
    }

    fn send(&mut self, epoch: u64, message: &Message) {
        if let Some(transport) = &mut self.transport
            && let Err(error) = transport.send(&encode(epoch, message))
        {
            tracing::debug!("channel: {error}");
            self.disconnected();
        }
    }

    fn flush(&mut self) {
        if let Some(transport) = &mut self.transport
            && let Err(error) = transport.flush()
        {
            tracing::debug!("channel: {error}");
            self.disconnected();
        }
    }

    /// What the peer has sent.
    fn receive(&mut self) {
        let Some(transport) = &mut self.transport else { return };
        let mut bytes = Vec::new();
        let open = transport.read(&mut bytes);
        self.decoder.push(&bytes);
        loop {
            match self.decoder.next_message() {
                Ok(Some((epoch, message))) => self.message(epoch, message),
                Ok(None) => break,
                Err(error) => {
                    self.note(&format!("the connection was given up: {error}"));
                    return self.disconnected();
                }
            }
        }
        match open {
            Ok(true) => {}
            Ok(false) => self.disconnected(),
            Err(error) => {
                tracing::warn!("channel: {error}");
                self.disconnected();
            }
        }
    }

    fn message(&mut self, epoch: u64, message: Message) {
        let now = self.now_ns();
        match &mut self.role {
            Role::Primary(role) => {
                let actions = role.message(epoch, message, now);
                self.do_primary(actions);
            }
            Role::Backup(role) => {
                let actions = role.message(epoch, message, now);
                self.do_backup(actions);
            }
            Role::Alone | Role::Stopped => {}
        }
    }

    /// What the vCPU thread has handed over.
    fn take_items(&mut self) {
        let items = self.parts.link.take();
        let now = self.now_ns();
        for item in items {
            match &mut self.role {
                Role::Primary(role) => {
                    let (actions, bytes) = role.item(item, now);
                    self.log_bytes += bytes;
                    self.do_primary(actions);
                }
                Role::Alone => {
                    if let Item::Output(output) = item {
                        self.release(output);
                    }
                }
                // Nothing that this machine still says may leave.
                Role::Backup(_) | Role::Stopped => {}
            }
        }
        if matches!(self.role, Role::Alone) {
            self.parts.link.set_direct(true);
        }
    }

    fn take_copied(&mut self) {
        while let Ok((disk, completion)) = self.parts.copied.try_recv() {
            let now = self.now_ns();
            if let Role::Primary(role) = &mut self.role {
                let (actions, bytes) = role.copied(disk, completion, now);
                self.log_bytes += bytes;
                self.do_primary(actions);
            }
        }
    }

    fn replied(&mut self, reply: Reply) {
        let now = self.now_ns();
        match &mut self.role {
            Role::Primary(role) => {
                let actions = role.replied(&reply, now);
                self.do_primary(actions);
            }
            Role::Backup(role) => {
                let actions = role.replied(&reply, now);
                self.do_backup(actions);
            }
            Role::Alone | Role::Stopped => {}
        }
    }

    fn tick(&mut self) {
        let now = self.now_ns();
        match &mut self.role {
            Role::Primary(role) => {
                let actions = role.tick(now);
                self.do_primary(actions);
                self.copy_disks();
                // A machine that idles would not go on with its transfer.
                if self.role_is_transferring() {
                    self.parts.queue.poke();
                }
            }
            Role::Backup(role) => {
                let actions = role.tick(now);
                self.do_backup(actions);
            }
            Role::Alone => self.try_spare(),
            Role::Stopped => {}
        }
        self.announce();
        self.show();
    }

    fn role_is_transferring(&self) -> bool {
        matches!(&self.role, Role::Primary(role) if role.is_transferring())
    }

    fn try_spare(&mut self) {
        if self.next_spare.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.next_spare = None;
        if let Some(peer) = self.parts.protection.spares.pop_front() {
            self.parts.protection.spares.push_back(peer.clone());
            if let Err(reason) = self.protect(peer) {
                self.note(&reason);
            }
        }
    }

    /// Whoever forwards frames learns where the machine is now.
    fn announce(&mut self) {
        let Some((next, until)) = self.announce_until else { return };
        let now = Instant::now();
        if self.parts.backends.with(|_| ()).is_none() {
            // Something is in the machine's way yet: whoever forwards frames hears of it when it runs.
            self.announce_until = Some((now, now + ANNOUNCE_FOR));
            return;
        }
        if now < next {
            return;
        }
        self.announce_until = (now < until).then_some((now + ANNOUNCE_EVERY, until));
        for (device, mac) in (0..).zip(&self.parts.macs) {
            let output = announce::frame(device, *mac);
            self.release(output);
        }
    }

    fn command(&mut self, request: Request) -> Result<(), String> {
        let now = self.now_ns();
        match (request, &mut self.role) {
            (Request::Protect { peer, ft }, Role::Alone) => {
                let peer = peer.parse::<PeerUrl>().map_err(|error| error.to_string())?;
                peer.resolve()?;
                self.join(ft.as_deref(), &peer)?;
                self.protect(peer)
            }
            (Request::Protect { .. }, _) => Err("the VM has a backup, or is one".into()),
            (Request::Failover, Role::Primary(role)) => {
                let actions = role.failover(now)?;
                self.do_primary(actions);
                self.parts.queue.poke();
                Ok(())
            }
            (Request::Unprotect, Role::Primary(role)) => {
                let actions = role.leave("an operator ended the protection", now);
                self.parts.protection.spares.clear();
                self.do_primary(actions);
                Ok(())
            }
            (Request::Failover | Request::Unprotect, _) => Err("the VM is not protected".into()),
            (Request::Resume, Role::Alone) => {
                self.held_alone = false;
                self.order(Order::Resume);
                Ok(())
            }
            // All others were answered before they came here.
            _ => Ok(()),
        }
    }

    /// One output leaves.
    fn release(&self, output: virtft_machine::io::Output) {
        use crate::driver::OutputSink as _;
        if let Err(error) = self.parts.backends.clone().send(output) {
            tracing::error!("an output is lost: {error}");
        }
    }

    fn ask(&self, question: Question) {
        if let Some(member) = &self.parts.membership {
            member.arbiter.ask(question);
        }
    }

    fn order(&self, order: Order) {
        self.parts.link.order(order);
        self.parts.queue.poke();
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Notes beside the images what they are now. An image that cannot be marked is used all the same: the mark it has is older, so that
    /// it will be refused rather than trusted.
    fn mark(&self, epoch: u64, copy: Copy) {
        if let Err(reason) = self.parts.marks.set(&self.parts.vm, self.parts.incarnation, epoch, copy) {
            tracing::error!("{reason}");
        }
    }

    /// Something happened that an operator wants to know.
    fn note(&self, text: &str) {
        tracing::warn!("{}: {text}", self.parts.vm);
        self.update(|status| text.clone_into(&mut status.last_event));
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        self.parts.status.update(change);
    }

    fn show(&mut self) {
        let passed = self.rate.0.elapsed();
        let rate = (passed >= Duration::from_secs(1)).then(|| {
            let bytes = self.log_bytes - self.rate.1;
            self.rate = (Instant::now(), self.log_bytes);
            u64::try_from(u128::from(bytes) * 1000 / passed.as_millis().max(1)).unwrap_or(u64::MAX)
        });
        self.parts.status.update(|status| {
            status.vm.clone_from(&self.parts.vm);
            (status.incarnation, status.epoch) = (self.parts.incarnation, self.epoch);
            status.log_bytes = self.log_bytes;
            status.log_bytes_per_s = rate.unwrap_or(status.log_bytes_per_s);
            match &self.role {
                Role::Alone => {
                    let state = match self.parts.link.obstacle() {
                        Some(obstacle) => obstacle,
                        None if self.held_alone => "standing still without a backup".into(),
                        None => "running".into(),
                    };
                    (status.role, status.state) = ("unprotected".into(), state);
                }
                Role::Stopped => (status.role, status.state) = ("unprotected".into(), "stopped".into()),
                Role::Primary(role) => role.show(status),
                Role::Backup(role) => role.show(status),
            }
            if !matches!(self.role, Role::Primary(_)) {
                status.peer = None;
                (status.unacknowledged_bytes, status.outputs_held, status.lag_ms, status.throttle) = (0, 0, 0, 0);
                status.disks_copied = None;
            }
        });
    }
}
