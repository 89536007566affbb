//! Status files: what a daemon must know of a running machine to find it again.
//!
//! `UUID.json` in the run directory. A process is known by its number and the time at which it started, within one boot of
//! the host: a number alone may have been given to another process.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::entry::{HostNames, Run, RunningReason};
use super::store::write_atomically;
use crate::error::DriverError;
use crate::ft::{BackupOf, Pair};

/// Version of the format; another one is not read.
const VERSION: u32 = 1;

/// Content of a status file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    version: u32,
    /// Identity of the host's boot.
    pub boot_id: String,
    /// The machine's definition, as XML.
    pub xml: String,
    /// Number of the domain.
    pub id: i32,
    /// Number of the process.
    pub pid: i32,
    /// When it started, in ticks since the host's boot.
    pub start_ticks: u64,
    /// What its devices are called.
    pub names: HostNames,
    /// It was stopped.
    pub is_paused: bool,
    /// It runs because it was unpaused.
    pub is_unpaused: bool,
    /// The power button was pressed.
    pub power_pressed: bool,
    /// It starts again when the guest powers off.
    pub restarts: bool,
    /// It came from another host.
    #[serde(default)]
    pub is_migrated: bool,
    /// Its backup.
    #[serde(default)]
    pub pair: Option<Pair>,
    /// Whose backup it is.
    #[serde(default)]
    pub backup: Option<BackupOf>,
}

impl Status {
    /// What is to be known of a run.
    #[must_use]
    pub fn new(run: &Run, boot_id: String) -> Self {
        Self {
            version: VERSION,
            boot_id,
            xml: run.base.to_xml(None),
            id: run.id,
            pid: run.process.pid(),
            start_ticks: run.process.start_ticks(),
            names: run.names.clone(),
            is_paused: run.is_paused,
            is_unpaused: run.reason == RunningReason::Unpaused,
            power_pressed: run.power_pressed,
            restarts: run.restarts,
            is_migrated: run.reason == RunningReason::Migrated,
            pair: run.protection.pair.clone(),
            backup: run.protection.backup.clone(),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, folder: &Path, uuid: Uuid) -> Result<(), DriverError> {
        let path = file(folder, uuid);
        let json = serde_json::to_vec_pretty(self).map_err(std::io::Error::from);
        let written = json.and_then(|json| write_atomically(&path, &json));
        written.map_err(DriverError::system("cannot write", path))
    }

    /// Reads all status files of a directory, which is made if need be. Files that cannot be read are logged and left.
    ///
    /// # Errors
    /// When the directory can be neither made nor read.
    pub fn load_all(folder: &Path) -> Result<Vec<Self>, DriverError> {
        fs::create_dir_all(folder).map_err(DriverError::system("cannot make", folder))?;
        let entries = fs::read_dir(folder).map_err(DriverError::system("cannot read", folder))?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut all = Vec::new();
        for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
            match read(&path) {
                Ok(status) => all.push(status),
                Err(reason) => tracing::error!("the status file {} cannot be used: {reason}", path.display()),
            }
        }
        all.sort_by_key(|status| status.id);
        Ok(all)
    }
}

fn read(path: &Path) -> Result<Status, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let status: Status = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if status.version == VERSION { Ok(status) } else { Err(format!("it is of version {}", status.version)) }
}

/// Removes a domain's status file.
pub fn remove(folder: &Path, uuid: Uuid) {
    // A file that stays names a process that is gone, and is then removed by the next daemon.
    if let Err(error) = fs::remove_file(file(folder, uuid)) {
        tracing::warn!("the status file of {uuid} cannot be removed: {error}");
    }
}

fn file(folder: &Path, uuid: Uuid) -> PathBuf {
    folder.join(format!("{uuid}.json"))
}
