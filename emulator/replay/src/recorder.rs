//! Makes the log of a running machine.
//!
//! The caller tells the recorder of everything that happens, in order; the recorder turns it into entries and gives frames
//! back when there is enough for one. It holds at most one frame's payload.

use virtft_machine::Machine;
use virtft_machine::io::{Input, InstructionCount, Output};

use crate::entry::{EndReason, LogEntry};
use crate::entry_encode::EntryEncoder;
use crate::frame::{Frame, FrameKind};
use crate::header::LogHeader;
use crate::outputs::OutputDigest;
use crate::reader::FileId;
use crate::snapshot::{self, DiskPart, SnapshotPart};

/// A frame is full when its payload has so many bytes.
pub const FRAME_BYTES: usize = 64 << 10;
/// Bytes of a file in one frame.
const FILE_PART_BYTES: usize = 1 << 20;

/// What is recorded besides the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecorderOptions {
    /// Steps from one digest of CPUs, devices and outputs to the next; at least 1.
    pub digest_every: u64,
    /// Memory is digested with every so many of them; at least 1.
    pub memory_digest_every: u64,
    /// A digest before every input too: it shows at once which input was delivered in another state. For tests.
    pub digest_inputs: bool,
    /// Data read from disks is in the log.
    pub disk_data_in_log: bool,
}

impl Default for RecorderOptions {
    fn default() -> Self {
        Self { digest_every: 10_000_000, memory_digest_every: 100, digest_inputs: false, disk_data_in_log: true }
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct Recorder {
    options: RecorderOptions,
    encoder: EntryEncoder,
    /// Number of the first entry in `encoder`.
    first: u64,
    /// Count of the last entry.
    count: InstructionCount,
    outputs: OutputDigest,
    next_digest: u64,
    digests: u64,
    snapshots: u32,
}

impl Recorder {
    /// A recorder of a machine that stands at `count`.
    #[must_use]
    pub fn new(options: RecorderOptions, count: InstructionCount) -> Self {
        let mut recorder = Self {
            options,
            encoder: EntryEncoder::new(count),
            first: 0,
            count,
            outputs: OutputDigest::default(),
            next_digest: 0,
            digests: 0,
            snapshots: 0,
        };
        recorder.plan_digest(count);
        recorder
    }

    /// The frames with which a log begins: its header, and kernel and initial RAM disk as far as they are to be carried.
    #[must_use]
    pub fn opening(header: &LogHeader, files: &[(FileId, &[u8])]) -> Vec<Frame> {
        let frame = |kind, payload| Frame { kind, epoch: 0, sequence: 0, payload };
        let mut frames = vec![frame(FrameKind::Header, header.to_bytes())];
        for (id, content) in files {
            let parts = content.chunks(FILE_PART_BYTES);
            frames.extend(parts.map(|part| frame(FrameKind::File, [&[id.code()], part].concat())));
        }
        frames
    }

    /// Number of the next entry.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.first + self.encoder.entries()
    }

    /// The machine must be stopped here, at the latest, and [`reached`](Self::reached) be called.
    #[must_use]
    pub fn next_stop(&self) -> InstructionCount {
        InstructionCount(self.next_digest)
    }

    /// Appends an entry.
    pub fn put(&mut self, count: InstructionCount, entry: &LogEntry) {
        self.count = count;
        self.encoder.put(count, entry);
    }

    /// An input is about to be delivered to `machine`.
    pub fn before_input(&mut self, machine: &Machine) {
        if self.options.digest_inputs {
            self.put_state_digest(machine);
        }
    }

    /// An input was delivered at `count`.
    pub fn input(&mut self, count: InstructionCount, input: Input) {
        let entry = match input {
            Input::BlockCompletion { device, request, status, data }
                if !self.options.disk_data_in_log && !data.is_empty() =>
            {
                // Requests are at most 32 MiB long.
                let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
                LogEntry::BlockReference { device, request, status, length, crc: crc32c::crc32c(&data) }
            }
            input => LogEntry::Input(input),
        };
        self.put(count, &entry);
    }

    /// Outputs left the machine at `count`.
    pub fn outputs<'a>(&mut self, count: InstructionCount, outputs: impl IntoIterator<Item = &'a Output>) {
        for output in outputs {
            self.outputs.add(count, output);
        }
    }

