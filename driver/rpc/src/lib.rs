//! libvirt's remote protocol, as its stock clients speak it: XDR (RFC 4506), the framing of messages, and a table of
//! procedures with the types of their arguments and replies.
//!
//! Pure: bytes in, bytes out. No input makes it panic or allocate more than a small multiple of the input's size; a client
//! that sends nonsense gets an [`XdrError`] or a [`FrameError`].
//!
//! ```text
//!   length u32 | program u32 | version u32 | procedure i32 | type i32 | serial u32 | status i32 | payload
//!              '-------------------------------- Header --------------------------------'
//! ```
//!
//! A call's payload is the procedure's `Args`, a reply's is its `Reply`, or [`RemoteError`] when the status says so.

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;

mod error;
mod frame;
pub mod keepalive;
pub mod pair;
mod procedure;
pub mod remote;
mod types;
mod xdr;

pub use error::{ErrorCode, ErrorDomain, ErrorLevel, RemoteError};
pub use frame::{
    Frame, FrameBuffer, FrameError, HEADER_BYTES, Header, LENGTH_BYTES, MAX_FRAME_BYTES, MIN_FRAME_BYTES, MessageType,
    STREAM_CHUNK_BYTES, Status, payload_of,
};
pub use procedure::{Access, Event, Procedure, ProcedureInfo};
pub use types::{CharList, DomainRef, FixedChars, NetworkRef, TypedParameter, TypedValue};
pub use xdr::{Decoder, Encoder, MAX_STRING_BYTES, Xdr, XdrError, from_bytes, to_bytes};

/// Number of libvirt's main program.
pub const REMOTE_PROGRAM: u32 = 0x2000_8086;
/// Its only version.
pub const REMOTE_VERSION: u32 = 1;
