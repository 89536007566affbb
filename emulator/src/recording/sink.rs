//! Writes the frames of a log on a thread of its own.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use virtft_replay::frame::Frame;
use virtft_replay::header::{FORMAT_VERSION, LOG_MAGIC};

use crate::driver::DriverError;
use crate::seccomp::Confinement;
use crate::threads::{self, ThreadClass};

/// Payload bytes that may wait to be written. With more, the recorded guest waits.
const BUFFER_BYTES: usize = 64 << 20;

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: bool,
    failure: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a frame arrives or the log is closed.
    filled: Condvar,
    /// Signalled when a frame was written or writing has failed.
    drained: Condvar,
}

impl Shared {
    /// Every update is one step: a thread that panicked left whole entries behind.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing end of a log file.
#[derive(Debug)]
pub struct LogSink {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LogSink {
    /// Makes the file, which only this user may read: a log holds the guest's secrets.
    ///
    /// # Errors
    /// One line that says why it cannot be made. An existing file is never overwritten.
    pub fn create(path: &Path, compress: bool, confinement: &Confinement) -> Result<Self, String> {
        let failed = |reason: String| format!("--log {}: {reason}", path.display());
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
            failed(match error.kind() {
                io::ErrorKind::AlreadyExists => "it exists already; name another file, or remove it".into(),
                io::ErrorKind::NotFound => "its folder does not exist; make it first".into(),
                _ => format!("it cannot be made ({error})"),
            })
        })?;
        let beginning = [LOG_MAGIC.as_slice(), &FORMAT_VERSION.to_le_bytes()].concat();
        file.write_all(&beginning).map_err(|error| failed(format!("it cannot be written ({error})")))?;
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        let body = move || write_frames(&mut file, &writer, compress);
        let thread = threads::spawn("log", ThreadClass::Disk, confinement, body)
            .map_err(|error| failed(format!("its thread cannot be started ({error})")))?;
        Ok(Self { path: path.to_owned(), shared, thread: Some(thread) })
    }

    /// Queues a frame; waits while too much is queued. After a failure frames are dropped.
    pub fn push(&self, frame: Frame) {
        let state = self.shared.lock();
        let full = |state: &mut State| state.bytes > BUFFER_BYTES && state.failure.is_none();
        let mut state = self.shared.drained.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        if state.failure.is_none() {
            state.bytes += frame.payload.len();
            state.frames.push_back(frame);
            self.shared.filled.notify_one();
        }
    }

    /// Why the log cannot be written any more; `None` while all is well.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.shared.lock().failure.as_ref().map(|reason| self.describe(reason))
    }

    /// Waits until everything is written and on the medium.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn finish(&mut self) -> Result<(), DriverError> {
        self.close();
        match self.shared.lock().failure.clone() {
            None => Ok(()),
            Some(reason) => Err(DriverError::Write { file: self.path.display().to_string(), reason }),
        }
    }

    fn describe(&self, reason: &str) -> String {
        let path = self.path.display();
        format!("{path}: the log cannot be written ({reason}); it holds the run up to its last whole frame")
    }

    fn close(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            self.shared.lock().failure.get_or_insert("its thread panicked".into());
        }
    }
}

impl Drop for LogSink {
    fn drop(&mut self) {
        self.close();
    }
}

fn write_frames(file: &mut File, shared: &Shared, compress: bool) {
    loop {
        let next = {
            let state = shared.lock();
            let empty = |state: &mut State| state.frames.is_empty() && !state.closed;
            shared.filled.wait_while(state, empty).unwrap_or_else(PoisonError::into_inner).frames.pop_front()
        };
        let result = match &next {
            Some(frame) => file.write_all(&frame.to_bytes(compress)),
            None => file.sync_all(),
        };
        let mut state = shared.lock();
        state.bytes -= next.as_ref().map_or(0, |frame| frame.payload.len());
        if let Err(error) = &result {
            state.failure = Some(error.to_string());
            state.frames.clear();
            state.bytes = 0;
        }
        shared.drained.notify_all();
        if next.is_none() || result.is_err() {
            return;
        }
    }
}
