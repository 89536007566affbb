//! Entries to bytes. The reader is [`crate::entry_decode`]; `docs/log-format.md` is the specification of both.
//!
//! The payload of a frame begins with the count at which it starts. Each entry is a tag (kind in the upper four bits,
//! a variant or device in the lower), the steps since the entry before it, and its fields. Nothing refers to another frame,
//! so reading can begin at any.

use virtft_machine::io::{BlockStatus, CharPort, ClockAnchor, DeviceIndex, Input, InstructionCount};

use crate::bytes::{fold_difference, put_bytes, put_integer};
use crate::entry::{EndReason, LogEntry};
use crate::net_header::put_packet;

/// Kinds of entries, as the upper four bits of a tag.
pub(crate) mod kind {
    pub const ANCHOR: u8 = 0;
    pub const NET_RECEIVE: u8 = 1;
    pub const NET_LINK: u8 = 2;
    pub const BLOCK_COMPLETION: u8 = 3;
    pub const BLOCK_REFERENCE: u8 = 4;
    pub const CHAR_RECEIVE: u8 = 5;
    pub const CONTROL: u8 = 6;
    pub const MARK: u8 = 7;
    pub const DIGEST: u8 = 8;
    pub const STRUCTURE: u8 = 9;
}

/// Variants of [`kind::CONTROL`].
pub(crate) mod control {
    pub const RTC_ORIGIN: u8 = 0;
    pub const KEYBOARD: u8 = 1;
    pub const ENTROPY: u8 = 2;
    pub const BALLOON: u8 = 3;
    pub const POWER_BUTTON: u8 = 4;
    pub const RESET: u8 = 5;
    pub const NMI: u8 = 6;
}

/// A device index from this on follows the tag as a byte.
pub(crate) const FAR_DEVICE: u8 = 15;

/// The last clock anchor of a frame: from it the next one is predicted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub at: u64,
    pub anchor: ClockAnchor,
}

impl Line {
    /// Guest time at `count`, as [`virtft_machine::clock::Clock`] computes it.
    pub fn time_at(self, count: u64) -> u64 {
        let passed = (u128::from(count.saturating_sub(self.at)) * u128::from(self.anchor.rate)) >> 32;
        u64::try_from(u128::from(self.anchor.time_ns) + passed).unwrap_or(u64::MAX)
    }
}

/// Builds the payload of one frame.
#[derive(Debug)]
pub struct EntryEncoder {
    out: Vec<u8>,
    count: u64,
    line: Option<Line>,
    entries: u64,
}

impl EntryEncoder {
    /// An empty payload whose first entry will be at `count` or later.
    #[must_use]
    pub fn new(count: InstructionCount) -> Self {
        let mut out = Vec::new();
        put_integer(&mut out, count.0);
        Self { out, count: count.0, line: None, entries: 0 }
    }

