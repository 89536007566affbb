//! Tap interfaces: made before the emulator starts, and removed when the machine is off.
//!
//! `ip` (iproute2) does the work. Handing the emulator an open descriptor, so that it needs no privilege, is not there
//! yet.

use std::path::Path;
use std::process::{Command, Stdio};

use virtft_domain::{Domain, Interface, InterfaceSource};

use crate::error::DriverError;
use crate::paths::Paths;
use crate::upstream::bridge_of_network;

/// Names that the daemon gives begin so.
const PREFIX: &str = "vnet";
/// More interfaces than any host has.
const MAX_NUMBER: u32 = 100_000;

/// Interfaces of a domain that is being started. Dropped, those that were made are removed.
#[derive(Debug, Default)]
pub struct Taps {
    /// One for each network card.
    pub names: Vec<Option<String>>,
    /// Those that were made.
    pub made: Vec<String>,
}

impl Taps {
    /// Makes what the domain's network cards need.
    ///
    /// # Errors
    /// When an interface cannot be made, or a network cannot be reached.
    pub fn make(domain: &Domain, paths: &Paths) -> Result<Self, DriverError> {
        let mut taps = Self::default();
        for interface in &domain.devices.interfaces {
            let name = taps.make_one(interface, paths)?;
            taps.names.push(name);
        }
        Ok(taps)
    }

    fn make_one(&mut self, interface: &Interface, paths: &Paths) -> Result<Option<String>, DriverError> {
        let bridge = match &interface.source {
            InterfaceSource::User { .. } => return Ok(None),
            InterfaceSource::Ethernet if interface.is_unmanaged => return Ok(interface.target.clone()),
            InterfaceSource::Ethernet => None,
            InterfaceSource::Bridge(bridge) => Some(bridge.clone()),
            InterfaceSource::Network(network) => Some(bridge_of_network(paths, network)?),
        };
        if let Some(bridge) = bridge.as_ref().filter(|bridge| !exists(&format!("{bridge}/bridge"))) {
            return Err(DriverError::Failed(format!("there is no bridge '{bridge}' on this host")));
        }
        let name = match &interface.target {
            Some(name) => name.clone(),
            None => free_name().ok_or_else(|| DriverError::Failed("no name is left for an interface".into()))?,
        };
        ip(&["tuntap", "add", "dev", &name, "mode", "tap"])?;
        self.made.push(name.clone());
        if let Some(mac) = interface.mac {
            // A bridge takes the lowest address of its ports: it must not change with the machines that come and go.
            let high = format!("fe{}", &mac.to_string()[2..]);
            ip(&["link", "set", "dev", &name, "address", &high])?;
        }
        if let Some(bridge) = &bridge {
            ip(&["link", "set", "dev", &name, "master", bridge])?;
        }
        ip(&["link", "set", "dev", &name, "up"])?;
        Ok(Some(name))
    }

    /// Leaves the interfaces where they are; gives their names.
    #[must_use]
    pub fn keep(mut self) -> (Vec<Option<String>>, Vec<String>) {
        (std::mem::take(&mut self.names), std::mem::take(&mut self.made))
    }
}

impl Drop for Taps {
    fn drop(&mut self) {
        remove(&self.made);
    }
}

/// Removes interfaces; those that are gone already are fine.
pub fn remove(names: &[String]) {
    for name in names.iter().filter(|name| exists(name)) {
        if let Err(error) = ip(&["link", "del", "dev", name]) {
            tracing::warn!("{error}");
        }
    }
}

fn free_name() -> Option<String> {
    (0..MAX_NUMBER).map(|number| format!("{PREFIX}{number}")).find(|name| !exists(name))
}

fn exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

fn ip(arguments: &[&str]) -> Result<(), DriverError> {
    let line = arguments.join(" ");
    let run = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = run.map_err(|error| DriverError::Failed(format!("ip {line}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(DriverError::Failed(format!("ip {line}: {}", said.trim())))
}
