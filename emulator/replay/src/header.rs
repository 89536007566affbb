//! The header of a log: everything that replay needs to make the machine again, or to refuse early.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtft_machine::boot::BootSource;
use virtft_machine::clock::ClockMode;
use virtft_machine::devices::virtio::block::BlockConfig;
use virtft_machine::devices::virtio::console::PortConfig;
use virtft_machine::devices::virtio::net::NetConfig;
use virtft_machine::machine::{MachineIdentity, SnapshotError};
use virtft_machine::{Machine, MachineConfig};

/// First bytes of a log. The first has its top bit set and the last is a line feed, so that a transfer that mangles text
/// is noticed.
pub const LOG_MAGIC: [u8; 8] = *b"\x89VFTLOG\n";
/// Version of everything behind the magic: framing, header and entries. The reader knows this one and no other; a later
/// version of the program goes on reading it.
pub const FORMAT_VERSION: u32 = 1;

/// Where the machine's run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartState {
    /// At power-on, at count 0.
    Boot,
    /// From snapshot 0, which the log carries before its first entry.
    Snapshot,
}

/// Whether the log carries what was read from disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskData {
    /// Yes: replay needs no disk.
    InLog,
    /// No: the replaying side reads its own copies, which must have these digests (XXH3-128 of their whole content at the
    /// start of the run), in the order of the disks.
    OwnCopies(Vec<u128>),
}

/// Whether the log carries kernel and initial RAM disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootFiles {
    /// Yes.
    InLog,
    /// No: the replaying side is given them, and their digests are in the identity.
    Apart,
}

/// See the module's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHeader {
    /// Version of the program that wrote the log: for people.
    pub writer: String,
    /// Machine type, CPU model, versions of the parts, memory, vCPUs, digests of what is booted.
    pub identity: MachineIdentity,
    /// Disks.
    pub disks: Vec<BlockConfig>,
    /// Network devices.
    pub nets: Vec<NetConfig>,
    /// Ports of the virtio console.
    pub console_ports: Vec<PortConfig>,
    /// With a virtio entropy device.
    pub rng: bool,
    /// With a virtio balloon.
    pub balloon: bool,
    /// How guest time is driven.
    pub clock: ClockMode,
    /// Kernel command line.
    pub command_line: String,
    /// With an initial RAM disk.
    pub initrd: bool,
    /// Where the run begins.
    pub start: StartState,
    /// Count at which it begins.
    pub start_count: u64,
    /// What was read from disks.
    pub disk_data: DiskData,
    /// Kernel and initial RAM disk.
    pub boot_files: BootFiles,
}

/// A log of a machine that this program cannot make.
#[derive(Debug, Error)]
pub enum HeaderError {
    /// The bytes are no header.
    #[error("its header is damaged ({reason})")]
    Encoding {
        /// What the decoder says.
        reason: String,
    },
    /// Another machine type, CPU model or version of a part.
    #[error("it was recorded by virtft-emulator {writer}: {source}; replay it with that version")]
    OtherMachine {
        /// Version of the program that wrote it.
        writer: String,
        /// What differs.
        source: Box<SnapshotError>,
    },
    /// Kernel or initial RAM disk given are not those of the log.
    #[error("{what} is not the one of the recorded run: its digest is {found:032x}, in the log it is {expected:032x}")]
    OtherFile {
        /// Kernel or initial RAM disk.
        what: &'static str,
        /// Digest of what was given.
        found: u128,
        /// Digest in the log.
        expected: u128,
    },
}

impl LogHeader {
    /// The header for a log of `machine`, which begins at its present count.
    #[must_use]
    pub fn new(machine: &Machine, start: StartState, disk_data: DiskData, boot_files: BootFiles) -> Self {
        // In full, so that a new property of machines stops the build here.
        let MachineConfig { memory_bytes: _, vcpus: _, clock, disks, nets, console_ports, rng, balloon, boot } =
            machine.config().clone();
        let BootSource { kernel: _, initrd, command_line } = boot;
        Self {
            writer: env!("CARGO_PKG_VERSION").into(),
            identity: machine.identity().clone(),
            disks,
            nets,
            console_ports,
            rng,
            balloon,
            clock,
            command_line,
            initrd: initrd.is_some(),
            start,
            start_count: machine.count().0,
            disk_data,
            boot_files,
        }
    }

    /// The header as the payload of its frame.
    ///
    /// # Panics
    /// Never: it holds only values that can be encoded.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a header is plain data")
    }

    /// Decodes a header and checks that this program can make its machine.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header: Self =
            postcard::from_bytes(bytes).map_err(|error| HeaderError::Encoding { reason: error.to_string() })?;
        header
            .identity
            .check_versions()
            .map_err(|source| HeaderError::OtherMachine { writer: header.writer.clone(), source: Box::new(source) })?;
        Ok(header)
    }

    /// The configuration of the recorded machine, with its kernel and initial RAM disk.
    ///
    /// # Errors
    /// When they are not those of the recorded run.
    pub fn config(&self, kernel: Arc<[u8]>, initrd: Option<Arc<[u8]>>) -> Result<MachineConfig, HeaderError> {
        let config = MachineConfig {
            memory_bytes: self.identity.memory_bytes,
            vcpus: self.identity.vcpus.into(),
            clock: self.clock,
            disks: self.disks.clone(),
            nets: self.nets.clone(),
            console_ports: self.console_ports.clone(),
            rng: self.rng,
            balloon: self.balloon,
            boot: BootSource { kernel, initrd, command_line: self.command_line.clone() },
        };
        let boot = MachineIdentity::of(&config).boot;
        for (slot, what) in ["the kernel", "the initial RAM disk"].into_iter().enumerate() {
            let (found, expected) = (boot[slot], self.identity.boot[slot]);
            if found != expected {
                return Err(HeaderError::OtherFile { what, found, expected });
            }
        }
        Ok(config)
    }
}
