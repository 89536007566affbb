//! A guest that can be protected: it records and hands its outputs to the ft thread when told to, and is a plain guest otherwise.
//!
//! Protection begins with a transfer: memory is sent in rounds while the machine runs, a little before each of its slices;
//! when little is left the machine stands still, the disks' last pieces, the last pages and the state are sent, and from then
//! on everything is recorded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use virtft_machine::Machine;
use virtft_machine::io::{BlockOperation, BlockStatus, Input, InstructionCount, Output};
use virtft_replay::header::{BootFiles, DiskData, FORMAT_VERSION, LOG_MAGIC, LogHeader, StartState};
use virtft_replay::recorder::RecorderOptions;
use virtft_replay::snapshot::Precopy;
use virtft_replay::{EndReason, Recorder};

use super::link::{Item, Link, Order};
use crate::cli::DiskPolicy;
use crate::driver::{DigestScope, DriverError, Guest, Perturbation, Stop};
use crate::guest::MachineGuest;
use crate::recording::carried_files;

/// What was recorded is handed over this often at the latest.
const FLUSH_EVERY: Duration = Duration::from_millis(20);
/// With so few pages left the machine is stopped for them: 16 MiB.
const FEW_PAGES: usize = 4096;
/// A machine that writes faster than it is sent is stopped after so many rounds.
const MOST_ROUNDS: u32 = 8;
/// Parts of memory (1 MiB) that are sent before a slice of the machine.
const PARTS_PER_SLICE: usize = 4;
/// The longest stretch of standing still that throttling does at once.
const MOST_HELD: Duration = Duration::from_millis(20);

#[derive(Debug)]
enum Mode {
    /// Nothing is recorded.
    Plain,
    /// The state is being sent.
    Transfer(Precopy),
    /// Everything is recorded.
    Recording(Box<Recorder>),
}

/// See the module's description.
#[derive(Debug)]
pub struct ProtectedGuest {
    inner: MachineGuest,
    link: Arc<Link>,
    mode: Mode,
    /// What the machine sent out and the driver has not taken.
    outputs: Vec<(InstructionCount, Output)>,
    flushed: Instant,
    /// When the machine ran last, for throttling.
    ran: Instant,
    /// The machine is to stand still.
    paused: bool,
    /// An operator makes the machine stand still.
    standing: bool,
    /// Completions of requests that failed on this host alone: they wait for what becomes of the switch to the other.
    withheld: Vec<Input>,
    /// Where the disks are, of the present or the last protection.
    disks: DiskPolicy,
}

/// Whether the world outside sees an output. What changes a shared disk is seen by whoever takes over.
fn leaves(output: &Output, disks: DiskPolicy) -> bool {
    match output {
        Output::NetTransmit { .. } | Output::CharTransmit { .. } => true,
        Output::Block { operation, .. } => {
            disks == DiskPolicy::Shared && !matches!(operation, BlockOperation::Read { .. })
        }
        Output::BalloonInflate { .. } => false,
    }
}

impl ProtectedGuest {
    /// A guest that is not protected yet.
    #[must_use]
    pub fn new(inner: MachineGuest, link: Arc<Link>) -> Self {
        let now = Instant::now();
        Self {
            inner,
            link,
            mode: Mode::Plain,
            outputs: Vec::new(),
            flushed: now,
            ran: now,
            paused: false,
            standing: false,
            withheld: Vec::new(),
            disks: DiskPolicy::default(),
        }
    }

    /// Carries out what the ft thread ordered. A stop when the machine must end.
    fn obey(&mut self) -> Option<Stop> {
        let mut order = self.link.next_order();
        while let Some(now) = order {
            match now {
                Order::Protect(disks) => {
                    self.paused = false;
                    self.disks = disks;
                    self.begin();
                }
                Order::Abandon => {
                    self.mode = Mode::Plain;
                    self.deliver_withheld();
                }
                Order::Pause => {
                    self.flush();
                    self.paused = true;
                    self.link.push(Item::Paused);
                }
                Order::Resume => self.paused = false,
                Order::DisksCopied => {}
                Order::Stop(reason, wished) => return Some(Stop::Elsewhere(reason, wished)),
            }
            order = self.link.next_order();
        }
        None
    }

