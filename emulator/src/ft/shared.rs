//! Shared disks at the moment when this host takes them over.
//!
//! Two things keep the old primary's writes from coming later than ours: the fence, and the lock on the images, which the old primary
//! holds until its process has written everything and ended. In a planned switch it does that by itself.

use std::time::{Duration, Instant};

use super::fence::Fence;
use super::link::Link;
use crate::cli::RunArguments;
use crate::disk::{Disk, DiskError};
use crate::host::{Host, HostError};
use crate::queue::InputQueue;

/// A primary that hands over ends within this; then it is fenced like one that died.
const HANDOVER_LIMIT: Duration = Duration::from_secs(10);
/// Between looks at a lock.
const LOCK_EVERY: Duration = Duration::from_millis(10);
/// Between attempts of the agent, or to reach the images.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What a backup needs to take the disks over.
#[derive(Debug)]
pub struct SharedDisks {
    /// Names the images.
    pub devices: RunArguments,
    /// Keeps the old primary away.
    pub fence: Fence,
}

impl SharedDisks {
    /// Waits until the disks are this host's alone, and opens them. What is in the way is said in `link`.
    ///
    /// # Errors
    /// When this process is told to end.
    pub fn take_over(&self, planned: bool, link: &Link, queue: &InputQueue) -> Result<Vec<Disk>, String> {
        let given_up = planned.then(|| Instant::now() + HANDOVER_LIMIT);
        let mut fenced = false;
        loop {
            if queue.stop_requested().is_some() {
                return Err("it was told to end before the disks were free".into());
            }
            let must_fence = !fenced && given_up.is_none_or(|limit| Instant::now() >= limit);
            let (obstacle, pause) = match must_fence.then(|| self.fence.attempt()) {
                Some(Err(reason)) => (format!("fencing: {reason}"), RETRY_EVERY),
                done => {
                    fenced |= done.is_some();
                    match Host::open_disks(&self.devices) {
                        Ok(disks) => {
                            link.set_obstacle(None);
                            return Ok(disks);
                        }
                        Err(HostError::Disk(error @ DiskError::InUse { .. })) => {
                            (format!("waiting for the old primary to leave: {error}"), LOCK_EVERY)
                        }
                        Err(error) => (format!("waiting for the disks: {error}"), RETRY_EVERY),
                    }
                }
            };
            if link.obstacle().as_ref() != Some(&obstacle) {
                tracing::warn!("{obstacle}");
                link.set_obstacle(Some(obstacle));
            }
            std::thread::sleep(pause);
        }
    }
}
