//! A whole x86-64 PC as a pure, deterministic state machine.
pub mod acpi;
pub mod bits;
pub mod boot;
pub mod clock;
pub mod context;
pub mod devices;
pub mod entropy;
pub mod io;
pub mod machine;
pub mod platform;
pub mod snapshot;

pub use machine::{Machine, MachineConfig, MachineError, StopReason};
