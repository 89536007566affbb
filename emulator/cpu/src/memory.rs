//! Guest RAM and what the engine knows of each page.
//!
//! RAM is `vm-memory`'s [`GuestMemoryMmap`], so that devices built on `virtio-queue` use it as it is. Below
//! the 3 GiB line it starts at address 0; the rest starts at 4 GiB. Each 4 KiB page has a byte of flags.
//! Every store, whether a vCPU or a device makes it, keeps them: it marks the page dirty, and a store into a
//! page that holds decoded code or served a page walk is noted so that the engine drops what it derived from
//! it before the next instruction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use thiserror::Error;
use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestRegionMmap};

/// Size of a page in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// First address above the RAM that lies below 4 GiB; device memory starts here.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Where RAM goes on.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// Written since the flag was last cleared.
pub const PAGE_DIRTY: u8 = 1;
/// Holds decoded instructions.
pub const PAGE_CODE: u8 = 2;
/// Holds page-table entries from which a translation was cached.
pub const PAGE_TABLE: u8 = 4;
/// A device wrote into it while [`PAGE_CODE`] or [`PAGE_TABLE`] was set.
pub const PAGE_STALE: u8 = 8;

/// Guest RAM as `vm-memory` presents it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<PageTracker>;

/// RAM that cannot be had.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The size is zero, not a multiple of 1 MiB, or above 1 TiB.
    #[error("guest memory of {size_bytes} bytes: choose a multiple of 1 MiB, at least 1 MiB and at most 1 TiB")]
    Size {
        /// The size asked for.
        size_bytes: u64,
    },
    /// The host did not give the address space.
    #[error("the host cannot provide {size_bytes} bytes of guest memory: {reason}")]
    Map {
        /// The size asked for.
        size_bytes: u64,
        /// What the host said.
        reason: String,
    },
}

#[derive(Debug)]
struct Pages {
    flags: Box<[AtomicU8]>,
    /// Every page with [`PAGE_STALE`] lies from the first of these up to below the second; equal for none.
    stale_from: AtomicUsize,
    stale_to: AtomicUsize,
}

impl Pages {
    fn note_stale(&self, page: usize) {
        let (from, to) = (self.stale_from.load(Ordering::Relaxed), self.stale_to.load(Ordering::Relaxed));
        let (from, to) = if from == to { (page, page + 1) } else { (from.min(page), to.max(page + 1)) };
        self.stale_from.store(from, Ordering::Relaxed);
        self.stale_to.store(to, Ordering::Relaxed);
    }
}

/// Keeps the page flags of one region; `vm-memory` calls it for every device write.
#[derive(Debug, Clone)]
pub struct PageTracker {
    pages: Arc<Pages>,
    /// Index of the first page, and bytes into the region.
    first: usize,
    offset: usize,
}

impl WithBitmapSlice<'_> for PageTracker {
    type S = PageTracker;
}

impl BitmapSlice for PageTracker {}

impl Bitmap for PageTracker {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let start = self.offset + offset;
        let last = start + (len - 1);
        for page in (start >> 12)..=(last >> 12) {
            let Some(flags) = self.pages.flags.get(self.first + page) else { return };
            let old = flags.load(Ordering::Relaxed);
            let derived = old & (PAGE_CODE | PAGE_TABLE) != 0;
            let stale = if derived { PAGE_STALE } else { 0 };
            flags.store(old | PAGE_DIRTY | stale, Ordering::Relaxed);
            if derived && old & PAGE_STALE == 0 {
                self.pages.note_stale(self.first + page);
            }
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = self.first + ((self.offset + offset) >> 12);
        self.pages.flags.get(page).is_some_and(|flags| flags.load(Ordering::Relaxed) & PAGE_DIRTY != 0)
    }

    fn slice_at(&self, offset: usize) -> PageTracker {
        PageTracker { pages: Arc::clone(&self.pages), first: self.first, offset: self.offset + offset }
    }
}

/// Guest RAM with its page flags. Clones share the same memory.
#[derive(Debug, Clone)]
pub struct GuestRam {
    memory: GuestMemory,
    pages: Arc<Pages>,
    low: *mut u8,
    low_size: u64,
    high: *mut u8,
    high_size: u64,
}

// SAFETY: the pointers are into mappings that `memory` keeps alive; all access through them is by raw reads and
// writes of plain bytes, and the machine runs on one thread at a time.
unsafe impl Send for GuestRam {}

impl GuestRam {
    /// Maps zeroed RAM of `size_bytes`.
    ///
    /// # Errors
    /// When the size is not acceptable or the host has not enough address space.
    pub fn new(size_bytes: u64) -> Result<Self, MemoryError> {
        if size_bytes == 0 || !size_bytes.is_multiple_of(1 << 20) || size_bytes > 1 << 40 {
            return Err(MemoryError::Size { size_bytes });
        }
        let low_size = size_bytes.min(LOW_RAM_END);
        let high_size = size_bytes - low_size;
        let page_count = to_usize(size_bytes / PAGE_SIZE);
        let flags = (0..page_count).map(|_| AtomicU8::new(0)).collect();
        let pages = Arc::new(Pages { flags, stale_from: AtomicUsize::new(0), stale_to: AtomicUsize::new(0) });
        let mut regions = Vec::new();
        let mut pointers = [std::ptr::null_mut(); 2];
        let layout = [(0, low_size, 0), (HIGH_RAM_START, high_size, to_usize(low_size / PAGE_SIZE))];
        for (slot, (base, size, first)) in layout.into_iter().enumerate() {
            if size == 0 {
                continue;
            }
            let tracker = PageTracker { pages: Arc::clone(&pages), first, offset: 0 };
            let failed = |reason: String| MemoryError::Map { size_bytes, reason };
            let region = MmapRegionBuilder::new_with_bitmap(to_usize(size), tracker)
                .with_mmap_prot(PROT_READ_WRITE)
                .with_mmap_flags(MAP_PRIVATE_ANONYMOUS_NORESERVE)
                .build()
                .map_err(|error| failed(error.to_string()))?;
            pointers[slot] = region.as_ptr();
            let region = GuestRegionMmap::new(region, GuestAddress(base))
                .ok_or_else(|| failed("the region does not fit the address space".into()))?;
            regions.push(region);
        }
        let memory = GuestMemory::from_regions(regions)
            .map_err(|error| MemoryError::Map { size_bytes, reason: error.to_string() })?;
        Ok(Self { memory, pages, low: pointers[0], low_size, high: pointers[1], high_size })
    }

