//! What a log is made of.

use virtft_machine::io::{BlockStatus, DeviceIndex, Input, InstructionCount, RequestId};
use virtft_machine::machine::StateDigest;

/// Why a recorded run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The machine went off with this status: 0 for a clean power-off.
    Off {
        /// As in [`virtft_machine::StopReason::Off`].
        status: u8,
    },
    /// A vCPU shut down.
    TripleFault,
    /// The run was ended from outside; the machine could have gone on.
    Stopped,
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEntry {
    /// An input was delivered.
    Input(Input),
    /// A read was completed whose data the replaying side takes from its own copy of the disk.
    BlockReference {
        /// Which disk.
        device: DeviceIndex,
        /// Which request.
        request: RequestId,
        /// How it ended.
        status: BlockStatus,
        /// Bytes read.
        length: u32,
        /// CRC-32C of the bytes read: both copies must agree.
        crc: u32,
    },
    /// All that happened up to here is in the log: a replica may execute up to this count.
    Mark,
    /// Digests of the present state and of all outputs so far.
    StateDigest {
        /// CPUs and devices.
        state: StateDigest,
        /// Outputs since the beginning ([`crate::outputs::OutputDigest`]).
        outputs: u64,
    },
    /// Digest of all memory.
    MemoryDigest(StateDigest),
    /// Snapshot number `n` of this log was taken here.
    Snapshot(u32),
    /// The run ended here, on purpose. A log without it is unfinished.
    End(EndReason),
}

/// An entry with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positioned {
    /// Steps executed before it.
    pub count: InstructionCount,
    /// Its number in the log, from 0.
    pub sequence: u64,
    /// The entry.
    pub entry: LogEntry,
}

/// What kinds of entries there are, for statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// Clock anchors.
    ClockAnchor,
    /// Received packets, and changes of links.
    Network,
    /// Completed disk requests.
    Block,
    /// Typed bytes and keys.
    Console,
    /// Seeds of random numbers.
    Entropy,
    /// Power, reset, balloon, time origin, non-maskable interrupts.
    Control,
    /// Marks.
    Mark,
    /// Digests.
    Digest,
    /// Places of snapshots, and the end.
    Structure,
}

impl EntryKind {
    /// Every kind, in order.
    pub const ALL: [Self; 9] = [
        Self::ClockAnchor,
        Self::Network,
        Self::Block,
        Self::Console,
        Self::Entropy,
        Self::Control,
        Self::Mark,
        Self::Digest,
        Self::Structure,
    ];

    /// Its name in listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ClockAnchor => "clock anchors",
            Self::Network => "network",
            Self::Block => "disk completions",
            Self::Console => "console",
            Self::Entropy => "entropy seeds",
            Self::Control => "control",
            Self::Mark => "marks",
            Self::Digest => "digests",
            Self::Structure => "snapshots and end",
        }
    }
}

impl LogEntry {
    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        match self {
            Self::Input(input) => match input {
                Input::ClockAnchor(_) => EntryKind::ClockAnchor,
                Input::NetReceive { .. } | Input::NetLink { .. } => EntryKind::Network,
                Input::BlockCompletion { .. } => EntryKind::Block,
                Input::CharReceive { .. } | Input::Keyboard { .. } => EntryKind::Console,
                Input::EntropySeed(_) => EntryKind::Entropy,
                Input::RtcOrigin { .. }
                | Input::BalloonTarget { .. }
                | Input::PowerButton
                | Input::Reset
                | Input::Nmi => EntryKind::Control,
            },
            Self::BlockReference { .. } => EntryKind::Block,
            Self::Mark => EntryKind::Mark,
            Self::StateDigest { .. } | Self::MemoryDigest(_) => EntryKind::Digest,
            Self::Snapshot(_) | Self::End(_) => EntryKind::Structure,
        }
    }

    /// One line for people: what it is, without the bytes it carries.
    #[must_use]
    pub fn summary(&self) -> String {
        match self {
            Self::Input(input) => summary_of(input),
            Self::BlockReference { device, request, status, length, crc } => {
                format!(
                    "disk {} request {} {status:?}, {length} bytes by reference, CRC {crc:08x}",
                    device.0, request.0
                )
            }
            Self::Mark => "mark".into(),
            Self::StateDigest { state, outputs } => {
                format!("digest of CPUs and devices {state}, of outputs {outputs:016x}")
            }
            Self::MemoryDigest(digest) => format!("digest of memory {digest}"),
            Self::Snapshot(number) => format!("snapshot {number}"),
            Self::End(reason) => match reason {
                EndReason::Off { status: 0 } => "end: the guest powered off".into(),
                EndReason::Off { status } => format!("end: off with status {status}"),
                EndReason::TripleFault => "end: triple fault".into(),
                EndReason::Stopped => "end: stopped from outside".into(),
            },
        }
    }
}

fn summary_of(input: &Input) -> String {
    match input {
        Input::ClockAnchor(anchor) => format!("clock anchor {} ns, rate {:#x}", anchor.time_ns, anchor.rate),
        Input::RtcOrigin { unix_ns } => format!("time origin {unix_ns} ns"),
        Input::NetReceive { device, packet } => format!("network {} packet of {} bytes", device.0, packet.len()),
        Input::NetLink { device, up } => format!("network {} link {}", device.0, if *up { "up" } else { "down" }),
        Input::BlockCompletion { device, request, status, data } => {
            format!("disk {} request {} {status:?}, {} bytes", device.0, request.0, data.len())
        }
        Input::CharReceive { port, data } => format!("{port:?} {:?}", String::from_utf8_lossy(data)),
        Input::Keyboard { scancodes } => format!("keyboard {scancodes:02x?}"),
        Input::EntropySeed(_) => "entropy seed".into(),
        Input::BalloonTarget { pages } => format!("balloon target {pages} pages"),
        Input::PowerButton => "power button".into(),
        Input::Reset => "reset".into(),
        Input::Nmi => "non-maskable interrupt".into(),
    }
}
