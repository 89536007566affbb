//! What `status` shows, and the requests of the control socket.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// How a VM and its protection stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the VM.
    pub vm: String,
    /// `primary`, `backup` or `unprotected`.
    pub role: String,
    /// Where the protocol stands: `transferring`, `protected`, `deciding` and so on.
    pub state: String,
    /// Incarnation of the VM.
    pub incarnation: u64,
    /// Epoch of the pair, or that the next one would have.
    pub epoch: u64,
    /// The backup's address.
    pub peer: Option<String>,
    /// How far the backup is behind: milliseconds of guest time.
    pub lag_ms: u64,
    /// Bytes of log since protection began.
    pub log_bytes: u64,
    /// Bytes of log in the last second.
    pub log_bytes_per_s: u64,
    /// Bytes of log that the backup has not acknowledged.
    pub unacknowledged_bytes: u64,
    /// Outputs that wait for an acknowledgement.
    pub outputs_held: u64,
    /// Parts of 1000 of its time that the machine is held back.
    pub throttle: u16,
    /// Milliseconds that the machine stood still for the last transfer.
    pub transfer_pause_ms: Option<u64>,
    /// Parts of 1000 of the disks that are copied, while they are.
    pub disks_copied: Option<u16>,
    /// Failovers in which this process took over.
    pub failovers: u64,
    /// What happened last, in one sentence.
    pub last_event: String,
}

/// The status, shared between the threads.
pub type SharedStatus = Arc<Mutex<Status>>;

/// A copy of the present status.
#[must_use]
pub fn read(status: &SharedStatus) -> Status {
    status.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What a client asks of the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Request {
    /// The status.
    Status,
    /// A planned switch to the backup.
    Failover,
    /// Protection by the backup at this address.
    Protect {
        /// `tls://HOST:PORT`.
        peer: String,
    },
    /// Going on without the backup.
    Unprotect,
}

/// What the control socket answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// To `Status`.
    Status(Box<Status>),
    /// It was begun.
    Done,
    /// It was not: why.
    Refused(String),
}

/// A request on its way to the ft thread, and where its answer goes.
#[derive(Debug)]
pub struct Command {
    /// The request.
    pub request: Request,
    /// Takes one answer.
    pub answer: Sender<Result<(), String>>,
}
