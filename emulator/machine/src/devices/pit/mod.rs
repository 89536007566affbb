//! The 8254 interval timer and the system control port 0x61.
//!
//! Ports 0x40 to 0x43 and 0x61. Channel 0 drives ISA line 0, channel 2 the speaker; its gate and output are in port
//! 0x61. Counters are computed from guest time, [`PIT_HZ`] ticks a second counted from the load. All six modes, BCD,
//! both latches and read-back are there.
//!
//! Missed ticks coalesce: when several periods of channel 0 passed at once, the line rises once. The line is lowered
//! only just before it rises again; every input of it is edge-triggered, so nothing sees the difference. Writing a
//! control word does not raise the line by itself.

mod channel;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::Device;
use crate::bits::low8;
use crate::context::{DeviceContext, Effect, InterruptLine};
use crate::snapshot::{RestoreError, Snapshot};
pub use channel::{PitChannel, PitRun};

/// Input clock of every channel.
pub const PIT_HZ: u64 = 1_193_182;

/// Half period of the refresh signal in bit 4 of port 0x61.
const REFRESH_NS: u64 = 15_085;

/// State of [`Pit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitState {
    /// The three channels.
    pub channels: [PitChannel; 3],
    /// Bits 3:0 of port 0x61.
    pub control: u8,
}

/// The 8254.
#[derive(Debug, Clone)]
pub struct Pit {
    state: PitState,
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit {
    /// Power-on state: no channel counts, the gate of channel 2 is low.
    #[must_use]
    pub fn new() -> Self {
        let channels = [PitChannel::new(true), PitChannel::new(true), PitChannel::new(false)];
        Self { state: PitState { channels, control: 0 } }
    }

    fn write_control(&mut self, value: u8, cx: &mut DeviceContext<'_>) {
        let now_ns = cx.now_ns;
        let select = usize::from(value >> 6);
        if select == 3 {
            // Read-back: bits 5 and 4 are active low.
            for (index, channel) in self.state.channels.iter_mut().enumerate() {
                if value & (2 << index) == 0 {
                    continue;
                }
                channel.settle(now_ns);
                if value & 0x20 == 0 {
                    channel.latch_count(now_ns);
                }
                if value & 0x10 == 0 && channel.status.is_none() {
                    channel.status = Some(channel.status_byte(now_ns));
                }
            }
            return;
        }
        let channel = &mut self.state.channels[select];
        channel.settle(now_ns);
        if value & 0x30 == 0 {
            channel.latch_count(now_ns);
            return;
        }
        channel.control(value);
        if select == 0 {
            cx.effects.push(Effect::Line(InterruptLine(0), false));
        }
    }
}

impl Device for Pit {
    fn read(&mut self, cx: &mut DeviceContext<'_>, port: u16) -> u8 {
        match port {
            0x40..=0x42 => self.state.channels[usize::from(port - 0x40)].read(cx.now_ns),
            0x61 => {
                let channel = &mut self.state.channels[2];
                channel.settle(cx.now_ns);
                let refresh = (cx.now_ns / REFRESH_NS) & 1;
                self.state.control | (low8(refresh) << 4) | (u8::from(channel.output(cx.now_ns)) << 5)
            }
            _ => 0xff,
        }
    }

    fn write(&mut self, cx: &mut DeviceContext<'_>, port: u16, value: u8) {
        self.advance(cx);
        match port {
            0x40..=0x42 => {
                self.state.channels[usize::from(port - 0x40)].write(value, cx.now_ns);
                if port == 0x40 && self.state.channels[0].mode == 0 {
                    cx.effects.push(Effect::Line(InterruptLine(0), false));
                }
            }
            0x43 => self.write_control(value, cx),
            0x61 => {
                self.state.control = value & 0xf;
                self.state.channels[2].set_gate(value & 1 != 0, cx.now_ns);
            }
            _ => {}
        }
    }

    fn deadline_ns(&self) -> u64 {
        self.state.channels[0].deadline_ns()
    }

    fn advance(&mut self, cx: &mut DeviceContext<'_>) {
        if self.state.channels[0].take_edge(cx.now_ns) {
            cx.effects.push(Effect::Line(InterruptLine(0), false));
            cx.effects.push(Effect::Line(InterruptLine(0), true));
        }
    }

    fn reset(&mut self, cx: &mut DeviceContext<'_>) {
        *self = Self::new();
        cx.effects.push(Effect::Line(InterruptLine(0), false));
    }
}

impl Snapshot for Pit {
    const KIND: &'static str = "8254";
    const VERSION: u16 = 1;
    type State = PitState;

    fn save(&self) -> PitState {
        let Self { state } = self;
        state.clone()
    }

    fn restore(&mut self, state: PitState) -> Result<(), RestoreError> {
        for channel in &state.channels {
            let counts = [Some(channel.count), channel.next.map(|(_, count)| count)];
            let bad_count = counts.into_iter().flatten().any(|count| count > 0x1_0000);
            let runs_on_nothing = channel.run != PitRun::Stopped && channel.count == 0;
            let bad_next = channel.next.is_some_and(|(at, count)| count == 0 || (at != u64::MAX && at > 1 << 60));
            let bad_edges = channel.edges_seen > 1 << 44;
            let bad_mode = channel.mode > 5 || !(1..=3).contains(&channel.access);
            if bad_count || runs_on_nothing || bad_next || bad_mode || bad_edges {
                let reason = format!("impossible channel {channel:?}");
                return Err(RestoreError::Invalid { kind: Self::KIND, reason });
            }
        }
        self.state = state;
        Ok(())
    }
}
