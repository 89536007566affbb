//! Disk images: raw and qcow2 with backing files, locked against double use, executed on worker threads.

mod error;
mod header;
mod lock;
mod open;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use virtft_machine::io::{BlockOperation, RequestId};

pub use error::DiskError;
pub use worker::{Completion, DiskCounters, Executor};

use crate::cli::DiskOption;
use crate::seccomp::Confinement;
use crate::threads::{self, ThreadClass};

/// Most requests that one flush serves.
const BATCH: usize = 64;

/// What the machine's configuration needs to know of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFacts {
    /// Size in bytes, a multiple of 512.
    pub size: u64,
    /// The guest may only read.
    pub readonly: bool,
    /// The serial number that the guest sees.
    pub id: String,
}

/// An opened disk whose thread is not running yet.
#[derive(Debug)]
pub struct Disk {
    /// For the machine's configuration.
    pub facts: DiskFacts,
    executor: Executor,
}

impl Disk {
    /// Opens, locks and checks the image of `option`; `index` names the disk when it has no id.
    ///
    /// # Errors
    /// See [`DiskError`]; nothing was changed then.
    pub fn open(option: &DiskOption, index: usize) -> Result<Self, DiskError> {
        let image = open::open_image(option)?;
        let id = option.id.clone().unwrap_or_else(|| format!("disk{index}"));
        let facts = DiskFacts { size: image.size(), readonly: option.readonly, id: id.clone() };
        Ok(Self { facts, executor: Executor::new(image, id) })
    }

    /// Facts of a disk that is not opened here now: another host uses it.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for locks.
    pub fn look_at(option: &DiskOption, index: usize) -> Result<DiskFacts, DiskError> {
        let image = open::look_at_image(option)?;
        let id = option.id.clone().unwrap_or_else(|| format!("disk{index}"));
        Ok(DiskFacts { size: image.size(), readonly: option.readonly, id })
    }

    /// XXH3-128 of the whole content.
    ///
    /// # Errors
    /// One line that says why it cannot be read.
    pub fn digest(&self) -> Result<u128, String> {
        self.executor.digest().map_err(|error| format!("disk {}: it cannot be read ({error})", self.facts.id))
    }

    /// Executes a request on the caller's thread.
    pub fn execute(&mut self, request: RequestId, operation: BlockOperation) -> Completion {
        self.executor.execute(request, operation)
    }

    /// For a caller that executes requests on its own thread.
    #[must_use]
    pub fn into_executor(self) -> Executor {
        self.executor
    }

    /// Starts the disk's thread. `complete` is called on it for each request, in the order of submission.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        self,
        confinement: &Confinement,
        complete: impl Fn(Completion) + Send + 'static,
    ) -> Result<DiskHandle, DiskError> {
        // Unbounded on purpose: the guest's ring bounds what is in flight, and the vCPU thread must not wait.
        let (sender, receiver) = channel::<(RequestId, BlockOperation)>();
        let mut executor = self.executor;
        let counters = executor.counters();
        let name = format!("disk-{}", self.facts.id);
        let thread = threads::spawn(&name, ThreadClass::Disk, confinement, move || {
            while let Ok(first) = receiver.recv() {
                executor.execute_all(std::iter::once(first).chain(receiver.try_iter()).take(BATCH), &complete);
            }
        })
        .map_err(DiskError::Thread)?;
        Ok(DiskHandle { sender: Some(sender), thread: Some(thread), counters })
    }
}

/// Submits requests to a disk's thread. Dropping it completes what was submitted and flushes the image.
#[derive(Debug)]
pub struct DiskHandle {
    sender: Option<Sender<(RequestId, BlockOperation)>>,
    thread: Option<JoinHandle<()>>,
    counters: Arc<DiskCounters>,
}

impl DiskHandle {
    /// What the disk has done, by name.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, u64); 8] {
        self.counters.read()
    }

    /// See [`DiskCounters::set_durable`].
    pub fn set_durable(&self, durable: bool) {
        self.counters.set_durable(durable);
    }

    /// Queues a request. Returns false when the disk's thread has died.
    #[must_use]
    pub fn submit(&self, request: RequestId, operation: BlockOperation) -> bool {
        self.sender.as_ref().is_some_and(|sender| sender.send((request, operation)).is_ok())
    }
}

impl Drop for DiskHandle {
    fn drop(&mut self) {
        drop(self.sender.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a disk thread panicked");
        }
    }
}
