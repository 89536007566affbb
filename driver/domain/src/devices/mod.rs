//! `<devices>`: disks, network interfaces, serial ports and consoles, and what the machine always has.

mod change;
mod chardev;
mod disk;
mod interface;
mod simple;

pub use change::Device;
pub use chardev::{CharDevice, CharSource, ConsoleTarget};
pub use disk::{Disk, DiskFormat, DiskSource};
pub use interface::{Interface, InterfaceSource, MacAddress};
pub use simple::{Rng, RngBackend};

use crate::error::DomainXmlError;
use crate::xml::{Element, Writer};
use simple::{Balloon, Fixtures};

/// All devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices {
    /// The program that runs the machine; the daemon's own choice when absent.
    pub emulator: Option<String>,
    /// Disks; sorted by target they are `/dev/vda`, `/dev/vdb`, ...
    pub disks: Vec<Disk>,
    /// Network cards, in order.
    pub interfaces: Vec<Interface>,
    /// Serial ports.
    pub serials: Vec<CharDevice>,
    /// Consoles: the first may be the first serial port, all others are ports of the virtio console.
    pub consoles: Vec<CharDevice>,
    /// The source of random numbers.
    pub rng: Option<Rng>,
    balloon: Option<Balloon>,
    fixtures: Fixtures,
}

impl Devices {
    pub(crate) fn read(devices: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        let emulator = devices.text_child("emulator")?;
        let disks = read_all(devices, "disk", Disk::read)?;
        let interfaces = read_all(devices, "interface", Interface::read)?;
        let serials = read_all(devices, "serial", CharDevice::read_serial)?;
        let consoles = read_all(devices, "console", CharDevice::read_console)?;
        let rng = devices.child("rng")?.map(|mut element| Rng::read(&mut element).and_then(|rng| end(element, rng)));
        let balloon = devices.child("memballoon")?;
        let balloon = balloon.map(|mut element| Balloon::read(&mut element).and_then(|value| end(element, value)));
        let fixtures = Fixtures::read(devices)?;
        Ok(Self {
            emulator,
            disks,
            interfaces,
            serials,
            consoles,
            rng: rng.transpose()?,
            balloon: balloon.transpose()?,
            fixtures,
        })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.tag("devices").content(|w| {
            if let Some(emulator) = &self.emulator {
                w.tag("emulator").text(emulator);
            }
            self.disks.iter().for_each(|disk| disk.write(w));
            self.fixtures.write(w);
            self.interfaces.iter().for_each(|interface| interface.write(w));
            self.serials.iter().for_each(|serial| serial.write(w, "serial"));
            self.consoles.iter().for_each(|console| console.write(w, "console"));
            if let Some(balloon) = &self.balloon {
                balloon.write(w);
            }
            if let Some(rng) = &self.rng {
                rng.write(w);
            }
        });
    }

    /// Adds what the machine has whether it is written or not.
    pub(crate) fn complete(&mut self) {
        self.balloon.get_or_insert_default();
        self.rng.get_or_insert_default();
    }

    /// Gives the devices the names by which a running machine's are known.
    pub fn name_aliases(&mut self) {
        let disks = self.disks.iter_mut().zip(0_usize..).map(|(d, n)| (&mut d.alias, "virtio-disk", n));
        let nets = self.interfaces.iter_mut().zip(0_usize..).map(|(d, n)| (&mut d.alias, "net", n));
        let serials = self.serials.iter_mut().zip(0_usize..).map(|(d, n)| (&mut d.alias, "serial", n));
        let consoles = self.consoles.iter_mut().zip(0_usize..).filter(|(d, _)| d.target == ConsoleTarget::Virtio);
        let consoles = consoles.map(|(d, n)| (&mut d.alias, "console", n));
        for (alias, kind, number) in disks.chain(nets).chain(serials).chain(consoles) {
            alias.get_or_insert_with(|| format!("{kind}{number}"));
        }
    }
}

fn read_all<T>(
    devices: &mut Element<'_>,
    name: &str,
    read: fn(&mut Element<'_>) -> Result<T, DomainXmlError>,
) -> Result<Vec<T>, DomainXmlError> {
    let elements = devices.children(name).into_iter();
    elements.map(|mut element| read(&mut element).and_then(|value| end(element, value))).collect()
}

fn end<T>(element: Element<'_>, value: T) -> Result<T, DomainXmlError> {
    element.finish().map(|()| value)
}

/// Takes `<alias>`. Only names that users choose are kept; the others are given anew at each start.
fn read_alias(device: &mut Element<'_>) -> Result<Option<String>, DomainXmlError> {
    let Some(mut element) = device.child("alias")? else { return Ok(None) };
    let name = element.required("name")?;
    element.finish()?;
    Ok(name.starts_with("ua-").then(|| name.to_owned()))
}

fn write_alias(w: &mut Writer, alias: Option<&String>) {
    if let Some(alias) = alias {
        w.tag("alias").attr("name", alias).end();
    }
}