    /// The machine was stopped, and its outputs were told: appends digests if they are due.
    pub fn reached(&mut self, machine: &mut Machine) {
        let count = machine.count();
        if count.0 < self.next_digest {
            return;
        }
        self.put_state_digest(machine);
        self.digests += 1;
        if self.digests.is_multiple_of(self.options.memory_digest_every.max(1)) {
            let digest = machine.memory_digest();
            self.put(count, &LogEntry::MemoryDigest(digest));
        }
        self.plan_digest(count);
    }

    /// Takes the next snapshot and hands its frames to `emit`, after the frame of the entries before it.
    pub fn snapshot(&mut self, machine: &mut Machine, emit: &mut dyn FnMut(Frame)) {
        if let Some(frame) = self.flush() {
            emit(frame);
        }
        let (number, sequence) = (self.snapshots, self.sequence());
        self.snapshots += 1;
        snapshot::take(machine, number, self.outputs, &mut |part| {
            emit(Frame { kind: FrameKind::Snapshot, epoch: 0, sequence, payload: part.to_bytes() });
        });
        self.put(machine.count(), &LogEntry::Snapshot(number));
    }

    /// The frame of a part of snapshot 0 that is taken while the machine runs; before any entry.
    #[must_use]
    pub fn part_frame(part: &SnapshotPart) -> Frame {
        Frame { kind: FrameKind::Snapshot, epoch: 0, sequence: 0, payload: part.to_bytes() }
    }

    /// The frame of a part of a disk; before any entry.
    #[must_use]
    pub fn disk_frame(part: &DiskPart) -> Frame {
        Frame { kind: FrameKind::Disk, epoch: 0, sequence: 0, payload: part.to_bytes() }
    }

    /// Snapshot 0 is whole and `machine` stands where it was taken: says so, and puts digests of everything, so that whoever
    /// rebuilds the machine can compare.
    pub fn transferred(&mut self, machine: &mut Machine) {
        self.snapshots = 1;
        self.put(machine.count(), &LogEntry::Snapshot(0));
        self.put_state_digest(machine);
        let digest = machine.memory_digest();
        self.put(machine.count(), &LogEntry::MemoryDigest(digest));
    }

    /// Outputs left the machine at `count` and wait until the log up to here is held by another: whoever replays it must
    /// come so far.
    pub fn mark(&mut self, count: InstructionCount) {
        self.put(count, &LogEntry::Mark);
    }

    /// Digest of the outputs so far.
    #[must_use]
    pub fn output_digest(&self) -> OutputDigest {
        self.outputs
    }

    /// The run ends now: the last frame.
    pub fn end(&mut self, machine: &mut Machine, reason: EndReason) -> Option<Frame> {
        self.put_state_digest(machine);
        let digest = machine.memory_digest();
        self.put(machine.count(), &LogEntry::MemoryDigest(digest));
        self.put(machine.count(), &LogEntry::End(reason));
        self.flush()
    }

    /// A frame, if there is enough for a full one.
    pub fn full_frame(&mut self) -> Option<Frame> {
        if self.encoder.size_bytes() >= FRAME_BYTES { self.flush() } else { None }
    }

    /// A frame of what there is.
    pub fn flush(&mut self) -> Option<Frame> {
        if self.encoder.entries() == 0 {
            return None;
        }
        let sequence = self.first;
        self.first = self.sequence();
        let payload = std::mem::replace(&mut self.encoder, EntryEncoder::new(self.count)).finish();
        Some(Frame { kind: FrameKind::Entries, epoch: 0, sequence, payload })
    }

    fn put_state_digest(&mut self, machine: &Machine) {
        let entry = LogEntry::StateDigest { state: machine.state_digest(), outputs: self.outputs.0 };
        self.put(machine.count(), &entry);
    }

    /// At the multiples of the distance, so that logs of one machine can be compared.
    fn plan_digest(&mut self, count: InstructionCount) {
        let every = self.options.digest_every.max(1);
        self.next_digest = (count.0 / every + 1).saturating_mul(every);
    }
}