    /// The memory as devices use it. Writes through it keep the page flags.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Size of the RAM in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.low_size + self.high_size
    }

    /// The RAM ranges as (first address, size in bytes), ascending.
    #[must_use]
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let all = [(0, self.low_size), (HIGH_RAM_START, self.high_size)];
        all.into_iter().filter(|&(_, size)| size != 0).collect()
    }

    /// Number of 4 KiB pages.
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.pages.flags.len()
    }

    /// Index of the page that holds a physical address; `None` outside RAM.
    #[inline]
    #[must_use]
    pub fn page_index(&self, address: u64) -> Option<usize> {
        if address < self.low_size {
            Some(to_usize(address >> 12))
        } else if address.wrapping_sub(HIGH_RAM_START) < self.high_size {
            Some(to_usize((self.low_size + (address - HIGH_RAM_START)) >> 12))
        } else {
            None
        }
    }

    /// Physical address of the page with the given index.
    #[must_use]
    pub fn page_address(&self, index: usize) -> u64 {
        let flat = (index as u64) << 12;
        if flat < self.low_size { flat } else { flat - self.low_size + HIGH_RAM_START }
    }

    /// The bytes of the page with the given index.
    ///
    /// # Panics
    /// When the index is not below [`GuestRam::page_count`].
    #[must_use]
    pub fn page(&self, index: usize) -> [u8; 4096] {
        assert!(index < self.page_count(), "page {index} of {}", self.page_count());
        let pointer = self.page_pointer(index);
        // SAFETY: the index was checked, so the page lies in a live mapping.
        unsafe { pointer.cast::<[u8; 4096]>().read_unaligned() }
    }

    /// Host address of a page; the index must be below the page count.
    #[inline]
    pub(crate) fn page_pointer(&self, index: usize) -> *mut u8 {
        debug_assert!(index < self.page_count());
        let flat = (index as u64) << 12;
        if flat < self.low_size {
            self.low.wrapping_add(to_usize(flat))
        } else {
            self.high.wrapping_add(to_usize(flat - self.low_size))
        }
    }

    /// The flags of a page.
    ///
    /// # Panics
    /// When the index is not below [`GuestRam::page_count`].
    #[inline]
    #[must_use]
    pub fn flags(&self, index: usize) -> u8 {
        self.pages.flags[index].load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set_flags(&self, index: usize, flags: u8) {
        let cell = &self.pages.flags[index];
        cell.store(cell.load(Ordering::Relaxed) | flags, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn clear_flags(&self, index: usize, flags: u8) {
        let cell = &self.pages.flags[index];
        cell.store(cell.load(Ordering::Relaxed) & !flags, Ordering::Relaxed);
    }

    /// Pages with [`PAGE_CODE`] or [`PAGE_TABLE`] that a device wrote into since the last call.
    #[inline]
    pub(crate) fn take_stale(&self) -> Vec<usize> {
        let (from, to) = (self.pages.stale_from.load(Ordering::Relaxed), self.pages.stale_to.load(Ordering::Relaxed));
        if from == to {
            return Vec::new();
        }
        self.pages.stale_from.store(0, Ordering::Relaxed);
        self.pages.stale_to.store(0, Ordering::Relaxed);
        (from..to).filter(|&page| self.flags(page) & PAGE_STALE != 0).collect()
    }

    /// Reads the 8-byte little-endian word at an 8-aligned physical address; ones outside RAM.
    #[inline]
    #[must_use]
    pub fn read_u64(&self, address: u64) -> u64 {
        match self.page_index(address) {
            // SAFETY: the page is in a live mapping and the offset of an aligned word stays inside it.
            Some(page) => unsafe {
                self.page_pointer(page).add(to_usize(address & 0xff8)).cast::<u64>().read_unaligned()
            },
            None => u64::MAX,
        }
    }

    /// True when the whole range is RAM.
    #[must_use]
    pub fn contains(&self, address: u64, size: u64) -> bool {
        let Some(last) = GuestAddress(address).checked_add(size.saturating_sub(1)) else { return false };
        self.page_index(address).is_some()
            && self.page_index(last.0).is_some()
            && self.memory.check_range(GuestAddress(address), to_usize(size))
    }
}

const PROT_READ_WRITE: i32 = 1 | 2;
/// MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE of Linux on x86-64.
const MAP_PRIVATE_ANONYMOUS_NORESERVE: i32 = 0x02 | 0x20 | 0x4000;

/// Addresses and sizes fit the 64-bit hosts that the engine is built for.
#[allow(clippy::cast_possible_truncation, reason = "usize has 64 bits on every supported host")]
#[inline]
pub(crate) const fn to_usize(value: u64) -> usize {
    value as usize
}
