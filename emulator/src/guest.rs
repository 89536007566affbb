//! The machine as the drivers run it, and its part of a snapshot file.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtft_machine::boot::BootSource;
use virtft_machine::clock::ClockMode;
use virtft_machine::devices::virtio::block::BlockConfig;
use virtft_machine::devices::virtio::console::PortConfig;
use virtft_machine::devices::virtio::net::NetConfig;
use virtft_machine::io::{DeviceIndex, Input, InstructionCount, Output};
use virtft_machine::machine::{MachineSnapshot, MemoryImage};
use virtft_machine::{Machine, MachineConfig, StopReason};
use virtio_bindings::virtio_net as feature;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::driver::{DigestScope, DriverError, Guest, Perturbation, Stop};
use crate::net::NetFacts;
use crate::run::MachinePlan;

/// What a machine was booted from: a guest reset boots it again, so a snapshot carries it.
#[derive(Debug, Serialize, Deserialize)]
struct SavedBoot {
    kernel: Vec<u8>,
    initrd: Option<Vec<u8>>,
    command_line: String,
}

impl SavedBoot {
    fn of(boot: &BootSource) -> Self {
        Self {
            kernel: boot.kernel.to_vec(),
            initrd: boot.initrd.as_ref().map(|initrd| initrd.to_vec()),
            command_line: boot.command_line.clone(),
        }
    }

    fn into_source(self) -> BootSource {
        BootSource { kernel: self.kernel.into(), initrd: self.initrd.map(Arc::from), command_line: self.command_line }
    }
}

/// The machine's part of a snapshot file, in postcard.
type SavedMachine = (SavedBoot, MachineSnapshot, MemoryImage);

/// A machine that a driver runs.
#[derive(Debug)]
pub struct MachineGuest {
    machine: Machine,
}

impl MachineGuest {
    /// Makes the machine of a plan, or continues the one in its snapshot.
    ///
    /// # Errors
    /// One line that says why it cannot be made.
    pub fn new(plan: MachinePlan<'_>) -> Result<Self, String> {
        let arguments = plan.arguments;
        let (boot, saved) = match plan.snapshot {
            Some(bytes) => {
                let (boot, machine, memory): SavedMachine = postcard::from_bytes(&bytes)
                    .map_err(|error| format!("--snapshot: it is damaged ({error}); make it again with --save-at"))?;
                (boot.into_source(), Some((machine, memory)))
            }
            None => {
                let kernel = plan.kernel.ok_or("--kernel: no kernel is named; name one")?;
                let initrd = plan.initrd.map(Arc::from);
                (BootSource { kernel: kernel.into(), initrd, command_line: arguments.append.clone() }, None)
            }
        };
        let index = |place: usize| DeviceIndex(u8::try_from(place).expect("the command line bounds the devices"));
        let disks = plan.disks.iter().enumerate().map(|(place, facts)| BlockConfig {
            read_only: facts.readonly,
            serial: facts.id.clone(),
            ..BlockConfig::new(index(place), facts.size)
        });
        let nets = plan
            .nets
            .iter()
            .enumerate()
            .map(|(place, facts)| NetConfig { offloads: offered(facts), ..NetConfig::new(index(place), facts.mac.0) });
        let config = MachineConfig {
            memory_bytes: arguments.memory,
            vcpus: usize::from(arguments.vcpus),
            // The virtual clock's driver skips idle time itself, by anchors.
            clock: ClockMode::Host,
            disks: disks.collect(),
            nets: nets.collect(),
            console_ports: arguments.console.iter().map(|_| PortConfig::console()).collect(),
            balloon: true,
            ..MachineConfig::new(boot)
        };
        let mut machine = Machine::new(config).map_err(|error| error.to_string())?;
        if let Some((state, memory)) = saved {
            machine.restore_memory(&memory).map_err(|error| format!("--snapshot: {error}"))?;
            machine.restore(state).map_err(|error| format!("--snapshot: {error}"))?;
        }
        Ok(Self { machine })
    }

    /// A machine that was made elsewhere.
    #[must_use]
    pub fn with(machine: Machine) -> Self {
        Self { machine }
    }

    /// The machine itself.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The machine itself, for whoever stands between it and the driver.
    pub fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Delivers an input. Returns whether the machine took it; a refusal is logged.
    pub fn try_deliver(&mut self, input: &Input) -> bool {
        let result = self.machine.deliver(input);
        if let Err(error) = &result {
            tracing::error!(count = self.machine.count().0, %error, "an input was refused");
        }
        result.is_ok()
    }
}

/// Pages that a perturbing save and restore writes again, of all that are not zero.
const PERTURBED_PAGES: usize = 256;

