//! `virtftd`, the libvirt driver: stock clients open `ft:///system` and find a hypervisor like any other.
//!
//! ```text
//!   client --socket--> server (connections, frames, streams)
//!                        |  calls (one function a procedure)
//!                      vm (domains, definitions on disk, emulators, events)      upstream (libvirt's own daemons)
//!                        |  processes, signals, pseudo-terminals
//!                      virtft-emulator, one process a running domain
//! ```
//!
//! Emulators are not tied to the daemon: it may be killed and started again at any time and finds them by their status
//! files ([`vm`]). It reaches them by their control sockets, signals and exit statuses. With daemons of other hosts it makes pairs ([`ft`]).

pub mod calls;
pub mod cli;
pub mod error;
pub mod ft;
pub mod host;
pub mod paths;
pub mod server;
pub mod upstream;
pub mod vm;
