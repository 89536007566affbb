//! The translation cache and the contexts that tag it.

use crate::memory::to_usize;

/// Entries of each array; direct-mapped by page number.
const ENTRIES: usize = 1024;
const INDEX_MASK: u64 = ENTRIES as u64 - 1;
const CONTEXT_MAX: u64 = 0xfff;
/// Contexts that are known at one time; more than a scheduler switches between in a short while.
const KNOWN: usize = 48;

/// Tag that no entry has: every access takes the slow path.
pub(crate) const NO_CONTEXT: u64 = 0;

/// One translation: tag is the virtual page address with the context in its low 12 bits, `addend` what to add to a
/// virtual address to get the host address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub tag: u64,
    pub addend: usize,
}

const EMPTY: Entry = Entry { tag: 0, addend: 0 };

/// Cached translations, by kind of access.
#[derive(Debug)]
pub(crate) struct Tlb {
    read: [Entry; ENTRIES],
    write: [Entry; ENTRIES],
}

impl Tlb {
    pub fn new() -> Box<Self> {
        Box::new(Self { read: [EMPTY; ENTRIES], write: [EMPTY; ENTRIES] })
    }

    /// Host address of a readable page's byte, when cached.
    #[inline(always)]
    pub fn read(&self, linear: u64, context: u64) -> Option<*const u8> {
        let entry = &self.read[to_usize(linear >> 12 & INDEX_MASK)];
        (entry.tag == (linear & !0xfff | context) && context != NO_CONTEXT)
            .then(|| entry.addend.wrapping_add(to_usize(linear)) as *const u8)
    }

    /// Host address of a writable page's byte, when cached.
    #[inline(always)]
    pub fn write(&self, linear: u64, context: u64) -> Option<*mut u8> {
        let entry = &self.write[to_usize(linear >> 12 & INDEX_MASK)];
        (entry.tag == (linear & !0xfff | context) && context != NO_CONTEXT)
            .then(|| entry.addend.wrapping_add(to_usize(linear)) as *mut u8)
    }

    /// Caches that the page of `linear` is at the host page `host`.
    pub fn fill_read(&mut self, linear: u64, context: u64, host: *mut u8) {
        self.read[to_usize(linear >> 12 & INDEX_MASK)] = entry(linear, context, host);
    }

    /// The same for writes.
    pub fn fill_write(&mut self, linear: u64, context: u64, host: *mut u8) {
        self.write[to_usize(linear >> 12 & INDEX_MASK)] = entry(linear, context, host);
    }

    /// Forgets all write translations to one host page: it got a role for which stores must be seen.
    pub fn drop_writes_to(&mut self, host: *mut u8) {
        for slot in &mut self.write {
            if slot.addend.wrapping_add(to_usize(slot.tag & !0xfff)) == host as usize {
                *slot = EMPTY;
            }
        }
    }

    /// Forgets all write translations.
    pub fn drop_writes(&mut self) {
        self.write.fill(EMPTY);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.read.fill(EMPTY);
        self.write.fill(EMPTY);
    }
}

fn entry(linear: u64, context: u64, host: *mut u8) -> Entry {
    let page = linear & !0xfff;
    Entry { tag: page | context, addend: (host as usize).wrapping_sub(to_usize(page)) }
}

/// Gives out small numbers for (page-table root, mode) pairs. Numbers are not used again until they run out.
#[derive(Debug)]
pub(crate) struct Contexts {
    known: Vec<(u64, [u64; 4], u64)>,
    next: u64,
}

impl Contexts {
    pub fn new() -> Self {
        Self { known: Vec::with_capacity(KNOWN), next: 1 }
    }

    /// The number for a key, and true when the numbers wrapped and everything tagged must be dropped.
    pub fn get(&mut self, key: u64, pdptrs: [u64; 4]) -> (u64, bool) {
        let found = self.known.iter().position(|known| known.0 == key && known.1 == pdptrs);
        if let Some(index) = found {
            let id = self.known[index].2;
            if index > 0 {
                self.known.swap(index, index / 2);
            }
            return (id, false);
        }
        if self.known.len() == KNOWN {
            self.known.pop();
        }
        let wrapped = self.next > CONTEXT_MAX;
        if wrapped {
            self.known.clear();
            self.next = 1;
        }
        let id = self.next;
        self.next += 1;
        self.known.insert(0, (key, pdptrs, id));
        (id, wrapped)
    }

    /// Forgets all pairs: whoever asks again gets a new number.
    pub fn renew(&mut self) {
        self.known.clear();
    }
}
