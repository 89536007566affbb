//! The log that a backup receives, as the replaying thread reads it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    /// What was read last, for a post-mortem.
    tail: VecDeque<u8>,
    /// When the last bytes came.
    filled_at: Instant,
    closed: bool,
}

/// Bytes of the tail.
const TAIL: usize = 4 << 20;

/// Bytes that come in at one end and are read, with waiting, at the other. It is bounded by the primary, which does not send more
/// than its window before it is acknowledged, and slows down when the replay falls behind.
#[derive(Debug)]
pub struct GrowingLog {
    state: Mutex<State>,
    filled: Condvar,
}

impl Default for GrowingLog {
    fn default() -> Self {
        let state = State { bytes: VecDeque::new(), tail: VecDeque::new(), filled_at: Instant::now(), closed: false };
        Self { state: Mutex::new(state), filled: Condvar::new() }
    }
}

impl GrowingLog {
    /// Appends what was received.
    pub fn append(&self, bytes: &[u8]) {
        let mut state = self.lock();
        state.bytes.extend(bytes);
        state.filled_at = Instant::now();
        drop(state);
        self.filled.notify_one();
    }

    /// Throws away what comes, until nothing more does.
    pub fn discard(&self) {
        let more = |state: &mut State| {
            state.bytes.clear();
            !state.closed
        };
        drop(self.filled.wait_while(self.lock(), more));
    }

    /// Nothing more will come: what is there is read, then the end.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// When the last bytes came.
    #[must_use]
    pub fn filled_at(&self) -> Instant {
        self.lock().filled_at
    }

    /// The end of what was read, and what was not.
    #[must_use]
    pub fn tail(&self) -> Vec<u8> {
        let state = self.lock();
        state.tail.iter().chain(&state.bytes).copied().collect()
    }

    /// Reads what is there, at least one byte; waits for it. Zero at the end.
    #[must_use]
    pub fn read(&self, buffer: &mut [u8]) -> usize {
        let empty = |state: &mut State| state.bytes.is_empty() && !state.closed;
        let mut state = self.filled.wait_while(self.lock(), empty).unwrap_or_else(PoisonError::into_inner);
        let count = buffer.len().min(state.bytes.len());
        let State { bytes, tail, .. } = &mut *state;
        for (place, byte) in buffer.iter_mut().zip(bytes.drain(..count)) {
            *place = byte;
        }
        tail.extend(&buffer[..count]);
        let old = tail.len().saturating_sub(TAIL);
        tail.drain(..old);
        count
    }

    /// Every update is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_reader_waits_and_sees_everything_up_to_the_end() {
        let log = Arc::new(GrowingLog::default());
        let reader = {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                let (mut all, mut buffer) = (Vec::new(), [0; 7]);
                loop {
                    match log.read(&mut buffer) {
                        0 => return all,
                        count => all.extend_from_slice(&buffer[..count]),
                    }
                }
            })
        };
        for piece in 0..100_u8 {
            log.append(&[piece; 3]);
        }
        log.close();
        let wanted: Vec<u8> = (0..100).flat_map(|piece| [piece; 3]).collect();
        assert_eq!(reader.join().unwrap(), wanted);
        assert_eq!(log.tail(), wanted);
    }
}
