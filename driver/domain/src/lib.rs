//! The domain XML: a typed model of all that this hypervisor has, and a refusal by name of everything else.
//!
//! ```text
//!   text --parse--> Domain --complete--> definition --to_xml--> text
//! ```
//!
//! [`Domain::parse`] takes what a client sent. Every element and attribute is either understood or refused with its name
//! and line: nothing is ignored. [`Domain::complete`] adds what the client left open and the machine has (UUID, MAC
//! addresses, ACPI, the balloon), and checks what concerns several elements. [`Domain::to_xml`] writes the result; parsed
//! again it is the same. What stands under `<metadata>` is kept to the byte.
//!
//! Pure: files are looked at, and random numbers drawn, only through [`Surroundings`].

mod capabilities;
mod check;
mod choice;
mod cpu;
mod devices;
mod domain;
mod error;
mod ft;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod metadata;
mod platform;
mod size;
mod xml;

pub use capabilities::{Cell, HostFacts, capabilities, domain_capabilities};
pub use check::{MAX_CONSOLES, MAX_DISKS, MAX_INTERFACES, MAX_SERIALS, MAX_VCPUS, Surroundings};
pub use cpu::{CPU_MODEL, Cpu};
pub use devices::{
    CharDevice, CharSource, ConsoleTarget, Device, Devices, Disk, DiskFormat, DiskSource, Interface, InterfaceSource,
    MacAddress, Rng, RngBackend,
};
pub use domain::{Domain, Memory, Vcpus, check_name};
pub use error::DomainXmlError;
pub use ft::{Arbiter, DiskPolicy, FT_NAMESPACE, FaultTolerance, Fence, Mode, OnBackupLost};
pub use metadata::Metadata;
pub use platform::{Action, Clock, Features, MACHINE, Os};
