//! Snapshots inside a log.
//!
//! Snapshot 0 holds all memory, each later one the pages written since the one before it, so that a long recording can afford
//! many. Pages come first, in parts; the state of CPUs and devices closes the snapshot.

use serde::{Deserialize, Serialize};
use virtft_machine::Machine;
use virtft_machine::machine::{MachineSnapshot, SnapshotError};

use crate::outputs::OutputDigest;

/// Pages in one part: 1 MiB.
const PAGES_PER_PART: usize = 256;
const PAGE_BYTES: usize = 4096;

/// One part of a snapshot: the payload of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotPart {
    /// Pages by index; a page of zeroes has no bytes.
    Pages {
        /// Which snapshot.
        number: u32,
        /// Index and content.
        pages: Vec<(u64, Vec<u8>)>,
    },
    /// CPUs and devices; nothing follows.
    State {
        /// Which snapshot.
        number: u32,
        /// Digest of the outputs before it ([`crate::outputs::OutputDigest`]).
        outputs: u64,
        /// [`MachineSnapshot`] in its own encoding.
        state: Vec<u8>,
    },
}

impl SnapshotPart {
    /// The payload of its frame.
    ///
    /// # Panics
    /// Never: it is plain data.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a part of a snapshot is plain data")
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// When the bytes are no part of a snapshot.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        postcard::from_bytes(bytes).map_err(|error| SnapshotError::Encoding { reason: error.to_string() })
    }

    /// Which snapshot it belongs to.
    #[must_use]
    pub fn number(&self) -> u32 {
        match self {
            Self::Pages { number, .. } | Self::State { number, .. } => *number,
        }
    }

    /// Puts the part into a machine. After the state has been put, the machine stands where the snapshot was taken.
    ///
    /// # Errors
    /// When it does not fit the machine, which must not run then.
    pub fn apply(&self, machine: &mut Machine) -> Result<(), SnapshotError> {
        match self {
            Self::Pages { pages, .. } => pages.iter().try_for_each(|(page, bytes)| {
                let content = if bytes.is_empty() { [0; PAGE_BYTES].as_slice() } else { bytes };
                machine.write_page(*page, content)
            }),
            Self::State { state, .. } => machine.restore(MachineSnapshot::from_bytes(state)?),
        }
    }

    /// Puts only the pages: for a snapshot on the way to a later one.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_pages(&self, machine: &mut Machine) -> Result<(), SnapshotError> {
        match self {
            Self::Pages { .. } => self.apply(machine),
            Self::State { .. } => Ok(()),
        }
    }
}

/// A piece of a disk in a state transfer: the payload of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPart {
    /// Which disk.
    pub device: u8,
    /// First byte, a multiple of 512.
    pub offset: u64,
    /// Length in bytes, a multiple of 512.
    pub length: u32,
    /// The content; none for zeroes.
    pub data: Vec<u8>,
}

impl DiskPart {
    /// A piece with this content.
    ///
    /// # Panics
    /// When it has 4 GiB or more.
    #[must_use]
    pub fn new(device: u8, offset: u64, data: Vec<u8>) -> Self {
        let length = u32::try_from(data.len()).expect("pieces are small");
        let data = if data.iter().all(|&byte| byte == 0) { Vec::new() } else { data };
        Self { device, offset, length, data }
    }

    /// The payload of its frame.
    ///
    /// # Panics
    /// Never: it is plain data.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a part of a disk is plain data")
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// When the bytes are no part of a disk.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let part: Self =
            postcard::from_bytes(bytes).map_err(|error| SnapshotError::Encoding { reason: error.to_string() })?;
        if part.data.is_empty() || part.data.len() == part.length as usize {
            return Ok(part);
        }
        Err(SnapshotError::Encoding { reason: "a part of a disk has another length than it says".into() })
    }
}

/// Snapshot 0, taken while the machine runs: its pages are sent in rounds, each with what was written during the one before.
#[derive(Debug)]
pub struct Precopy {
    /// Pages of this round that are still to be sent, in reverse.
    left: Vec<usize>,
    rounds: u32,
}

impl Precopy {
    /// Begins with everything that may be other than zero.
    #[must_use]
    pub fn begin(machine: &mut Machine) -> Self {
        machine.take_dirty_pages();
        let mut left = machine.touched_pages();
        left.reverse();
        Self { left, rounds: 1 }
    }

    /// The next part of this round. When the round is over, the next one begins; `None` when that has at most `few` pages,
    /// so that the rest can be sent in a short pause, or when `most` rounds were not enough.
    pub fn next_part(&mut self, machine: &mut Machine, few: usize, most: u32) -> Option<SnapshotPart> {
        if self.left.is_empty() {
            let mut written = machine.take_dirty_pages();
            written.reverse();
            self.left = written;
            if self.left.len() <= few || self.rounds >= most {
                return None;
            }
            self.rounds += 1;
        }
        let at = self.left.len().saturating_sub(PAGES_PER_PART);
        let mut pages = self.left.split_off(at);
        pages.reverse();
        Some(part(machine, 0, &pages))
    }

    /// What is left, and the state, while the machine stands still: the snapshot is whole then.
    pub fn finish(mut self, machine: &mut Machine, outputs: OutputDigest, emit: &mut dyn FnMut(SnapshotPart)) {
        self.left.extend(machine.take_dirty_pages());
        self.left.sort_unstable();
        self.left.dedup();
        for chunk in self.left.chunks(PAGES_PER_PART) {
            emit(part(machine, 0, chunk));
        }
        emit(SnapshotPart::State { number: 0, outputs: outputs.0, state: machine.save().to_bytes() });
    }

    /// Rounds begun so far.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.rounds
    }
}

/// Pages as they are now.
fn part(machine: &Machine, number: u32, pages: &[usize]) -> SnapshotPart {
    let content = |page: usize| {
        let bytes = machine.ram().page(page);
        if bytes == [0; PAGE_BYTES] { Vec::new() } else { bytes.to_vec() }
    };
    SnapshotPart::Pages { number, pages: pages.iter().map(|&page| (page as u64, content(page))).collect() }
}

/// Takes snapshot `number`, of all memory if it is the first, and hands each part to `emit`.
pub fn take(machine: &mut Machine, number: u32, outputs: OutputDigest, emit: &mut dyn FnMut(SnapshotPart)) {
    let written = machine.take_dirty_pages();
    let pages = if number == 0 { machine.touched_pages() } else { written };
    for chunk in pages.chunks(PAGES_PER_PART) {
        emit(part(machine, number, chunk));
    }
    emit(SnapshotPart::State { number, outputs: outputs.0, state: machine.save().to_bytes() });
}
