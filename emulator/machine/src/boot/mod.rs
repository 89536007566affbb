//! Starting a kernel without firmware.
//!
//! The kernel arrives as bytes; what it is decides how it is entered:
//!
//! | image | entry |
//! |---|---|
//! | bzImage, protocol 2.12 or later, 64-bit | 64-bit Linux boot protocol (`Documentation/arch/x86/boot.rst`) |
//! | bzImage, protocol 2.04 or later | 32-bit Linux boot protocol |
//! | ELF with a PVH note | 32-bit PVH entry (Xen `arch-x86/hvm/start_info.h`) |
//! | ELF or flat image with a Multiboot header | Multiboot 1 (0.6.96) |
//! | other 64-bit ELF | 64-bit Linux boot protocol at its entry point |
//!
//! The loader plays the part of firmware: it writes the ACPI tables, the memory map and the initial page tables, and sets the
//! boot processor's registers. See [`layout`] for where things go.

mod cpu;
mod elf;
pub mod layout;
mod linux;
mod multiboot;
mod payload;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use thiserror::Error;
use virtft_cpu::memory::{GuestRam, LOW_RAM_END};
use virtft_cpu::state::CpuState;
use vm_memory::{Bytes, GuestAddress};

pub(crate) use cpu::MTRR_DEFAULT;
pub use payload::{Compression, Payload, payload};

use crate::bits::to_usize;

/// What is booted.
#[derive(Clone, PartialEq, Eq)]
pub struct BootSource {
    /// Kernel image.
    pub kernel: Arc<[u8]>,
    /// Initial RAM disk, or the only Multiboot module.
    pub initrd: Option<Arc<[u8]>>,
    /// Command line without terminating zero.
    pub command_line: String,
}

impl std::fmt::Debug for BootSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootSource")
            .field("kernel_bytes", &self.kernel.len())
            .field("initrd_bytes", &self.initrd.as_ref().map(|initrd| initrd.len()))
            .field("command_line", &self.command_line)
            .finish()
    }
}

/// A kernel that cannot be started. Each message is one line for the operator.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BootError {
    /// No bytes at all.
    #[error("the kernel image is empty")]
    Empty,
    /// None of the formats.
    #[error("the kernel is neither a bzImage nor an x86 ELF image nor a Multiboot image")]
    NotAKernel,
    /// The file ends too early.
    #[error("the kernel image is truncated: its headers describe {expected} bytes, it has {found}")]
    Truncated {
        /// Bytes that the headers describe.
        expected: u64,
        /// Bytes in the image.
        found: u64,
    },
    /// Headers that contradict themselves.
    #[error("the kernel image is damaged: {reason}")]
    Damaged {
        /// What is wrong.
        reason: &'static str,
    },
    /// A bzImage of the last century.
    #[error("the kernel speaks version {major}.{minor:02} of the Linux boot protocol; 2.04 is the oldest supported")]
    Protocol {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
    },
    /// An ELF image for something else.
    #[error("the kernel is an ELF image for machine type {machine}, not for x86")]
    Architecture {
        /// ELF machine number.
        machine: u16,
    },
    /// It does not fit.
    #[error("the kernel needs memory from {start:#x} to {end:#x}; the machine has {memory_bytes} bytes: give it more")]
    KernelDoesNotFit {
        /// First address it needs.
        start: u64,
        /// End of the range it needs.
        end: u64,
        /// Memory of the machine in bytes.
        memory_bytes: u64,
    },
    /// It does not fit either.
    #[error("the initrd of {initrd_bytes} bytes does not fit beside the kernel into {memory_bytes} bytes of memory")]
    InitrdDoesNotFit {
        /// Size of the initrd in bytes.
        initrd_bytes: u64,
        /// Memory of the machine in bytes.
        memory_bytes: u64,
    },
    /// The kernel would cut it off.
    #[error("the command line has {length} bytes; this kernel takes {limit}")]
    CommandLine {
        /// Its length in bytes.
        length: usize,
        /// Most bytes that the kernel takes.
        limit: usize,
    },
}

