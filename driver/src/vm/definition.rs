//! Definitions: made, changed and removed, in memory and on disk.

use std::sync::Arc;

use uuid::Uuid;
use virtft_domain::{Domain, check_name};
use virtft_rpc::DomainRef;

use super::events::{Happening, Lifecycle};
use super::{HostSurroundings, Hypervisor, reference};
use crate::error::DriverError;

/// A domain from what a client sent.
///
/// # Errors
/// When it is not accepted.
pub fn complete(xml: &str) -> Result<Domain, DriverError> {
    let mut domain = Domain::parse(xml)?;
    domain.complete(&mut HostSurroundings)?;
    Ok(domain)
}

/// Which of two definitions of a running persistent domain are meant: that of the machine, that of the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affects {
    /// The machine.
    pub live: bool,
    /// The definition.
    pub config: bool,
}

impl Affects {
    /// From a call's flags: 0 whichever is current, 1 live, 2 config.
    #[must_use]
    pub fn new(flags: u32, is_running: bool) -> Self {
        match flags & 3 {
            0 => Self { live: is_running, config: !is_running },
            bits => Self { live: bits & 1 != 0, config: bits & 2 != 0 },
        }
    }
}

impl Hypervisor {
    /// Defines a domain, or defines it anew: what runs goes on as it is.
    ///
    /// # Errors
    /// When the XML is not accepted, its name or UUID are taken, or it cannot be written.
    pub fn define(&self, xml: &str) -> Result<DomainRef, DriverError> {
        let domain = Arc::new(complete(xml)?);
        let mut registry = self.registry();
        let entry = registry.claim(&domain)?;
        entry.check_own()?;
        if let Err(error) = self.store.save(&domain) {
            registry.forget_if_gone(domain.known_uuid());
            return Err(error);
        }
        let is_new = entry.definition.is_none();
        entry.is_updated |= !is_new;
        entry.definition = Some(domain);
        let dom = reference(entry);
        drop(registry);
        self.tell(&dom, if is_new { Lifecycle::Added } else { Lifecycle::Updated });
        Ok(dom)
    }

    /// Removes a definition; a domain that runs becomes transient.
    ///
    /// # Errors
    /// When the domain is transient, or its file cannot be removed.
    pub fn undefine(&self, uuid: Uuid) -> Result<(), DriverError> {
        let mut registry = self.registry();
        let entry = registry.get_mut(uuid)?;
        entry.check_own()?;
        entry.persistent()?;
        if entry.is_saved {
            let reason = "has a saved state; remove it with managedsave-remove, or give --managed-save";
            return Err(DriverError::Invalid(format!("the domain '{}' {reason}", entry.name())));
        }
        self.store.remove(entry.name())?;
        entry.definition = None;
        entry.autostart = false;
        let dom = reference(entry);
        registry.forget_if_gone(uuid);
        drop(registry);
        self.tell(&dom, Lifecycle::Undefined);
        Ok(())
    }

    /// Gives a domain that is off another name.
    ///
    /// # Errors
    /// When it runs, the name is taken or cannot be one, or the files cannot be written.
    pub fn rename(&self, uuid: Uuid, name: &str) -> Result<(), DriverError> {
        check_name(name)?;
        let mut registry = self.registry();
        if let Ok(other) = registry.by_name(name) {
            return Err(DriverError::Failed(format!(
                "the domain '{name}' exists already, with the uuid {}",
                other.uuid()
            )));
        }
        let entry = registry.get_mut(uuid)?;
        entry.check_own()?;
        if entry.run.is_some() {
            return Err(DriverError::Invalid(format!("the domain '{}' is running", entry.name())));
        }
        let mut domain = (**entry.persistent()?).clone();
        let old = reference(entry);
        domain.name = name.to_owned();
        self.store.save(&domain)?;
        if entry.autostart {
            self.store.set_autostart(name, true)?;
        }
        self.store.remove(&old.name)?;
        entry.definition = Some(Arc::new(domain));
        entry.rename(name);
        let new = reference(entry);
        drop(registry);
        self.tell(&old, Lifecycle::UndefinedRenamed);
        self.tell(&new, Lifecycle::DefinedRenamed);
        Ok(())
    }

    /// Lets a domain start with the daemon, or not.
    ///
    /// # Errors
    /// When it is transient, or the link cannot be changed.
    pub fn set_autostart(&self, uuid: Uuid, autostart: bool) -> Result<(), DriverError> {
        let mut registry = self.registry();
        let entry = registry.get_mut(uuid)?;
        entry.check_own()?;
        entry.persistent()?;
        self.store.set_autostart(entry.name(), autostart)?;
        entry.autostart = autostart;
        Ok(())
    }

    /// Changes the machine of the next start.
    ///
    /// # Errors
    /// When the flags mean the one that runs, the domain is transient, or the result is not accepted or cannot be written.
    pub fn change_next(
        &self,
        uuid: Uuid,
        flags: u32,
        change: impl Fn(&mut Domain) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        let mut registry = self.registry();
        let entry = registry.get_mut(uuid)?;
        entry.check_own()?;
        let affects = Affects::new(flags, entry.run.is_some());
        if affects.live {
            entry.running()?;
            let reason = "a running machine cannot be changed yet; change the next start's with --config";
            return Err(DriverError::Unsupported(reason.into()));
        }
        let mut domain = (**entry.persistent()?).clone();
        change(&mut domain)?;
        domain.complete(&mut HostSurroundings)?;
        self.store.save(&domain)?;
        entry.definition = Some(Arc::new(domain));
        entry.is_updated = true;
        let dom = reference(entry);
        drop(registry);
        self.tell(&dom, Lifecycle::Updated);
        Ok(())
    }

    /// Changes the definition, the machine's description, or both, in a way that the machine itself does not notice.
    ///
    /// # Errors
    /// When what is meant is not there, `change` fails, or the definition cannot be written.
    pub fn change(
        &self,
        uuid: Uuid,
        flags: u32,
        happening: Happening,
        change: impl Fn(&mut Domain) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        let mut registry = self.registry();
        let entry = registry.get_mut(uuid)?;
        entry.check_own()?;
        let affects = Affects::new(flags, entry.run.is_some());
        let changed = |domain: &Arc<Domain>| {
            let mut domain = (**domain).clone();
            change(&mut domain)?;
            Ok::<_, DriverError>(Arc::new(domain))
        };
        let live = if affects.live { Some(changed(&entry.running()?.base)?) } else { None };
        let config = if affects.config { Some(changed(entry.persistent()?)?) } else { None };
        if let Some(config) = config {
            self.store.save(&config)?;
            entry.definition = Some(config);
        }
        if let Some(live) = live {
            entry.running_mut()?.base = live;
            self.save_status(entry);
        }
        let dom = reference(entry);
        drop(registry);
        self.events.tell(&dom, &happening);
        Ok(())
    }

    /// A running domain's guest was asked to make do with this much.
    ///
    /// # Errors
    /// When the domain does not run any more.
    pub fn set_current_memory(&self, uuid: Uuid, kib: u64) -> Result<(), DriverError> {
        let mut registry = self.registry();
        let entry = registry.get_mut(uuid)?;
        let run = entry.running_mut()?;
        let mut base = (*run.base).clone();
        base.memory.current_kib = kib;
        run.base = Arc::new(base);
        self.save_status(entry);
        Ok(())
    }
}