    /// Entries so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Size of the payload so far, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.out.len()
    }

    /// The payload.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    /// Appends an entry.
    ///
    /// # Panics
    /// When `count` lies before that of the last entry: the caller's counts only grow.
    pub fn put(&mut self, count: InstructionCount, entry: &LogEntry) {
        let steps = count.0.checked_sub(self.count).expect("counts of a log only grow");
        self.count = count.0;
        self.entries += 1;
        match entry {
            LogEntry::Input(input) => self.put_input(steps, input),
            LogEntry::BlockReference { device, request, status, length, crc } => {
                self.device_tag(kind::BLOCK_REFERENCE, *device, steps);
                put_integer(&mut self.out, request.0);
                self.out.push(status_code(*status));
                put_integer(&mut self.out, u64::from(*length));
                self.out.extend_from_slice(&crc.to_le_bytes());
            }
            LogEntry::Mark => self.tag(kind::MARK, 0, steps),
            LogEntry::StateDigest { state, outputs } => {
                self.tag(kind::DIGEST, 0, steps);
                self.out.extend_from_slice(&state.0.to_le_bytes());
                self.out.extend_from_slice(&outputs.to_le_bytes());
            }
            LogEntry::MemoryDigest(digest) => {
                self.tag(kind::DIGEST, 1, steps);
                self.out.extend_from_slice(&digest.0.to_le_bytes());
            }
            LogEntry::Snapshot(number) => {
                self.tag(kind::STRUCTURE, 0, steps);
                put_integer(&mut self.out, u64::from(*number));
            }
            LogEntry::End(reason) => {
                self.tag(kind::STRUCTURE, 1, steps);
                self.out.extend_from_slice(&match reason {
                    EndReason::Off { status } => [0, *status],
                    EndReason::TripleFault => [1, 0],
                    EndReason::Stopped => [2, 0],
                });
            }
        }
    }

    fn put_input(&mut self, steps: u64, input: &Input) {
        match input {
            Input::ClockAnchor(anchor) => self.put_anchor(steps, *anchor),
            Input::NetReceive { device, packet } => {
                self.device_tag(kind::NET_RECEIVE, *device, steps);
                put_packet(&mut self.out, packet);
            }
            Input::NetLink { device, up } => {
                self.device_tag(kind::NET_LINK, *device, steps);
                self.out.push(u8::from(*up));
            }
            Input::BlockCompletion { device, request, status, data } => {
                self.device_tag(kind::BLOCK_COMPLETION, *device, steps);
                put_integer(&mut self.out, request.0);
                self.out.push(status_code(*status));
                put_bytes(&mut self.out, data);
            }
            Input::CharReceive { port, data } => {
                let (class, index) = match port {
                    CharPort::Serial(index) => (0, *index),
                    CharPort::Console(index) => (1, *index),
                    CharPort::DebugCon => (2, 0),
                };
                self.tag(kind::CHAR_RECEIVE, class, steps);
                self.out.push(index);
                put_bytes(&mut self.out, data);
            }
            Input::RtcOrigin { unix_ns } => self.put_control(control::RTC_ORIGIN, steps, Some(*unix_ns)),
            Input::Keyboard { scancodes } => {
                self.put_control(control::KEYBOARD, steps, None);
                put_bytes(&mut self.out, scancodes);
            }
            Input::EntropySeed(seed) => {
                self.put_control(control::ENTROPY, steps, None);
                self.out.extend_from_slice(seed);
            }
            Input::BalloonTarget { pages } => self.put_control(control::BALLOON, steps, Some(u64::from(*pages))),
            Input::PowerButton => self.put_control(control::POWER_BUTTON, steps, None),
            Input::Reset => self.put_control(control::RESET, steps, None),
            Input::Nmi => self.put_control(control::NMI, steps, None),
        }
    }

    /// Time is written as the difference to what the last anchor foretells, which is zero while the guest is busy.
    fn put_anchor(&mut self, steps: u64, anchor: ClockAnchor) {
        match self.line {
            Some(line) => {
                self.tag(kind::ANCHOR, 1, steps);
                put_integer(&mut self.out, fold_difference(anchor.time_ns, line.time_at(self.count)));
                put_integer(&mut self.out, fold_difference(anchor.rate, line.anchor.rate));
            }
            None => {
                self.tag(kind::ANCHOR, 0, steps);
                put_integer(&mut self.out, anchor.time_ns);
                put_integer(&mut self.out, anchor.rate);
            }
        }
        self.line = Some(Line { at: self.count, anchor });
    }

    fn put_control(&mut self, variant: u8, steps: u64, value: Option<u64>) {
        self.tag(kind::CONTROL, variant, steps);
        if let Some(value) = value {
            put_integer(&mut self.out, value);
        }
    }

    fn tag(&mut self, kind: u8, variant: u8, steps: u64) {
        self.out.push(kind << 4 | variant);
        put_integer(&mut self.out, steps);
    }

    fn device_tag(&mut self, kind: u8, device: DeviceIndex, steps: u64) {
        self.tag(kind, device.0.min(FAR_DEVICE), steps);
        if device.0 >= FAR_DEVICE {
            self.out.push(device.0);
        }
    }
}

fn status_code(status: BlockStatus) -> u8 {
    match status {
        BlockStatus::Ok => 0,
        BlockStatus::IoError => 1,
        BlockStatus::Unsupported => 2,
    }
}
