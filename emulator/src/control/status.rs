//! What `status` shows, shared between the threads.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    /// An operator, or a rule, made the machine stand still.
    pub paused: bool,
    /// Incarnation of the VM; 0 before it was ever to be protected.
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
    /// Bytes of disks that were not sent because the backup's copies had them.
    pub disk_bytes_kept: u64,
    /// Failovers in which this process took over.
    pub failovers: u64,
    /// What happened last, in one sentence.
    pub last_event: String,
}

impl Status {
    /// Whether nothing but figures differs.
    fn stands_as(&self, other: &Self) -> bool {
        let key = |status: &Self| {
            (
                status.role.clone(),
                status.state.clone(),
                status.paused,
                status.incarnation,
                status.epoch,
                status.failovers,
            )
        };
        key(self) == key(other) && self.peer == other.peer && self.last_event == other.last_event
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    status: Status,
    /// Counts the changes that a subscriber is told of.
    changes: u64,
}

/// The status, shared between the threads.
#[derive(Debug, Clone, Default)]
pub struct SharedStatus(Arc<Shared>);

impl SharedStatus {
    /// A copy of the present status.
    #[must_use]
    pub fn read(&self) -> Status {
        self.lock().status.clone()
    }

    /// Changes the status, and tells subscribers when more than figures changed.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut state = self.lock();
        let before = state.status.clone();
        change(&mut state.status);
        if !state.status.stands_as(&before) {
            state.changes += 1;
            self.0.changed.notify_all();
        }
    }

    /// The status after a change behind number `seen`, and the number of that change; `None` when there is none within `limit`.
    #[must_use]
    pub fn next(&self, seen: u64, limit: Duration) -> Option<(u64, Status)> {
        let waiting = |state: &mut State| state.changes == seen;
        let waited = self.0.changed.wait_timeout_while(self.lock(), limit, waiting);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        (!timeout.timed_out()).then(|| (state.changes, state.status.clone()))
    }

    /// A status is whole after every change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscribers_hear_of_changes_and_not_of_figures() {
        let status = SharedStatus::default();
        status.update(|status| status.lag_ms = 7);
        assert_eq!(status.next(0, Duration::ZERO), None);
        status.update(|status| "primary".clone_into(&mut status.role));
        let (seen, read) = status.next(0, Duration::ZERO).unwrap();
        assert_eq!((read.role.as_str(), read.lag_ms), ("primary", 7));
        assert_eq!(status.next(seen, Duration::ZERO), None);
        let other = status.clone();
        let waiter = std::thread::spawn(move || other.next(seen, Duration::from_secs(60)).unwrap().1.paused);
        status.update(|status| status.paused = true);
        assert!(waiter.join().unwrap());
    }
}
