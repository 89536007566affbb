//! Messages of the logging channel, and their encoding.
//!
//! ```text
//!   offset  bytes
//!   0       4      length of the body, little-endian; at most MAX_BODY
//!   4       4      CRC-32C of the body
//!   8       n      body: epoch and message, in postcard
//! ```
//!
//! A connection is one direction of such frames each way. What does not decode ends the connection: a damaged frame is
//! never guessed at.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of a frame in front of its body.
pub const HEADER_BYTES: usize = 8;
/// Most bytes of a body.
pub const MAX_BODY: usize = 1 << 20;
/// Most bytes of log in one message, so that its frame is never too large.
pub const MAX_LOG_BYTES: usize = 256 << 10;
/// Most digests of pieces of a disk in one message.
pub const MAX_PIECES: usize = 4096;
/// Most bytes of a text in a message; longer ones are cut by who sends them.
pub const MAX_TEXT: usize = 2000;

/// How a primary introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Name of the VM.
    pub vm: String,
    /// Incarnation of the VM.
    pub incarnation: u64,
    /// Epoch that the pair would have.
    pub epoch: u64,
    /// Machine and CPU model, which must be the backup's own.
    pub machine: String,
    /// Names the transfer; the same when a broken connection is made again.
    pub session: [u8; 16],
    /// The primary's token at the arbiter: a backup that finds it there reaches the same arbiter.
    pub token: [u8; 16],
}

/// A message of the channel. Offsets are bytes of the log since the transfer began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Primary: the first message of a connection.
    Hello(Hello),
    /// Backup: go on at this offset of the log.
    Welcome {
        /// Bytes that the backup has.
        received: u64,
    },
    /// Backup: the connection is refused for good, and why.
    Refuse {
        /// One sentence.
        reason: String,
    },
    /// Primary: a piece of the log.
    Log {
        /// Offset of its first byte.
        offset: u64,
        /// At most [`MAX_LOG_BYTES`].
        bytes: Vec<u8>,
    },
    /// Backup: what it has received, which it will replay before it ever goes live, and what it has executed.
    Ack {
        /// Bytes of the log.
        received: u64,
        /// Guest time reached, in nanoseconds.
        executed_ns: u64,
    },
    /// Backup: the transferred state has been rebuilt and its digests agree.
    Verified,
    /// Primary: the pair is recorded at the arbiter; from now on the backup may ask for the epoch.
    Armed,
    /// Primary: outputs below this number have left.
    Released {
        /// Number of outputs.
        outputs: u64,
    },
    /// Either: still alive.
    Heartbeat,
    /// Primary: a planned switch; the machine stands still at the end of the log.
    Handover {
        /// Offset of the log's end.
        end: u64,
    },
    /// Backup: it has found the pair at the arbiter, and may ask for the epoch.
    Confirmed,
    /// Backup: it has won the epoch and runs.
    TookOver,
    /// Primary: it goes on alone; the backup is to end without asking for the epoch.
    Dismiss {
        /// One sentence.
        reason: String,
    },
    /// Either: it stops being a replica and will not ask for the epoch.
    Leaving {
        /// One sentence.
        reason: String,
    },
    /// Primary: an operator has made the machine stand still, or go on; whoever takes over leaves it so.
    Standing {
        /// It stands still.
        paused: bool,
    },
    /// Backup: what its copies of disks hold, after `Welcome`, so that only what differs is sent.
    Pieces {
        /// Number of the disk.
        disk: u8,
        /// Number of the first piece.
        first: u64,
        /// Digests of pieces of the size that both sides know, at most [`MAX_PIECES`].
        digests: Vec<PieceDigest>,
        /// Nothing more of this kind follows.
        last: bool,
    },
}

/// The first half of the SHA-256 of a piece of a disk.
pub type PieceDigest = [u8; 16];

/// Why what a peer sent cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MessageError {
    /// The length field.
    #[error("a frame of {0} bytes; at most {MAX_BODY} are allowed: the peer speaks another protocol")]
    TooLong(usize),
    /// The checksum.
    #[error("a frame fails its check: CRC-32C {found:08x}, computed {computed:08x}")]
    Damaged {
        /// From the frame.
        found: u32,
        /// Of the bytes received.
        computed: u32,
    },
    /// The body.
    #[error("a frame cannot be decoded ({0}): the peer speaks another version of the protocol")]
    Malformed(String),
}

/// A text no longer than a message may carry, cut at a character.
#[must_use]
pub fn bounded(text: &str) -> String {
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text[..end].to_owned()
}

/// The frame of a message in an epoch.
///
/// # Panics
/// When the message is larger than a frame may be: its sender broke the limits above.
#[must_use]
pub fn encode(epoch: u64, message: &Message) -> Vec<u8> {
    let body = postcard::to_stdvec(&(epoch, message)).expect("messages are plain data");
    assert!(body.len() <= MAX_BODY, "a message of {} bytes", body.len());
    let length = u32::try_from(body.len()).expect("checked above");
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend(length.to_le_bytes());
    frame.extend(crc32c::crc32c(&body).to_le_bytes());
    frame.extend(body);
    frame
}

/// Takes bytes as they arrive and gives messages back. Holds at most one frame and what was pushed last.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Bytes at the front that were given back.
    used: usize,
}

impl Decoder {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message and its epoch; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are no frame. The decoder is of no use afterwards.
    pub fn next_message(&mut self) -> Result<Option<(u64, Message)>, MessageError> {
        let rest = &self.bytes[self.used..];
        let Some((header, after)) = rest.split_at_checked(HEADER_BYTES) else { return Ok(None) };
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = word(0) as usize;
        if length > MAX_BODY {
            return Err(MessageError::TooLong(length));
        }
        let Some(body) = after.get(..length) else { return Ok(None) };
        let (found, computed) = (word(4), crc32c::crc32c(body));
        if found != computed {
            return Err(MessageError::Damaged { found, computed });
        }
        let (message, left) = postcard::take_from_bytes::<(u64, Message)>(body)
            .map_err(|error| MessageError::Malformed(error.to_string()))?;
        if !left.is_empty() {
            return Err(MessageError::Malformed(format!("{} bytes too many", left.len())));
        }
        self.used += HEADER_BYTES + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_cutting() {
        let messages = [
            Message::Heartbeat,
            Message::Log { offset: 7, bytes: vec![1; 3000] },
            Message::Ack { received: u64::MAX, executed_ns: 1 },
            Message::Leaving { reason: "digests differ".into() },
        ];
        let stream: Vec<u8> = messages.iter().flat_map(|message| encode(3, message)).collect();
        for piece in [1, 7, 8, 9, 500, stream.len()] {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for bytes in stream.chunks(piece) {
                decoder.push(bytes);
                while let Some((epoch, message)) = decoder.next_message().unwrap() {
                    assert_eq!(epoch, 3);
                    found.push(message);
                }
            }
            assert_eq!(found, messages);
        }
    }

    #[test]
    fn damage_is_noticed() {
        let frame = encode(1, &Message::Welcome { received: 5 });
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut decoder = Decoder::default();
            decoder.push(&bad);
            // A longer length waits for more; everything else is refused.
            assert!(!matches!(decoder.next_message(), Ok(Some(_))), "bit {bit}");
        }
    }

    #[test]
    fn texts_are_cut_at_characters() {
        assert_eq!(bounded("short"), "short");
        assert_eq!(bounded(&"ä".repeat(2000)).len(), MAX_TEXT);
        assert_eq!(bounded(&format!("x{}", "ä".repeat(2000))).len(), MAX_TEXT - 1);
    }
}
