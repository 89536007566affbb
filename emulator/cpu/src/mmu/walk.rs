//! The page walk: 32-bit, PAE and 4-level paging (Intel SDM volume 3, chapter 4).

use super::{cr0, cr4, efer};
use crate::core::Core;
use crate::memory::{PAGE_DIRTY, PAGE_TABLE};
use crate::op::Stop;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// Error code bits of #PF.
const CODE_PRESENT: u32 = 1;
const CODE_WRITE: u32 = 1 << 1;
const CODE_USER: u32 = 1 << 2;
const CODE_RESERVED: u32 = 1 << 3;
const CODE_FETCH: u32 = 1 << 4;

/// Physical address bits of the CPU model.
pub(crate) const PHYSICAL_BITS: u32 = 46;
const PHYSICAL_MASK: u64 = (1 << PHYSICAL_BITS) - 1;
const FRAME_MASK: u64 = PHYSICAL_MASK & !0xfff;

/// What an access wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}

/// Whose rights apply: a page may be a user page for CPL 3, and SMAP may be suspended by EFLAGS.AC.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rights {
    pub user: bool,
    pub smap_suspended: bool,
}

/// One level's entry on the way down.
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    address: u64,
    entry: u64,
}

/// Walk in progress: entries read so far and the rights that they grant together.
struct Walk {
    steps: [Step; 4],
    depth: usize,
    writable: bool,
    user: bool,
    executable: bool,
    /// Size of an entry in bytes: 4 or 8.
    entry_size: u64,
}

impl Core {
    /// Translates a linear address for an access; sets accessed and dirty bits; notes the entries it read, so that the
    /// result may be cached until one of them changes.
    pub(crate) fn translate(&mut self, linear: u64, access: Access, rights: Rights) -> Result<u64, Stop> {
        if self.sys.cr0 & cr0::PG == 0 {
            return Ok(linear & 0xffff_ffff);
        }
        let mut walk =
            Walk { steps: [Step::default(); 4], depth: 0, writable: true, user: true, executable: true, entry_size: 8 };
        let found = if self.sys.cr4 & cr4::PAE == 0 {
            walk.entry_size = 4;
            self.walk_32bit(&mut walk, linear)
        } else if self.sys.efer & efer::LMA == 0 {
            self.walk_pae(&mut walk, linear)
        } else {
            self.walk_tables(&mut walk, linear, self.sys.cr3 & FRAME_MASK, 39)
        };
        let base_code = (if access == Access::Write { CODE_WRITE } else { 0 })
            | (if rights.user { CODE_USER } else { 0 })
            | (if access == Access::Fetch && self.fetch_is_told() { CODE_FETCH } else { 0 });
        let physical = found.map_err(|code| self.pf(linear, base_code | code))?;
        if !self.permitted(&walk, access, rights) {
            return Err(self.pf(linear, base_code | CODE_PRESENT));
        }
        self.finish_walk(&walk, access == Access::Write);
        Ok(physical)
    }

    /// The error code tells fetches apart only with NX or SMEP on.
    fn fetch_is_told(&self) -> bool {
        let nx = self.sys.efer & efer::NXE != 0 && self.sys.cr4 & cr4::PAE != 0;
        nx || self.sys.cr4 & cr4::SMEP != 0
    }

    fn permitted(&self, walk: &Walk, access: Access, rights: Rights) -> bool {
        if rights.user {
            return walk.user
                && match access {
                    Access::Read => true,
                    Access::Write => walk.writable,
                    Access::Fetch => walk.executable,
                };
        }
        let smap = self.sys.cr4 & cr4::SMAP != 0 && !rights.smap_suspended && walk.user;
        match access {
            Access::Read => !smap,
            Access::Write => !smap && (walk.writable || self.sys.cr0 & cr0::WP == 0),
            Access::Fetch => walk.executable && !(walk.user && self.sys.cr4 & cr4::SMEP != 0),
        }
    }

    /// Reads one entry into the walk. `Err` holds the error code bits.
    fn read_entry(&self, walk: &mut Walk, address: u64, reserved: u64) -> Result<u64, u32> {
        let word = self.ram.read_u64(address & !7);
        let entry = if walk.entry_size == 8 { word } else { word >> (8 * (address & 4)) & 0xffff_ffff };
        if entry & PRESENT == 0 || self.ram.page_index(address).is_none() {
            // An entry outside RAM reads as not present: nothing is there.
            return Err(0);
        }
        let no_nx = self.sys.efer & efer::NXE == 0 && walk.entry_size == 8;
        if entry & reserved != 0 || (no_nx && entry & NO_EXECUTE != 0) {
            return Err(CODE_PRESENT | CODE_RESERVED);
        }
        walk.steps[walk.depth] = Step { address, entry };
        walk.depth += 1;
        walk.writable &= entry & WRITABLE != 0;
        walk.user &= entry & USER != 0;
        walk.executable &= walk.entry_size == 4 || entry & NO_EXECUTE == 0;
        Ok(entry)
    }

