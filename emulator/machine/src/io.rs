//! All that enters and leaves the machine.
//!
//! [`Input`] is the one door for everything non-deterministic: what the host does (packets, disk
//! completions, keystrokes, time) reaches the machine as an `Input` delivered at a position, and in no
//! other way. [`Output`] is what the machine wants done outside. Both are plain data: the recorder logs
//! inputs, the replayer compares outputs, and tests make both by hand.

use serde::{Deserialize, Serialize};

/// Steps executed by all vCPUs since the machine was made: the position of everything.
///
/// A step is an instruction retired, one iteration of a repeated string instruction, or the delivery of
/// an exception or interrupt (`docs/cpu-model.md`, "Counting").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct InstructionCount(pub u64);

/// Ties guest time to the count: `time = time_ns + (count - at) * rate`, where `at` is the count at which
/// the anchor is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockAnchor {
    /// Guest time at the anchor in nanoseconds since the machine was made. Never below the time that the
    /// previous anchor gives for the same count.
    pub time_ns: u64,
    /// Guest nanoseconds per step as a fixed-point number with 32 fraction bits; at least 1.
    pub rate: u64,
}

/// Index of a device among those of its kind, in the order of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceIndex(pub u8);

/// Names one block request of one disk; unique for the life of the machine and counted up per disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// A character channel of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CharPort {
    /// 16550 UART: 0 is COM1, 1 is COM2.
    Serial(u8),
    /// Port of the virtio console, counted from 0.
    Console(u8),
    /// The ISA debug console at port 0xe9 (output only).
    DebugCon,
}

/// How a block request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockStatus {
    /// Done; data read is in the completion.
    Ok,
    /// The host could not do it: the guest sees VIRTIO_BLK_S_IOERR.
    IoError,
    /// The image cannot do this operation: VIRTIO_BLK_S_UNSUPP.
    Unsupported,
}

/// Something that happens to the machine from outside, at a position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Guest time goes on from here at another rate.
    ClockAnchor(ClockAnchor),
    /// Wall-clock origin for the RTC: nanoseconds since 1970-01-01 UTC at guest time zero.
    RtcOrigin {
        /// Nanoseconds since the epoch at guest time zero.
        unix_ns: u64,
    },
    /// An Ethernet frame for a network device, preceded by its 12-byte `virtio_net_hdr_v1`.
    NetReceive {
        /// Which network device.
        device: DeviceIndex,
        /// Header (12 bytes) and frame without FCS.
        packet: Vec<u8>,
    },
    /// The link of a network device went up or down.
    NetLink {
        /// Which network device.
        device: DeviceIndex,
        /// True when the carrier is present.
        up: bool,
    },
    /// A block request is done.
    BlockCompletion {
        /// Which disk.
        device: DeviceIndex,
        /// The request, as named by [`Output::Block`].
        request: RequestId,
        /// How it ended.
        status: BlockStatus,
        /// Bytes read; empty for every other operation.
        data: Vec<u8>,
    },
    /// Bytes typed at a character channel.
    CharReceive {
        /// Which channel; never [`CharPort::DebugCon`].
        port: CharPort,
        /// The bytes. What does not fit the channel's own bounded queue is dropped there, and counted.
        data: Vec<u8>,
    },
    /// Key scan codes (set 1) for the i8042 keyboard.
    Keyboard {
        /// Bytes as the keyboard would send them.
        scancodes: Vec<u8>,
    },
    /// Fresh entropy for the generator behind RDRAND, RDSEED and virtio-rng.
    EntropySeed(
        /// Mixed into the generator's key.
        [u8; 32],
    ),
    /// The balloon's target size.
    BalloonTarget {
        /// Pages of 4 KiB that the guest should give up.
        pages: u32,
    },
    /// The power button is pressed.
    PowerButton,
    /// The reset line is asserted.
    Reset,
    /// A non-maskable interrupt for every vCPU.
    Nmi,
}

/// What a disk is asked to do. Offsets and lengths are in bytes and multiples of 512.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockOperation {
    /// Read `length` bytes at `offset`.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes to read.
        length: u32,
    },
    /// Write `data` at `offset`.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes to write.
        data: Vec<u8>,
    },
    /// Make all completed writes durable.
    Flush,
    /// The content of the range is no longer needed.
    Discard {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        length: u64,
    },
    /// The range reads as zeroes from now on.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        length: u64,
        /// The range may be deallocated.
        unmap: bool,
    },
}

/// Something the machine wants done outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Send a frame, preceded by its 12-byte `virtio_net_hdr_v1` (checksum and segmentation offload requests).
    NetTransmit {
        /// Which network device.
        device: DeviceIndex,
        /// Header (12 bytes) and frame without FCS.
        packet: Vec<u8>,
    },
    /// Do a block request. Requests that overlap in flight are never handed out together.
    Block {
        /// Which disk.
        device: DeviceIndex,
        /// Name for the completion.
        request: RequestId,
        /// What to do.
        operation: BlockOperation,
    },
    /// Bytes written to a character channel.
    CharTransmit {
        /// Which channel.
        port: CharPort,
        /// The bytes.
        data: Vec<u8>,
    },
    /// The balloon gave these 4 KiB pages back: their content may be dropped.
    BalloonInflate {
        /// Guest page frame numbers.
        frames: Vec<u64>,
    },
}
