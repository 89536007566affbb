//! One domain: its definition, and its machine while it runs.

use std::sync::Arc;

use uuid::Uuid;
use virtft_domain::{CharDevice, CharSource, ConsoleTarget, Domain};

use super::process::Process;
use crate::error::DriverError;
use crate::ft::Protection;

/// State and reason, in libvirt's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// 1.
    Running(RunningReason),
    /// 3, by a user.
    Paused,
    /// 3: it follows another host's machine.
    Following,
    /// 4: the power button was pressed.
    ShuttingDown,
    /// 5.
    Off(OffReason),
}

/// Why a domain runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunningReason {
    /// It was started.
    Booted,
    /// It was paused before.
    Unpaused,
    /// It ran on another host before.
    Migrated,
    /// It goes on from where it was saved.
    Restored,
}

/// Why a domain is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OffReason {
    /// It has not run since the daemon knows it, or ended while there was no daemon.
    #[default]
    Unknown,
    /// The guest powered off.
    Shutdown,
    /// A user ended it.
    Destroyed,
    /// The guest crashed.
    Crashed,
    /// The emulator failed, or could not be started.
    Failed,
    /// Another host runs it.
    Migrated,
    /// Its state was saved.
    Saved,
}

impl State {
    /// State and reason as clients get them.
    #[must_use]
    pub fn numbers(self) -> (i32, i32) {
        match self {
            Self::Running(RunningReason::Booted) => (1, 1),
            Self::Running(RunningReason::Unpaused) => (1, 5),
            Self::Running(RunningReason::Migrated) => (1, 2),
            Self::Running(RunningReason::Restored) => (1, 3),
            Self::Paused => (3, 1),
            Self::Following => (3, 2),
            Self::ShuttingDown => (4, 1),
            Self::Off(OffReason::Unknown) => (5, 0),
            Self::Off(OffReason::Shutdown) => (5, 1),
            Self::Off(OffReason::Destroyed) => (5, 2),
            Self::Off(OffReason::Crashed) => (5, 3),
            Self::Off(OffReason::Migrated) => (5, 4),
            Self::Off(OffReason::Saved) => (5, 5),
            Self::Off(OffReason::Failed) => (5, 6),
        }
    }
}

/// What somebody has decided about a machine, to be carried out when its process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It stays off whatever its definition says.
    Destroy,
    /// It starts again.
    Reset,
    /// The backup takes over.
    Switch,
    /// Its state is saved.
    Save,
}

/// Names that a running machine's devices have on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostNames {
    /// Pseudo-terminals of the serial ports, `None` for those that have another backend.
    pub serials: Vec<Option<String>>,
    /// Those of the consoles.
    pub consoles: Vec<Option<String>>,
    /// Tap interfaces of the network cards.
    pub taps: Vec<Option<String>>,
    /// Those of them that were made for this run and go with it.
    pub made: Vec<String>,
}

/// A machine that runs.
#[derive(Debug)]
pub struct Run {
    /// Number.
    pub id: i32,
    /// What it was started from.
    pub base: Arc<Domain>,
    /// What its devices are called.
    pub names: HostNames,
    /// The emulator.
    pub process: Process,
    /// Made to stand still.
    pub is_paused: bool,
    /// Why it runs.
    pub reason: RunningReason,
    /// The power button was pressed. A second press would be the second SIGTERM, which ends the emulator at once, so
    /// that it is pressed once.
    pub power_pressed: bool,
    /// When the guest powers off, it is started again: a reboot was asked for.
    pub restarts: bool,
    /// What is done when the process has ended.
    pub wish: Option<Wish>,
    /// The session with which it ends.
    pub owner: Option<u64>,
    /// Its backup, or whose backup it is.
    pub protection: Protection,
}

impl Run {
    /// A run that has just begun.
    #[must_use]
    pub fn new(id: i32, base: &Arc<Domain>, process: Process) -> Self {
        Self {
            id,
            base: Arc::clone(base),
            names: HostNames::default(),
            process,
            is_paused: false,
            reason: RunningReason::Booted,
            power_pressed: false,
            restarts: false,
            wish: None,
            owner: None,
            protection: Protection::default(),
        }
    }

    /// State as clients see it.
    #[must_use]
    pub fn state(&self) -> State {
        if self.protection.backup.is_some() {
            State::Following
        } else if self.is_paused {
            State::Paused
        } else if self.power_pressed {
            State::ShuttingDown
        } else {
            State::Running(self.reason)
        }
    }

    /// The definition with what is only known while it runs.
    #[must_use]
    pub fn live(&self) -> Domain {
        let mut domain = (*self.base).clone();
        let devices = &mut domain.devices;
        set_terminals(&mut devices.serials, &self.names.serials);
        set_terminals(&mut devices.consoles, &self.names.consoles);
        for (interface, tap) in devices.interfaces.iter_mut().zip(&self.names.taps) {
            interface.target.clone_from(tap);
        }
        devices.name_aliases();
        domain
    }

