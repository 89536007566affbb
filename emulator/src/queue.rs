//! The queue of inputs between the host's I/O threads and the vCPU thread.
//!
//! Bounds: disk completions are bounded by the requests that the guest has in flight and are never refused.
//! Frames are refused beyond [`NET_LIMIT`] per device, so a flood neither grows memory nor overruns the
//! guest's receive ring in one go. Typed bytes wait beyond [`CHAR_LIMIT`]: their reader thread is stopped, not
//! the guest. The vCPU thread blocks here while the guest is idle; nothing polls.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use virtft_machine::io::Input;

use crate::driver::Task;
use crate::exit::ExitStatus;

/// Frames queued per network device: half of the usual receive ring.
pub const NET_LIMIT: usize = 128;
/// Chunks of typed bytes queued in all.
pub const CHAR_LIMIT: usize = 16;

/// The receiver is gone: the emulator is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

#[derive(Debug, Default)]
struct State {
    inputs: VecDeque<Input>,
    /// Frames in `inputs`, by device.
    frames: BTreeMap<u8, usize>,
    /// Chunks of typed bytes in `inputs`.
    chars: usize,
    stop: Option<ExitStatus>,
    tasks: VecDeque<Task>,
    /// The vCPU thread is to look up from its sleep although nothing is here.
    poked: bool,
    closed: bool,
}

/// See the module's description. Shared by reference count between the threads.
#[derive(Debug, Default)]
pub struct InputQueue {
    state: Mutex<State>,
    /// Signalled when an input or a stop request arrives.
    filled: Condvar,
    /// Signalled when typed bytes leave the queue or it closes.
    drained: Condvar,
    /// Something waits for the vCPU thread: lets it look without taking the lock.
    pending: AtomicBool,
}

impl InputQueue {
    /// Adds an input that must not be lost: a completion, a key, the power button, a link change.
    pub fn push(&self, input: Input) {
        let mut state = self.lock();
        if !state.closed {
            state.inputs.push_back(input);
            self.notify(state);
        }
    }

