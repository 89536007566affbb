//! A guest whose run is written to a log.
//!
//! [`RecordingGuest`] stands between a driver and the machine: it notes what the driver delivers and what the machine sends
//! out, and stops at the counts at which digests are due. The driver knows nothing of it. Frames go to a thread that
//! compresses and writes them ([`sink`]); the vCPU thread waits for it only when a bounded buffer is full.

pub mod sink;

use std::time::{Duration, Instant};

use virtft_machine::Machine;
use virtft_machine::io::{Input, InstructionCount, Output};
use virtft_replay::header::{BootFiles, DiskData, LogHeader, StartState};
use virtft_replay::reader::FileId;
use virtft_replay::recorder::RecorderOptions;
use virtft_replay::{EndReason, Recorder};

use crate::cli::{BootFilesOption, DiskDataOption, LogOptions};
use crate::driver::{DigestScope, DriverError, Guest, Perturbation, Stop};
use crate::guest::MachineGuest;
use crate::run::MachinePlan;
use sink::LogSink;

/// What was recorded is written out this often: a crash loses no more.
const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// When snapshots are taken.
#[derive(Debug)]
struct SnapshotClock {
    every: Duration,
    next: Instant,
}

/// See the module's description.
#[derive(Debug)]
pub struct RecordingGuest {
    inner: MachineGuest,
    recorder: Recorder,
    sink: LogSink,
    /// What the machine sent out and the driver has not taken.
    outputs: Vec<(InstructionCount, Output)>,
    snapshots: Option<SnapshotClock>,
    flushed: Instant,
    ended: bool,
}

impl RecordingGuest {
    /// Makes the machine of a plan and begins its log.
    ///
    /// # Errors
    /// One line that says why the machine or the log cannot be made.
    pub fn new(plan: MachinePlan<'_>, options: &LogOptions) -> Result<Self, String> {
        let (confinement, restored) = (plan.confinement.clone(), plan.snapshot.is_some());
        let disk_data = match options.disk_data {
            DiskDataOption::Log => DiskData::InLog,
            DiskDataOption::Own => DiskData::OwnCopies((plan.digest_disks)()?),
        };
        let in_log = disk_data == DiskData::InLog;
        let mut inner = MachineGuest::new(plan)?;
        let start = if restored { StartState::Snapshot } else { StartState::Boot };
        let boot_files = match options.boot_files {
            BootFilesOption::Log => BootFiles::InLog,
            BootFilesOption::Apart => BootFiles::Apart,
        };
        let header = LogHeader::new(inner.machine(), start, disk_data, boot_files);
        let sink = LogSink::create(&options.log, !options.no_compress, &confinement)?;
        for frame in Recorder::opening(&header, &carried_files(inner.machine(), boot_files)) {
            sink.push(frame);
        }
        let recorder_options = RecorderOptions {
            digest_every: options.check_every,
            digest_inputs: options.check_inputs,
            disk_data_in_log: in_log,
            ..RecorderOptions::default()
        };
        let mut recorder = Recorder::new(recorder_options, inner.machine().count());
        if restored {
            recorder.snapshot(inner.machine_mut(), &mut |frame| sink.push(frame));
        }
        let now = Instant::now();
        let snapshots = options.snapshot_every.map(|every| SnapshotClock { every, next: now + every });
        Ok(Self { inner, recorder, sink, outputs: Vec::new(), snapshots, flushed: now, ended: false })
    }

    fn snapshot_if_due(&mut self) {
        let Some(clock) = &mut self.snapshots else { return };
        let now = Instant::now();
        if now < clock.next {
            return;
        }
        let sink = &self.sink;
        self.recorder.snapshot(self.inner.machine_mut(), &mut |frame| sink.push(frame));
        // From its end: a machine that takes long to save must not do nothing else.
        clock.next = Instant::now() + clock.every;
    }

    /// After the machine was stopped: outputs, digests, full frames.
    fn note_stop(&mut self) {
        let outputs = self.inner.take_outputs();
        self.recorder.outputs(self.inner.count(), outputs.iter().map(|(_, output)| output));
        self.outputs.extend(outputs);
        self.recorder.reached(self.inner.machine_mut());
        if let Some(frame) = self.recorder.full_frame() {
            self.sink.push(frame);
            self.flushed = Instant::now();
        } else {
            self.flush_if_due();
        }
    }

    fn flush_if_due(&mut self) {
        if self.flushed.elapsed() >= FLUSH_EVERY {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Some(frame) = self.recorder.flush() {
            self.sink.push(frame);
        }
        self.flushed = Instant::now();
    }

    fn end(&mut self, reason: EndReason) {
        if !std::mem::replace(&mut self.ended, true)
            && let Some(frame) = self.recorder.end(self.inner.machine_mut(), reason)
        {
            self.sink.push(frame);
        }
    }
}

/// Kernel and initial RAM disk, as far as the log is to carry them.
pub(crate) fn carried_files(machine: &Machine, boot_files: BootFiles) -> Vec<(FileId, &[u8])> {
    let boot = &machine.config().boot;
    match boot_files {
        BootFiles::Apart => Vec::new(),
        BootFiles::InLog => {
            let initrd = boot.initrd.as_deref().map(|initrd| (FileId::Initrd, initrd));
            [(FileId::Kernel, &*boot.kernel)].into_iter().chain(initrd).collect()
        }
    }
}

impl Guest for RecordingGuest {
    fn count(&self) -> InstructionCount {
        self.inner.count()
    }

    fn time_ns(&self) -> u64 {
        self.inner.time_ns()
    }

    fn run(&mut self, until: InstructionCount) -> Stop {
        self.snapshot_if_due();
        loop {
            if let Some(reason) = self.sink.failure() {
                return Stop::LogFailed(reason);
            }
            let stop = self.inner.run(until.min(self.recorder.next_stop()));
            self.note_stop();
            match &stop {
                Stop::Limit if self.inner.count() < until => continue,
                // Nothing may happen for long.
                Stop::Idle { deadline_ns: None } => self.flush(),
                Stop::Shutdown => self.end(EndReason::Off { status: 0 }),
                Stop::DebugExit(value) => self.end(EndReason::Off { status: value << 1 | 1 }),
                Stop::TripleFault(_) => self.end(EndReason::TripleFault),
                Stop::Limit | Stop::Output | Stop::Idle { .. } | Stop::LogFailed(_) | Stop::Elsewhere(..) => {}
            }
            return stop;
        }
    }

    fn deliver(&mut self, input: Input) {
        self.recorder.before_input(self.inner.machine());
        // What the machine refuses has not happened.
        if self.inner.try_deliver(&input) {
            self.recorder.input(self.inner.count(), input);
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

    /// It leaves no trace in the log but the clock's anchor behind it.
    fn stand_still(&mut self, _paused: bool) {}

    fn finish(&mut self) -> Result<(), DriverError> {
        self.end(EndReason::Stopped);
        self.sink.finish()
    }
}
