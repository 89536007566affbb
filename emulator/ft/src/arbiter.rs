//! What nodes ask the arbiter, and what it may answer.
//!
//! The arbiter holds for each key one owner, set once and never changed: whoever sets it first wins. An answer that does not
//! arrive says nothing, so the question is asked again with the same token: the owner of a token that had won before wins
//! again.

use serde::{Deserialize, Serialize};

/// What is decided at most once: who may run a VM alone after an epoch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EpochKey {
    /// Name of the VM.
    pub vm: String,
    /// One start of the VM; never used again while the VM is defined.
    pub incarnation: u64,
    /// One life of a pair, counted from 1.
    pub epoch: u64,
}

/// Names whoever asks, one for each process.
pub type Token = [u8; 16];

/// An answer of the arbiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The key has the asker's token: it may run alone.
    Won,
    /// The key has another's token.
    Lost,
    /// Nobody knows; the reason was logged where it was seen.
    Unreachable,
}
