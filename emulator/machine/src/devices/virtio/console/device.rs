//! The console itself.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use super::control::{FROM_DRIVER, PENDING_LIMIT, TO_DRIVER};
use super::{
    F_EMERG_WRITE, F_MULTIPORT, INPUT_LIMIT, OUTPUT_LIMIT, PORT_LIMIT, PortConfig, QUEUE_SIZE, port_number, port_of,
    receive_queue,
};
use crate::context::Effect;
use crate::devices::virtio::queue::{RingError, Rings, gather, length_of, scatter};
use crate::devices::virtio::{DeviceError, VirtioDevice, VirtioIdentity, feature, to_usize};
use crate::io::{CharPort, Input, Output};
use crate::snapshot::{RestoreError, Snapshot};

/// Offset of the emergency write register.
const CONFIG_EMERG_WRITE: u64 = 8;

/// Bytes and messages since power-on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConsoleCounters {
    /// Bytes written by the guest.
    pub output_bytes: u64,
    /// Bytes of the guest that were too many for one chain.
    pub output_drops: u64,
    /// Bytes handed to the guest.
    pub input_bytes: u64,
    /// Bytes that found the queue full or the port closed.
    pub input_drops: u64,
    /// Control messages that the driver never made room for.
    pub control_drops: u64,
}

/// State of one port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortState {
    /// The guest has opened the port.
    pub open: bool,
    /// Input that waits for the guest.
    pub input: VecDeque<u8>,
}

#[derive(Debug)]
pub(super) struct Port {
    pub config: PortConfig,
    pub state: PortState,
}

/// A virtio console.
#[derive(Debug)]
pub struct Console {
    pub(super) ports: Vec<Port>,
    /// Control messages that wait for the driver's buffers.
    pub(super) messages: VecDeque<Vec<u8>>,
    pub(super) counters: ConsoleCounters,
}

/// Saved state of a [`Console`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    /// The ports.
    pub ports: Vec<PortState>,
    /// Control messages that wait for the driver's buffers.
    pub messages: VecDeque<Vec<u8>>,
    /// Counted since power-on.
    pub counters: ConsoleCounters,
}

impl Console {
    /// A console with the given ports, at most [`PORT_LIMIT`]; without any it gets one terminal.
    #[must_use]
    pub fn new(mut ports: Vec<PortConfig>) -> Self {
        ports.truncate(PORT_LIMIT);
        if ports.is_empty() {
            ports.push(PortConfig::console());
        }
        let ports = ports.into_iter().map(|config| Port { config, state: PortState::default() }).collect();
        Self { ports, messages: VecDeque::new(), counters: ConsoleCounters::default() }
    }

    /// Bytes since power-on.
    #[must_use]
    pub fn counters(&self) -> ConsoleCounters {
        self.counters
    }

    fn multiport(&self) -> bool {
        self.ports.len() > 1 || self.ports[0].config.name.is_some()
    }

    fn transmit(&mut self, rings: &mut Rings<'_, '_>, port: usize, queue: u16) -> Result<(), RingError> {
        while let Some(chain) = rings.pop(queue)? {
            let data = gather(rings.memory(), &chain.readable, OUTPUT_LIMIT)?;
            self.counters.output_drops += length_of(&chain.readable) - data.len() as u64;
            self.emit(rings, port, data);
            rings.complete(queue, chain.head, 0)?;
        }
        rings.arm(queue)
    }

    fn emit(&mut self, rings: &mut Rings<'_, '_>, port: usize, data: Vec<u8>) {
        if data.is_empty() {
            return;
        }
        self.counters.output_bytes += data.len() as u64;
        let output = Output::CharTransmit { port: char_port(port), data };
        rings.cx.effects.push(Effect::Output(output));
    }

    /// Moves waiting input into the driver's buffers.
    fn receive(&mut self, rings: &mut Rings<'_, '_>, port: usize) -> Result<(), RingError> {
        let queue = receive_queue(port);
        let input = &mut self.ports[port].state.input;
        while !input.is_empty() {
            let Some(chain) = rings.pop(queue)? else {
                return rings.arm(queue);
            };
            if chain.writable.is_empty() {
                return Err(chain.protocol("a console buffer without room for input"));
            }
            let take = to_usize(length_of(&chain.writable)).min(input.len());
            let bytes: Vec<u8> = input.drain(..take).collect();
            let written = scatter(rings.memory(), &chain.writable, &bytes)?;
            self.counters.input_bytes += written as u64;
            rings.complete(queue, chain.head, written)?;
        }
        Ok(())
    }

