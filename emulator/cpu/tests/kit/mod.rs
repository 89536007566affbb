//! A computer small enough for directed tests: flat RAM, page tables built by hand, a bus that keeps what happened.
//!
//! The memory map is fixed (see the constants). Every vector has a gate to a stub of its own that is one HLT, so after
//! an exception the machine is idle at [`handler`]`(vector) + 1` and the frame lies at RSP.

#![allow(clippy::cast_possible_truncation, reason = "small addresses are written as 16-bit and 32-bit values")]
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of the kit")]

mod board;
mod machine;
mod tables;

pub use board::{Board, PortWrite, TSC_PER_STEP};
pub use machine::{Frame, Machine};
pub use tables::*;
