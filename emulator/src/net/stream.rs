//! Frames over a unix stream socket: each preceded by its length as four bytes, most significant first. This is
//! what QEMU's `-netdev stream` and `passt` speak.
//!
//! The wire knows no offload: checksums and segmentation that the guest left open are finished here, and
//! checksums of received frames are verified here, by native code.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use super::header::{NetHeader, checksum_is_valid, complete_checksum, receive_header};
use super::segment::segment_tcp;
use super::window::WindowLimiter;
use super::{MAX_FRAME_BYTES, NetError};
use crate::socket::{SocketFile, listen};

/// Bytes waiting for the peer before transmit stops taking frames from its queue.
const OUT_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 256 << 10;
/// Bytes of received frames kept for a guest that is busy: several TCP windows. The peer is read promptly up to
/// here, because passt drops what its socket has no room for and then waits for the guest to ask again.
const BACKLOG_BYTES: usize = 32 << 20;

/// How a lost connection comes back.
#[derive(Debug)]
pub enum Reconnect {
    /// It does not: the peer was started for us.
    Never,
    /// We connect again.
    Dial(PathBuf),
    /// The peer connects again.
    Accept(UnixListener),
}

/// One connection, or the lack of it.
#[derive(Debug)]
pub struct Stream {
    reconnect: Reconnect,
    connection: Option<UnixStream>,
    out: Vec<u8>,
    /// How much of `out` was written.
    out_done: usize,
    /// The beginning of a frame whose rest has not come yet.
    input: Vec<u8>,
    /// Whole frames for the guest, each with its header in front.
    backlog: VecDeque<Vec<u8>>,
    backlog_bytes: usize,
    /// For a peer that loses what its socket has no room for.
    windows: Option<WindowLimiter>,
}

