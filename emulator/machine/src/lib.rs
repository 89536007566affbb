//! A whole x86-64 PC as a pure, deterministic state machine.
pub mod context;
pub mod io;
pub mod snapshot;
