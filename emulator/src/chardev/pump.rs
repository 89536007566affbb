//! The thread of a character channel.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use virtft_machine::io::{CharPort, Input};

use super::Shared;
use super::endpoint::{Endpoint, Reconnect};
use super::escape::EscapeFilter;
use crate::exit::ExitStatus;
use crate::queue::{Closed, InputQueue};
use crate::sys::{self, Interest};

/// Written at once: what a pipe takes without blocking when it says that it is writable.
const WRITE_BYTES: usize = 4096;
/// Typed bytes go to the guest in portions with a pause, about as fast as a serial line: a guest that reads
/// its FIFO in time loses nothing of a long paste.
const READ_BYTES: usize = 64;
const READ_PAUSE: Duration = Duration::from_millis(5);
/// Time between attempts to get a lost connection back.
const RETRY_MS: u16 = 1000;
/// How long the last output may take to leave.
const LINGER: Duration = Duration::from_secs(1);

/// Everything the thread has.
pub struct Pump {
    port: CharPort,
    endpoint: Endpoint,
    shared: Arc<Shared>,
    queue: Arc<InputQueue>,
    escape: EscapeFilter,
    /// Taken from the buffer and not yet written.
    pending: Vec<u8>,
    next_read: Instant,
}

impl Pump {
    /// `queue` receives what is typed.
    pub fn new(port: CharPort, endpoint: Endpoint, shared: Arc<Shared>, queue: Arc<InputQueue>) -> Self {
        let escape = EscapeFilter::default();
        Self { port, endpoint, shared, queue, escape, pending: Vec::new(), next_read: Instant::now() }
    }

    /// Moves bytes until the handle is dropped and the last output is out.
    pub fn run(mut self) {
        let mut last_moment = None;
        loop {
            if self.shared.stopping.load(Ordering::Relaxed) {
                let deadline = *last_moment.get_or_insert_with(|| Instant::now() + LINGER);
                let done = self.pending.is_empty() && self.shared.output.is_empty();
                if done || self.endpoint.connection.is_none() || Instant::now() >= deadline {
                    return;
                }
            }
            if let Err(error) = self.turn(last_moment.is_some()) {
                tracing::error!("{:?}: {error}; its output is discarded from now on", self.port);
                break;
            }
        }
        // Nobody reads any more: the guest must not wait.
        self.shared.output.close();
    }

    /// Waits for something to do and does it.
    fn turn(&mut self, ending: bool) -> io::Result<()> {
        if self.pending.is_empty() && self.endpoint.connection.is_some() {
            self.pending = self.shared.output.pop(WRITE_BYTES);
        }
        let pause = self.next_read.saturating_duration_since(Instant::now());
        let wants_output = !self.pending.is_empty();
        let mut timeout = match (&self.endpoint.connection, &self.endpoint.reconnect) {
            (None, Reconnect::Dial(_)) => Some(RETRY_MS),
            (Some(connection), _) if connection.input.is_some() && !pause.is_zero() => {
                Some(u16::try_from(pause.as_millis() + 1).unwrap_or(RETRY_MS))
            }
            _ => None,
        };
        if ending {
            timeout = Some(timeout.unwrap_or(100).min(100));
        }
        let mut interests: Vec<Interest<'_>> = vec![(self.shared.waker.as_fd(), true, false)];
        let mut input_at = None;
        match (&self.endpoint.connection, &self.endpoint.reconnect) {
            (Some(connection), _) => {
                interests.push((connection.output.as_fd(), false, wants_output));
                if let Some(input) = connection.input.as_ref().filter(|_| pause.is_zero() && !ending) {
                    input_at = Some(interests.len());
                    interests.push((input.as_fd(), true, false));
                }
            }
            (None, Reconnect::Accept(listener)) => interests.push((listener.as_fd(), true, false)),
            (None, _) => {}
        }
        // A descriptor polled for nothing would still report a hang-up, without end.
        let polled: Vec<Interest<'_>> = interests.iter().copied().filter(|(_, read, write)| *read || *write).collect();
        let skipped = interests.len() - polled.len();
        let ready = sys::poll(&polled, timeout)?;
        let is_ready = |index: usize| ready.get(index).copied().unwrap_or_default();
        if is_ready(0).readable {
            self.shared.waker.clear();
        }
        let can_write = wants_output && is_ready(1).writable;
        let can_read = input_at.is_some_and(|index| is_ready(index - skipped).readable);
        if self.endpoint.connection.is_none() {
            let connected = self.endpoint.try_reconnect();
            self.shared.output.set_reader(connected);
            return Ok(());
        }
        if can_write {
            self.write()?;
        }
        if can_read { self.read() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(connection) = &mut self.endpoint.connection else { return Ok(()) };
        match connection.output.write(&self.pending) {
            Ok(done) => {
                self.pending.drain(..done);
                Ok(())
            }
            Err(error) if is_temporary(&error) => Ok(()),
            Err(error) => self.lose(error),
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(connection) = &mut self.endpoint.connection else { return Ok(()) };
        let Some(input) = &mut connection.input else { return Ok(()) };
        let mut buffer = [0; READ_BYTES];
        match input.read(&mut buffer) {
            Ok(0) if connection.ends_with_input => self.lose(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => {
                connection.input = None;
                Ok(())
            }
            Ok(got) => {
                self.next_read = Instant::now() + READ_PAUSE;
                self.deliver(&buffer[..got]);
                Ok(())
            }
            Err(error) if is_temporary(&error) => Ok(()),
            Err(_) if !connection.ends_with_input => {
                connection.input = None;
                Ok(())
            }
            Err(error) => self.lose(error),
        }
    }

    fn deliver(&mut self, bytes: &[u8]) {
        let mut data = bytes.to_vec();
        if self.endpoint.has_escape {
            let typed = self.escape.feed(bytes);
            if typed.quit {
                self.queue.request_stop(ExitStatus::Stopped);
            }
            if typed.help {
                self.pending.extend(EscapeFilter::HELP);
            }
            data = typed.data;
        }
        if data.is_empty() {
            return;
        }
        if self.queue.push_chars(Input::CharReceive { port: self.port, data }) == Err(Closed)
            && let Some(connection) = &mut self.endpoint.connection
        {
            // The emulator is ending; only output matters now.
            connection.input = None;
        }
    }

    /// The reader is gone. Without a way to get another, that is an error.
    fn lose(&mut self, error: io::Error) -> io::Result<()> {
        self.endpoint.connection = None;
        self.shared.output.set_reader(false);
        match self.endpoint.reconnect {
            Reconnect::Never => Err(error),
            _ => Ok(()),
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
