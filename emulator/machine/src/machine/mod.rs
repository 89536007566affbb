//! The machine: vCPUs, board and memory behind one small interface.
//!
//! Run until a count; deliver inputs; take outputs; save, restore, digest. Nothing else changes a machine, and two
//! machines with equal configurations and equal inputs at equal positions are equal.
//!
//! ```text
//!     +-> run(until) -> Count          go on
//!     |                 Outputs        take them, go on
//!     |                 Idle           deliver an anchor or another input, go on
//!     |                 Reset          done already; go on, or end
//!     |                 Off            final until Input::Reset
//!     |                 TripleFault    final until Input::Reset
//!     +----------------------+
//! ```
//!
//! With [`ClockMode::Virtual`] the machine skips idle time by itself; a host that completes disk requests later than at
//! the position of their output then makes the run depend on its own speed. A host that skips idle time itself, by
//! anchors, uses [`ClockMode::Host`].

mod config;
mod digest;
mod report;
mod snapshot;
#[cfg(test)]
mod tests;

use std::any::Any;

use virtft_cpu::memory::GuestRam;
use virtft_cpu::{Core, RunExit};

pub use config::{MACHINE_TYPE, MachineConfig, MachineError, VCPU_LIMIT};
pub use digest::StateDigest;
pub use report::TripleFaultReport;
pub use snapshot::{MachineIdentity, MachineSnapshot, MemoryImage, SnapshotError};

use crate::acpi::{self, TableConfig};
use crate::bits::low8;
use crate::boot;
use crate::clock::ClockMode;
use crate::context::PowerAction;
use crate::io::{ClockAnchor, Input, InstructionCount, Output};
use crate::platform::{InputError, Platform, pci_window_64};
use digest::MemoryDigest;

/// Idle time that one call of [`Machine::run`] skips with a virtual clock before it gives up waiting: guest
/// nanoseconds and timer events.
const SKIP_LIMIT_NS: u64 = 3_600_000_000_000;
const SKIP_LIMIT_EVENTS: u32 = 1_000_000;

/// Why [`Machine::run`] returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The count asked for is reached, exactly.
    Count,
    /// Outputs wait: [`Machine::take_outputs`].
    Outputs,
    /// Every vCPU waits. With a virtual clock: and no timer wakes one.
    Idle {
        /// Guest time of the next timer in nanoseconds; `None` when only an input can go on.
        next_deadline_ns: Option<u64>,
    },
    /// The guest reset the machine; the kernel is loaded again and the next run starts it.
    Reset,
    /// The machine is off.
    Off {
        /// 0 for a clean power-off, else what the guest made of the debug exit port: `value << 1 | 1`.
        status: u8,
    },
    /// A vCPU shut down.
    TripleFault(Box<TripleFaultReport>),
}

/// A whole computer.
#[derive(Debug)]
pub struct Machine {
    core: Core,
    config: MachineConfig,
    /// ACPI tables, as every boot places them.
    tables: Vec<u8>,
    /// The machine is off, with this status.
    off: Option<u8>,
    memory_digest: MemoryDigest,
    /// What snapshots of this machine carry; made once, because it needs digests of kernel and initrd.
    identity: MachineIdentity,
}

impl Machine {
    /// Makes a machine and loads its kernel. It stands at count 0 and guest time 0.
    ///
    /// # Errors
    /// When the configuration is impossible, memory cannot be had, or the kernel cannot be started.
    pub fn new(config: MachineConfig) -> Result<Self, MachineError> {
        config.check()?;
        let ram = GuestRam::new(config.memory_bytes)?;
        let table_config = TableConfig { vcpus: low8(config.vcpus as u64), pci_window_64: pci_window_64(&ram) };
        let platform = config.platform(ram.clone())?;
        let memory_digest = MemoryDigest::new(ram.page_count());
        let identity = MachineIdentity::of(&config);
        let core = Core::new(ram, config.vcpus, Box::new(platform));
        let mut machine = Self { core, config, tables: acpi::build(&table_config), off: None, memory_digest, identity };
        machine.boot()?;
        Ok(machine)
    }