/// Does something to a machine that must not show. `random` chooses what part of memory is written again.
///
/// # Errors
/// One line when its state cannot be saved or restored.
pub fn perturb(machine: &mut Machine, kind: Perturbation, random: u64) -> Result<(), String> {
    match kind {
        Perturbation::FlushTlb | Perturbation::FlushCode => machine.flush_caches(),
        Perturbation::SaveRestore => {
            // Through bytes, as a file would hold it.
            let state = MachineSnapshot::from_bytes(&machine.save().to_bytes()).map_err(|error| error.to_string())?;
            // Writing all memory again each time would take most of the run. A stretch of it is enough to show what
            // depends on pages having been written from outside, and over the run all of it has its turn.
            let touched = machine.touched_pages();
            let start = usize::try_from(random).unwrap_or(usize::MAX) % touched.len().max(1);
            for page in touched.into_iter().cycle().skip(start).take(PERTURBED_PAGES) {
                let content = machine.ram().page(page);
                machine.write_page(page as u64, &content).map_err(|error| error.to_string())?;
            }
            machine.restore(state).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Virtio features for what a backend finishes.
fn offered(facts: &NetFacts) -> u64 {
    let offload = facts.offload;
    let sets: [(bool, &[u32]); 4] = [
        (offload.checksum, &[feature::VIRTIO_NET_F_CSUM]),
        (
            offload.segmentation,
            &[feature::VIRTIO_NET_F_HOST_TSO4, feature::VIRTIO_NET_F_HOST_TSO6, feature::VIRTIO_NET_F_HOST_ECN],
        ),
        (offload.receive_checksum, &[feature::VIRTIO_NET_F_GUEST_CSUM]),
        (
            offload.receive_segmentation,
            &[feature::VIRTIO_NET_F_GUEST_TSO4, feature::VIRTIO_NET_F_GUEST_TSO6, feature::VIRTIO_NET_F_GUEST_ECN],
        ),
    ];
    let bits = sets.into_iter().filter(|(on, _)| *on).flat_map(|(_, bits)| bits);
    bits.fold(1 << feature::VIRTIO_NET_F_MRG_RXBUF, |features, bit| features | 1 << bit)
}

impl Guest for MachineGuest {
    fn count(&self) -> InstructionCount {
        self.machine.count()
    }

    fn time_ns(&self) -> u64 {
        self.machine.now_ns()
    }

    fn run(&mut self, until: InstructionCount) -> Stop {
        loop {
            return match self.machine.run(until) {
                StopReason::Count => Stop::Limit,
                StopReason::Outputs => Stop::Output,
                StopReason::Idle { next_deadline_ns } => Stop::Idle { deadline_ns: next_deadline_ns },
                StopReason::Reset => {
                    tracing::info!(count = self.machine.count().0, "the guest reset the machine");
                    continue;
                }
                StopReason::Off { status: 0 } => Stop::Shutdown,
                StopReason::Off { status } => Stop::DebugExit(status >> 1),
                StopReason::TripleFault(report) => Stop::TripleFault(report.to_string()),
            };
        }
    }

    fn deliver(&mut self, input: Input) {
        self.try_deliver(&input);
    }

    fn take_outputs(&mut self) -> Vec<(InstructionCount, Output)> {
        let count = self.machine.count();
        self.machine.take_outputs().into_iter().map(|output| (count, output)).collect()
    }

    fn release_frames(&mut self, frames: &[u64]) {
        let memory = self.machine.ram().memory();
        for &frame in frames {
            let Ok(page) = memory.get_slice(GuestAddress(frame << 12), 4096) else { continue };
            crate::sys::release_zero_page(page.ptr_guard().as_ptr());
        }
    }

    fn requests_in_flight(&self) -> usize {
        self.machine.in_flight().len()
    }

    fn counters(&self) -> Vec<(String, u64)> {
        self.machine.platform().counters()
    }

    fn digest(&mut self, scope: DigestScope) -> u64 {
        let digest = match scope {
            DigestScope::Devices => self.machine.state_digest(),
            DigestScope::Memory => self.machine.memory_digest(),
        };
        // Half of the digest finds a divergence as well; the log stays readable.
        (digest.0 >> 64) as u64
    }

    fn save(&mut self) -> Result<Vec<u8>, String> {
        let boot = SavedBoot::of(&self.machine.config().boot);
        let saved: SavedMachine = (boot, self.machine.save(), self.machine.save_memory());
        postcard::to_stdvec(&saved).map_err(|error| error.to_string())
    }

    fn perturb(&mut self, kind: Perturbation, random: u64) -> Result<(), String> {
        perturb(&mut self.machine, kind, random)
    }

    /// Nobody else has to know.
    fn stand_still(&mut self, _paused: bool) {}

    fn finish(&mut self) -> Result<(), DriverError> {
        Ok(())
    }
}
