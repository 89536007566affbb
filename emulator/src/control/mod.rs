//! The control socket: how an operator, or the driver, speaks to a running emulator.
//!
//! ```text
//!   client --JSON lines--> server: a thread a client
//!                            |- status, events            <- SharedStatus, written by the ft thread
//!                            |- pause, resume, save, ...  -> InputQueue: tasks and inputs of the vCPU thread
//!                            `- protect, failover, ...    -> the ft thread
//! ```
//!
//! What changes the machine goes to the vCPU thread as an input, so that it is in the log like everything that enters.

pub mod client;
mod operations;
mod request;
mod server;
mod status;

pub use operations::Machine;
pub use request::{Command, Request, Response, Statistics};
pub use server::{Control, Place, Reach};
pub use status::{SharedStatus, Status};
