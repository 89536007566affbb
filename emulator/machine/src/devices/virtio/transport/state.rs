//! The transport's registers and its saved state.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{NO_VECTOR, VirtioPci, checked_vector};
use crate::devices::pci::msix::MsiXState;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::queue::VirtQueueState;
use crate::snapshot::{RestoreError, Snapshot};

/// Version of the transport's part of the state.
const TRANSPORT_VERSION: u16 = 1;

/// Things a driver did that had no effect or broke the device, since power-on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TransportCounters {
    /// Broken rings: each made the device need a reset.
    pub ring_errors: u64,
    /// Notifications of queues that were not enabled, or of a device that was not live.
    pub ignored_notifications: u64,
    /// Writes to read-only registers, of a wrong size, or at a wrong time.
    pub ignored_writes: u64,
    /// Inputs that came while bus mastering was off, so that they could not reach memory.
    pub inputs_without_master: u64,
}

impl TransportCounters {
    /// The counters with their names.
    #[must_use]
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        let Self { ring_errors, ignored_notifications, ignored_writes, inputs_without_master } = *self;
        vec![
            ("ring_errors", ring_errors),
            ("ignored_notifications", ignored_notifications),
            ("ignored_writes", ignored_writes),
            ("inputs_without_master", inputs_without_master),
        ]
    }
}

/// The registers of the transport: plain data, saved as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// Which half of the offered features shows.
    pub device_feature_select: u32,
    /// Which half of the accepted features shows.
    pub driver_feature_select: u32,
    /// Features that the driver accepted.
    pub driver_features: u64,
    /// Vector for configuration changes.
    pub config_vector: u16,
    /// Device status.
    pub status: u8,
    /// Counts changes of the device configuration.
    pub generation: u8,
    /// Which queue the queue registers show.
    pub queue_select: u16,
    /// Interrupt status.
    pub isr: u8,
    /// Counted since power-on.
    pub counters: TransportCounters,
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            generation: 0,
            queue_select: 0,
            isr: 0,
            counters: TransportCounters::default(),
        }
    }
}

/// Saved state of a virtio function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "S: Serialize + DeserializeOwned")]
pub struct VirtioPciState<S> {
    /// Configuration space.
    pub config: Vec<u8>,
    /// MSI-X table and pending bits.
    pub msix: MsiXState,
    /// Registers of the transport.
    pub registers: Registers,
    /// The queues.
    pub queues: Vec<VirtQueueState>,
    /// The device.
    pub device: S,
}

impl<D: VirtioDevice> VirtioPci<D> {
    fn check_registers(&self, state: &VirtioPciState<D::State>) -> Result<(), RestoreError> {
        let invalid = |reason: String| Err(RestoreError::Invalid { kind: Self::KIND, reason });
        let vectors = self.msix.len();
        let known = |vector: u16| vector == checked_vector(vector, vectors);
        let registers = &state.registers;
        // Before FEATURES_OK a driver may write any feature; it is then refused.
        if registers.status & super::DRIVER_OK != 0 && registers.driver_features & !self.features() != 0 {
            return invalid(format!("features {:#x} were never offered", registers.driver_features));
        }
        if !known(registers.config_vector) || !state.queues.iter().all(|queue| known(queue.vector)) {
            return invalid(format!("a vector is not among the {vectors} of this function"));
        }
        if state.queues.len() != self.queues.len() {
            return invalid(format!("{} queues, this function has {}", state.queues.len(), self.queues.len()));
        }
        Ok(())
    }

    fn try_restore(&mut self, state: VirtioPciState<D::State>) -> Result<(), RestoreError> {
        self.check_registers(&state)?;
        let VirtioPciState { config, msix, registers, queues, device } = state;
        self.config.restore(config)?;
        self.msix.restore(msix)?;
        for (slot, queue) in self.queues.iter_mut().zip(queues) {
            slot.restore(queue)?;
        }
        self.device.restore(device)?;
        self.registers = registers;
        let control = self.msix_control();
        self.msix.rebuild(control);
        Ok(())
    }
}

impl<D: VirtioDevice> Snapshot for VirtioPci<D> {
    const KIND: &'static str = D::KIND;
    const VERSION: u16 = (TRANSPORT_VERSION << 8) | D::VERSION;
    type State = VirtioPciState<D::State>;

    fn save(&self) -> Self::State {
        // The layout of configuration space follows from construction; the last error is for people.
        let Self { config, access_capability: _, msix_capability: _, msix, registers, queues, device, last_error: _ } =
            self;
        VirtioPciState {
            config: config.save(),
            msix: msix.save(),
            registers: registers.clone(),
            queues: queues.iter().map(Snapshot::save).collect(),
            device: device.save(),
        }
    }

    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError> {
        let old = self.save();
        let result = self.try_restore(state);
        match &result {
            Ok(()) => self.last_error = None,
            Err(_) => self.try_restore(old).expect("a function accepts its own state"),
        }
        result
    }
}