    /// 8-byte entries from the level that resolves the 9 bits above `top_shift` down.
    fn walk_tables(&self, walk: &mut Walk, linear: u64, root: u64, top_shift: u32) -> Result<u64, u32> {
        let mut table = root;
        let mut shift = top_shift;
        loop {
            let address = table + (linear >> shift & 0x1ff) * 8;
            // Bits 51:46 are above our physical width; bit 7 of a PML4 entry is reserved.
            let mut reserved = 0x000f_ffff_ffff_ffff & !PHYSICAL_MASK;
            if shift == 39 {
                reserved |= LARGE;
            }
            let entry = self.read_entry(walk, address, reserved)?;
            let size = 1u64 << shift;
            if shift == 12 {
                return Ok(entry & FRAME_MASK | linear & 0xfff);
            }
            if shift <= 30 && entry & LARGE != 0 {
                // Below the frame of a large page only PAT (bit 12) is not reserved.
                if entry & FRAME_MASK & (size - 1) & !0x1000 != 0 {
                    return Err(CODE_PRESENT | CODE_RESERVED);
                }
                return Ok(entry & FRAME_MASK & !(size - 1) | linear & (size - 1));
            }
            table = entry & FRAME_MASK;
            shift -= 9;
        }
    }

    /// PAE paging outside long mode: the four directory pointers are registers, loaded with CR3.
    fn walk_pae(&self, walk: &mut Walk, linear: u64) -> Result<u64, u32> {
        let pointer = self.sys.pdptrs[(linear >> 30 & 3) as usize];
        if pointer & PRESENT == 0 {
            return Err(0);
        }
        self.walk_tables(walk, linear & 0xffff_ffff, pointer & FRAME_MASK, 21)
    }

    fn walk_32bit(&self, walk: &mut Walk, linear: u64) -> Result<u64, u32> {
        let directory = self.sys.cr3 & 0xffff_f000;
        let entry = self.read_entry(walk, directory + (linear >> 22 & 0x3ff) * 4, 0)?;
        if entry & LARGE != 0 && self.sys.cr4 & cr4::PSE != 0 {
            // PSE-36: bits 20:13 of the entry are bits 39:32 of the address; bit 21 is reserved.
            if entry & 1 << 21 != 0 {
                return Err(CODE_PRESENT | CODE_RESERVED);
            }
            return Ok((entry & 0xffc0_0000) | (entry >> 13 & 0xff) << 32 | linear & 0x3f_ffff);
        }
        let entry = self.read_entry(walk, (entry & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4, 0)?;
        Ok(entry & 0xffff_f000 | linear & 0xfff)
    }

    /// Sets accessed and dirty bits and notes every entry.
    fn finish_walk(&mut self, walk: &Walk, write: bool) {
        for (level, step) in walk.steps[..walk.depth].iter().enumerate() {
            let last = level + 1 == walk.depth;
            let bits = ACCESSED | if last && write { DIRTY } else { 0 };
            let Some(page) = self.ram.page_index(step.address) else { continue };
            if step.entry & bits != bits {
                self.set_entry_bits(page, step.address, bits);
            }
            if self.page_tables.note(page, step.address & 0xfff) || self.ram.flags(page) & PAGE_TABLE == 0 {
                self.ram.set_flags(page, PAGE_TABLE);
                self.tlb.drop_writes_to(self.ram.page_pointer(page));
            }
        }
    }

    /// A page-table entry that is also code or served an older walk changes only in bits that no cached walk depends
    /// on, so nothing is dropped, except decoded code in the same page.
    fn set_entry_bits(&mut self, page: usize, address: u64, bits: u64) {
        // Both bits are in the first byte of an entry of either size.
        let pointer = self.ram.page_pointer(page).wrapping_add((address & 0xfff) as usize);
        // SAFETY: the pointer is into a live page.
        unsafe { pointer.write(pointer.read() | bits as u8) };
        self.ram.set_flags(page, PAGE_DIRTY);
        self.code_written(page, address & 0xfff, 1);
    }
}
