//! Digests of state and memory.
//!
//! The state digest is XXH3-128 over the canonical encoding of CPU and board. The memory digest is the sum, modulo
//! 2^128, of one XXH3-128 per page over its index and content; a page of zeroes counts as 0 whether it was touched or
//! not. So it follows from the content alone, and is brought up to date by looking at the pages written since.

use serde::{Deserialize, Serialize};
use virtft_cpu::Core;
use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed};

use super::Machine;
use crate::snapshot::Snapshot;

/// A 128-bit digest. Equal states have equal digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateDigest(pub u128);

impl std::fmt::Display for StateDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Which pages were written, and the digest of those looked at.
#[derive(Debug)]
pub(super) struct MemoryDigest {
    /// Digest of each page as it was last looked at; 0 for zeroes.
    pages: Vec<u128>,
    total: u128,
    /// Pages written since they were looked at.
    stale: PageSet,
    /// Pages written since the caller asked last.
    dirty: PageSet,
    /// Pages ever written: all others are zero.
    touched: PageSet,
}

/// A set of pages as a bitmap.
#[derive(Debug)]
struct PageSet(Vec<u64>);

impl PageSet {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn insert(&mut self, page: usize) {
        self.0[page / 64] |= 1 << (page % 64);
    }

    fn pages(&self) -> Vec<usize> {
        let of_word = |(index, word): (usize, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index * 64 + bit)
        };
        self.0.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(of_word).collect()
    }

    fn take(&mut self) -> Vec<usize> {
        let pages = self.pages();
        self.0.fill(0);
        pages
    }
}

impl MemoryDigest {
    pub(super) fn new(page_count: usize) -> Self {
        Self {
            pages: vec![0; page_count],
            total: 0,
            stale: PageSet::new(page_count),
            dirty: PageSet::new(page_count),
            touched: PageSet::new(page_count),
        }
    }

    /// Takes over the engine's dirty pages.
    fn collect(&mut self, core: &mut Core) {
        for page in core.take_dirty_pages() {
            self.stale.insert(page);
            self.dirty.insert(page);
            self.touched.insert(page);
        }
    }

    fn update(&mut self, core: &mut Core) -> u128 {
        self.collect(core);
        for page in self.stale.take() {
            let content = core.ram().page(page);
            let digest = if content == [0; 4096] { 0 } else { xxh3_128_with_seed(&content, page as u64) };
            let old = std::mem::replace(&mut self.pages[page], digest);
            self.total = self.total.wrapping_sub(old).wrapping_add(digest);
        }
        self.total
    }
}

impl Machine {
    /// Digest of CPU and device state. Outputs that were not taken are not part of it.
    ///
    /// # Panics
    /// Never: the state types hold only values that can be encoded.
    #[must_use]
    pub fn state_digest(&self) -> StateDigest {
        let mut platform = self.platform().save();
        platform.outputs.clear();
        let state = (self.core.save(), platform, self.off);
        StateDigest(xxh3_128(&postcard::to_stdvec(&state).expect("state types are plain data")))
    }

    /// Digest of memory. Costs as much as pages were written since the last call.
    pub fn memory_digest(&mut self) -> StateDigest {
        StateDigest(self.memory_digest.update(&mut self.core))
    }

    /// Indices of the pages written since the last call of this function, ascending.
    pub fn take_dirty_pages(&mut self) -> Vec<usize> {
        self.memory_digest.collect(&mut self.core);
        self.memory_digest.dirty.take()
    }

    /// Indices of the pages that may be anything but zero, ascending.
    pub fn touched_pages(&mut self) -> Vec<usize> {
        self.memory_digest.collect(&mut self.core);
        self.memory_digest.touched.pages()
    }
}
