//! Framing: a length that counts itself, a header of six words, a payload.

use std::fmt;

use thiserror::Error;

use crate::xdr::{Decoder, Encoder, Xdr, XdrError};

/// The length word.
pub const LENGTH_BYTES: usize = 4;
/// The header.
pub const HEADER_BYTES: usize = 24;
/// A frame without payload.
pub const MIN_FRAME_BYTES: usize = LENGTH_BYTES + HEADER_BYTES;
/// The largest frame that libvirt sends or takes, with the length word.
pub const MAX_FRAME_BYTES: usize = (32 << 20) + LENGTH_BYTES;
/// Stream data is sent in pieces of at most this size: what libvirt's own clients send.
pub const STREAM_CHUNK_BYTES: usize = 262_120;

/// Why a connection cannot go on: where the next frame begins is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length is none that a frame can have.
    #[error("a frame of {length} bytes; {MIN_FRAME_BYTES} to {MAX_FRAME_BYTES} are possible")]
    BadLength {
        /// The length word.
        length: u32,
    },
    /// The header has an unknown type or status.
    #[error("header: {0}")]
    BadHeader(#[from] XdrError),
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    /// A call of a procedure.
    Call,
    /// The answer to a call.
    Reply,
    /// Something that nobody asked for: events, keepalive.
    Message,
    /// Data, end or failure of a stream.
    Stream,
    /// A call that file descriptors follow.
    CallWithFds,
    /// A reply that file descriptors follow.
    ReplyWithFds,
    /// A hole in a sparse stream.
    StreamHole,
}

impl MessageType {
    const ALL: [Self; 7] =
        [Self::Call, Self::Reply, Self::Message, Self::Stream, Self::CallWithFds, Self::ReplyWithFds, Self::StreamHole];
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Well; of streams: finished.
    Ok,
    /// The payload of a reply is a [`crate::RemoteError`]; a client's stream frame without payload aborts.
    Error,
    /// A stream goes on.
    Continue,
}

impl Status {
    const ALL: [Self; 3] = [Self::Ok, Self::Error, Self::Continue];
}

macro_rules! enumeration {
    ($($type:ty),*) => {$(
        impl Xdr for $type {
            fn encode(&self, out: &mut Encoder) {
                let index = Self::ALL.iter().position(|value| value == self).unwrap_or_default();
                i32::try_from(index).unwrap_or_default().encode(out);
            }

            fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
                let at = input.position();
                let value = i32::decode(input)?;
                let known = usize::try_from(value).ok().and_then(|index| Self::ALL.get(index));
                known.copied().ok_or(XdrError::BadTag { value, at })
            }
        }
    )*};
}

enumeration!(MessageType, Status);

/// The six words before the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Set of procedures.
    pub program: u32,
    /// Version of the program.
    pub version: u32,
    /// Number of the procedure or message.
    pub procedure: i32,
    /// What the frame is.
    pub kind: MessageType,
    /// Chosen by the caller; the reply and the stream's frames repeat it. Zero is a serial like any other.
    pub serial: u32,
    /// How it went.
    pub status: Status,
}

impl Header {
    /// The header of an answer to this call.
    #[must_use]
    pub fn answer(&self, kind: MessageType, status: Status) -> Self {
        Self { kind, status, ..*self }
    }

    /// The frame with this header and payload.
    ///
    /// # Errors
    /// When the payload is too long for a frame.
    pub fn frame(&self, payload: &[u8]) -> Result<Frame, FrameError> {
        let total = MIN_FRAME_BYTES.saturating_add(payload.len());
        let length = u32::try_from(total).unwrap_or(u32::MAX);
        if total > MAX_FRAME_BYTES {
            return Err(FrameError::BadLength { length });
        }
        let mut out = Encoder::default();
        length.encode(&mut out);
        self.encode(&mut out);
        let mut bytes = out.into_bytes();
        bytes.extend_from_slice(payload);
        Ok(Frame { bytes, header: *self })
    }
}

