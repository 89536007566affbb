//! The process's own log: lines on standard error, filtered by `--log-filter`, those that a guest can cause at will limited in rate.

use std::fmt;
use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Crates whose lines tell of a guest's mistakes: each bad descriptor chain makes one.
const CAUSED_BY_GUESTS: &[&str] = &["virtio_queue"];
/// Lines of those crates in a period.
const LINES: u32 = 10;
/// Length of a period.
const PERIOD: Duration = Duration::from_secs(10);

/// Starts logging to standard error.
///
/// # Errors
/// When the filter is not one; the text says what may be written.
pub fn start(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| format!("--log-filter '{filter}': {error}; write error, warn, info, debug or trace"))?;
    let colour = stderr().is_terminal();
    let format =
        Limited { inner: Format::default().with_target(false), budget: Mutex::new(Budget::new(Instant::now())) };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(colour).event_format(format).init();
    Ok(())
}

/// How many lines may still be written, and how many were left out.
#[derive(Debug)]
struct Budget {
    since: Instant,
    written: u32,
    left_out: u64,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { since: now, written: 0, left_out: 0 }
    }

    /// Whether a line may be written now; if so, how many were left out since the last one.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= PERIOD {
            (self.since, self.written) = (now, 0);
        }
        if self.written == LINES {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// A format that leaves lines out when a guest causes too many.
struct Limited {
    inner: Format,
    budget: Mutex<Budget>,
}

impl<S, N> FormatEvent<S, N> for Limited
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // Lines of the `log` crate carry their own metadata inside.
        let normalized = event.normalized_metadata();
        let target = normalized.as_ref().unwrap_or_else(|| event.metadata()).target();
        if CAUSED_BY_GUESTS.iter().any(|name| target.split("::").next() == Some(name)) {
            let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
            match budget.take(Instant::now()) {
                None => return Ok(()),
                Some(0) => {}
                Some(left_out) => write!(writer, "({left_out} lines like this were left out) ")?,
            }
        }
        self.inner.format_event(cx, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let written = (0..1000).filter(|_| budget.take(start) == Some(0)).count();
        assert_eq!(written, 10);
        assert_eq!(budget.take(start + PERIOD), Some(990), "the next line says how many are missing");
        assert_eq!(budget.take(start + PERIOD), Some(0));
    }
}
