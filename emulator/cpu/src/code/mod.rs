//! Decoded code: blocks by physical address, found by linear address, dropped when their bytes change.
//!
//! A block is a straight run of instructions inside one physical page; an instruction that crosses into the next page
//! is a block of its own that belongs to both. [`CodeCache::jumps`] and the links from a block to its successors are
//! keyed by linear address and a number that stands for (translation context, code mode, generation): when a mapping
//! or any code changes, the number changes and no old edge is ever followed again.

mod decode;

use std::ops::Range;

use crate::core::Core;
use crate::fault::vector;
use crate::memory::{GuestRam, PAGE_CODE, PAGE_STALE, PAGE_TABLE, to_usize};
use crate::mmu::{Access, CodeMode, Rights};
use crate::op::{Op, Stop};

/// Most instructions in a block.
const BLOCK_OPS: usize = 64;
const JUMPS: usize = 4096;
/// Decoded instructions kept before all code is dropped: bounds the cache at some 80 MiB.
const OPS_MAX: usize = 1_500_000;

/// Index of a block in the arena.
type BlockId = u32;

/// A way to a block: linear address, and the number described above. Only an edge with the current key may be
/// followed: its block is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edge {
    linear: u64,
    key: u64,
    block: *mut Block,
}

const NO_EDGE: Edge = Edge { linear: 0, key: 0, block: std::ptr::null_mut() };

/// A run of decoded instructions.
#[derive(Debug)]
pub(crate) struct Block {
    id: BlockId,
    pub ops: Box<[Op]>,
    /// Length of all instructions in bytes.
    pub bytes: u16,
    /// Offset of the first byte in its page.
    offset: u16,
    mode: CodeMode,
    page: usize,
    /// The page of the last bytes, for an instruction that crosses.
    second_page: Option<usize>,
    links: [Edge; 2],
    next_link: u8,
}

/// Blocks that have bytes in one page.
#[derive(Debug)]
struct PageBlocks {
    /// Blocks that start here, by (offset, mode).
    blocks: Vec<(u16, CodeMode, BlockId)>,
    /// Bytes here of every block, those that begin in another page included, as (first, end, block).
    spans: Vec<(u16, u16, BlockId)>,
    /// Bytes covered by some block, one bit each.
    covered: [u64; 64],
}

/// All decoded code.
pub(crate) struct CodeCache {
    blocks: Vec<Option<Box<Block>>>,
    free: Vec<BlockId>,
    pages: Vec<Option<Box<PageBlocks>>>,
    jumps: Box<[Edge; JUMPS]>,
    generation: u64,
    ops: usize,
    /// Blocks dropped while one of them may be running; freed before the next block is entered.
    #[allow(clippy::vec_box, reason = "a block must not move while the run loop points at it")]
    graveyard: Vec<Box<Block>>,
}

impl CodeCache {
    pub fn new(page_count: usize) -> Self {
        let pages = std::iter::repeat_with(|| None).take(page_count).collect();
        let jumps = Box::new([NO_EDGE; JUMPS]);
        Self { blocks: Vec::new(), free: Vec::new(), pages, jumps, generation: 1, ops: 0, graveyard: Vec::new() }
    }

    /// Makes every link and jump entry invalid.
    pub fn forget_links(&mut self) {
        self.generation += 1;
    }

    /// Drops all code.
    pub fn clear(&mut self, ram: &GuestRam) {
        for (page, blocks) in self.pages.iter_mut().enumerate() {
            if blocks.take().is_some() {
                ram.clear_flags(page, PAGE_CODE);
            }
        }
        self.graveyard.extend(self.blocks.drain(..).flatten());
        self.free.clear();
        self.ops = 0;
        self.forget_links();
    }

    fn find(&self, page: usize, offset: u16, mode: CodeMode) -> Option<BlockId> {
        let blocks = self.pages[page].as_deref()?;
        let at = blocks.blocks.binary_search_by_key(&(offset, mode), |&(offset, mode, _)| (offset, mode)).ok()?;
        Some(blocks.blocks[at].2)
    }

