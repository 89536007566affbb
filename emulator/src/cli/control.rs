//! Options of `control`: what an operator does to a running machine.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::keyval::parse_size;
use crate::control::Request;

/// Options of `control`.
#[derive(Debug, Clone, Args)]
pub struct ControlArguments {
    /// The control socket
    pub socket: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub operation: Operation,
}

/// What is done to a machine.
#[derive(Debug, Clone, Subcommand)]
pub enum Operation {
    /// Make it stand still, and its time with it
    Pause,
    /// Let it go on
    Resume,
    /// Press the power button
    PowerButton,
    /// Reset it
    Reset,
    /// Send a non-maskable interrupt to every vCPU
    Nmi,
    /// Switch it off
    Quit,
    /// Plug in or pull out the cable of a network device
    Link {
        /// Number of the device, from 0
        device: u8,
        /// Where the cable is
        state: Cable,
    },
    /// Ask the guest to give memory back until it has SIZE
    Balloon {
        /// Bytes, with suffix K, M or G
        #[arg(value_parser = parse_size)]
        size: u64,
    },
    /// Write the whole state to a new file, for 'run --snapshot'; pause it before, or its disks go on without the file
    Save {
        /// The file
        path: PathBuf,
    },
    /// Show what the machine and its devices have done
    Statistics,
}

/// Where a network device's cable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cable {
    /// Plugged in
    Up,
    /// Pulled out
    Down,
}

impl Operation {
    /// What the control socket is asked. A relative path is the caller's, not the emulator's.
    ///
    /// # Errors
    /// When the current directory is not known.
    pub fn request(&self) -> std::io::Result<Request> {
        Ok(match self {
            Self::Pause => Request::Pause,
            Self::Resume => Request::Resume,
            Self::PowerButton => Request::PowerButton,
            Self::Reset => Request::Reset,
            Self::Nmi => Request::Nmi,
            Self::Quit => Request::Quit,
            Self::Link { device, state } => Request::Link { device: *device, up: *state == Cable::Up },
            Self::Balloon { size } => Request::Balloon { bytes: *size },
            Self::Save { path } => Request::Save { path: std::path::absolute(path)? },
            Self::Statistics => Request::Statistics,
        })
    }
}
