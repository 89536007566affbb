//! What waits to be written to a client. Nobody ever waits for a client: one that does not read loses its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, watch};
use virtft_rpc::{Frame, MAX_FRAME_BYTES};

/// Bytes that may wait: one reply of any size, and then some.
const MAX_QUEUED_BYTES: usize = MAX_FRAME_BYTES + (1 << 20);
/// Bytes behind which no event is queued any more: the client has stopped reading.
const MAX_EVENT_BYTES: usize = 4 << 20;
/// Bytes behind which streams wait.
const MAX_STREAM_BYTES: usize = 256 << 10;

/// A client's queue; clones are of the same one.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    frames: mpsc::UnboundedSender<Frame>,
    queued_bytes: AtomicUsize,
    /// Told when bytes were written.
    written: Notify,
    closed: watch::Sender<bool>,
}

/// The queue's other end.
#[derive(Debug)]
pub struct Outlet {
    frames: mpsc::UnboundedReceiver<Frame>,
    outbox: Outbox,
}

/// An empty queue.
#[must_use]
pub fn outbox() -> (Outbox, Outlet) {
    // Bounded by bytes, not by frames: see `send`.
    let (sender, frames) = mpsc::unbounded_channel();
    let shared = Shared {
        frames: sender,
        queued_bytes: AtomicUsize::new(0),
        written: Notify::new(),
        closed: watch::Sender::new(false),
    };
    let outbox = Outbox(Arc::new(shared));
    (outbox.clone(), Outlet { frames, outbox })
}

impl Outbox {
    /// Queues a frame.
    pub fn send(&self, frame: Frame) {
        self.send_within(frame, MAX_QUEUED_BYTES);
    }

    /// Queues an event.
    pub fn send_event(&self, frame: Frame) {
        self.send_within(frame, MAX_EVENT_BYTES);
    }

    fn send_within(&self, frame: Frame, limit: usize) {
        let bytes = frame.bytes().len();
        if self.0.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > limit {
            if !*self.0.closed.borrow() {
                tracing::warn!("a client does not read what it is sent; its connection is closed");
            }
            self.close();
            return;
        }
        // Fails when the connection has ended, and then nobody is there to read.
        let _ = self.0.frames.send(frame);
    }

    /// Waits until there is room for stream data. Returns false when the connection has ended.
    pub async fn has_room(&self) -> bool {
        let mut closed = self.0.closed.subscribe();
        loop {
            let written = self.0.written.notified();
            if *closed.borrow_and_update() {
                return false;
            }
            if self.0.queued_bytes.load(Ordering::Relaxed) < MAX_STREAM_BYTES {
                return true;
            }
            tokio::select! {
                () = written => {}
                _ = closed.changed() => {}
            }
        }
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.0.closed.send_replace(true);
    }

    /// Waits until the connection is to end.
    pub async fn closed(&self) {
        let mut closed = self.0.closed.subscribe();
        // Fails only when the sender is gone, which this clone holds.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

impl Outlet {
    /// Writes frames as they come, until the connection ends.
    pub async fn write_to(mut self, mut socket: impl AsyncWrite + Unpin) {
        let closed = self.outbox.clone();
        let write = async {
            while let Some(frame) = self.frames.recv().await {
                if socket.write_all(frame.bytes()).await.is_err() {
                    break;
                }
                self.outbox.0.queued_bytes.fetch_sub(frame.bytes().len(), Ordering::Relaxed);
                self.outbox.0.written.notify_waiters();
            }
        };
        tokio::select! {
            () = write => {}
            () = closed.closed() => {}
        }
        closed.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtft_rpc::keepalive;

    #[test]
    fn a_client_that_does_not_read_is_let_go() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (outbox, outlet) = outbox();
            let (ours, theirs) = tokio::io::duplex(1000);
            let writer = tokio::spawn(outlet.write_to(ours));
            assert!(outbox.has_room().await);
            let frame = keepalive::header(keepalive::PING).frame(&[0; 100_000]).unwrap();
            for _ in 0..100 {
                outbox.send_event(frame.clone());
            }
            writer.await.unwrap();
            assert!(!outbox.has_room().await);
            drop(theirs);
        });
    }
}
