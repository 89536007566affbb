//! Saving and restoring a whole machine.
//!
//! A snapshot has two parts: [`MachineSnapshot`], a few kilobytes of CPU and device state, and memory, as pages. Both
//! fit only a machine made from the same configuration; a snapshot names what it needs and is refused otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtft_cpu::CoreState;
use virtft_cpu::cpuid::CPU_MODEL;
use vm_memory::{Bytes, GuestAddress};
use xxhash_rust::xxh3::xxh3_128;

use super::{MACHINE_TYPE, Machine, MachineConfig};
use crate::bits::to_usize;
use crate::platform::{PlatformState, part_versions};
use crate::snapshot::{RestoreError, Snapshot};

/// What must be equal for a snapshot to fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineIdentity {
    /// [`MACHINE_TYPE`].
    pub machine_type: String,
    /// [`CPU_MODEL`].
    pub cpu_model: String,
    /// Name and version of the state of each part.
    pub parts: Vec<(String, u16)>,
    /// Memory size in bytes.
    pub memory_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Digests of kernel, initrd and command line, which a guest reset loads again.
    pub boot: [u128; 3],
}

/// CPU and device state of a machine. Memory is apart: [`MemoryImage`] or pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSnapshot {
    /// The machine it fits.
    pub identity: MachineIdentity,
    /// vCPUs, and the position.
    pub core: CoreState,
    /// The board.
    pub platform: PlatformState,
    /// The machine is off, with this status.
    pub off: Option<u8>,
}

/// Memory as the pages that are not zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryImage {
    /// Content by page index, 4096 bytes each.
    pub pages: BTreeMap<u64, Vec<u8>>,
}

/// A snapshot that cannot be restored.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SnapshotError {
    /// The bytes are not a snapshot.
    #[error("this is not a machine snapshot: {reason}")]
    Encoding {
        /// What the decoder says.
        reason: String,
    },
    /// It is of another machine.
    #[error("the snapshot is of another machine: its {what} is {found}, here it is {expected}")]
    OtherMachine {
        /// Which property differs.
        what: &'static str,
        /// Value in the snapshot.
        found: String,
        /// Value of this machine.
        expected: String,
    },
    /// A part refuses its state.
    #[error(transparent)]
    Part(#[from] RestoreError),
    /// The vCPUs refuse their state.
    #[error("saved state of the vCPUs: {reason}")]
    Cpu {
        /// What is wrong.
        reason: String,
    },
    /// A page that the machine does not have, or of a wrong size.
    #[error("memory page {page} of {bytes} bytes does not fit this machine")]
    Page {
        /// Its index.
        page: u64,
        /// Its size.
        bytes: usize,
    },
}

impl MachineSnapshot {
    /// The canonical encoding.
    ///
    /// # Panics
    /// Never: the state types hold only values that can be encoded.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("state types are plain data")
    }

    /// Decodes a snapshot.
    ///
    /// # Errors
    /// When the bytes are not a snapshot.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        postcard::from_bytes(bytes).map_err(|error| SnapshotError::Encoding { reason: error.to_string() })
    }
}

impl MachineIdentity {
    /// The identity of a machine with this configuration.
    #[must_use]
    pub fn of(config: &MachineConfig) -> Self {
        let initrd = config.boot.initrd.as_deref().unwrap_or_default();
        Self {
            machine_type: MACHINE_TYPE.into(),
            cpu_model: CPU_MODEL.into(),
            parts: part_versions(),
            memory_bytes: config.memory_bytes,
            vcpus: crate::bits::low8(config.vcpus as u64),
            boot: [xxh3_128(&config.boot.kernel), xxh3_128(initrd), xxh3_128(config.boot.command_line.as_bytes())],
        }
    }

    /// Checks that this program can make the machine: its type, CPU model and parts are those that it has.
    ///
    /// # Errors
    /// [`SnapshotError::OtherMachine`] with what differs.
    pub fn check_versions(&self) -> Result<(), SnapshotError> {
        differs("type", self.machine_type.clone(), MACHINE_TYPE.into())?;
        differs("CPU model", self.cpu_model.clone(), CPU_MODEL.into())?;
        let parts = |parts: &[(String, u16)]| {
            parts.iter().map(|(kind, version)| format!("{kind} {version}")).collect::<Vec<_>>().join(", ")
        };
        differs("list of parts", parts(&self.parts), parts(&part_versions()))
    }

