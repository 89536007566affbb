//! Streams: a client's console on one side, a pseudo-terminal on the other.
//!
//! ```text
//!   open --reply--> data both ways --terminal's end--> empty data frame --client's finish--> our finish
//!                        |--client aborts--> our finish
//!                        '--another client forces it--> error
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::OFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use virtft_rpc::{ErrorCode, ErrorDomain, Frame, Header, MessageType, RemoteError, Status};

use super::connection::error_frame;
use super::outbox::Outbox;

/// Pieces of input that may wait for a guest that does not read.
const MAX_INPUT_PIECES: usize = 1024;
/// Bytes of a console that are sent at once.
const OUTPUT_BYTES: usize = 16 << 10;

/// Streams of one connection, by the serial of the call that opened them.
#[derive(Debug, Default)]
pub struct Streams {
    open: Mutex<BTreeMap<u32, Arc<Stream>>>,
}

/// A console that somebody looks at.
#[derive(Debug)]
pub struct Stream {
    header: Header,
    outbox: Outbox,
    input: mpsc::Sender<Vec<u8>>,
    /// True when the terminal is not to be listened to any more.
    ended: watch::Sender<bool>,
}

/// The terminal's end of a stream.
#[derive(Debug)]
pub struct Terminal {
    file: File,
    stream: Arc<Stream>,
    input: mpsc::Receiver<Vec<u8>>,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Stream>>> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Opens the terminal for the call with this header.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self, header: Header, outbox: Outbox, path: &str) -> io::Result<Terminal> {
        let flags = i32::try_from((OFlags::NOCTTY | OFlags::NONBLOCK).bits()).unwrap_or_default();
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        let (sender, input) = mpsc::channel(MAX_INPUT_PIECES);
        let stream = Arc::new(Stream { header, outbox, input: sender, ended: watch::Sender::new(false) });
        self.lock().insert(header.serial, Arc::clone(&stream));
        Ok(Terminal { file, stream, input })
    }

    /// Deals with a client's stream frame. Returns false when it is of none of these streams.
    pub fn take(&self, frame: &Frame) -> bool {
        let serial = frame.header.serial;
        let Some(stream) = self.lock().get(&serial).cloned() else { return false };
        match frame.header.status {
            Status::Continue if frame.payload().is_empty() => return true,
            Status::Continue => match stream.input.try_send(frame.payload().to_vec()) {
                // The terminal has ended, which the client is being told.
                Ok(()) | Err(TrySendError::Closed(_)) => return true,
                Err(TrySendError::Full(_)) => stream.fail("the guest does not read what is typed"),
            },
            Status::Ok | Status::Error => stream.send(Status::Ok, &[]),
        }
        stream.ended.send_replace(true);
        self.lock().remove(&serial);
        true
    }

    /// Forgets a stream that never began.
    pub fn forget(&self, serial: u32) {
        self.lock().remove(&serial);
    }

    /// Ends all streams with the connection.
    pub fn end_all(&self) {
        for stream in std::mem::take(&mut *self.lock()).into_values() {
            stream.ended.send_replace(true);
        }
    }
}

impl Stream {
    /// Takes the console away from its client.
    pub fn kick(&self) {
        if !*self.ended.borrow() {
            self.fail("another client has taken the console");
            self.ended.send_replace(true);
        }
    }

    /// True when nobody looks any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    fn fail(&self, reason: &str) {
        let error = RemoteError::new(ErrorCode::Rpc, ErrorDomain::Streams, reason.to_owned());
        if let Ok(frame) = error_frame(self.header, MessageType::Stream, &error) {
            self.outbox.send(frame);
        }
    }

    fn send(&self, status: Status, data: &[u8]) {
        // Pieces are far smaller than a frame may be.
        if let Ok(frame) = self.header.answer(MessageType::Stream, status).frame(data) {
            self.outbox.send(frame);
        }
    }

    async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // Fails only when the sender is gone, which is in here.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

impl Terminal {
    /// The stream that it belongs to.
    #[must_use]
    pub fn stream(&self) -> Arc<Stream> {
        Arc::clone(&self.stream)
    }

    /// Carries bytes both ways until one side ends. To be called once the reply is on its way.
    pub async fn pump(self) {
        let Self { file, stream, mut input } = self;
        // They are ends of a terminal, not of pipes, but are waited for, read and written like those.
        let ends = file.try_clone().and_then(Receiver::from_file_unchecked);
        let (from, to) = match ends.and_then(|from| Ok((from, Sender::from_file_unchecked(file)?))) {
            Ok(ends) => ends,
            Err(error) => {
                tracing::error!("a console cannot be waited for: {error}");
                stream.fail("the console cannot be read");
                stream.ended.send_replace(true);
                return;
            }
        };
        tokio::select! {
            () = output(from, &stream) => {
                // The terminal has ended: the client finishes, and is answered by `take`.
                if !stream.has_ended() {
                    stream.send(Status::Continue, &[]);
                }
            }
            () = typed(to, &mut input) => {}
            () = stream.ended() => {}
        }
    }
}

async fn output(mut from: Receiver, stream: &Stream) {
    let mut bytes = vec![0; OUTPUT_BYTES];
    while stream.outbox.has_room().await {
        match from.read(&mut bytes).await {
            Ok(count) if count > 0 => stream.send(Status::Continue, &bytes[..count]),
            // A terminal whose other end has closed fails to be read.
            Ok(_) | Err(_) => return,
        }
    }
}

/// Never returns: when the terminal fails, `output` sees it too.
async fn typed(mut to: Sender, input: &mut mpsc::Receiver<Vec<u8>>) {
    while let Some(piece) = input.recv().await {
        if to.write_all(&piece).await.is_err() {
            break;
        }
    }
    std::future::pending().await
}
