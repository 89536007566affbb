//! What concerns several elements: defaults that are written into the definition, and limits of the machine.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::devices::{CharDevice, CharSource, ConsoleTarget, DiskFormat, DiskSource, MacAddress};
use crate::domain::Domain;
use crate::error::DomainXmlError;
use crate::ft::FaultTolerance;

/// Most virtual processors.
pub const MAX_VCPUS: u32 = 8;
/// Most disks.
pub const MAX_DISKS: usize = 16;
/// Most network cards.
pub const MAX_INTERFACES: usize = 8;
/// Most serial ports.
pub const MAX_SERIALS: usize = 2;
/// Most ports of the virtio console.
pub const MAX_CONSOLES: usize = 8;
/// Least and most memory, in KiB.
const MEMORY_KIB: std::ops::RangeInclusive<u64> = 16 << 10..=512 << 20;

/// What a definition is completed with from outside.
pub trait Surroundings {
    /// A UUID that nobody has.
    fn new_uuid(&mut self) -> Uuid;

    /// Three bytes of chance.
    fn random_bytes(&mut self) -> [u8; 3];

    /// Looks at an image's first bytes. Called once, when the domain is defined: a guest that may write to a raw disk
    /// could give it the header of another format later.
    fn probe_format(&mut self, source: &DiskSource) -> DiskFormat;
}

impl Domain {
    /// Adds what was left open, and checks the whole.
    ///
    /// # Errors
    /// When the machine cannot be like that.
    pub fn complete(&mut self, surroundings: &mut dyn Surroundings) -> Result<(), DomainXmlError> {
        FaultTolerance::of(self)?;
        self.check_numbers()?;
        if self.os.kernel.is_none() {
            let reason = "there is no firmware: give the path of a kernel in <kernel>";
            return Err(DomainXmlError::unsupported("<os> without <kernel>", reason));
        }
        for path in [&self.os.kernel, &self.os.initrd].into_iter().flatten() {
            if !path.starts_with('/') {
                return Err(DomainXmlError::invalid(format!("'{path}' in <os> is not an absolute path")));
            }
        }
        self.features.acpi = true;
        self.features.apic = true;
        self.uuid.get_or_insert_with(|| surroundings.new_uuid());
        self.complete_disks(surroundings)?;
        self.complete_interfaces(surroundings)?;
        self.complete_consoles()?;
        self.devices.complete();
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), DomainXmlError> {
        if !(1..=MAX_VCPUS).contains(&self.vcpus.count) {
            let what = format!("{} processors", self.vcpus.count);
            return Err(DomainXmlError::unsupported(what, "1 to 8 are possible"));
        }
        if let Some(cores) = self.cpu.as_ref().and_then(|cpu| cpu.cores()).filter(|cores| *cores != self.vcpus.count) {
            let reason = format!("<topology> has {cores} cores, <vcpu> says {}", self.vcpus.count);
            return Err(DomainXmlError::invalid(reason));
        }
        if !MEMORY_KIB.contains(&self.memory.max_kib) {
            let what = format!("{} KiB of memory", self.memory.max_kib);
            return Err(DomainXmlError::unsupported(what, "16 MiB to 512 GiB are possible"));
        }
        if self.memory.current_kib > self.memory.max_kib {
            return Err(DomainXmlError::invalid("<currentMemory> is larger than <memory>"));
        }
        if self.memory.current_kib < self.memory.max_kib {
            let reason = "the balloon cannot be set from outside yet; let it be equal to <memory>";
            return Err(DomainXmlError::unsupported("<currentMemory> below <memory>", reason));
        }
        Ok(())
    }

