//! The fault-tolerance protocol between a primary and a backup, without any I/O.
//!
//! Nodes take events and the time, and return actions: [`primary::Primary`] runs the machine and sends its log,
//! [`backup::Backup`] receives and acknowledges it. Whoever drives them owns sockets, threads, the machine and the arbiter;
//! `docs/ft-protocol.md` says what each action obliges it to do. The seeded simulator in `tests/` drives both in one process.
//!
//! ```text
//!            Log, Released, Heartbeat, Armed, Handover
//!   Primary -------------------------------------------> Backup
//!           <-------------------------------------------
//!            Welcome, Ack, Verified, Heartbeat, TookOver, Leaving
//!
//!            test-and-set (vm, incarnation, epoch)
//!   either  -------------------------------------------> arbiter
//! ```
//!
//! Sources: "The Design of a Practical System for Fault-Tolerant Virtual Machines" (Scales, Nelson, Venkitachalam 2010); the
//! paper's terms are used throughout.

pub mod arbiter;
pub mod backup;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod message;
pub mod primary;
pub mod timing;
pub mod window;

pub use arbiter::{Answer, EpochKey};
pub use backup::{Backup, BackupAction, BackupEvent, BackupState};
pub use message::{Decoder, Hello, Message, MessageError};
pub use primary::{Primary, PrimaryAction, PrimaryEvent, PrimaryState};
pub use timing::Timing;
pub use window::SendWindow;

/// Version of the protocol: both sides must have the same.
pub const PROTOCOL_VERSION: u32 = 2;