    /// The log's beginning, and the first round.
    fn begin(&mut self) {
        let machine = self.inner.machine();
        let disk_data = match self.disks {
            DiskPolicy::Replicated => DiskData::OwnCopies(Vec::new()),
            DiskPolicy::Shared => DiskData::InLog,
        };
        let header = LogHeader::new(machine, StartState::Snapshot, disk_data, BootFiles::InLog);
        self.link.push(Item::Begin([LOG_MAGIC.as_slice(), &FORMAT_VERSION.to_le_bytes()].concat()));
        for frame in Recorder::opening(&header, &carried_files(machine, BootFiles::InLog)) {
            self.link.push(Item::Frame(frame));
        }
        self.link.push(Item::Standing(self.standing));
        self.mode = Mode::Transfer(Precopy::begin(self.inner.machine_mut()));
    }

    /// Some parts of memory, as far as the channel takes them; at the end the snapshot is closed.
    fn transfer(&mut self) -> Option<Stop> {
        let Mode::Transfer(precopy) = &mut self.mode else { return None };
        for _ in 0..PARTS_PER_SLICE {
            if !self.link.has_room() {
                return None;
            }
            match precopy.next_part(self.inner.machine_mut(), FEW_PAGES, MOST_ROUNDS) {
                Some(part) => self.link.push(Item::Frame(Recorder::part_frame(&part))),
                None if self.link.disks_ready() => return self.close_transfer(),
                None => return None,
            }
        }
        None
    }

    /// The machine stands still until its state is handed over.
    fn close_transfer(&mut self) -> Option<Stop> {
        let start = Instant::now();
        self.link.push(Item::NeedDisks);
        loop {
            match self.link.wait_for_order() {
                Order::DisksCopied => break,
                Order::Abandon => {
                    self.mode = Mode::Plain;
                    return None;
                }
                Order::Stop(reason, wished) => return Some(Stop::Elsewhere(reason, wished)),
                Order::Protect(_) | Order::Pause | Order::Resume => {}
            }
        }
        let Mode::Transfer(precopy) = std::mem::replace(&mut self.mode, Mode::Plain) else { return None };
        let machine = self.inner.machine_mut();
        let options =
            RecorderOptions { disk_data_in_log: self.disks == DiskPolicy::Shared, ..RecorderOptions::default() };
        let mut recorder = Recorder::new(options, machine.count());
        let outputs = recorder.output_digest();
        precopy.finish(machine, outputs, &mut |part| self.link.push(Item::Frame(Recorder::part_frame(&part))));
        recorder.transferred(machine);
        self.mode = Mode::Recording(Box::new(recorder));
        self.flush();
        self.link.push(Item::Transferred(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)));
        None
    }

    fn flush(&mut self) {
        if let Mode::Recording(recorder) = &mut self.mode
            && let Some(frame) = recorder.flush()
        {
            self.link.push(Item::Frame(frame));
            self.link.push(Item::Progress(self.inner.time_ns()));
        }
        self.flushed = Instant::now();
    }

    /// After the machine was stopped: outputs, digests, frames.
    fn note_stop(&mut self) {
        let outputs = self.inner.take_outputs();
        let disks = self.disks;
        let leaves = |output: &Output| leaves(output, disks);
        if let Mode::Recording(recorder) = &mut self.mode {
            recorder.outputs(self.inner.count(), outputs.iter().map(|(_, output)| output));
            recorder.reached(self.inner.machine_mut());
            // An output waits until the log that leads to it is held: that is handed over at once.
            if outputs.iter().any(|(_, output)| leaves(output)) {
                recorder.mark(self.inner.count());
                self.flush();
            } else if recorder.full_frame().map(|frame| self.link.push(Item::Frame(frame))).is_some()
                || self.flushed.elapsed() >= FLUSH_EVERY
            {
                self.flush();
            }
        }
        for (count, output) in outputs {
            self.note_written(&output);
            let output = if leaves(&output) { self.link.output(output) } else { Some(output) };
            self.outputs.extend(output.map(|output| (count, output)));
        }
    }

    /// While disks are copied, what is written meanwhile must be copied again.
    fn note_written(&self, output: &Output) {
        if self.disks == DiskPolicy::Shared {
            return;
        }
        let (Mode::Transfer(_), Output::Block { device, operation, .. }) = (&self.mode, output) else { return };
        let (offset, length) = match operation {
            BlockOperation::Write { offset, data } => (*offset, data.len() as u64),
            BlockOperation::Discard { offset, length } | BlockOperation::WriteZeroes { offset, length, .. } => {
                (*offset, *length)
            }
            BlockOperation::Read { .. } | BlockOperation::Flush => return,
        };
        self.link.push(Item::DiskWritten(device.0, offset, length));
    }

    /// Stands still for the part of the time that the ft thread asks for, so that a backup can catch up.
    fn hold_back(&mut self) {
        let throttle = u32::from(self.link.throttle().min(950));
        if throttle > 0 {
            let held = self.ran.elapsed() * throttle / (1000 - throttle);
            std::thread::sleep(held.min(MOST_HELD));
        }
        self.ran = Instant::now();
    }

    /// Whether a request failed on this host while another has a copy of the disk, which may be better.
    fn fails_here_alone(&self, input: &Input) -> bool {
        let (Mode::Recording(_), Input::BlockCompletion { device, status: BlockStatus::IoError, .. }) =
            (&self.mode, input)
        else {
            return false;
        };
        let alone = self.disks == DiskPolicy::Replicated;
        if alone {
            self.link.push(Item::DiskFailed(device.0));
        }
        alone
    }

    /// There is no other host: the guest sees what its disk does.
    fn deliver_withheld(&mut self) {
        for input in std::mem::take(&mut self.withheld) {
            self.deliver(input);
        }
    }

    fn end(&mut self, reason: EndReason) {
        if let Mode::Recording(recorder) = &mut self.mode
            && let Some(frame) = recorder.end(self.inner.machine_mut(), reason)
        {
            self.link.push(Item::Frame(frame));
        }
        self.mode = Mode::Plain;
    }

    /// The machine itself.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        self.inner.machine()
    }
}

