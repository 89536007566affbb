//! ACPI power management hardware (ACPI 6.5, 4.8): PM1a event and control blocks, PM timer, GPE0, SMI command.
//!
//! There is no firmware: writing [`ACPI_ENABLE`] or [`ACPI_DISABLE`] to the SMI command port switches SCI_EN at once.
//! The SCI is level-triggered on line 9. S5 is the only sleep state: other SLP_TYP values are ignored.

use serde::{Deserialize, Serialize};

use super::Device;
use crate::bits::{byte, low32};
use crate::context::{DeviceContext, Effect, InterruptLine, PowerAction};
use crate::snapshot::{RestoreError, Snapshot};

/// PM1a event block: status and enable, two bytes each.
pub const PM1_EVENT: u16 = 0x600;
/// PM1a control block, two bytes.
pub const PM1_CONTROL: u16 = 0x604;
/// PM timer, four bytes.
pub const PM_TIMER: u16 = 0x608;
/// General-purpose event block 0: two status bytes and two enable bytes.
pub const GPE0: u16 = 0x620;
/// Length of the GPE0 block.
pub const GPE0_BYTES: u8 = 4;
/// SMI command port.
pub const SMI_COMMAND: u16 = 0xb2;
/// SMI command that turns ACPI mode on.
pub const ACPI_ENABLE: u8 = 0xa1;
/// SMI command that turns ACPI mode off.
pub const ACPI_DISABLE: u8 = 0xa0;
/// SLP_TYP of S5.
pub const SLEEP_S5: u8 = 5;
/// Line of the system control interrupt.
pub const SCI: InterruptLine = InterruptLine(9);
/// Frequency of the PM timer.
pub const PM_TIMER_HZ: u64 = 3_579_545;

const TIMER_STATUS: u16 = 1;
const GLOBAL: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
const WAKE: u16 = 1 << 15;
const STATUS_BITS: u16 = TIMER_STATUS | GLOBAL | POWER_BUTTON | (1 << 9) | (1 << 10) | WAKE;
const ENABLE_BITS: u16 = TIMER_STATUS | GLOBAL | POWER_BUTTON | (1 << 9) | (1 << 10);
const SCI_ENABLE: u16 = 1;
const SLEEP_ENABLE: u16 = 1 << 13;

/// State of [`AcpiPm`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPmState {
    /// PM1 status.
    pub status: u16,
    /// PM1 enable.
    pub enable: u16,
    /// PM1 control.
    pub control: u16,
    /// GPE0 status and enable.
    pub gpe: [u8; 4],
    /// Last SMI command and status bytes.
    pub smi: [u8; 2],
    /// Guest time up to which timer overflows are in the status.
    pub settled_ns: u64,
    /// Level of the SCI.
    pub line: bool,
}

/// The power management block.
#[derive(Debug, Clone, Default)]
pub struct AcpiPm {
    state: AcpiPmState,
}

impl AcpiPm {
    /// Power-on state: legacy mode.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The power button is pressed.
    pub fn press_power_button(&mut self, cx: &mut DeviceContext<'_>) {
        self.state.status |= POWER_BUTTON;
        self.update(cx);
    }

    fn settle(&mut self, now_ns: u64) {
        if half_turns(now_ns) != half_turns(self.state.settled_ns) {
            self.state.status |= TIMER_STATUS;
        }
        self.state.settled_ns = now_ns.max(self.state.settled_ns);
    }

    fn update(&mut self, cx: &mut DeviceContext<'_>) {
        let state = &mut self.state;
        let fixed = state.status & state.enable & ENABLE_BITS != 0;
        let general = state.gpe[0] & state.gpe[2] != 0 || state.gpe[1] & state.gpe[3] != 0;
        let level = state.control & SCI_ENABLE != 0 && (fixed || general);
        if level != state.line {
            state.line = level;
            cx.effects.push(Effect::Line(SCI, level));
        }
    }

    fn write_control(&mut self, cx: &mut DeviceContext<'_>, index: u32, value: u8) {
        let shifted = u16::from(value) << (8 * index);
        let mask = 0xffu16 << (8 * index);
        // SCI_EN belongs to the SMI command, SLP_EN always reads as 0, GBL_RLS is write-only.
        let kept = self.state.control & (!mask | SCI_ENABLE);
        self.state.control = kept | (shifted & 0x1c02);
        if shifted & SLEEP_ENABLE != 0 && (shifted >> 10) & 7 == u16::from(SLEEP_S5) {
            cx.effects.push(Effect::Power(PowerAction::Off { status: 0 }));
        }
    }
}

/// PM timer ticks at a guest time.
fn ticks(now_ns: u64) -> u64 {
    u64::try_from(u128::from(now_ns) * u128::from(PM_TIMER_HZ) / 1_000_000_000).unwrap_or(u64::MAX)
}

/// How often the most significant bit of the 32-bit timer changed.
fn half_turns(now_ns: u64) -> u64 {
    ticks(now_ns) >> 31
}

