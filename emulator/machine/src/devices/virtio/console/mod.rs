//! Virtio console (virtio 1.2, 5.3), with one port or many.
//!
//! One port without a name is the plain console (queues 0 and 1). Otherwise MULTIPORT is offered: a pair of queues
//! per port, and a control pair by which both sides open and name ports.
//!
//! Output leaves at the notification; a console never waits for its reader. Input waits in a bounded queue per port
//! until the driver has buffers; what does not fit is dropped and counted. Input for a port that is no console and that
//! nobody in the guest has opened is dropped too. The host's end of every port is always open.
//!
//! Not offered: window sizes.

mod control;
mod device;

pub use device::{Console, ConsoleCounters, ConsoleState, PortState};
use serde::{Deserialize, Serialize};

/// Bytes of input that wait for the guest, per port.
pub const INPUT_LIMIT: usize = 64 << 10;
/// Most bytes taken from one chain; the rest is dropped and counted.
pub const OUTPUT_LIMIT: usize = 1 << 20;
/// Size of all queues.
pub const QUEUE_SIZE: u16 = 64;
/// Most ports.
pub const PORT_LIMIT: usize = 16;

/// Feature: several ports and a control pair.
pub const F_MULTIPORT: u32 = 1;
/// Feature: a byte can be written without queues.
pub const F_EMERG_WRITE: u32 = 2;

/// A port as configured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortConfig {
    /// Name by which the guest finds the port, as `org.qemu.guest_agent.0`.
    pub name: Option<String>,
    /// The guest makes it a terminal.
    pub console: bool,
}

impl PortConfig {
    /// A terminal without a name.
    #[must_use]
    pub fn console() -> Self {
        Self { name: None, console: true }
    }
}

/// Receive queue of a port.
const fn receive_queue(port: usize) -> u16 {
    // Queues 2 and 3 are the control pair.
    match port {
        0 => 0,
        _ => 2 + 2 * port_number(port),
    }
}

/// Port of a receive (even) or transmit (odd) queue; `None` for the control pair.
fn port_of(queue: u16) -> Option<usize> {
    match queue {
        0 | 1 => Some(0),
        2 | 3 => None,
        _ => Some(usize::from(queue / 2 - 1)),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "there are at most PORT_LIMIT ports")]
const fn port_number(port: usize) -> u16 {
    port as u16
}
