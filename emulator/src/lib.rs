//! The host side of `virtft-emulator`: everything between the pure machine and the operating system.
//!
//! The machine (`virtft_machine`) knows neither clocks nor files. This crate turns what the host does into
//! [`Input`](virtft_machine::io::Input)s with positions and carries out its
//! [`Output`](virtft_machine::io::Output)s: [`disk`], [`net`] and [`chardev`] are the backends, [`queue`]
//! brings their inputs to the vCPU thread, [`driver`] is that thread's loop, [`pacing`] ties guest time to the
//! host's clock, [`script`] replaces the host by a text file, [`seccomp`] confines the threads. [`recording`] writes a run to
//! a log, [`replay`] does it again from there, [`logtool`] looks at logs. [`ft`] makes two processes a pair, [`control`] is
//! how operators reach them.

pub mod chardev;
pub mod cli;
pub mod control;
pub mod disk;
pub mod driver;
mod entropy;
pub mod exit;
pub mod ft;
pub mod guest;
pub mod host;
pub mod logging;
pub mod logtool;
pub mod net;
pub mod pacing;
pub mod queue;
pub mod recording;
pub mod replay;
pub mod run;
pub mod script;
pub mod seccomp;
mod signals;
pub mod socket;
mod sys;
pub mod threads;
