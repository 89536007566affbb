//! What a machine is made of.

use thiserror::Error;
use virtft_cpu::memory::{GuestRam, MemoryError};

use crate::boot::{BootError, BootSource};
use crate::clock::{ClockMode, RATE_ONE};
use crate::devices::pci::{PciError, PciFunction, PciHost};
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::block::{Block, BlockConfig};
use crate::devices::virtio::console::{Console, PortConfig};
use crate::devices::virtio::net::{Net, NetConfig};
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::transport::VirtioPci;
use crate::platform::{PCI_WINDOW, Platform};

/// Name of this kind of machine: what a guest sees of the board. A change that a guest or a log can notice makes a
/// new one.
pub const MACHINE_TYPE: &str = "virtft-1";

/// Most vCPUs.
pub const VCPU_LIMIT: usize = 8;

/// Everything that makes a machine. Two replicas are made from equal configurations.
#[derive(Debug, Clone)]
pub struct MachineConfig {
    /// Size of the memory in bytes: a multiple of 1 MiB.
    pub memory_bytes: u64,
    /// Number of vCPUs, 1 to [`VCPU_LIMIT`].
    pub vcpus: usize,
    /// How guest time is driven.
    pub clock: ClockMode,
    /// Disks; the index of each is its place.
    pub disks: Vec<BlockConfig>,
    /// Network devices; the index of each is its place.
    pub nets: Vec<NetConfig>,
    /// Ports of the virtio console; none for no such device.
    pub console_ports: Vec<PortConfig>,
    /// With a virtio entropy device.
    pub rng: bool,
    /// With a virtio balloon.
    pub balloon: bool,
    /// What is booted, now and after every reset.
    pub boot: BootSource,
}

/// A machine that cannot be made.
#[derive(Debug, Error)]
pub enum MachineError {
    /// Too many or too few vCPUs.
    #[error("{vcpus} vCPUs: choose 1 to {VCPU_LIMIT}")]
    Vcpus {
        /// The number asked for.
        vcpus: usize,
    },
    /// The index of a device is not its place in the list.
    #[error("{kind} number {place} is configured with index {index}")]
    DeviceOrder {
        /// Disk or network device.
        kind: &'static str,
        /// Its place in the list.
        place: usize,
        /// The index in its configuration.
        index: u8,
    },
    /// Memory that cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The PCI bus has no room.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The kernel cannot be started.
    #[error(transparent)]
    Boot(#[from] BootError),
}

impl MachineConfig {
    /// A machine with 512 MiB, one vCPU, a clock driven by the host and no devices beyond the board's.
    #[must_use]
    pub fn new(boot: BootSource) -> Self {
        Self {
            memory_bytes: 512 << 20,
            vcpus: 1,
            clock: ClockMode::Host,
            disks: Vec::new(),
            nets: Vec::new(),
            console_ports: Vec::new(),
            rng: true,
            balloon: false,
            boot,
        }
    }

    /// Rate of the clock before the first anchor.
    pub(super) fn rate(&self) -> u64 {
        match self.clock {
            ClockMode::Host => RATE_ONE,
            ClockMode::Virtual { rate } => rate.max(1),
        }
    }

    pub(super) fn check(&self) -> Result<(), MachineError> {
        if !(1..=VCPU_LIMIT).contains(&self.vcpus) {
            return Err(MachineError::Vcpus { vcpus: self.vcpus });
        }
        let disks = self.disks.iter().map(|disk| ("disk", disk.index));
        let nets = self.nets.iter().map(|net| ("network device", net.index));
        for (place, (kind, index)) in disks.enumerate().chain(nets.enumerate()) {
            if usize::from(index.0) != place {
                return Err(MachineError::DeviceOrder { kind, place, index: index.0 });
            }
        }
        Ok(())
    }

    /// The board with all its devices. The order of PCI devices is fixed: disks, network, console, entropy, balloon.
    pub(super) fn platform(&self, ram: GuestRam) -> Result<Platform, MachineError> {
        let mut functions: Vec<Box<dyn PciFunction>> = Vec::new();
        for disk in &self.disks {
            functions.push(Box::new(VirtioPci::new(Block::new(disk.clone()))));
        }
        for net in &self.nets {
            functions.push(Box::new(VirtioPci::new(Net::new(net.clone()))));
        }
        if !self.console_ports.is_empty() {
            functions.push(Box::new(VirtioPci::new(Console::new(self.console_ports.clone()))));
        }
        if self.rng {
            functions.push(Box::new(VirtioPci::new(Rng::new())));
        }
        if self.balloon {
            functions.push(Box::new(VirtioPci::new(Balloon::new())));
        }
        let pci = PciHost::new(PCI_WINDOW, functions)?;
        Ok(Platform::new(ram, self.vcpus, self.rate(), pci))
    }
}
