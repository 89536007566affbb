//! What is known of one connection.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::console::Streams;
use super::forward::Forwards;
use super::outbox::Outbox;
use crate::error::DriverError;
use crate::vm::Hypervisor;

/// One connection.
#[derive(Debug)]
pub struct Session {
    /// Number, unique within the daemon's life.
    pub id: u64,
    /// Domains.
    pub hypervisor: Arc<Hypervisor>,
    /// What is to be written to the client.
    pub outbox: Outbox,
    /// Streams that are open.
    pub streams: Streams,
    /// Connections to libvirt's own daemons.
    pub forwards: Forwards,
    /// The client answers pings.
    pub answers_pings: AtomicBool,
    /// How it came.
    origin: Origin,
    opened: Mutex<Option<Opened>>,
    started: Instant,
    /// When something was last heard, in ms since it began.
    heard_ms: AtomicU64,
}

/// How a client came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// By the socket for those that may only look.
    pub only_looks: bool,
    /// The address of this host that it connected to.
    pub local: Option<IpAddr>,
}

/// What was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// As the client named it.
    pub uri: String,
    /// The client may only look.
    pub is_read_only: bool,
}

impl Session {
    /// A connection on which nothing was said yet.
    #[must_use]
    pub fn new(id: u64, hypervisor: Arc<Hypervisor>, outbox: Outbox, origin: Origin) -> Self {
        Self {
            id,
            hypervisor,
            outbox,
            streams: Streams::default(),
            forwards: Forwards::default(),
            answers_pings: AtomicBool::new(false),
            origin,
            opened: Mutex::new(None),
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Opens the hypervisor.
    ///
    /// # Errors
    /// When it was opened before.
    pub fn open(&self, uri: String, read_only: bool) -> Result<(), DriverError> {
        let mut opened = self.lock();
        if opened.is_some() {
            return Err(DriverError::Invalid("the connection is open already".into()));
        }
        *opened = Some(Opened { uri, is_read_only: read_only || self.origin.only_looks });
        Ok(())
    }

    /// The address of this host that the client connected to.
    #[must_use]
    pub fn local_address(&self) -> Option<IpAddr> {
        self.origin.local
    }

    /// What was opened, if anything.
    #[must_use]
    pub fn opened(&self) -> Option<Opened> {
        self.lock().clone()
    }

    /// Something was heard from the client.
    pub fn note_heard(&self) {
        self.heard_ms.store(self.age_ms(), Ordering::Relaxed);
    }

    /// For how long nothing was heard.
    #[must_use]
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.age_ms().saturating_sub(self.heard_ms.load(Ordering::Relaxed)))
    }

    /// For how long there has been a connection.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX)
    }
}
