//! All domains, and who may have which name.

use std::collections::BTreeMap;

use uuid::Uuid;
use virtft_domain::Domain;

use super::entry::Entry;
use crate::error::DriverError;

/// All domains of a daemon, by UUID.
#[derive(Debug, Default)]
pub struct Registry {
    domains: BTreeMap<Uuid, Entry>,
    last_id: i32,
    last_job: u64,
}

impl Registry {
    /// The domain with this UUID.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, uuid: Uuid) -> Result<&Entry, DriverError> {
        self.domains.get(&uuid).ok_or_else(|| no_uuid(uuid))
    }

    /// As [`Registry::get`].
    ///
    /// # Errors
    /// When there is none.
    pub fn get_mut(&mut self, uuid: Uuid) -> Result<&mut Entry, DriverError> {
        self.domains.get_mut(&uuid).ok_or_else(|| no_uuid(uuid))
    }

    /// The domain with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_name(&self, name: &str) -> Result<&Entry, DriverError> {
        let found = self.domains.values().find(|entry| entry.name() == name);
        found.ok_or_else(|| DriverError::NoDomain(format!("no domain has the name '{name}'")))
    }

    /// The running domain with this number.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_id(&self, id: i32) -> Result<&Entry, DriverError> {
        let found = self.domains.values().find(|entry| entry.id() == id && id >= 0);
        found.ok_or_else(|| DriverError::NoDomain(format!("no domain has the id {id}")))
    }

    /// All domains, by UUID.
    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        self.domains.values()
    }

    /// The entry that a domain with this name and UUID may have: its own, or a new one.
    ///
    /// # Errors
    /// When the name belongs to another UUID or the UUID to another name.
    pub fn claim(&mut self, domain: &Domain) -> Result<&mut Entry, DriverError> {
        let uuid = domain.known_uuid();
        if let Some(other) = self.domains.values().find(|entry| entry.name() == domain.name && entry.uuid() != uuid) {
            let reason = format!("the domain '{}' exists already, with the uuid {}", domain.name, other.uuid());
            return Err(DriverError::Failed(reason));
        }
        let entry = self.domains.entry(uuid).or_insert_with(|| Entry::new(domain));
        if entry.name() != domain.name {
            let reason = format!("the uuid {uuid} belongs to the domain '{}'", entry.name());
            return Err(DriverError::Failed(reason));
        }
        Ok(entry)
    }

    /// Forgets a domain that is neither defined nor running.
    pub fn forget_if_gone(&mut self, uuid: Uuid) {
        if self.domains.get(&uuid).is_some_and(|entry| entry.definition.is_none() && entry.run.is_none()) {
            self.domains.remove(&uuid);
        }
    }

    /// The number of the next domain that starts.
    pub fn next_id(&mut self) -> i32 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    /// The number of the next operation.
    pub fn next_job(&mut self) -> u64 {
        self.last_job += 1;
        self.last_job
    }

    /// A domain with this number runs already.
    pub fn note_id(&mut self, id: i32) {
        self.last_id = self.last_id.max(id);
    }
}

fn no_uuid(uuid: Uuid) -> DriverError {
    DriverError::NoDomain(format!("no domain has the uuid {uuid}"))
}
