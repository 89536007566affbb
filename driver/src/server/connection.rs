//! One client: frames in, calls and streams, frames out.
//!
//! Several calls are carried out at once, each on a thread of its own; their replies come in any order. Pings are answered
//! while all of them wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf};
use tokio::sync::Semaphore;
use virtft_rpc::pair::{PAIR_PROGRAM, PAIR_VERSION};
use virtft_rpc::{Frame, FrameBuffer, Header, MessageType, REMOTE_PROGRAM, RemoteError, Status, keepalive, to_bytes};

use super::keepalive::look_after;
use super::outbox::outbox;
use super::session::{Origin, Session};
use crate::error::DriverError;
use crate::upstream::Kind;
use crate::vm::Hypervisor;
use crate::{calls, ft};

/// Calls of one client that are carried out at once.
const MAX_RUNNING: usize = 20;
/// Calls that may wait besides; a client with more does not wait for answers, and is let go.
const MAX_WAITING: usize = 200;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// Serves a client until its connection ends.
pub async fn serve<S>(stream: S, id: u64, hypervisor: Arc<Hypervisor>, origin: Origin)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let (outbox, outlet) = outbox();
    let session = Arc::new(Session::new(id, hypervisor, outbox.clone(), origin));
    tracing::debug!("client {id} is connected");
    let writer = tokio::spawn(outlet.write_to(write));
    tokio::select! {
        reason = read_frames(read, &session) => tracing::debug!("client {id}: {reason}"),
        () = outbox.closed() => tracing::debug!("client {id}: closed"),
        () = look_after(&session) => {}
    }
    outbox.close();
    session.streams.end_all();
    // Fails only when the writer panicked.
    let _ = writer.await;
    let ended = Arc::clone(&session);
    // Machines may have to be ended with it.
    let _ = tokio::task::spawn_blocking(move || ended.hypervisor.end_session(ended.id)).await;
}

/// Reads until the connection ends; returns why.
async fn read_frames(mut socket: ReadHalf<impl AsyncRead>, session: &Arc<Session>) -> String {
    let mut buffer = FrameBuffer::default();
    let mut bytes = vec![0; READ_BYTES];
    let limits = Limits { running: Arc::new(Semaphore::new(MAX_RUNNING)), waiting: Arc::default() };
    loop {
        match socket.read(&mut bytes).await {
            Ok(0) if buffer.is_inside_frame() => return "ended within a frame".into(),
            Ok(0) => return "ended".into(),
            Ok(count) => buffer.extend(&bytes[..count]),
            Err(error) => return error.to_string(),
        }
        session.note_heard();
        loop {
            match buffer.next_frame() {
                Ok(Some(frame)) => {
                    if let Err(reason) = take(frame, session, &limits).await {
                        return reason.into();
                    }
                }
                Ok(None) => break,
                Err(error) => return error.to_string(),
            }
        }
    }
}

#[derive(Debug)]
struct Limits {
    running: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// Deals with a frame; an error ends the connection.
async fn take(frame: Frame, session: &Arc<Session>, limits: &Limits) -> Result<(), &'static str> {
    let header = frame.header;
    match header.kind {
        MessageType::Message if header.program == keepalive::PROGRAM => {
            if header.procedure == keepalive::PING
                && let Ok(pong) = keepalive::header(keepalive::PONG).frame(&[])
            {
                session.outbox.send(pong);
            }
            Ok(())
        }
        MessageType::Call => start_call(frame, session, limits),
        MessageType::Stream => {
            // Those of streams that have ended come late, and are ignored.
            if !session.streams.take(&frame) {
                session.forwards.stream(frame).await;
            }
            Ok(())
        }
        // Bytes that are no frames would follow; that we take none was said when the client asked.
        MessageType::CallWithFds => Err("it sends file descriptors"),
        MessageType::StreamHole => Err("it sends a hole in a stream"),
        MessageType::Reply | MessageType::ReplyWithFds => Err("it replies to nothing"),
        MessageType::Message => Ok(()),
    }
}

fn start_call(frame: Frame, session: &Arc<Session>, limits: &Limits) -> Result<(), &'static str> {
    let waiting = Arc::clone(&limits.waiting);
    if waiting.fetch_add(1, Ordering::Relaxed) >= MAX_RUNNING + MAX_WAITING {
        return Err("it makes calls without waiting for answers");
    }
    let (session, running) = (Arc::clone(session), Arc::clone(&limits.running));
    tokio::spawn(async move {
        // Never closed, so this always succeeds.
        let permit = running.acquire_owned().await;
        // Fails only when the call panicked, which was printed; the client is not left waiting.
        if let Some(kind) = Kind::of(frame.header.procedure).filter(|_| frame.header.program == REMOTE_PROGRAM) {
            session.forwards.call(kind, frame, &session).await;
            waiting.fetch_sub(1, Ordering::Relaxed);
            return drop(permit);
        }
        let outbox = session.outbox.clone();
        if tokio::task::spawn_blocking(move || answer(&frame, &session)).await.is_err() {
            outbox.close();
        }
        waiting.fetch_sub(1, Ordering::Relaxed);
        drop(permit);
    });
    Ok(())
}

/// Carries out a call and queues the reply.
fn answer(frame: &Frame, session: &Arc<Session>) {
    let header = frame.header;
    let context = calls::Context::new(session, header);
    let result = if header.program == REMOTE_PROGRAM {
        calls::call(&context, header.procedure, frame.payload())
    } else if header.program == PAIR_PROGRAM && header.version == PAIR_VERSION {
        ft::serve::call(session, header.procedure, frame.payload())
    } else {
        // Programs for other hypervisors.
        Err(DriverError::UnknownProcedure(header.procedure))
    };
    let sent = match &result {
        Ok(reply) => header.answer(MessageType::Reply, Status::Ok).frame(reply),
        Err(error) => {
            tracing::debug!("client {}: procedure {}: {error}", session.id, header.procedure);
            error_frame(header, MessageType::Reply, &error.to_remote())
        }
    };
    let too_long =
        || RemoteError::new(virtft_rpc::ErrorCode::Rpc, virtft_rpc::ErrorDomain::Rpc, "the reply is too long".into());
    match sent.or_else(|_| error_frame(header, MessageType::Reply, &too_long())) {
        Ok(frame) => session.outbox.send(frame),
        Err(error) => tracing::error!("a reply cannot be sent: {error}"),
    }
    if result.is_ok() {
        context.reply_is_sent();
    }
}

/// A frame that carries an error.
///
/// # Errors
/// When the error is too long for a frame.
pub fn error_frame(header: Header, kind: MessageType, error: &RemoteError) -> Result<Frame, virtft_rpc::FrameError> {
    header.answer(kind, Status::Error).frame(&to_bytes(error))
}