impl Guest for ProtectedGuest {
    fn count(&self) -> InstructionCount {
        self.inner.count()
    }

    fn time_ns(&self) -> u64 {
        self.inner.time_ns()
    }

    fn run(&mut self, until: InstructionCount) -> Stop {
        if let Some(stop) = self.obey().or_else(|| self.transfer()) {
            return stop;
        }
        if self.paused {
            // As an idle guest, so that whoever drives it still hears the user; the next order wakes it.
            return Stop::Idle { deadline_ns: None };
        }
        self.hold_back();
        loop {
            let limit = match &self.mode {
                Mode::Recording(recorder) => until.min(recorder.next_stop()),
                Mode::Plain | Mode::Transfer(_) => until,
            };
            let stop = self.inner.run(limit);
            self.note_stop();
            match &stop {
                Stop::Limit if self.inner.count() < until => continue,
                // Nothing may happen for long.
                Stop::Idle { .. } => self.flush(),
                Stop::Shutdown => self.end(EndReason::Off { status: 0 }),
                Stop::DebugExit(value) => self.end(EndReason::Off { status: value << 1 | 1 }),
                Stop::TripleFault(_) => self.end(EndReason::TripleFault),
                Stop::Limit | Stop::Output | Stop::LogFailed(_) | Stop::Elsewhere(..) => {}
            }
            return stop;
        }
    }

    fn deliver(&mut self, input: Input) {
        if self.fails_here_alone(&input) {
            self.withheld.push(input);
            return;
        }
        if let Mode::Recording(recorder) = &mut self.mode {
            recorder.before_input(self.inner.machine());
        }
        // What the machine refuses has not happened.
        if self.inner.try_deliver(&input)
            && let Mode::Recording(recorder) = &mut self.mode
        {
            recorder.input(self.inner.count(), input);
        }
    }

    fn take_outputs(&mut self) -> Vec<(InstructionCount, Output)> {
        std::mem::take(&mut self.outputs)
    }

    fn release_frames(&mut self, frames: &[u64]) {
        self.inner.release_frames(frames);
    }

    fn requests_in_flight(&self) -> usize {
        self.inner.requests_in_flight()
    }

    fn counters(&self) -> Vec<(String, u64)> {
        self.inner.counters()
    }

    fn digest(&mut self, scope: DigestScope) -> u64 {
        self.inner.digest(scope)
    }

    fn save(&mut self) -> Result<Vec<u8>, String> {
        self.inner.save()
    }

    fn perturb(&mut self, kind: Perturbation, random: u64) -> Result<(), String> {
        self.inner.perturb(kind, random)
    }

    /// Whoever takes over leaves the machine so.
    fn stand_still(&mut self, paused: bool) {
        self.standing = paused;
        if !matches!(self.mode, Mode::Plain) {
            self.link.push(Item::Standing(paused));
        }
    }

    fn finish(&mut self) -> Result<(), DriverError> {
        self.end(EndReason::Stopped);
        Ok(())
    }
}