    /// Says what differs from the identity of this machine.
    fn check(&self, here: &Self) -> Result<(), SnapshotError> {
        self.check_versions()?;
        differs("memory size", self.memory_bytes.to_string(), here.memory_bytes.to_string())?;
        differs("number of vCPUs", self.vcpus.to_string(), here.vcpus.to_string())?;
        for (slot, what) in ["kernel digest", "initrd digest", "command line digest"].into_iter().enumerate() {
            differs(what, format!("{:032x}", self.boot[slot]), format!("{:032x}", here.boot[slot]))?;
        }
        Ok(())
    }
}

fn differs(what: &'static str, found: String, expected: String) -> Result<(), SnapshotError> {
    if found == expected { Ok(()) } else { Err(SnapshotError::OtherMachine { what, found, expected }) }
}

impl Machine {
    /// What a snapshot of this machine needs.
    #[must_use]
    pub fn identity(&self) -> &MachineIdentity {
        &self.identity
    }

    /// CPU and device state at the present position.
    #[must_use]
    pub fn save(&self) -> MachineSnapshot {
        MachineSnapshot {
            identity: self.identity.clone(),
            core: self.core.save(),
            platform: self.platform().save(),
            off: self.off,
        }
    }

    /// Replaces CPU and device state. Memory must have been restored before.
    ///
    /// # Errors
    /// When the snapshot does not fit this machine, which is unchanged then.
    ///
    /// # Panics
    /// Never: a platform accepts its own state back.
    pub fn restore(&mut self, snapshot: MachineSnapshot) -> Result<(), SnapshotError> {
        let MachineSnapshot { identity, core, platform, off } = snapshot;
        identity.check(&self.identity)?;
        let old = self.platform().save();
        self.platform_mut().restore(platform)?;
        if let Err(reason) = self.core.restore(&core) {
            self.platform_mut().restore(old).expect("a platform accepts its own state");
            return Err(SnapshotError::Cpu { reason });
        }
        self.off = off;
        Ok(())
    }

    /// The content of memory.
    pub fn save_memory(&mut self) -> MemoryImage {
        let touched = self.touched_pages();
        let ram = self.core.ram();
        let content = touched.into_iter().map(|page| (page as u64, ram.page(page)));
        let pages = content.filter(|(_, bytes)| *bytes != [0; 4096]).map(|(page, bytes)| (page, bytes.to_vec()));
        MemoryImage { pages: pages.collect() }
    }

    /// Replaces the content of memory.
    ///
    /// # Errors
    /// When a page does not fit; nothing is changed then.
    pub fn restore_memory(&mut self, image: &MemoryImage) -> Result<(), SnapshotError> {
        let page_count = self.core.ram().page_count() as u64;
        let bad = image.pages.iter().find(|(page, bytes)| **page >= page_count || bytes.len() != 4096);
        if let Some((page, bytes)) = bad {
            return Err(SnapshotError::Page { page: *page, bytes: bytes.len() });
        }
        for page in self.touched_pages() {
            if !image.pages.contains_key(&(page as u64)) {
                self.write_page(page as u64, &[0; 4096])?;
            }
        }
        for (page, bytes) in &image.pages {
            self.write_page(*page, bytes)?;
        }
        Ok(())
    }

    /// Writes one page of memory, as state transfer does.
    ///
    /// # Errors
    /// When there is no such page, or `bytes` are not 4096.
    pub fn write_page(&mut self, page: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        let error = SnapshotError::Page { page, bytes: bytes.len() };
        let ram = self.core.ram();
        if page >= ram.page_count() as u64 || bytes.len() != 4096 {
            return Err(error);
        }
        let address = GuestAddress(ram.page_address(to_usize(page)));
        ram.memory().write_slice(bytes, address).map_err(|_| error)
    }
}
