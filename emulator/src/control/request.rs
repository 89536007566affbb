//! What a client asks, and what it is told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

use serde::{Deserialize, Serialize};

use super::status::Status;

/// What a client asks of the control socket: one JSON object a line, named by its `command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command", deny_unknown_fields)]
pub enum Request {
    /// The status.
    Status,
    /// The status now, and again whenever something of it but a figure changes, until the client hangs up.
    Subscribe,
    /// A planned switch to the backup.
    Failover,
    /// Protection by the backup at this address.
    Protect {
        /// `tls://HOST:PORT`.
        peer: String,
        /// The text of a `--ft` option without a peer. A VM that was started without one needs it; for others it may change
        /// everything but the arbiter.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ft: Option<String>,
    },
    /// Going on without the backup.
    Unprotect,
    /// The machine stands still.
    Pause,
    /// It goes on.
    Resume,
    /// The power button is pressed.
    PowerButton,
    /// The machine is reset.
    Reset,
    /// A non-maskable interrupt for every vCPU.
    Nmi,
    /// The machine is switched off.
    Quit,
    /// The cable of a network device is plugged in or pulled out.
    Link {
        /// Number of the device, from 0.
        device: u8,
        /// Plugged in.
        up: bool,
    },
    /// The guest is asked to give memory back until it has this much.
    Balloon {
        /// Bytes that are left to the guest; at most its memory.
        bytes: u64,
    },
    /// Keys of a keyboard with set 1.
    Keyboard {
        /// Scan codes, as the keyboard would send them.
        scancodes: Vec<u8>,
    },
    /// What the machine and its devices have done.
    Statistics,
    /// The whole state is written to a new file, as `--snapshot` continues it; only this user may read it. The content of disks is not in
    /// it: whoever wants to continue from it leaves the machine paused.
    Save {
        /// The file, which must not be there yet.
        path: PathBuf,
    },
}

/// What the control socket answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// To `Status` and `Subscribe`.
    Status(Box<Status>),
    /// To `Statistics`.
    Statistics(Statistics),
    /// It was begun, or done.
    Done,
    /// It was not: why.
    Refused(String),
}

/// What a machine and its devices have done since this process began with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Steps executed.
    pub count: u64,
    /// Guest time in nanoseconds.
    pub guest_ns: u64,
    /// Events by device and name: those of the machine (`pci1.virtio-net.received`), which a backup has too, and those of disk backends on
    /// this host (`disk0.read_bytes`).
    pub counters: BTreeMap<String, u64>,
}

/// A request on its way to the ft thread, and where its answer goes.
#[derive(Debug)]
pub struct Command {
    /// The request.
    pub request: Request,
    /// Takes one answer.
    pub answer: Sender<Result<(), String>>,
}