    /// Runs until `until` steps are done in all, or there is something for the caller to do.
    ///
    /// Outputs that were not taken make it return at once. It always returns, and with [`StopReason::Count`] the
    /// count is exactly `until`.
    pub fn run(&mut self, until: InstructionCount) -> StopReason {
        let mut skipped = 0;
        let skip_from_ns = self.now_ns();
        loop {
            if let Some(status) = self.off {
                return StopReason::Off { status };
            }
            match self.core.run(until.0) {
                RunExit::Count => return StopReason::Count,
                RunExit::Attention => {
                    if let Some(reason) = self.attend() {
                        return reason;
                    }
                }
                RunExit::Idle => {
                    let next_deadline_ns = self.next_deadline_ns();
                    let idle = StopReason::Idle { next_deadline_ns };
                    let ClockMode::Virtual { .. } = self.config.clock else { return idle };
                    let Some(time_ns) = next_deadline_ns else { return idle };
                    skipped += 1;
                    if skipped > SKIP_LIMIT_EVENTS || time_ns.saturating_sub(skip_from_ns) > SKIP_LIMIT_NS {
                        return idle;
                    }
                    self.skip_to(time_ns);
                }
                RunExit::TripleFault { cpu } => {
                    return StopReason::TripleFault(Box::new(TripleFaultReport::new(&self.core, cpu)));
                }
            }
        }
    }

    /// Delivers an input at the present position.
    ///
    /// # Errors
    /// When it cannot have happened to this machine here; the machine is unchanged then.
    pub fn deliver(&mut self, input: &Input) -> Result<(), InputError> {
        let count = self.core.count();
        self.platform_mut().deliver(count, input)?;
        if matches!(input, Input::Reset) {
            self.off = None;
        }
        Ok(())
    }

    /// Takes what waits for the host, in order.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        self.platform_mut().take_outputs()
    }

    /// Block requests that were handed out and not completed: what a host issues again after it restored a machine.
    /// Requests among outputs that were not taken when it was saved are in here too.
    #[must_use]
    pub fn in_flight(&self) -> Vec<Output> {
        self.platform().in_flight()
    }

    /// The present position.
    #[must_use]
    pub fn count(&self) -> InstructionCount {
        InstructionCount(self.core.count())
    }

    /// Guest time at the present position, in nanoseconds.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.platform().now_ns(self.core.count())
    }

    /// Guest time of the next timer; `None` when there is none.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        Some(self.platform().next_deadline_ns()).filter(|&deadline| deadline != u64::MAX)
    }

    /// What the machine is made of.
    #[must_use]
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// The vCPUs, to look at.
    #[must_use]
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The board, to look at.
    ///
    /// # Panics
    /// Never: the engine's bus is the board that this machine made.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        let bus: &dyn Any = self.core.bus();
        bus.downcast_ref().expect("the bus of a machine is its platform")
    }

    /// Memory, to look at.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        self.core.ram()
    }

    /// Drops everything that is derived from the state (translations, decoded code). No digest may change.
    pub fn flush_caches(&mut self) {
        self.core.flush_caches();
    }

    /// Changes a register of the first vCPU, as an error of the host's memory might: for tests of what notices it.
    pub fn disturb(&mut self) {
        let mut state = self.core.cpu(0);
        state.sys.tsc_aux ^= 1 << 31;
        self.core.set_cpu(0, &state);
    }

    fn platform_mut(&mut self) -> &mut Platform {
        let bus: &mut dyn Any = self.core.bus_mut();
        bus.downcast_mut().expect("the bus of a machine is its platform")
    }

    /// Looks at what the board wants; `None` to go on.
    fn attend(&mut self) -> Option<StopReason> {
        // Outputs first: what was sent before the power went off is sent.
        if self.platform().has_outputs() {
            return Some(StopReason::Outputs);
        }
        match self.platform_mut().take_power_action()? {
            PowerAction::Off { status } => {
                self.off = Some(status);
                Some(StopReason::Off { status })
            }
            PowerAction::Reset => {
                self.reset();
                Some(StopReason::Reset)
            }
        }
    }

    /// Guest time steps to `time_ns` at the present count.
    fn skip_to(&mut self, time_ns: u64) {
        let count = self.core.count();
        let rate = self.config.rate();
        let anchor = Input::ClockAnchor(ClockAnchor { time_ns, rate });
        self.platform_mut().deliver(count, &anchor).expect("a deadline that is not due lies in the future");
    }

    /// The reset line. The count, guest time, CMOS and memory beyond what the loader writes go on.
    fn reset(&mut self) {
        let count = self.core.count();
        self.platform_mut().reset(count);
        self.core.reset();
        self.boot().expect("a kernel that was started starts again");
    }

    /// Firmware's part: loads the kernel and sets up the vCPUs.
    fn boot(&mut self) -> Result<(), MachineError> {
        let state = boot::load(self.core.ram(), &self.config.boot, &self.tables)?;
        self.core.set_cpu(0, &state);
        for cpu in 1..self.core.vcpus() {
            let mut other = self.core.cpu(cpu);
            other.sys.mtrr_def_type = boot::MTRR_DEFAULT;
            self.core.set_cpu(cpu, &other);
        }
        self.platform_mut().set_up_for_boot();
        Ok(())
    }
}
