//! Managed saving: a running domain's state goes to a file, from which its next start goes on.
//!
//! ```text
//!   pause, save    UUID.save.new    whole or not there: the emulator's
//!   write          UUID.xml         the machine; with it the state counts, once the process has ended
//!   quit, rename   UUID.save        the next start goes on from here
//! ```
//!
//! A state must never be used after its domain has run on: until the process has ended it has another name.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;
use virtft_domain::Domain;

use super::Hypervisor;
use super::definition::complete;
use super::entry::{Entry, Wish};
use super::store::write_atomically;
use crate::error::DriverError;
use crate::ft::control;

/// Writing all memory takes its time.
const SAVE_WITHIN: Duration = Duration::from_secs(600);

/// The files of one domain's saved state.
struct Files {
    fresh: PathBuf,
    state: PathBuf,
    xml: PathBuf,
}

impl Hypervisor {
    fn files(&self, uuid: Uuid) -> Files {
        let of = |end: &str| self.paths.save.join(format!("{uuid}.{end}"));
        Files { fresh: of("save.new"), state: of("save"), xml: of("xml") }
    }

    /// Saves a running domain; it is off then.
    ///
    /// # Errors
    /// When it does not run, is transient, or cannot be saved: then it runs on.
    pub fn managed_save(self: &Arc<Self>, uuid: Uuid) -> Result<(), DriverError> {
        let _job = self.begin_job(uuid)?;
        let (base, was_paused) = self.with(uuid, |entry| {
            entry.check_own()?;
            entry.persistent()?;
            let run = entry.running()?;
            Ok((Arc::clone(&run.base), run.is_paused))
        })?;
        let (files, socket) = (self.files(uuid), self.paths.control(uuid));
        let saved = self.save_to(&files, &base, &socket);
        if let Err(error) = saved {
            remove(&files.fresh);
            if !was_paused && let Err(reason) = control::order(&socket, "resume") {
                tracing::error!("the domain '{}' stands still: {reason}", base.name);
            }
            return Err(error);
        }
        self.registry().get_mut(uuid)?.running_mut()?.wish = Some(Wish::Save);
        control::order(&socket, "quit").map_err(DriverError::Failed)?;
        self.wait_until_off(uuid)?;
        self.keep_saved(uuid, &files)
    }

    fn save_to(&self, files: &Files, base: &Domain, socket: &std::path::Path) -> Result<(), DriverError> {
        let folder = &self.paths.save;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(DriverError::system("cannot make", folder))?;
        remove(&files.fresh);
        control::order(socket, "pause").map_err(DriverError::Failed)?;
        let request = json!({ "command": "save", "path": files.fresh });
        control::ask_within(socket, &request, SAVE_WITHIN).map_err(DriverError::Failed)?;
        let xml = base.to_xml(None);
        write_atomically(&files.xml, xml.as_bytes()).map_err(DriverError::system("cannot write", &files.xml))
    }

    /// The process has ended: its state counts.
    fn keep_saved(&self, uuid: Uuid, files: &Files) -> Result<(), DriverError> {
        fs::rename(&files.fresh, &files.state).map_err(DriverError::system("cannot write", &files.state))?;
        self.registry().get_mut(uuid)?.is_saved = true;
        Ok(())
    }

    /// What a daemon that ended in the middle has left, and what is there.
    pub(super) fn find_saved(&self) {
        let all: Vec<(Uuid, bool)> = self.registry().all().map(|entry| (entry.uuid(), entry.run.is_some())).collect();
        for (uuid, runs) in all {
            let files = self.files(uuid);
            if files.fresh.exists() && (runs || !files.xml.exists()) {
                // It has run on, or was never saved to the end.
                remove(&files.fresh);
                remove(&files.xml);
            } else if files.fresh.exists()
                && let Err(error) = self.keep_saved(uuid, &files)
            {
                tracing::error!("{error}");
            }
            if let Ok(entry) = self.registry().get_mut(uuid) {
                entry.is_saved = files.state.exists() && files.xml.exists();
            }
        }
    }

    /// The machine of a saved state, and the file with it.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn saved(&self, entry: &Entry) -> Result<Option<(Arc<Domain>, PathBuf)>, DriverError> {
        if !entry.is_saved {
            return Ok(None);
        }
        let files = self.files(entry.uuid());
        let xml = fs::read_to_string(&files.xml).map_err(DriverError::system("cannot read", &files.xml))?;
        Ok(Some((Arc::new(complete(&xml)?), files.state)))
    }

    /// Forgets a saved state, if there is one.
    ///
    /// # Errors
    /// When there is no such domain.
    pub fn remove_saved(&self, uuid: Uuid) -> Result<(), DriverError> {
        let mut registry = self.registry();
        let entry = registry.get_mut(uuid)?;
        entry.check_own()?;
        entry.is_saved = false;
        let files = self.files(uuid);
        [files.state, files.xml].iter().for_each(|path| remove(path));
        Ok(())
    }
}

fn remove(path: &std::path::Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!("{}: it cannot be removed ({error})", path.display());
        }
        _ => {}
    }
}
