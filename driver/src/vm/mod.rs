//! Domains: what is defined, what runs, and what happens to them.
//!
//! ```text
//!               define                 start, create               process ended
//!   (nothing) ----------> off ------------------------> running ------------------> off, or (nothing) when transient
//!                          ^                           |   ^  \
//!                          |       suspend             v   |   `-- restart: reboot, on_poweroff, on_crash
//!                          '---- destroy ------- paused ---' resume
//! ```
//!
//! One lock guards the registry of all domains; it is never held while a process is started or waited for. Operations that
//! take time hold the domain's *job*, of which there is one: the next one waits for it, reading does not.
//!
//! What is on disk: definitions in the configuration directory ([`store`]), and one status file a running domain in the run
//! directory ([`status`]), written before anyone is told that it runs. A daemon that starts reads both.

pub mod command;
pub mod definition;
pub mod ending;
pub mod entry;
pub mod events;
pub mod image;
pub mod launch;
pub mod lifecycle;
pub mod network;
pub mod process;
pub mod registry;
pub mod save;
pub mod startup;
pub mod status;
pub mod store;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use uuid::Uuid;
use virtft_domain::{DiskFormat, DiskSource, Surroundings};
use virtft_rpc::DomainRef;

use crate::error::DriverError;
use crate::paths::Paths;
use crate::server::console::{Stream, Terminal};
use entry::Entry;
use events::Events;
use registry::Registry;
use store::Store;

/// How long an operation waits for another on the same domain.
const JOB_WAIT: Duration = Duration::from_secs(30);

/// All domains of one daemon.
#[derive(Debug)]
pub struct Hypervisor {
    /// Where things are.
    pub paths: Paths,
    /// This daemon, as others tell it apart.
    pub host: Uuid,
    /// Who wants to be told.
    pub events: Events,
    pub(crate) store: Store,
    registry: Mutex<Registry>,
    /// Told whenever a job ends or a machine stops.
    changed: Condvar,
    /// Who looks at which terminal.
    consoles: Mutex<BTreeMap<String, Weak<Stream>>>,
    runtime: Handle,
}

impl Hypervisor {
    /// A hypervisor without domains; [`Hypervisor::load`] finds them.
    #[must_use]
    pub fn new(paths: Paths, host: Uuid, runtime: Handle) -> Arc<Self> {
        let store = Store::new(paths.config.clone());
        Arc::new(Self {
            paths,
            host,
            events: Events::default(),
            store,
            registry: Mutex::default(),
            changed: Condvar::new(),
            consoles: Mutex::default(),
            runtime,
        })
    }

    /// The registry, for a moment. A panic elsewhere has left it as it was between two changes.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Looks at a domain.
    ///
    /// # Errors
    /// When there is none, or `look` fails.
    pub fn with<T>(&self, uuid: Uuid, look: impl FnOnce(&Entry) -> Result<T, DriverError>) -> Result<T, DriverError> {
        look(self.registry().get(uuid)?)
    }

    /// Begins an operation on a domain that others must not get between.
    ///
    /// # Errors
    /// When there is no such domain, or another operation does not end.
    pub fn begin_job(self: &Arc<Self>, uuid: Uuid) -> Result<Job, DriverError> {
        let deadline = Instant::now() + JOB_WAIT;
        let mut registry = self.registry();
        loop {
            let number = registry.next_job();
            let entry = registry.get_mut(uuid)?;
            if entry.job.is_none() {
                entry.job = Some(number);
                return Ok(Job { hypervisor: Arc::clone(self), uuid, number });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(DriverError::Timeout(entry.name().to_owned()));
            }
            registry = self.wait_changed(registry, left);
        }
    }

    /// Gives a terminal to a stream, and to it alone.
    ///
    /// # Errors
    /// When another stream has it, and is not to be forced off it.
    pub fn take_console(&self, path: &str, terminal: &Terminal, force: bool) -> Result<(), DriverError> {
        let mut consoles = self.consoles.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        consoles.retain(|_, stream| stream.upgrade().is_some_and(|stream| !stream.has_ended()));
        if let Some(other) = consoles.get(path).and_then(Weak::upgrade) {
            if !force {
                return Err(DriverError::Failed("another client uses the console".into()));
            }
            other.kick();
        }
        consoles.insert(path.to_owned(), Arc::downgrade(&terminal.stream()));
        Ok(())
    }

    /// Carries a console's bytes until it ends.
    pub fn pump(&self, terminal: Terminal) {
        self.runtime.spawn(terminal.pump());
    }

    /// Gives up the lock until something changed, at most for the time given.
    fn wait_changed<'a>(&self, registry: MutexGuard<'a, Registry>, most: Duration) -> MutexGuard<'a, Registry> {
        self.changed.wait_timeout(registry, most).unwrap_or_else(std::sync::PoisonError::into_inner).0
    }
}

/// An operation in progress; dropped, it has ended.
#[derive(Debug)]
pub struct Job {
    hypervisor: Arc<Hypervisor>,
    uuid: Uuid,
    /// The domain may have gone meanwhile, and another come with its UUID and an operation of its own.
    number: u64,
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Ok(entry) = self.hypervisor.registry().get_mut(self.uuid) {
            entry.job.take_if(|number| *number == self.number);
        }
        self.hypervisor.changed.notify_all();
    }
}

/// Completes definitions from the host.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostSurroundings;

impl Surroundings for HostSurroundings {
    fn new_uuid(&mut self) -> Uuid {
        Uuid::new_v4()
    }

    fn random_bytes(&mut self) -> [u8; 3] {
        let [a, b, c, ..] = Uuid::new_v4().into_bytes();
        [a, b, c]
    }

    fn probe_format(&mut self, source: &DiskSource) -> DiskFormat {
        use std::io::Read;
        use std::os::unix::fs::OpenOptionsExt;
        let mut magic = [0; 4];
        // Not blocking: somebody could name a pipe.
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(source.path());
        match file.and_then(|mut file| file.read_exact(&mut magic)) {
            Ok(()) if magic == *b"QFI\xfb" => DiskFormat::Qcow2,
            _ => DiskFormat::Raw,
        }
    }
}

/// How clients are told which domain is meant.
#[must_use]
pub fn reference(entry: &Entry) -> DomainRef {
    DomainRef { name: entry.name().to_owned(), uuid: entry.uuid(), id: entry.id() }
}
