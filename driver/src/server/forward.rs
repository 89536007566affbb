//! Calls about what is libvirt's own, passed on frame by frame.
//!
//! Each client has connections of its own to libvirt's daemons, made when it first calls one. Frames are passed on as they are,
//! with the client's serials, both ways: replies, events, and streams of volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use virtft_rpc::{Frame, FrameBuffer, Header, MessageType, Status};

use super::connection::error_frame;
use super::session::Session;
use crate::error::DriverError;
use crate::upstream::{Kind, Upstream};

/// Frames that may wait for one of libvirt's daemons; then the client waits.
const MAX_WAITING: usize = 64;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// A client's connections to libvirt's daemons. They end with the client's own.
#[derive(Debug, Default)]
pub struct Forwards {
    links: tokio::sync::Mutex<BTreeMap<Kind, Arc<Link>>>,
}

#[derive(Debug)]
struct Link {
    frames: mpsc::Sender<Frame>,
    state: Mutex<LinkState>,
}

#[derive(Debug, Default)]
struct LinkState {
    /// Calls without an answer, by serial.
    calls: BTreeMap<u32, Header>,
    /// Streams, by serial.
    streams: BTreeSet<u32>,
    has_ended: bool,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// True when it was noted; an ended link answers nothing.
    fn note_call(&self, header: Header) -> bool {
        let mut state = self.state();
        if state.has_ended {
            return false;
        }
        state.calls.insert(header.serial, header);
        if Kind::opens_stream(header.procedure) {
            state.streams.insert(header.serial);
        }
        true
    }
}

impl Forwards {
    /// Passes a call on, or says that it is unknown where there is nobody to pass it to.
    pub async fn call(&self, kind: Kind, frame: Frame, session: &Arc<Session>) {
        let header = frame.header;
        let error = match self.link(kind, session).await {
            Ok(Some(link)) => {
                if link.note_call(header) && link.frames.send(frame).await.is_ok() {
                    return;
                }
                ended()
            }
            Ok(None) => DriverError::UnknownProcedure(header.procedure),
            Err(error) => error,
        };
        refuse(session, header, &error);
    }

    /// Passes a frame of a stream on, if it is of one of these streams.
    pub async fn stream(&self, frame: Frame) {
        let links = self.links.lock().await;
        let link = links.values().find(|link| link.state().streams.contains(&frame.header.serial)).cloned();
        drop(links);
        if let Some(link) = link {
            // When libvirt's daemon has ended, so has the stream.
            let _ = link.frames.send(frame).await;
        }
    }

    async fn link(&self, kind: Kind, session: &Arc<Session>) -> Result<Option<Arc<Link>>, DriverError> {
        let mut links = self.links.lock().await;
        if let Some(link) = links.get(&kind).filter(|link| !link.state().has_ended) {
            return Ok(Some(Arc::clone(link)));
        }
        let opened = session.opened().ok_or(DriverError::NotOpen("a call about networks or storage"))?;
        let paths = session.hypervisor.paths.clone();
        let open = move || Upstream::open(&paths, kind, opened.is_read_only);
        let upstream = tokio::task::spawn_blocking(open).await;
        let upstream = upstream.map_err(|error| DriverError::Failed(error.to_string()))??;
        let Some(upstream) = upstream else { return Ok(None) };
        let failed = |error: std::io::Error| DriverError::Failed(format!("libvirt's daemon: {error}"));
        let socket = UnixStream::from_std(upstream.into_stream().map_err(failed)?).map_err(failed)?;
        let (sender, mut frames) = mpsc::channel::<Frame>(MAX_WAITING);
        let link = Arc::new(Link { frames: sender, state: Mutex::default() });
        links.insert(kind, Arc::clone(&link));
        let (read, mut write) = tokio::io::split(socket);
        let (of_task, session) = (Arc::clone(&link), Arc::clone(session));
        tokio::spawn(async move {
            let upward = async {
                while let Some(frame) = frames.recv().await {
                    if write.write_all(frame.bytes()).await.is_err() {
                        break;
                    }
                }
            };
            tokio::select! {
                () = upward => {}
                () = pass_down(read, &of_task, &session) => {}
                () = session.outbox.closed() => {}
            }
            end(&of_task, &session);
        });
        Ok(Some(link))
    }
}

/// Reads frames and passes them to the client, until the daemon ends.
async fn pass_down(mut socket: ReadHalf<UnixStream>, link: &Link, session: &Session) {
    let mut buffer = FrameBuffer::default();
    let mut bytes = vec![0; READ_BYTES];
    while session.outbox.has_room().await {
        match socket.read(&mut bytes).await {
            Ok(count) if count > 0 => buffer.extend(&bytes[..count]),
            Ok(_) | Err(_) => return,
        }
        loop {
            match buffer.next_frame() {
                Ok(Some(frame)) => pass_frame(frame, link, session),
                Ok(None) => break,
                Err(error) => return tracing::warn!("libvirt's daemon: {error}"),
            }
        }
    }
}

fn pass_frame(frame: Frame, link: &Link, session: &Session) {
    let Header { kind, serial, status, .. } = frame.header;
    match kind {
        MessageType::Reply => {
            let mut state = link.state();
            state.calls.remove(&serial);
            if status == Status::Error {
                state.streams.remove(&serial);
            }
        }
        MessageType::Stream if status != Status::Continue => {
            link.state().streams.remove(&serial);
        }
        _ => {}
    }
    session.outbox.send(frame);
}

/// Answers what was not answered.
fn end(link: &Link, session: &Session) {
    let calls = {
        let mut state = link.state();
        state.has_ended = true;
        state.streams.clear();
        std::mem::take(&mut state.calls)
    };
    for header in calls.into_values() {
        refuse(session, header, &ended());
    }
}

fn ended() -> DriverError {
    DriverError::Failed("libvirt's daemon has ended".into())
}

fn refuse(session: &Session, header: Header, error: &DriverError) {
    match error_frame(header, MessageType::Reply, &error.to_remote()) {
        Ok(frame) => session.outbox.send(frame),
        Err(error) => tracing::error!("a reply cannot be sent: {error}"),
    }
}
