//! Deterministic x86-64 CPU engine.
#![allow(unsafe_code, reason = "guest memory is reached through host pointers")]
pub mod bus;
pub mod memory;
