//! Directed tests of the system level: what a host processor cannot be asked from user mode.
#![allow(clippy::unwrap_used, reason = "helpers of tests assemble code that is known to be valid")]
#![allow(clippy::cast_possible_truncation, reason = "addresses of the test machine lie in the low megabytes")]

#[path = "kit/mod.rs"]
mod kit;

#[path = "system/code.rs"]
mod code;
#[path = "system/debug.rs"]
mod debug;
#[path = "system/events.rs"]
mod events;
#[path = "system/legacy.rs"]
mod legacy;
#[path = "system/lengths.rs"]
mod lengths;
#[path = "system/paging.rs"]
mod paging;
#[path = "system/registers.rs"]
mod registers;
#[path = "system/segments.rs"]
mod segments;
#[path = "system/transfers.rs"]
mod transfers;
