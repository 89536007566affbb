//! The log of everything that enters a machine, and what is made of it: recording, replay, comparison.
//!
//! ```text
//!   Recorder --entries--> payload --frame--> file or logging channel
//!                                                 |
//!   Machine <--inputs, digests-- Replayer <--entries--+
//! ```
//!
//! This crate is pure: it neither opens files nor starts threads. It reads from [`std::io::Read`] and gives frames back as
//! bytes. The format is specified in `docs/log-format.md`.

mod bytes;
pub mod diff;
pub mod entry;
mod entry_decode;
mod entry_encode;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod header;
mod net_header;
pub mod outputs;
pub mod reader;
pub mod recorder;
pub mod replayer;
pub mod snapshot;
pub mod statistics;

pub use entry::{EndReason, LogEntry, Positioned};
pub use entry_decode::{EntryDecoder, EntryError};
pub use entry_encode::EntryEncoder;
pub use header::LogHeader;
pub use reader::{LogError, LogReader};
pub use recorder::Recorder;
pub use replayer::{Divergence, Replayer, Step};