    /// Adds a received frame. Returns false, and drops it, when the device has [`NET_LIMIT`] queued.
    #[must_use]
    pub fn push_frame(&self, device: u8, input: Input) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        let queued = state.frames.entry(device).or_default();
        if *queued >= NET_LIMIT {
            return false;
        }
        *queued += 1;
        state.inputs.push_back(input);
        self.notify(state);
        true
    }

    /// Whether [`push_frame`](Self::push_frame) would accept a frame for `device`.
    #[must_use]
    pub fn frame_room(&self, device: u8) -> bool {
        self.lock().frames.get(&device).copied().unwrap_or(0) < NET_LIMIT
    }

    /// Adds typed bytes, waiting while [`CHAR_LIMIT`] chunks are queued.
    ///
    /// # Errors
    /// When the emulator is ending.
    pub fn push_chars(&self, input: Input) -> Result<(), Closed> {
        let state = self.lock();
        let mut state = self
            .drained
            .wait_while(state, |state| state.chars >= CHAR_LIMIT && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Closed);
        }
        state.chars += 1;
        state.inputs.push_back(input);
        self.notify(state);
        Ok(())
    }

    /// Asks the vCPU thread to stop and end with `status`. The first request wins.
    pub fn request_stop(&self, status: ExitStatus) {
        let mut state = self.lock();
        state.stop.get_or_insert(status);
        self.notify(state);
    }

    /// Gives the vCPU thread a task. When it has ended already, the task is dropped, and whoever waits for its answer learns that.
    pub fn push_task(&self, task: Task) {
        let mut state = self.lock();
        if !state.closed {
            state.tasks.push_back(task);
            self.notify(state);
        }
    }

    /// Takes the oldest task.
    #[must_use]
    pub fn pop_task(&self) -> Option<Task> {
        let mut state = self.lock();
        let task = state.tasks.pop_front();
        self.look_again(&state);
        task
    }

    /// Wakes the vCPU thread once, so that it runs the guest and sees what else has changed.
    pub fn poke(&self) {
        let mut state = self.lock();
        state.poked = true;
        self.notify(state);
    }

    /// The status of a stop request, if there was one.
    #[must_use]
    pub fn stop_requested(&self) -> Option<ExitStatus> {
        self.lock().stop
    }

    /// Whether there is an input or a stop request. Cheap: one relaxed load.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    /// Takes the oldest input.
    #[must_use]
    pub fn pop(&self) -> Option<Input> {
        let mut state = self.lock();
        let input = state.inputs.pop_front();
        match &input {
            Some(Input::NetReceive { device, .. }) => {
                if let Some(queued) = state.frames.get_mut(&device.0) {
                    *queued = queued.saturating_sub(1);
                }
            }
            Some(Input::CharReceive { .. }) => {
                state.chars = state.chars.saturating_sub(1);
                self.drained.notify_all();
            }
            _ => {}
        }
        self.look_again(&state);
        input
    }

    /// What was taken may have been the last that waited.
    fn look_again(&self, state: &State) {
        if state.inputs.is_empty() && state.tasks.is_empty() && state.stop.is_none() {
            self.pending.store(false, Ordering::Relaxed);
        }
    }

    /// Waits until there is an input, a task or a stop request, or until `deadline`. Returns whether there is one.
    pub fn wait(&self, deadline: Option<Instant>) -> bool {
        self.wait_for(deadline, |state| !state.inputs.is_empty())
    }

    /// As [`wait`](Self::wait), but inputs are left where they are: the machine stands still.
    pub fn wait_standing_still(&self) {
        self.wait_for(None, |_| false);
    }

    fn wait_for(&self, deadline: Option<Instant>, ready: impl Fn(&State) -> bool) -> bool {
        let mut state = self.lock();
        loop {
            let asked = !state.tasks.is_empty() || state.stop.is_some();
            if ready(&state) || asked || std::mem::take(&mut state.poked) {
                return true;
            }
            state = match deadline {
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Ends the queue: inputs are dropped and waiting producers return.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.inputs.clear();
        state.tasks.clear();
        self.drained.notify_all();
        self.filled.notify_all();
    }

    fn notify(&self, state: MutexGuard<'_, State>) {
        self.pending.store(true, Ordering::Relaxed);
        drop(state);
        self.filled.notify_one();
    }

    /// A thread that panicked while it held the lock left whole entries behind: every update is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use virtft_machine::io::{CharPort, DeviceIndex};

    use super::*;

    fn frame(device: u8) -> Input {
        Input::NetReceive { device: DeviceIndex(device), packet: vec![0; 60] }
    }

    fn typed(byte: u8) -> Input {
        Input::CharReceive { port: CharPort::Serial(0), data: vec![byte] }
    }

    #[test]
    fn frames_are_bounded_per_device() {
        let queue = InputQueue::default();
        for _ in 0..NET_LIMIT {
            assert!(queue.push_frame(0, frame(0)));
        }
        assert!(!queue.push_frame(0, frame(0)));
        assert!(queue.push_frame(1, frame(1)), "the other device has its own bound");
        queue.push(Input::PowerButton);
        assert!(queue.pop().is_some());
        assert!(queue.frame_room(0));
        let rest = std::iter::from_fn(|| queue.pop()).count();
        assert_eq!(rest, NET_LIMIT + 1);
        assert!(!queue.is_pending());
    }

    #[test]
    fn typed_bytes_wait_and_keep_their_order() {
        let queue = Arc::new(InputQueue::default());
        let producer = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || (0..100).try_for_each(|byte| queue.push_chars(typed(byte))))
        };
        let mut seen = Vec::new();
        while seen.len() < 100 {
            assert!(queue.wait(Some(Instant::now() + Duration::from_secs(10))));
            while let Some(Input::CharReceive { data, .. }) = queue.pop() {
                seen.extend(data);
            }
        }
        assert_eq!(producer.join().unwrap(), Ok(()));
        assert_eq!(seen, (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn closing_releases_a_waiting_producer() {
        let queue = Arc::new(InputQueue::default());
        let producer = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                loop {
                    if queue.push_chars(typed(0)).is_err() {
                        return;
                    }
                }
            })
        };
        while queue.lock().chars < CHAR_LIMIT {
            std::thread::yield_now();
        }
        queue.close();
        producer.join().unwrap();
    }

    #[test]
    fn the_first_stop_request_wins_and_wakes() {
        let queue = InputQueue::default();
        assert!(!queue.wait(Some(Instant::now() + Duration::from_millis(1))));
        queue.request_stop(ExitStatus::Stopped);
        queue.request_stop(ExitStatus::Io);
        assert!(queue.wait(None));
        assert_eq!(queue.stop_requested(), Some(ExitStatus::Stopped));
    }
}
