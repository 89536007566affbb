//! Fault tolerance: the roles of `virtft-emulator` around the protocol in `virtft-ft`.
//!
//! ```text
//!   vCPU thread                      ft thread                          peer
//!   ProtectedGuest --Link: frames,-> Engine: Primary or Backup node <-> TCP or TLS
//!     records         outputs         |  holds outputs, keeps the log
//!        ^----- orders, throttle -----+--> Backends: released outputs
//!                                     +--> arbiter thread
//!   replay thread                     |
//!   Session <------ GrowingLog -------+    crate::control: status, failover, protect
//! ```
//!
//! A process starts as primary-to-be (`run`) or as backup; a backup that went live is the former. The ft thread never waits
//! for the machine, and the machine waits for the ft thread only when too much of its log is unacknowledged.

mod announce;
mod arbiter;
mod backup;
mod copy;
mod disks;
mod engine;
mod fence;
mod generation;
mod growing;
mod guest;
mod link;
mod pieces;
mod retained;

mod setup;
mod shared;
mod transport;
mod url;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use arbiter::{ArbiterOption, ArbiterThread};
pub use backup::backup;
pub use copy::COPY_BIT;
pub use disks::ReplicaDisks;
pub use engine::{Engine, EngineHandle, EngineParts, Membership, Protection};
pub use growing::GrowingLog;
pub use guest::ProtectedGuest;
pub use link::Link;
pub use setup::{Fittings, Setup};
pub use transport::Security;
pub use url::PeerUrl;

use crate::driver::{DriverError, OutputSink};
use crate::host::Backends;
use virtft_machine::io::Output;

/// Machine and CPU model as peers compare them.
pub const MACHINE: &str = concat!("virtft-1 ", env!("CARGO_PKG_VERSION"));

/// The backends of a machine, used by the vCPU thread for what leaves at once and by the ft thread for what was held. Empty in
/// a backup.
#[derive(Debug, Clone, Default)]
pub struct SharedBackends(Arc<Mutex<Option<Backends>>>);

impl SharedBackends {
    /// Puts backends in, or takes them out.
    pub fn replace(&self, backends: Option<Backends>) -> Option<Backends> {
        std::mem::replace(&mut self.lock(), backends)
    }

    /// Does something with the backends, if there are any.
    pub fn with<T>(&self, body: impl FnOnce(&mut Backends) -> T) -> Option<T> {
        self.lock().as_mut().map(body)
    }

    /// One output at a time: nothing is half done after a panic.
    fn lock(&self) -> MutexGuard<'_, Option<Backends>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutputSink for SharedBackends {
    fn send(&mut self, output: Output) -> Result<(), DriverError> {
        self.with(|backends| backends.send(output)).unwrap_or(Ok(()))
    }
}
