//! Which page-table entries cached translations were made from.

use crate::memory::{GuestRam, PAGE_TABLE};

#[derive(Debug, Clone)]
struct Noted {
    generation: u64,
    /// One bit for each 8 bytes of the page.
    entries: [u64; 8],
}

/// Page-table entries that a cached walk read, by page of guest RAM.
#[derive(Debug)]
pub(crate) struct PageTables {
    pages: Vec<Option<Box<Noted>>>,
    generation: u64,
}

impl PageTables {
    pub fn new(page_count: usize) -> Self {
        Self { pages: vec![None; page_count], generation: 0 }
    }

    /// Notes the entry at byte `offset` of a page. True when the page was not a page table until now: it must leave
    /// the write TLB.
    pub fn note(&mut self, page: usize, offset: u64) -> bool {
        let generation = self.generation;
        let noted = self.pages[page].get_or_insert_with(|| Box::new(Noted { generation, entries: [0; 8] }));
        let fresh = noted.generation != generation || noted.entries == [0; 8];
        if noted.generation != generation {
            noted.generation = generation;
            noted.entries = [0; 8];
        }
        let index = offset as usize >> 3;
        noted.entries[index >> 6] |= 1 << (index & 63);
        fresh
    }

    /// True when a store of `size` bytes at byte `offset` hits a noted entry.
    pub fn hit(&self, page: usize, offset: u64, size: u64) -> bool {
        let Some(noted) = self.noted(page) else { return false };
        let (first, last) = (offset as usize >> 3, (offset + size - 1) as usize >> 3);
        (first..=last.min(511)).any(|index| noted.entries[index >> 6] >> (index & 63) & 1 != 0)
    }

    /// True when anything cached was made from the page.
    pub fn in_use(&self, page: usize) -> bool {
        self.noted(page).is_some()
    }

    fn noted(&self, page: usize) -> Option<&Noted> {
        self.pages[page].as_deref().filter(|noted| noted.generation == self.generation)
    }

    /// All cached translations were dropped: nothing is noted any more.
    pub fn new_generation(&mut self) {
        self.generation += 1;
    }

    /// Forgets everything and frees the memory.
    pub fn clear(&mut self, ram: &GuestRam) {
        for (page, noted) in self.pages.iter_mut().enumerate() {
            if noted.take().is_some() {
                ram.clear_flags(page, PAGE_TABLE);
            }
        }
        self.generation += 1;
    }
}