impl Xdr for Header {
    fn encode(&self, out: &mut Encoder) {
        self.program.encode(out);
        self.version.encode(out);
        self.procedure.encode(out);
        self.kind.encode(out);
        self.serial.encode(out);
        self.status.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        Ok(Self {
            program: Xdr::decode(input)?,
            version: Xdr::decode(input)?,
            procedure: Xdr::decode(input)?,
            kind: Xdr::decode(input)?,
            serial: Xdr::decode(input)?,
            status: Xdr::decode(input)?,
        })
    }
}

/// One whole frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its decoded header.
    pub header: Header,
    bytes: Vec<u8>,
}

impl Frame {
    /// All bytes, the length word too.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What follows the header. Stream data is as sent, without padding.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        payload_of(&self.bytes)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("header", &self.header)
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// The payload within a frame's bytes; empty when there is none.
#[must_use]
pub fn payload_of(frame: &[u8]) -> &[u8] {
    frame.get(MIN_FRAME_BYTES..).unwrap_or_default()
}

/// Cuts a stream of bytes into frames.
///
/// It holds no more than one frame that is not complete yet, plus what one read brought; nothing is reserved for bytes
/// that were only announced.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl FrameBuffer {
    /// Appends what was read.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole frame, if it is there.
    ///
    /// # Errors
    /// When the bytes cannot be a frame. The connection is then of no more use.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.bytes[self.start..];
        let Some(word) = rest.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*word);
        let total = usize::try_from(length).unwrap_or(usize::MAX);
        if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&total) {
            return Err(FrameError::BadLength { length });
        }
        let Some(bytes) = rest.get(..total) else { return Ok(None) };
        let header = Header::decode(&mut Decoder::new(&bytes[LENGTH_BYTES..]))?;
        let frame = Frame { header, bytes: bytes.to_vec() };
        self.start += total;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
        Ok(Some(frame))
    }

    /// True when a frame has begun and not ended.
    #[must_use]
    pub fn is_inside_frame(&self) -> bool {
        self.start < self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{REMOTE_PROGRAM, REMOTE_VERSION};

    fn header() -> Header {
        Header {
            program: REMOTE_PROGRAM,
            version: REMOTE_VERSION,
            procedure: 66,
            kind: MessageType::Call,
            serial: 0,
            status: Status::Ok,
        }
    }

    #[test]
    fn a_frame_is_as_clients_send_it() {
        let frame = header().frame(&[]).unwrap();
        let expected = b"\0\0\0\x1c\x20\0\x80\x86\0\0\0\x01\0\0\0\x42\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(frame.bytes(), expected);
    }

    #[test]
    fn frames_come_in_any_pieces() {
        let frames: Vec<Frame> = (0..5).map(|size| header().frame(&vec![7; size]).unwrap()).collect();
        let all: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
        for piece in [1, 3, 28, 31, 1000] {
            let mut buffer = FrameBuffer::default();
            let mut seen = Vec::new();
            for part in all.chunks(piece) {
                buffer.extend(part);
                while let Some(frame) = buffer.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames);
            assert!(!buffer.is_inside_frame());
        }
    }

    #[test]
    fn impossible_lengths_and_headers_are_refused() {
        for length in [0_u32, 27, 33_554_437, u32::MAX] {
            let mut buffer = FrameBuffer::default();
            buffer.extend(&length.to_be_bytes());
            assert_eq!(buffer.next_frame(), Err(FrameError::BadLength { length }));
        }
        let mut bytes = header().frame(&[]).unwrap().bytes().to_vec();
        bytes[19] = 7;
        let mut buffer = FrameBuffer::default();
        buffer.extend(&bytes);
        assert!(matches!(buffer.next_frame(), Err(FrameError::BadHeader(_))));
        assert!(header().frame(&vec![0; MAX_FRAME_BYTES]).is_err());
    }
}
