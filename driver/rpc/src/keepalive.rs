//! The keepalive program: pings and pongs without payload, in both directions.
//!
//! A ping is to be answered at once, whatever else the connection is busy with. Only clients that asked for the feature
//! answer pings of the daemon.

use crate::frame::{Header, MessageType, Status};

/// Number of the program, "keep" in ASCII.
pub const PROGRAM: u32 = 0x6b65_6570;
/// Its only version.
pub const VERSION: u32 = 1;
/// Asks for a pong.
pub const PING: i32 = 1;
/// Answers a ping.
pub const PONG: i32 = 2;

/// The header of a ping or pong; it is the whole message.
#[must_use]
pub fn header(procedure: i32) -> Header {
    Header { program: PROGRAM, version: VERSION, procedure, kind: MessageType::Message, serial: 0, status: Status::Ok }
}