    fn pointer(&mut self, id: BlockId) -> *mut Block {
        &raw mut **self.blocks[id as usize].as_mut().expect("listed blocks exist")
    }

    fn insert(&mut self, mut block: Block, ram: &GuestRam) -> *mut Block {
        let id = self.free.pop().unwrap_or_else(|| {
            self.blocks.push(None);
            u32::try_from(self.blocks.len() - 1).expect("the arena is bounded by OPS_MAX")
        });
        self.ops += block.ops.len();
        let in_first = block.bytes.min(0x1000 - block.offset);
        self.cover(block.page, block.offset..block.offset + in_first, id, ram);
        if let Some(second) = block.second_page {
            self.cover(second, 0..block.bytes - in_first, id, ram);
        }
        let own = self.pages[block.page].as_deref_mut().expect("the page was just covered");
        let key = (block.offset, block.mode);
        let at = own.blocks.partition_point(|&(offset, mode, _)| (offset, mode) < key);
        own.blocks.insert(at, (block.offset, block.mode, id));
        block.id = id;
        &raw mut **self.blocks[id as usize].insert(Box::new(block))
    }

    /// Notes the bytes that a block has in a page.
    fn cover(&mut self, page: usize, bytes: Range<u16>, id: BlockId, ram: &GuestRam) {
        let blocks = self.pages[page]
            .get_or_insert_with(|| Box::new(PageBlocks { blocks: Vec::new(), spans: Vec::new(), covered: [0; 64] }));
        blocks.spans.push((bytes.start, bytes.end, id));
        blocks.mark(bytes.start, bytes.end);
        ram.set_flags(page, PAGE_CODE);
    }

    /// Drops the blocks of a page that have bytes in `start..end`. True when there were any.
    fn drop_range(&mut self, page: usize, start: usize, end: usize, ram: &GuestRam) -> bool {
        let Some(blocks) = self.pages[page].as_deref() else { return false };
        if !(start..end).any(|byte| blocks.covered[byte >> 6] >> (byte & 63) & 1 != 0) {
            return false;
        }
        let overlaps =
            |&&(first, last, _): &&(u16, u16, BlockId)| usize::from(first) < end && start < usize::from(last);
        let hit: Vec<BlockId> = blocks.spans.iter().filter(overlaps).map(|&(_, _, id)| id).collect();
        for id in hit {
            self.remove(id, ram);
        }
        self.forget_links();
        true
    }

    fn remove(&mut self, id: BlockId, ram: &GuestRam) {
        let Some(block) = self.blocks[id as usize].take() else { return };
        self.ops -= block.ops.len();
        for page in [Some(block.page), block.second_page].into_iter().flatten() {
            let Some(blocks) = self.pages[page].as_deref_mut() else { continue };
            blocks.blocks.retain(|&(_, _, other)| other != id);
            blocks.spans.retain(|&(_, _, other)| other != id);
            if blocks.spans.is_empty() {
                self.pages[page] = None;
                ram.clear_flags(page, PAGE_CODE);
            } else {
                blocks.recount();
            }
        }
        self.free.push(id);
        self.graveyard.push(block);
    }
}