    fn take_input(&mut self, rings: &Rings<'_, '_>, port: usize, data: &[u8]) {
        let Port { config, state } = &mut self.ports[port];
        let heard = config.console || state.open || !rings.has(F_MULTIPORT);
        let room = if heard { INPUT_LIMIT - state.input.len() } else { 0 };
        let taken = data.len().min(room);
        state.input.extend(&data[..taken]);
        self.counters.input_drops += (data.len() - taken) as u64;
    }
}

fn char_port(port: usize) -> CharPort {
    CharPort::Console(u8::try_from(port).unwrap_or(u8::MAX))
}

impl VirtioDevice for Console {
    fn identity(&self) -> VirtioIdentity {
        VirtioIdentity { name: "virtio-console", device_type: VIRTIO_ID_CONSOLE, class: 0x07_8000 }
    }

    fn features(&self) -> u64 {
        let multiport = if self.multiport() { feature(F_MULTIPORT) } else { 0 };
        multiport | feature(F_EMERG_WRITE)
    }

    fn accepts_features(&self, _accepted: u64) -> bool {
        // The console's features do not depend on one another.
        true
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let pairs = if self.multiport() { self.ports.len() + 1 } else { 1 };
        vec![QUEUE_SIZE; 2 * pairs]
    }

    fn config(&self) -> Vec<u8> {
        // Columns and rows are not offered.
        let mut bytes = vec![0; 4];
        bytes.extend(u32::from(port_number(self.ports.len())).to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes
    }

    fn write_config(&mut self, rings: &mut Rings<'_, '_>, offset: u64, data: &[u8]) -> Result<(), RingError> {
        // Works at any time, also before the driver has set anything up.
        if let (CONFIG_EMERG_WRITE, Some(&byte)) = (offset, data.first()) {
            self.emit(rings, 0, vec![byte]);
        }
        Ok(())
    }

    fn activate(&mut self, _rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        Ok(())
    }

    fn notify(&mut self, rings: &mut Rings<'_, '_>, queue: u16) -> Result<(), RingError> {
        match (queue, port_of(queue)) {
            (TO_DRIVER, _) => self.send_messages(rings),
            (FROM_DRIVER, _) => self.serve_control(rings),
            (_, Some(port)) if port >= self.ports.len() => Ok(()),
            (_, Some(port)) if queue.is_multiple_of(2) => self.receive(rings, port),
            (_, Some(port)) => self.transmit(rings, port, queue),
            (_, None) => Ok(()),
        }
    }

    fn accepts(&self, input: &Input) -> bool {
        match input {
            Input::CharReceive { port: CharPort::Console(port), .. } => usize::from(*port) < self.ports.len(),
            _ => false,
        }
    }

    fn deliver(&mut self, rings: &mut Rings<'_, '_>, input: &Input) -> Result<(), DeviceError> {
        if let Input::CharReceive { port: CharPort::Console(port), data } = input {
            let port = usize::from(*port);
            self.take_input(rings, port, data);
            self.receive(rings, port)?;
        }
        Ok(())
    }

    fn in_flight(&self) -> Vec<Output> {
        Vec::new()
    }

    fn reset(&mut self) {
        self.messages.clear();
        self.ports.iter_mut().for_each(|port| port.state = PortState::default());
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let ConsoleCounters { output_bytes, output_drops, input_bytes, input_drops, control_drops } = self.counters;
        vec![
            ("output_bytes", output_bytes),
            ("output_drops", output_drops),
            ("input_bytes", input_bytes),
            ("input_drops", input_drops),
            ("control_drops", control_drops),
        ]
    }
}

impl Snapshot for Console {
    const KIND: &'static str = "virtio-console";
    const VERSION: u16 = 1;
    type State = ConsoleState;

    fn save(&self) -> ConsoleState {
        let Self { ports, messages, counters } = self;
        ConsoleState {
            ports: ports.iter().map(|Port { config: _, state }| state.clone()).collect(),
            messages: messages.clone(),
            counters: *counters,
        }
    }

    fn restore(&mut self, state: ConsoleState) -> Result<(), RestoreError> {
        let invalid = |reason: String| Err(RestoreError::Invalid { kind: Self::KIND, reason });
        let ConsoleState { ports, messages, counters } = state;
        if ports.len() != self.ports.len() {
            return invalid(format!("{} ports, this console has {}", ports.len(), self.ports.len()));
        }
        if messages.len() > PENDING_LIMIT || ports.iter().any(|port| port.input.len() > INPUT_LIMIT) {
            return invalid("more input or messages than the console keeps".into());
        }
        for (port, state) in self.ports.iter_mut().zip(ports) {
            port.state = state;
        }
        (self.messages, self.counters) = (messages, counters);
        Ok(())
    }
}