/// Puts a kernel into memory and returns the state in which the boot processor starts.
///
/// # Errors
/// When the image is not one that can be started, or memory is too small.
pub fn load(ram: &GuestRam, source: &BootSource, tables: &[u8]) -> Result<CpuState, BootError> {
    let mut loader = Loader { ram, source, used: Vec::new() };
    loader.place(crate::acpi::TABLES_BASE, tables)?;
    let kernel: &[u8] = &source.kernel;
    if kernel.is_empty() {
        return Err(BootError::Empty);
    }
    if linux::is_bzimage(kernel) {
        return linux::boot_bzimage(&mut loader);
    }
    if let Some(header) = multiboot::find_header(kernel) {
        // A Linux image has no such header; kernels that have both prefer PVH.
        return match elf::parse(kernel) {
            Ok(image) if image.pvh_entry.is_some() => elf::boot(&mut loader, &image),
            image => multiboot::boot(&mut loader, header, image),
        };
    }
    let image = elf::parse(kernel)?;
    elf::boot(&mut loader, &image)
}

/// Memory being filled.
struct Loader<'a> {
    ram: &'a GuestRam,
    source: &'a BootSource,
    /// Ranges of the kernel, for the initrd to keep clear of.
    used: Vec<(u64, u64)>,
}

impl Loader<'_> {
    /// Copies bytes to a physical address.
    fn place(&self, address: u64, bytes: &[u8]) -> Result<(), BootError> {
        self.check(address, bytes.len() as u64)?;
        let failed = |_| self.does_not_fit(address, bytes.len() as u64);
        self.ram.memory().write_slice(bytes, GuestAddress(address)).map_err(failed)
    }

    /// Demands that a range is RAM.
    fn check(&self, address: u64, size: u64) -> Result<(), BootError> {
        if size == 0 || self.ram.contains(address, size) {
            return Ok(());
        }
        Err(self.does_not_fit(address, size))
    }

    /// Claims a range for the kernel.
    fn claim(&mut self, address: u64, size: u64) -> Result<(), BootError> {
        self.check(address, size)?;
        self.used.push((address, address + size));
        Ok(())
    }

    fn does_not_fit(&self, address: u64, size: u64) -> BootError {
        let memory_bytes = self.ram.size_bytes();
        BootError::KernelDoesNotFit { start: address, end: address.saturating_add(size), memory_bytes }
    }

    /// Writes the command line and returns its address; `limit` is what the kernel takes.
    fn place_command_line(&self, limit: usize) -> Result<u64, BootError> {
        let line = self.source.command_line.as_bytes();
        let limit = limit.min(to_usize(layout::COMMAND_LINE_BYTES) - 1);
        if line.len() > limit {
            return Err(BootError::CommandLine { length: line.len(), limit });
        }
        let terminated: Vec<u8> = line.iter().copied().chain([0]).collect();
        self.place(layout::COMMAND_LINE, &terminated)?;
        Ok(layout::COMMAND_LINE)
    }

    /// Places the initrd as high as possible below `last` and returns (address, size in bytes); (0, 0) without one.
    fn place_initrd(&self, last: u64) -> Result<(u64, u64), BootError> {
        let Some(initrd) = self.source.initrd.as_deref().filter(|bytes| !bytes.is_empty()) else { return Ok((0, 0)) };
        let size = initrd.len() as u64;
        let memory_bytes = self.ram.size_bytes();
        let full = BootError::InitrdDoesNotFit { initrd_bytes: size, memory_bytes };
        let mut end = memory_bytes.min(LOW_RAM_END).min(last.saturating_add(1));
        loop {
            let Some(start) = end.checked_sub(size).map(|start| start & !0xfff) else { return Err(full) };
            if start < layout::HIGH_MEMORY {
                return Err(full);
            }
            let in_the_way = self.used.iter().filter(|&&(first, stop)| start < stop && first < start + size);
            match in_the_way.map(|range| range.0).min() {
                // Below the range that is in the way.
                Some(first) => end = first,
                None => {
                    self.place(start, initrd)?;
                    return Ok((start, size));
                }
            }
        }
    }
}

/// Little-endian fields of an image; an image that ends before is truncated.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(self, at: u64, size: u64) -> Result<&'a [u8], BootError> {
        let found = self.0.len() as u64;
        let end = at.checked_add(size).ok_or(BootError::Damaged { reason: "an offset overflows" })?;
        if end > found {
            return Err(BootError::Truncated { expected: end, found });
        }
        Ok(&self.0[to_usize(at)..to_usize(end)])
    }

    fn number(self, at: u64, size: u64) -> Result<u64, BootError> {
        let bytes = self.bytes(at, size)?;
        Ok(bytes.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    fn u16(self, at: u64) -> Result<u16, BootError> {
        Ok(crate::bits::low16(self.number(at, 2)?))
    }

    fn u32(self, at: u64) -> Result<u32, BootError> {
        Ok(crate::bits::low32(self.number(at, 4)?))
    }
}
