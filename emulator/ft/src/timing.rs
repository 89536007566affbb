//! The times that the protocol goes by, all in nanoseconds of the driver's monotonic clock.

/// One millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;

/// Periods and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A heartbeat is sent this often.
    pub heartbeat_ns: u64,
    /// A peer that is silent for so long is taken for dead. A broken connection is made again within it.
    pub timeout_ns: u64,
    /// After an unanswered question the arbiter is asked again after so long.
    pub arbiter_retry_ns: u64,
    /// After a failed attempt the peer is connected to again after so long.
    pub connect_retry_ns: u64,
    /// How long a transfer may go without any progress of the new backup.
    pub transfer_timeout_ns: u64,
    /// The primary is slowed when the backup is further behind than this, in guest time.
    pub lag_target_ns: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ns: 100 * MS,
            timeout_ns: 500 * MS,
            arbiter_retry_ns: 200 * MS,
            connect_retry_ns: 50 * MS,
            transfer_timeout_ns: 30_000 * MS,
            lag_target_ns: 200 * MS,
        }
    }
}

impl Timing {
    /// How long a node slept between two ticks, which come every 25 ms at most while it is awake.
    #[must_use]
    pub fn asleep_ns(&self, last_ns: u64, now_ns: u64) -> u64 {
        let gap = now_ns.saturating_sub(last_ns);
        if gap > self.timeout_ns / 4 { gap } else { 0 }
    }

    /// The same times for another detection timeout; heartbeats stay at least four in it.
    #[must_use]
    pub fn with_timeout_ms(timeout_ms: u64) -> Self {
        let timeout_ns = timeout_ms.saturating_mul(MS);
        let default = Self::default();
        Self { timeout_ns, heartbeat_ns: default.heartbeat_ns.min(timeout_ns / 4), ..default }
    }
}