impl Stream {
    /// Around a connection that exists already.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    pub fn connected(connection: UnixStream) -> io::Result<Self> {
        connection.set_nonblocking(true)?;
        Ok(Self::new(Reconnect::Never, Some(connection)))
    }

    /// Connects to `path`, or listens there.
    ///
    /// # Errors
    /// One line with the way out.
    pub fn open(path: PathBuf, server: bool) -> Result<(Self, Option<SocketFile>), NetError> {
        let failed = |reason: String| NetError::Stream { path: path.clone(), reason };
        if server {
            let (listener, file) = listen(&path).map_err(failed)?;
            return Ok((Self::new(Reconnect::Accept(listener), None), Some(file)));
        }
        let connection = UnixStream::connect(&path).map_err(|error| {
            failed(format!("cannot be connected to ({error}); start its server first, or add ,server"))
        })?;
        connection.set_nonblocking(true).map_err(|error| failed(error.to_string()))?;
        Ok((Self::new(Reconnect::Dial(path), Some(connection)), None))
    }

    fn new(reconnect: Reconnect, connection: Option<UnixStream>) -> Self {
        Self {
            reconnect,
            connection,
            out: Vec::new(),
            out_done: 0,
            input: Vec::new(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            windows: None,
        }
    }

    /// Keeps TCP windows small, for a peer that loses what its socket has no room for.
    #[must_use]
    pub fn with_small_windows(mut self, small: bool) -> Self {
        self.windows = small.then(WindowLimiter::default);
        self
    }

    /// Whether there is a peer.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// What to poll: the connection, or the listener while there is none.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match (&self.connection, &self.reconnect) {
            (Some(connection), _) => Some(connection.as_fd()),
            (None, Reconnect::Accept(listener)) => Some(listener.as_fd()),
            (None, _) => None,
        }
    }

    /// Whether there are bytes that the peer had no room for.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.out_done < self.out.len()
    }

    /// Whether another packet may be [sent](Self::send).
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.out.len() - self.out_done < OUT_BYTES
    }

    /// Tries to get a peer back. Returns whether there is one now.
    pub fn try_reconnect(&mut self) -> bool {
        let connection = match &self.reconnect {
            Reconnect::Never => None,
            Reconnect::Dial(path) => UnixStream::connect(path).ok(),
            Reconnect::Accept(listener) => listener.accept().ok().map(|(connection, _)| connection),
        };
        self.connection = connection.filter(|connection| connection.set_nonblocking(true).is_ok());
        self.is_connected()
    }

    /// Appends one packet for the peer, finishing what the guest left open. Returns false when the packet makes
    /// no sense and was dropped.
    pub fn send(&mut self, packet: &[u8]) -> bool {
        let Some((header, frame)) = NetHeader::split(packet) else { return false };
        if header.is_tcp_gso() {
            let Self { out, windows, .. } = self;
            return segment_tcp(&header, frame, |segment| {
                let start = out.len();
                append(out, segment);
                if let Some(windows) = windows {
                    windows.limit(&mut out[start + 4..]);
                }
            });
        }
        if header.gso_type != 0 || frame.len() > MAX_FRAME_BYTES {
            return false;
        }
        let start = self.out.len();
        append(&mut self.out, frame);
        if !complete_checksum(&header, &mut self.out[start + 4..]) {
            self.out.truncate(start);
            return false;
        }
        if let Some(windows) = &mut self.windows {
            windows.limit(&mut self.out[start + 4..]);
        }
        true
    }

    /// Writes what the peer has room for. Returns false when the connection is lost.
    pub fn flush(&mut self) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        while self.out_done < self.out.len() {
            match connection.write(&self.out[self.out_done..]) {
                Ok(0) => return self.lose("it takes no bytes"),
                Ok(done) => self.out_done += done,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return self.lose(&error.to_string()),
            }
        }
        if self.out_done == self.out.len() {
            self.out.clear();
            self.out_done = 0;
        } else if self.out_done > OUT_BYTES {
            self.out.drain(..self.out_done);
            self.out_done = 0;
        }
        true
    }

    /// Whether the peer should be read.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.backlog_bytes < BACKLOG_BYTES
    }

    /// Reads once and sorts out the frames. Returns false when the connection is lost.
    pub fn fill(&mut self) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let old = self.input.len();
        self.input.resize(old + READ_BYTES, 0);
        let result = connection.read(&mut self.input[old..]);
        self.input.truncate(old + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => self.lose("the peer closed it"),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => true,
            Err(error) => self.lose(&error.to_string()),
            Ok(_) => self.parse(),
        }
    }

    /// Moves whole frames to the backlog. Frames of impossible length end the connection.
    fn parse(&mut self) -> bool {
        let mut done = 0;
        while let Some((length, rest)) = self.input[done..].split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if !(14..=MAX_FRAME_BYTES).contains(&length) {
                return self.lose(&format!("the peer sent a frame of {length} bytes"));
            }
            let Some(frame) = rest.get(..length) else { break };
            let mut packet = Vec::with_capacity(length + 12);
            packet.extend_from_slice(&receive_header(checksum_is_valid(frame)));
            packet.extend_from_slice(frame);
            self.backlog_bytes += packet.len();
            self.backlog.push_back(packet);
            done += 4 + length;
        }
        self.input.drain(..done);
        true
    }

    /// Takes the next whole frame, with its header in front.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let packet = self.backlog.pop_front()?;
        self.backlog_bytes -= packet.len();
        Some(packet)
    }

    /// Whether a whole frame waits in memory.
    #[must_use]
    pub fn has_frame(&self) -> bool {
        !self.backlog.is_empty()
    }

    fn lose(&mut self, reason: &str) -> bool {
        tracing::warn!("network stream: connection lost: {reason}");
        self.connection = None;
        self.out.clear();
        self.out_done = 0;
        self.input.clear();
        false
    }
}

fn append(out: &mut Vec<u8>, frame: &[u8]) {
    let length = u32::try_from(frame.len()).unwrap_or(0);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(frame);
}
