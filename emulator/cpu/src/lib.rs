//! Deterministic x86-64 CPU engine: decoder, interpreter, paging.
//!
//! [`Core`] holds the vCPUs of one machine and runs them in turns, in steps that are counted exactly. It is pure: it has no
//! clock, no randomness and no threads; RAM is [`memory::GuestRam`] and everything else of the computer is behind
//! [`bus::Bus`]. The same state, memory and bus give the same run on every host.
//!
//! `docs/cpu-model.md` specifies what the guest sees. Sources: Intel 64 and IA-32 Architectures Software
//! Developer's Manual (SDM), volumes 1 to 4.

#![allow(unsafe_code, reason = "guest memory and the running block are reached through pointers")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an instruction set is truncations and reinterpretations of signs; each is the operation meant"
)]

mod access;
pub mod bus;
mod code;
mod core;
pub mod cpuid;
mod fault;
pub mod flags;
pub mod memory;
mod mmu;
mod op;
mod ops;
mod run;
pub mod state;
mod sys;
mod width;

pub use core::{Core, CoreState, RunExit, SLICE, Statistics, StraightRun};
pub use fault::vector;
