//! Small ports of the board: reset, A20, POST, debug exit, debug console.
//!
//! | port | |
//! |---|---|
//! | 0x80 | POST code: kept, readable |
//! | 0x92 | system control A: bit 0 pulses reset, bit 1 is A20 (always open; the bit is only kept) |
//! | 0xcf9 | reset control: bit 2 rising resets |
//! | 0xe9 | debug console: bytes leave as output; reads give 0xe9 as a sign that it is there |
//! | 0xf4 | debug exit: the machine is off with status `value << 1 | 1` |

use serde::{Deserialize, Serialize};

use super::Device;
use crate::context::{DeviceContext, Effect, PowerAction};
use crate::io::{CharPort, Output};
use crate::snapshot::{RestoreError, Snapshot};

/// Reset control port, also the ACPI reset register.
pub const RESET_CONTROL: u16 = 0xcf9;
/// Value that resets through [`RESET_CONTROL`].
pub const RESET_VALUE: u8 = 6;

/// State of [`SystemPorts`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemPortsState {
    /// Last POST code.
    pub post: u8,
    /// Port 0x92.
    pub control_a: u8,
    /// Port 0xcf9.
    pub reset_control: u8,
}

/// The ports.
#[derive(Debug, Clone, Default)]
pub struct SystemPorts {
    state: SystemPortsState,
}

impl SystemPorts {
    /// Power-on state.
    #[must_use]
    pub fn new() -> Self {
        Self { state: SystemPortsState { control_a: 2, ..SystemPortsState::default() } }
    }
}

impl Device for SystemPorts {
    fn read(&mut self, _cx: &mut DeviceContext<'_>, port: u16) -> u8 {
        match port {
            0x80 => self.state.post,
            0x92 => self.state.control_a,
            0xe9 => 0xe9,
            RESET_CONTROL => self.state.reset_control,
            _ => 0xff,
        }
    }

    fn write(&mut self, cx: &mut DeviceContext<'_>, port: u16, value: u8) {
        match port {
            0x80 => self.state.post = value,
            0x92 => {
                if value & !self.state.control_a & 1 != 0 {
                    cx.effects.push(Effect::Power(PowerAction::Reset));
                }
                self.state.control_a = value & 3;
            }
            0xe9 => {
                let output = Output::CharTransmit { port: CharPort::DebugCon, data: vec![value] };
                cx.effects.push(Effect::Output(output));
            }
            0xf4 => {
                let status = (value << 1) | 1;
                cx.effects.push(Effect::Power(PowerAction::Off { status }));
            }
            RESET_CONTROL => {
                if value & !self.state.reset_control & 4 != 0 {
                    cx.effects.push(Effect::Power(PowerAction::Reset));
                }
                self.state.reset_control = value & 0xe;
            }
            _ => {}
        }
    }

    fn deadline_ns(&self) -> u64 {
        u64::MAX
    }

    fn advance(&mut self, _cx: &mut DeviceContext<'_>) {}

    fn reset(&mut self, _cx: &mut DeviceContext<'_>) {
        *self = Self::new();
    }
}

impl Snapshot for SystemPorts {
    const KIND: &'static str = "system ports";
    const VERSION: u16 = 1;
    type State = SystemPortsState;

    fn save(&self) -> SystemPortsState {
        let Self { state } = self;
        state.clone()
    }

    fn restore(&mut self, state: SystemPortsState) -> Result<(), RestoreError> {
        if state.control_a > 3 || state.reset_control & !0xe != 0 {
            let reason = format!("port 0x92 {:#x}, port 0xcf9 {:#x}", state.control_a, state.reset_control);
            return Err(RestoreError::Invalid { kind: Self::KIND, reason });
        }
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::{Bench, snapshot_walk};

    #[test]
    fn resets_and_exits() {
        let mut bench = Bench::new(SystemPorts::new());
        bench.write(RESET_CONTROL, 2);
        bench.write(0x92, 2);
        assert!(bench.effects.is_empty());
        bench.write(RESET_CONTROL, RESET_VALUE);
        bench.write(0x92, 3);
        bench.write(0xf4, 0x10);
        let reset = Effect::Power(PowerAction::Reset);
        assert_eq!(bench.effects, [reset.clone(), reset, Effect::Power(PowerAction::Off { status: 0x21 })]);
    }

    #[test]
    fn the_debug_console_speaks() {
        let mut bench = Bench::new(SystemPorts::new());
        assert_eq!(bench.read(0xe9), 0xe9);
        bench.write(0xe9, b'x');
        let sent = Output::CharTransmit { port: CharPort::DebugCon, data: vec![b'x'] };
        assert_eq!(bench.effects, [Effect::Output(sent)]);
    }

    snapshot_walk!(random_walk_is_saveable, SystemPorts::new(), [0x80, 0x92, 0xe9, 0xf4, 0xcf9].into_iter());
}
