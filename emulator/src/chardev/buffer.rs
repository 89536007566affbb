//! Output of a character channel on its way to the host.
//!
//! A UART does not wait for its reader. What nobody reads is kept up to a bound; beyond it the oldest bytes go
//! first, so that a client that connects late sees the most recent output. A file always takes its bytes in the
//! end, so there the guest waits instead of losing part of a log.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes kept for a reader that is there.
pub const BUFFER_BYTES: usize = 1 << 20;
/// Bytes kept for a reader that may come.
pub const UNREAD_BYTES: usize = 64 << 10;

/// What to do with output beyond the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// Forget the oldest bytes and count them.
    DropOldest,
    /// Make the writer wait.
    Wait,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    dropped: u64,
    has_reader: bool,
    closed: bool,
}

/// See the module's description. One writer, one reader thread.
#[derive(Debug)]
pub struct OutputBuffer {
    state: Mutex<State>,
    room: Condvar,
    overflow: Overflow,
}

impl OutputBuffer {
    /// An empty buffer without a reader.
    #[must_use]
    pub fn new(overflow: Overflow) -> Self {
        Self { state: Mutex::default(), room: Condvar::new(), overflow }
    }

    /// Appends output. Returns whether the reader thread must be woken.
    #[must_use]
    pub fn push(&self, data: &[u8]) -> bool {
        let mut state = self.lock();
        if self.overflow == Overflow::Wait {
            let full = |state: &mut State| state.bytes.len() >= BUFFER_BYTES && !state.closed;
            state = self.room.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        let was_empty = state.bytes.is_empty();
        state.bytes.extend(data);
        if self.overflow == Overflow::DropOldest {
            trim(&mut state);
        }
        was_empty
    }

    /// Takes up to `limit` of the oldest bytes.
    #[must_use]
    pub fn pop(&self, limit: usize) -> Vec<u8> {
        let mut state = self.lock();
        let taken = limit.min(state.bytes.len());
        let data = state.bytes.drain(..taken).collect();
        self.room.notify_all();
        data
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    /// Says whether somebody reads; without a reader less is kept.
    pub fn set_reader(&self, present: bool) {
        let mut state = self.lock();
        state.has_reader = present;
        trim(&mut state);
    }

    /// Bytes dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Refuses further output and releases a waiting writer.
    pub fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
    }

    /// A thread that panicked while it held the lock left whole entries behind: every update is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn trim(state: &mut State) {
    let limit = if state.has_reader { BUFFER_BYTES } else { UNREAD_BYTES };
    let excess = state.bytes.len().saturating_sub(limit);
    state.bytes.drain(..excess);
    state.dropped += excess as u64;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_latest_output_stays_without_a_reader() {
        let buffer = OutputBuffer::new(Overflow::DropOldest);
        assert!(buffer.push(&[1; UNREAD_BYTES]));
        assert!(!buffer.push(&[2; 100]), "the reader thread knows already");
        assert_eq!(buffer.dropped(), 100);
        let kept = buffer.pop(usize::MAX);
        assert_eq!(kept.len(), UNREAD_BYTES);
        assert_eq!(kept[UNREAD_BYTES - 100..], [2; 100]);
        buffer.set_reader(true);
        assert!(buffer.push(&vec![3; BUFFER_BYTES]));
        assert_eq!(buffer.dropped(), 100);
        assert!(!buffer.push(&[4; 7]));
        assert_eq!(buffer.dropped(), 107);
    }

    #[test]
    fn a_log_loses_nothing() {
        let buffer = Arc::new(OutputBuffer::new(Overflow::Wait));
        let writer = {
            let buffer = Arc::clone(&buffer);
            std::thread::spawn(move || {
                for byte in 0..40_u8 {
                    let _ = buffer.push(&vec![byte; BUFFER_BYTES / 8]);
                }
            })
        };
        let mut seen = 0;
        while seen < 5 * BUFFER_BYTES {
            seen += buffer.pop(4096).len();
        }
        writer.join().unwrap();
        assert!(buffer.is_empty());
        assert_eq!(buffer.dropped(), 0);
        buffer.close();
        assert!(!buffer.push(b"late"));
    }
}