impl PageBlocks {
    fn mark(&mut self, start: u16, end: u16) {
        for byte in start..end {
            self.covered[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }

    /// Computes again which bytes are covered.
    fn recount(&mut self) {
        self.covered = [0; 64];
        let spans = std::mem::take(&mut self.spans);
        for &(start, end, _) in &spans {
            self.mark(start, end);
        }
        self.spans = spans;
    }
}

impl Core {
    /// The block at RIP, decoded if need be. `from` is the block that ran before, or null: its links are tried and kept.
    #[inline(always)]
    pub(crate) fn block_at_rip(&mut self, from: *mut Block) -> Result<*mut Block, Stop> {
        let linear = self.code_linear(self.rip);
        let key = self.code_view.key | self.code.generation << 16;
        if !from.is_null() {
            // SAFETY: the caller passes a block that is alive or in the graveyard.
            for link in unsafe { &(*from).links } {
                if link.linear == linear && link.key == key {
                    return Ok(link.block);
                }
            }
        }
        let slot = to_usize((linear ^ linear >> 12) & (JUMPS as u64 - 1));
        let jump = self.code.jumps[slot];
        let block = if jump.linear == linear && jump.key == key { jump.block } else { self.find_block(linear, slot)? };
        if !from.is_null() {
            let key = self.code_view.key | self.code.generation << 16;
            // SAFETY: as above; decoding may have dropped `from`, but only into the graveyard.
            let from = unsafe { &mut *from };
            from.links[usize::from(from.next_link & 1)] = Edge { linear, key, block };
            from.next_link ^= 1;
        }
        Ok(block)
    }

    /// Translates the address, finds or decodes the block, and keeps it in the jump table.
    #[cold]
    #[inline(never)]
    fn find_block(&mut self, linear: u64, slot: usize) -> Result<*mut Block, Stop> {
        let mode = self.code_mode();
        if mode == CodeMode::Bits64 && !crate::access::is_canonical(linear) {
            return Err(self.gp(0));
        }
        if self.code.ops > OPS_MAX {
            self.code.clear(&self.ram);
        }
        let rights = Rights { user: self.sys.cpl == 3, smap_suspended: false };
        let physical = self.translate(linear, Access::Fetch, rights)?;
        let offset = (physical & 0xfff) as u16;
        // Nothing executable is outside RAM: such bytes read as ones, which is an undefined instruction.
        let Some(page) = self.ram.page_index(physical) else { return Err(self.raise(vector::UD)) };
        let block = match self.code.find(page, offset, mode) {
            Some(id) if self.second_page_matches(id, linear)? => self.code.pointer(id),
            Some(id) => {
                self.code.remove(id, &self.ram);
                self.code.forget_links();
                self.decode_block(linear, physical, mode)?
            }
            None => self.decode_block(linear, physical, mode)?,
        };
        let key = self.code_view.key | self.code.generation << 16;
        self.code.jumps[slot] = Edge { linear, key, block };
        Ok(block)
    }

    /// An instruction that crosses a page is what it was only while the next linear page is where it was.
    fn second_page_matches(&mut self, id: BlockId, linear: u64) -> Result<bool, Stop> {
        let block = self.code.blocks[id as usize].as_ref().expect("listed blocks exist");
        let Some(second) = block.second_page else { return Ok(true) };
        let physical = self.second_page_address(linear)?;
        Ok(self.ram.page_index(physical) == Some(second))
    }

    /// Physical address of the page after the one of `linear`, for a fetch.
    fn second_page_address(&mut self, linear: u64) -> Result<u64, Stop> {
        let next = (linear | 0xfff).wrapping_add(1) & self.code_view.linear_mask;
        let rights = Rights { user: self.sys.cpl == 3, smap_suspended: false };
        self.translate(next, Access::Fetch, rights)
    }

    /// Frees dropped blocks. No block is running and no pointer to one is held.
    #[inline(always)]
    pub(crate) fn bury(&mut self) {
        if !self.code.graveyard.is_empty() {
            self.code.graveyard.clear();
        }
    }

    /// True when blocks were dropped since the last [`Core::bury`].
    #[inline(always)]
    pub(crate) fn has_dropped_blocks(&self) -> bool {
        !self.code.graveyard.is_empty()
    }

    /// Bytes of a page changed: decoded code that contains them is dropped and the running block ends.
    pub(crate) fn code_written(&mut self, page: usize, offset: u64, size: u64) {
        let start = to_usize(offset);
        if self.code.drop_range(page, start, start + to_usize(size), &self.ram) {
            self.leave_block();
        }
    }

    /// Drops what was derived from pages that a device wrote into. Called after every bus access and every input.
    pub(crate) fn drop_stale(&mut self) {
        for page in self.ram.take_stale() {
            let flags = self.ram.flags(page);
            self.ram.clear_flags(page, PAGE_STALE);
            if flags & PAGE_CODE != 0 {
                self.code_written(page, 0, 0x1000);
            }
            if flags & PAGE_TABLE != 0 {
                if self.page_tables.in_use(page) {
                    self.drop_translations();
                }
                self.ram.clear_flags(page, PAGE_TABLE);
            }
        }
    }
}
