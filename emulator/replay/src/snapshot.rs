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

/// Takes snapshot `number`, of all memory if it is the first, and hands each part to `emit`.
pub fn take(machine: &mut Machine, number: u32, outputs: OutputDigest, emit: &mut dyn FnMut(SnapshotPart)) {
    let written = machine.take_dirty_pages();
    let pages = if number == 0 { machine.touched_pages() } else { written };
    for chunk in pages.chunks(PAGES_PER_PART) {
        let content = |page: usize| {
            let bytes = machine.ram().page(page);
            if bytes == [0; PAGE_BYTES] { Vec::new() } else { bytes.to_vec() }
        };
        let pages = chunk.iter().map(|&page| (page as u64, content(page))).collect();
        emit(SnapshotPart::Pages { number, pages });
    }
    emit(SnapshotPart::State { number, outputs: outputs.0, state: machine.save().to_bytes() });
}
