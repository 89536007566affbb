//! The control pair: messages about ports (virtio 1.2, 5.3.6.2).

use super::device::Console;
use super::port_number;
use crate::devices::virtio::queue::{RingError, Rings, gather, scatter};

/// Control receive queue: messages to the driver.
pub(super) const TO_DRIVER: u16 = 2;
/// Control transmit queue: messages of the driver.
pub(super) const FROM_DRIVER: u16 = 3;

/// Messages that may wait for the driver's buffers. A driver that asks for more without reading loses them.
pub(super) const PENDING_LIMIT: usize = 256;

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;
/// Bytes of a message without its name: port (4), event (2), value (2).
const MESSAGE: usize = 8;

impl Console {
    /// Reads the driver's messages and answers them.
    pub(super) fn serve_control(&mut self, rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        while let Some(chain) = rings.pop(FROM_DRIVER)? {
            let bytes = gather(rings.memory(), &chain.readable, MESSAGE)?;
            if let Ok([a, b, c, d, e, f, g, h]) = <[u8; MESSAGE]>::try_from(bytes) {
                let port = u32::from_le_bytes([a, b, c, d]);
                self.message(port, u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
            }
            rings.complete(FROM_DRIVER, chain.head, 0)?;
        }
        rings.arm(FROM_DRIVER)?;
        self.send_messages(rings)
    }

    fn message(&mut self, port: u32, event: u16, value: u16) {
        if event == DEVICE_READY {
            for port in 0..self.ports.len() {
                self.queue_message(port, PORT_ADD, 1, "");
            }
            return;
        }
        let port = usize::try_from(port).unwrap_or(usize::MAX);
        let Some(slot) = self.ports.get_mut(port) else { return };
        match event {
            PORT_READY if value == 1 => {
                let config = slot.config.clone();
                if config.console {
                    self.queue_message(port, CONSOLE_PORT, 1, "");
                }
                if let Some(name) = &config.name {
                    self.queue_message(port, PORT_NAME, 1, name);
                }
                self.queue_message(port, PORT_OPEN, 1, "");
            }
            PORT_OPEN => slot.state.open = value != 0,
            _ => {}
        }
    }

    fn queue_message(&mut self, port: usize, event: u16, value: u16, name: &str) {
        if self.messages.len() == PENDING_LIMIT {
            self.counters.control_drops += 1;
            return;
        }
        let mut bytes = u32::from(port_number(port)).to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes.extend(name.as_bytes());
        self.messages.push_back(bytes);
    }

    /// Gives waiting messages to the driver as far as it has buffers.
    pub(super) fn send_messages(&mut self, rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        while let Some(message) = self.messages.front() {
            let Some(chain) = rings.pop(TO_DRIVER)? else {
                return rings.arm(TO_DRIVER);
            };
            let written = scatter(rings.memory(), &chain.writable, message)?;
            rings.complete(TO_DRIVER, chain.head, written)?;
            self.messages.pop_front();
        }
        Ok(())
    }
}