    fn complete_disks(&mut self, surroundings: &mut dyn Surroundings) -> Result<(), DomainXmlError> {
        let disks = &mut self.devices.disks;
        if disks.len() > MAX_DISKS {
            return Err(DomainXmlError::unsupported(format!("{} disks", disks.len()), "at most 16 are possible"));
        }
        disks.sort_by_key(super::devices::Disk::index);
        if let Some(pair) = disks.windows(2).find(|pair| pair[0].target == pair[1].target) {
            return Err(DomainXmlError::invalid(format!("two disks have the target '{}'", pair[0].target)));
        }
        let mut serials = BTreeSet::new();
        for disk in disks {
            if let Some(serial) = disk.serial.as_ref().filter(|serial| !serials.insert((*serial).clone())) {
                return Err(DomainXmlError::invalid(format!("two disks have the serial '{serial}'")));
            }
            let source = &disk.source;
            disk.format.get_or_insert_with(|| surroundings.probe_format(source));
        }
        Ok(())
    }

    fn complete_interfaces(&mut self, surroundings: &mut dyn Surroundings) -> Result<(), DomainXmlError> {
        let interfaces = &mut self.devices.interfaces;
        if interfaces.len() > MAX_INTERFACES {
            let what = format!("{} interfaces", interfaces.len());
            return Err(DomainXmlError::unsupported(what, "at most 8 are possible"));
        }
        let mut taken = BTreeSet::new();
        for mac in interfaces.iter().filter_map(|interface| interface.mac) {
            if !taken.insert(mac) {
                return Err(DomainXmlError::invalid(format!("two interfaces have the address {mac}")));
            }
        }
        for interface in interfaces {
            interface.complete();
            while interface.mac.is_none() {
                let mac = MacAddress::from_random(surroundings.random_bytes());
                interface.mac = taken.insert(mac).then_some(mac);
            }
        }
        Ok(())
    }

    /// A console of type serial is the first serial port; where only one of the two is written, the other is added.
    fn complete_consoles(&mut self) -> Result<(), DomainXmlError> {
        let (serials, consoles) = (&mut self.devices.serials, &mut self.devices.consoles);
        let is_serial = |console: &CharDevice| console.target == ConsoleTarget::Serial;
        if consoles.iter().skip(1).any(is_serial) {
            let reason = "only the first console may be a serial port; write <target type='virtio'/>";
            return Err(DomainXmlError::unsupported("a second <console> of type serial", reason));
        }
        match (serials.first(), consoles.first_mut()) {
            (None, Some(console)) if is_serial(console) => {
                serials.push(CharDevice::new(console.source.clone(), ConsoleTarget::Serial));
            }
            (Some(serial), None) => consoles.push(CharDevice::new(serial.source.clone(), ConsoleTarget::Serial)),
            (Some(serial), Some(console)) if is_serial(console) => console.source = serial.source.clone(),
            _ => {}
        }
        let virtio = consoles.iter().filter(|console| !is_serial(console)).count();
        if serials.len() > MAX_SERIALS || virtio > MAX_CONSOLES {
            let what = format!("{} serial ports and {virtio} virtio consoles", serials.len());
            return Err(DomainXmlError::unsupported(what, "at most 2 and 8 are possible"));
        }
        number_ports(serials)?;
        number_ports(consoles)?;
        let sources = serials.iter().chain(consoles.iter().filter(|console| !is_serial(console)));
        let mut paths = BTreeSet::new();
        for source in sources.map(|device| &device.source) {
            let (CharSource::Unix { path, .. } | CharSource::File { path }) = source else { continue };
            if !paths.insert(path) {
                return Err(DomainXmlError::invalid(format!("two serial ports or consoles go to {path}")));
            }
        }
        Ok(())
    }
}

/// Ports are numbered by their order; what is written must agree.
fn number_ports(devices: &mut [CharDevice]) -> Result<(), DomainXmlError> {
    for (device, number) in devices.iter_mut().zip(0_u8..) {
        if let Some(port) = device.port.filter(|port| *port != number) {
            let reason = format!("ports are numbered by their order: this one is {number}");
            return Err(DomainXmlError::unsupported(format!("port='{port}' of <target>"), reason));
        }
        device.port = Some(number);
    }
    Ok(())
}
