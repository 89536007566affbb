//! Who wants to know what, and telling them.

use std::sync::{Mutex, MutexGuard};

use uuid::Uuid;
use virtft_rpc::remote::{
    domain_event_callback_lifecycle, domain_event_callback_metadata_change, domain_event_callback_reboot,
};
use virtft_rpc::{DomainRef, Event, Frame, Header, MessageType, REMOTE_PROGRAM, REMOTE_VERSION, Status, to_bytes};

use crate::error::DriverError;
use crate::server::outbox::Outbox;

/// Libvirt's daemons send events with this serial; clients ignore it.
const EVENT_SERIAL: u32 = 1;

/// A change in a domain's life, with libvirt's numbers for it and its detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// Defined for the first time.
    Added,
    /// Defined again.
    Updated,
    /// Has another name, as a definition.
    DefinedRenamed,
    /// Its definition is gone.
    Undefined,
    /// The old name is gone.
    UndefinedRenamed,
    /// Started by booting.
    Booted,
    /// Paused by a user.
    Paused,
    /// Goes on.
    Unpaused,
    /// Is off: the guest powered off.
    StoppedByGuest,
    /// Is off: a user ended it.
    StoppedDestroyed,
    /// Is off: the guest crashed.
    StoppedCrashed,
    /// Is off: the emulator failed.
    StoppedFailed,
    /// Goes on from where it was saved.
    StartedRestored,
    /// Is off: its state was saved.
    StoppedSaved,
    /// Runs here: it ran on another host before.
    StartedMigrated,
    /// Follows another host's machine.
    PausedMigrated,
    /// Goes on here.
    ResumedMigrated,
    /// Is off here: another host runs it.
    StoppedMigrated,
    /// Is about to be off, by the guest's will.
    ShutdownByGuest,
    /// Is about to be off, by the host's will.
    ShutdownByHost,
}

impl Lifecycle {
    fn numbers(self) -> (i32, i32) {
        match self {
            Self::Added => (0, 0),
            Self::Updated => (0, 1),
            Self::DefinedRenamed => (0, 2),
            Self::Undefined => (1, 0),
            Self::UndefinedRenamed => (1, 1),
            Self::Booted => (2, 0),
            Self::StartedMigrated => (2, 1),
            Self::StartedRestored => (2, 2),
            Self::StoppedSaved => (5, 4),
            Self::Paused => (3, 0),
            Self::PausedMigrated => (3, 1),
            Self::ResumedMigrated => (4, 1),
            Self::StoppedMigrated => (5, 3),
            Self::Unpaused => (4, 0),
            Self::StoppedByGuest => (5, 0),
            Self::StoppedDestroyed => (5, 1),
            Self::StoppedCrashed => (5, 2),
            Self::StoppedFailed => (5, 5),
            Self::ShutdownByGuest => (6, 1),
            Self::ShutdownByHost => (6, 2),
        }
    }
}

/// Something that happened to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// Event 0.
    Lifecycle(Lifecycle),
    /// Event 1: the machine was started again.
    Reboot,
    /// Event 23: 0 description, 1 title, 2 an element, whose namespace is given.
    Metadata(i32, Option<String>),
}

impl Happening {
    fn event_id(&self) -> i32 {
        match self {
            Self::Lifecycle(_) => 0,
            Self::Reboot => 1,
            Self::Metadata(..) => 23,
        }
    }

    fn message(&self, callback_id: i32, dom: DomainRef) -> Option<Frame> {
        match self {
            Self::Lifecycle(change) => {
                let (event, detail) = change.numbers();
                frame(&domain_event_callback_lifecycle::Message { callback_id, dom, event, detail })
            }
            Self::Reboot => frame(&domain_event_callback_reboot::Message { callback_id, dom }),
            Self::Metadata(kind, nsuri) => {
                let (kind, nsuri) = (*kind, nsuri.clone());
                frame(&domain_event_callback_metadata_change::Message { callback_id, dom, kind, nsuri })
            }
        }
    }
}

/// The frame of a message.
pub fn frame<E: Event>(message: &E) -> Option<Frame> {
    let header = Header {
        program: REMOTE_PROGRAM,
        version: REMOTE_VERSION,
        procedure: E::NUMBER,
        kind: MessageType::Message,
        serial: EVENT_SERIAL,
        status: Status::Ok,
    };
    header.frame(&to_bytes(message)).ok()
}

/// Events that are known. Those of things that this hypervisor does not have never happen, so asking to be told is fine; but
/// changes of the guest's clock, and errors of its disks, happen and are not told of by the emulator: a client
/// that is refused looks for itself.
const KNOWN: std::ops::RangeInclusive<i32> = 0..=26;
const UNSEEN: [i32; 3] = [2, 4, 6];

#[derive(Debug)]
struct Subscription {
    session: u64,
    callback_id: i32,
    event_id: i32,
    domain: Option<Uuid>,
    outbox: Outbox,
}

/// All subscriptions.
#[derive(Debug, Default)]
pub struct Events {
    subscriptions: Mutex<Subscriptions>,
}

#[derive(Debug, Default)]
struct Subscriptions {
    all: Vec<Subscription>,
    last_id: i32,
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds a subscription; returns the number by which its events are known.
    ///
    /// # Errors
    /// When there are no such events, or they cannot be seen.
    pub fn subscribe(
        &self,
        session: u64,
        event_id: i32,
        domain: Option<Uuid>,
        outbox: Outbox,
    ) -> Result<i32, DriverError> {
        if !KNOWN.contains(&event_id) || UNSEEN.contains(&event_id) {
            return Err(DriverError::Unsupported(format!("events of number {event_id}")));
        }
        let mut subscriptions = self.lock();
        subscriptions.last_id = subscriptions.last_id.checked_add(1).unwrap_or(0);
        let callback_id = subscriptions.last_id;
        subscriptions.all.push(Subscription { session, callback_id, event_id, domain, outbox });
        Ok(callback_id)
    }

    /// Removes a subscription.
    ///
    /// # Errors
    /// When the session has none of this number.
    pub fn unsubscribe(&self, session: u64, callback_id: i32) -> Result<(), DriverError> {
        let mut subscriptions = self.lock();
        let before = subscriptions.all.len();
        subscriptions.all.retain(|one| one.session != session || one.callback_id != callback_id);
        if subscriptions.all.len() < before {
            Ok(())
        } else {
            Err(DriverError::InvalidArgument(format!("no event is registered with the number {callback_id}")))
        }
    }

    /// Removes all subscriptions of a session.
    pub fn end_session(&self, session: u64) {
        self.lock().all.retain(|one| one.session != session);
    }

    /// Tells everyone who wants to know. Nobody is waited for: a client that does not read loses its connection.
    pub fn tell(&self, dom: &DomainRef, happening: &Happening) {
        for one in &self.lock().all {
            let is_meant = one.event_id == happening.event_id() && one.domain.is_none_or(|uuid| uuid == dom.uuid);
            if let Some(frame) = is_meant.then(|| happening.message(one.callback_id, dom.clone())).flatten() {
                one.outbox.send_event(frame);
            }
        }
    }
}
