//! Single devices added to a definition, taken out of it, or changed in it.

use super::{CharDevice, Devices, Disk, Interface};
use crate::error::DomainXmlError;
use crate::xml::{Element, parse_any};

/// A device by itself, as `virsh attach-device` sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// `<disk>`
    Disk(Box<Disk>),
    /// `<interface>`
    Interface(Box<Interface>),
    /// `<serial>`
    Serial(Box<CharDevice>),
    /// `<console>`
    Console(Box<CharDevice>),
}

impl Device {
    /// Reads a device.
    ///
    /// # Errors
    /// When it is malformed, no device, or one that there is not or that cannot be changed.
    pub fn parse(text: &str) -> Result<Self, DomainXmlError> {
        parse_any(text, |element: &mut Element<'_>| match element.name() {
            "disk" => Disk::read(element).map(Box::new).map(Self::Disk),
            "interface" => Interface::read(element).map(Box::new).map(Self::Interface),
            "serial" => CharDevice::read_serial(element).map(Box::new).map(Self::Serial),
            "console" => CharDevice::read_console(element).map(Box::new).map(Self::Console),
            other => {
                let reason = "disks, interfaces, serial ports and consoles can be added and removed";
                Err(element.unsupported(format!("device <{other}>"), reason))
            }
        })
    }
}

impl Devices {
    /// Adds a device. What concerns others too is checked when the domain is completed.
    pub fn attach(&mut self, device: Device) {
        match device {
            Device::Disk(disk) => self.disks.push(*disk),
            Device::Interface(interface) => self.interfaces.push(*interface),
            Device::Serial(serial) => self.serials.push(*serial),
            Device::Console(console) => self.consoles.push(*console),
        }
    }

    /// Removes a device: a disk is known by its target, an interface by its address, or by being the only one; others by what
    /// they are.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn detach(&mut self, device: &Device) -> Result<(), DomainXmlError> {
        match device {
            Device::Disk(disk) => drop(self.disks.remove(self.find_disk(disk)?)),
            Device::Interface(interface) => drop(self.interfaces.remove(self.find_interface(interface)?)),
            Device::Serial(serial) => drop(self.serials.remove(find_char(&self.serials, serial)?)),
            Device::Console(console) => drop(self.consoles.remove(find_char(&self.consoles, console)?)),
        }
        Ok(())
    }

    /// Puts a disk or interface in the place of the one that it is known by.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn update(&mut self, device: Device) -> Result<(), DomainXmlError> {
        match device {
            Device::Disk(disk) => {
                let index = self.find_disk(&disk)?;
                self.disks[index] = *disk;
            }
            Device::Interface(interface) => {
                let index = self.find_interface(&interface)?;
                let mac = self.interfaces[index].mac;
                self.interfaces[index] = *interface;
                self.interfaces[index].mac = mac;
            }
            Device::Serial(_) | Device::Console(_) => {
                let reason = "remove it and add another";
                return Err(DomainXmlError::unsupported("changing a serial port or console", reason));
            }
        }
        Ok(())
    }

    fn find_disk(&self, disk: &Disk) -> Result<usize, DomainXmlError> {
        let found = self.disks.iter().position(|one| one.target == disk.target);
        found.ok_or_else(|| no_such(format!("disk '{}'", disk.target)))
    }

    fn find_interface(&self, interface: &Interface) -> Result<usize, DomainXmlError> {
        let found = match interface.mac {
            Some(mac) => self.interfaces.iter().position(|one| one.mac == Some(mac)),
            None => (self.interfaces.len() == 1).then_some(0),
        };
        let known = interface.mac.map_or_else(|| "without an address".into(), |mac| mac.to_string());
        found.ok_or_else(|| no_such(format!("interface {known}")))
    }
}

fn find_char(devices: &[CharDevice], device: &CharDevice) -> Result<usize, DomainXmlError> {
    let is_it = |one: &CharDevice| {
        one.source == device.source
            && one.target == device.target
            && device.port.is_none_or(|port| one.port == Some(port))
    };
    // The last, so that the ports of the others stay.
    devices.iter().rposition(is_it).ok_or_else(|| no_such("serial port or console".into()))
}

fn no_such(what: String) -> DomainXmlError {
    DomainXmlError::invalid(format!("the domain has no {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: &str = "<disk type='file'><source file='/a'/><target dev='vda'/></disk>";

    #[test]
    fn devices_come_and_go() {
        let mut devices = Devices::default();
        let disk = Device::parse(DISK).unwrap();
        let card = Device::parse("<interface type='user'><mac address='52:54:00:00:00:01'/></interface>").unwrap();
        devices.attach(disk.clone());
        devices.attach(card);
        let other = Device::parse(&DISK.replace("/a", "/b")).unwrap();
        devices.update(other).unwrap();
        assert_eq!(devices.disks[0].source.path(), "/b");
        devices.detach(&disk).unwrap();
        assert!(devices.detach(&disk).unwrap_err().to_string().contains("no disk 'vda'"));
        devices.detach(&Device::parse("<interface type='user'/>").unwrap()).unwrap();
        assert!(devices.interfaces.is_empty());
    }

    #[test]
    fn what_cannot_be_added() {
        assert!(Device::parse("<hostdev/>").unwrap_err().to_string().contains("device <hostdev>"));
        assert!(Device::parse("<disk><iotune/></disk>").is_err());
        assert!(Device::parse("nonsense").is_err());
    }
}