impl Device for AcpiPm {
    fn read(&mut self, cx: &mut DeviceContext<'_>, port: u16) -> u8 {
        self.settle(cx.now_ns);
        let index = u32::from(port & 3);
        match port & !3 {
            PM1_EVENT => byte(u64::from(self.state.status) | (u64::from(self.state.enable) << 16), index),
            PM1_CONTROL => byte(u64::from(self.state.control), index),
            PM_TIMER => byte(u64::from(low32(ticks(cx.now_ns))), index),
            GPE0 => self.state.gpe[usize::from(port & 3)],
            _ if port == SMI_COMMAND || port == SMI_COMMAND + 1 => self.state.smi[usize::from(port - SMI_COMMAND)],
            _ => 0,
        }
    }

    fn write(&mut self, cx: &mut DeviceContext<'_>, port: u16, value: u8) {
        self.settle(cx.now_ns);
        let shift = 8 * (port & 1);
        let word = u16::from(value) << shift;
        match port {
            _ if port & !1 == PM1_EVENT => self.state.status &= !(word & STATUS_BITS),
            _ if port & !1 == PM1_EVENT + 2 => {
                let kept = self.state.enable & !(0xff << shift);
                self.state.enable = kept | (word & ENABLE_BITS);
            }
            _ if port & !1 == PM1_CONTROL => self.write_control(cx, u32::from(port & 1), value),
            _ if port & !1 == GPE0 => self.state.gpe[usize::from(port & 3)] &= !value,
            _ if port & !1 == GPE0 + 2 => self.state.gpe[usize::from(port & 3)] = value,
            SMI_COMMAND => {
                self.state.smi[0] = value;
                match value {
                    ACPI_ENABLE => self.state.control |= SCI_ENABLE,
                    ACPI_DISABLE => self.state.control &= !SCI_ENABLE,
                    _ => {}
                }
            }
            _ if port == SMI_COMMAND + 1 => self.state.smi[1] = value,
            _ => {}
        }
        self.update(cx);
    }

    fn deadline_ns(&self) -> u64 {
        if self.state.enable & TIMER_STATUS == 0 || self.state.status & TIMER_STATUS != 0 {
            return u64::MAX;
        }
        let next = (half_turns(self.state.settled_ns) + 1) << 31;
        let at = (u128::from(next) * 1_000_000_000).div_ceil(u128::from(PM_TIMER_HZ));
        u64::try_from(at).unwrap_or(u64::MAX)
    }

    fn advance(&mut self, cx: &mut DeviceContext<'_>) {
        self.settle(cx.now_ns);
        self.update(cx);
    }

    fn reset(&mut self, cx: &mut DeviceContext<'_>) {
        let line = self.state.line;
        self.state = AcpiPmState { settled_ns: cx.now_ns, line, ..AcpiPmState::default() };
        self.update(cx);
    }
}

impl Snapshot for AcpiPm {
    const KIND: &'static str = "ACPI power management";
    const VERSION: u16 = 1;
    type State = AcpiPmState;

    fn save(&self) -> AcpiPmState {
        let Self { state } = self;
        state.clone()
    }

    fn restore(&mut self, state: AcpiPmState) -> Result<(), RestoreError> {
        if state.status & !STATUS_BITS != 0 || state.enable & !ENABLE_BITS != 0 {
            let reason = format!("status {:#x}, enable {:#x}", state.status, state.enable);
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
    fn the_power_button_raises_the_sci_in_acpi_mode() {
        let mut bench = Bench::new(AcpiPm::new());
        bench.write(PM1_EVENT + 3, 1);
        bench.call(|pm, cx| pm.press_power_button(cx));
        assert_eq!(bench.take_line(9), [], "legacy mode has no SCI");
        bench.write(SMI_COMMAND, ACPI_ENABLE);
        assert_eq!(bench.read(PM1_CONTROL) & 1, 1);
        assert_eq!(bench.take_line(9), [true]);
        assert_eq!(bench.read(PM1_EVENT + 1), 1);
        bench.write(PM1_EVENT + 1, 1);
        assert_eq!(bench.take_line(9), [false], "status bits clear by writing one");
    }

    #[test]
    fn s5_turns_the_machine_off() {
        let mut bench = Bench::new(AcpiPm::new());
        bench.write(PM1_CONTROL + 1, 0x20 | (3 << 2));
        assert!(bench.effects.is_empty(), "S3 does not exist");
        bench.write(PM1_CONTROL + 1, 0x20 | (SLEEP_S5 << 2));
        assert_eq!(bench.effects, [Effect::Power(PowerAction::Off { status: 0 })]);
        assert_eq!(bench.read(PM1_CONTROL + 1) & 0x20, 0, "SLP_EN reads as 0");
    }

    #[test]
    fn the_timer_runs_at_its_frequency_and_overflows() {
        let mut bench = Bench::new(AcpiPm::new());
        bench.now_ns = 1_000_000_000;
        let bytes = [0, 1, 2, 3].map(|index| bench.read(PM_TIMER + index));
        assert_eq!(u32::from_le_bytes(bytes), 3_579_545);
        bench.write(SMI_COMMAND, ACPI_ENABLE);
        bench.write(PM1_EVENT + 2, 1);
        let due = bench.device.deadline_ns();
        assert_eq!(due / 1_000_000_000, 599, "bit 31 changes after ten minutes");
        bench.run_to(due - 1);
        assert_eq!(bench.take_line(9), []);
        bench.run_to(due);
        assert_eq!(bench.take_line(9), [true]);
    }

    snapshot_walk!(random_walk_is_saveable, AcpiPm::new(), (0x600..=0x60b).chain(0x620..=0x623).chain([0xb2, 0xb3]));
}