    /// Path of the pseudo-terminal of a console or serial port; `None` names the first.
    ///
    /// # Errors
    /// When there is no such device, or it goes elsewhere.
    pub fn terminal(&self, device: Option<&str>) -> Result<String, DriverError> {
        let live = self.live();
        let devices = || live.devices.serials.iter().chain(&live.devices.consoles);
        let found = match device {
            Some(alias) => devices().find(|device| device.alias.as_deref() == Some(alias)),
            None => live.devices.consoles.first().or(live.devices.serials.first()),
        };
        match found.map(|device| &device.source) {
            Some(CharSource::Pty { path: Some(path) }) => Ok(path.clone()),
            Some(_) => Err(DriverError::Unsupported("the console does not go to a pseudo-terminal".into())),
            None => {
                let what = device.map_or_else(|| "a console".into(), |alias| format!("a console '{alias}'"));
                Err(DriverError::InvalidArgument(format!("the domain does not have {what}")))
            }
        }
    }
}

fn set_terminals(devices: &mut [CharDevice], paths: &[Option<String>]) {
    for (device, path) in devices.iter_mut().zip(paths) {
        if let CharSource::Pty { path: of_device } = &mut device.source {
            of_device.clone_from(path);
        }
    }
}

/// A domain that the daemon knows: defined, running, or both.
#[derive(Debug)]
pub struct Entry {
    /// What is started next time; `None` for transient domains.
    pub definition: Option<Arc<Domain>>,
    /// Its machine.
    pub run: Option<Run>,
    /// Starts with the daemon.
    pub autostart: bool,
    /// The definition was changed since it was loaded or defined first.
    pub is_updated: bool,
    /// There is a saved state, from which the next start goes on.
    pub is_saved: bool,
    /// Why it is off, while it is.
    pub off: OffReason,
    /// The operation that is going on, if any.
    pub job: Option<u64>,
    /// The definition that it came with: name and UUID never change otherwise than by renaming.
    identity: (String, Uuid),
}

impl Entry {
    /// An entry for this domain, neither defined nor running yet.
    #[must_use]
    pub fn new(domain: &Domain) -> Self {
        Self {
            definition: None,
            run: None,
            autostart: false,
            is_updated: false,
            is_saved: false,
            off: OffReason::default(),
            job: None,
            identity: (domain.name.clone(), domain.known_uuid()),
        }
    }

    /// Name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.identity.0
    }

    /// UUID.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.identity.1
    }

    /// Gives it another name.
    pub fn rename(&mut self, name: &str) {
        self.identity.0 = name.to_owned();
    }

    /// Number while it runs, -1 otherwise.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.run.as_ref().map_or(-1, |run| run.id)
    }

    /// State as clients see it.
    #[must_use]
    pub fn state(&self) -> State {
        self.run.as_ref().map_or(State::Off(self.off), Run::state)
    }

    /// The machine, which must run.
    ///
    /// # Errors
    /// When it does not.
    pub fn running(&self) -> Result<&Run, DriverError> {
        self.run.as_ref().ok_or_else(|| not_running(self.name()))
    }

    /// As [`Entry::running`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn running_mut(&mut self) -> Result<&mut Run, DriverError> {
        let Self { run, identity, .. } = self;
        run.as_mut().ok_or_else(|| not_running(&identity.0))
    }

    /// Whether users may do something to it here: what follows another host's machine is that host's.
    ///
    /// # Errors
    /// When it is a backup.
    pub fn check_own(&self) -> Result<(), DriverError> {
        match &self.run {
            Some(run) if run.protection.backup.is_some() => Err(DriverError::Invalid(format!(
                "'{}' is the backup of a domain that runs on another host; do it there",
                self.name()
            ))),
            _ => Ok(()),
        }
    }

    /// The definition of a persistent domain.
    ///
    /// # Errors
    /// When it is transient.
    pub fn persistent(&self) -> Result<&Arc<Domain>, DriverError> {
        let transient = || DriverError::Invalid(format!("the domain '{}' is transient", self.name()));
        self.definition.as_ref().ok_or_else(transient)
    }

    /// What describes the domain best now: the machine's definition while it runs, else the next one's.
    #[must_use]
    pub fn current(&self) -> Option<&Arc<Domain>> {
        self.run.as_ref().map(|run| &run.base).or(self.definition.as_ref())
    }
}

fn not_running(name: &str) -> DriverError {
    DriverError::Invalid(format!("the domain '{name}' is not running"))
}

/// True when a console is a serial port once more.
#[must_use]
pub fn is_alias_of_serial(console: &CharDevice) -> bool {
    console.target == ConsoleTarget::Serial
}
