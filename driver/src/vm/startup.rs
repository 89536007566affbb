//! What a daemon does first: definitions are read, machines that run are found, and the others are started that should be.

use std::fs;
use std::sync::Arc;

use uuid::Uuid;
use virtft_domain::Domain;

use super::Hypervisor;
use super::definition::complete;
use super::entry::{Run, RunningReason};
use super::launch::clean_up;
use super::lifecycle::Start;
use super::process::Process;
use super::status::{self, Status};
use crate::error::DriverError;
use crate::ft::Protection;
use crate::host;

impl Hypervisor {
    /// Reads definitions and finds running machines.
    ///
    /// # Errors
    /// When a directory can be neither made nor read.
    pub fn load(self: &Arc<Self>) -> Result<(), DriverError> {
        for loaded in self.store.load()? {
            let mut registry = self.registry();
            let domain = Arc::new(loaded.domain);
            match registry.claim(&domain) {
                Ok(entry) => {
                    entry.definition = Some(domain);
                    entry.autostart = loaded.autostart;
                }
                Err(error) => tracing::error!("the definition of '{}' cannot be used: {error}", domain.name),
            }
        }
        let boot_id = host::boot_id();
        for status in Status::load_all(&self.paths.run)? {
            match complete(&status.xml) {
                Ok(domain) => self.find_again(&status, Arc::new(domain), &boot_id),
                Err(error) => tracing::error!("a running domain cannot be understood: {error}"),
            }
        }
        self.find_saved();
        Ok(())
    }

    fn find_again(self: &Arc<Self>, status: &Status, domain: Arc<Domain>, boot_id: &str) {
        let (name, uuid) = (domain.name.clone(), domain.known_uuid());
        let is_this_boot = status.boot_id == boot_id;
        let process = is_this_boot.then(|| Process::open_same(status.pid, status.start_ticks).ok()).flatten();
        let Some(process) = process else {
            tracing::info!("domain '{name}' ended while there was no daemon");
            clean_up(&status.names);
            status::remove(&self.paths.run, uuid);
            return;
        };
        let mut registry = self.registry();
        registry.note_id(status.id);
        let entry = match registry.claim(&domain) {
            Ok(entry) => entry,
            Err(error) => return tracing::error!("domain '{name}' runs, but cannot be kept: {error}"),
        };
        entry.run = Some(Run {
            id: status.id,
            base: domain,
            names: status.names.clone(),
            process: process.clone(),
            is_paused: status.is_paused,
            reason: match (status.is_unpaused, status.is_migrated) {
                (true, _) => RunningReason::Unpaused,
                (false, true) => RunningReason::Migrated,
                (false, false) => RunningReason::Booted,
            },
            power_pressed: status.power_pressed,
            restarts: status.restarts,
            wish: None,
            owner: None,
            protection: Protection::found(status.pair.clone(), status.backup.clone()),
        });
        drop(registry);
        let pid = process.pid();
        tracing::info!("domain '{name}' was found running as process {pid}");
        self.watch(uuid, process);
        self.follow(uuid, pid);
    }

    /// Starts the domains that start with the daemon, once in each boot of the host.
    pub fn autostart(self: &Arc<Self>) {
        let mark = self.paths.run.join("autostarted");
        let boot_id = host::boot_id();
        if fs::read_to_string(&mark).is_ok_and(|of| of == boot_id) {
            return;
        }
        if let Err(error) = fs::write(&mark, boot_id) {
            tracing::warn!("{}: {error}", mark.display());
        }
        let due: Vec<(Uuid, String)> = {
            let registry = self.registry();
            let is_due = registry.all().filter(|entry| entry.autostart && entry.run.is_none());
            is_due.map(|entry| (entry.uuid(), entry.name().to_owned())).collect()
        };
        for (uuid, name) in due {
            if let Err(error) = self.start(uuid, Start::default()) {
                tracing::error!("domain '{name}' cannot be started: {error}");
            }
        }
    }
}
