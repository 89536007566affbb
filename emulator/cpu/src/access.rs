//! Loads and stores of the running instruction: segmentation, translation, RAM or the bus.
//!
//! The fast path is a TLB look-up and one host access. Everything else (page crossing, device memory, pages with
//! a role, alignment checks, data breakpoints) takes the slow path, which first translates all that the access
//! touches, so that a fault leaves memory unchanged.

use crate::core::Core;
use crate::fault::vector;
use crate::memory::{PAGE_CODE, PAGE_DIRTY, PAGE_TABLE, to_usize};
use crate::mmu::{Access, Rights};
use crate::op::{OP_A16, OP_A32, OP_LEGACY, Op, SEG_FLAT_STACK, Stop};
use crate::state::{SEG_CODE, SEG_P, SEG_RW, SS};
use crate::width::Width;

/// A physical place that an access touches: address and how many bytes there.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    physical: u64,
    linear: u64,
    size: u64,
}

/// What a store into RAM goes through when the page is not in the write TLB.
impl Core {
    /// Effective address of the memory operand (offset in its segment).
    #[inline(always)]
    pub(crate) fn effective(&self, op: &Op) -> u64 {
        let base = self.r[usize::from(op.base & 31)];
        let index = self.r[usize::from(op.index & 31)] << (op.scale & 3);
        let sum = base.wrapping_add(index).wrapping_add(op.disp);
        if op.flags & (OP_A32 | OP_A16) == 0 {
            sum
        } else if op.flags & OP_A32 != 0 {
            sum & 0xffff_ffff
        } else {
            sum & 0xffff
        }
    }

    /// Linear address of `size` bytes at the memory operand, with segment checks.
    #[inline(always)]
    pub(crate) fn linear(&mut self, op: &Op, size: u64, write: bool) -> Result<u64, Stop> {
        let offset = self.effective(op);
        self.linear_at(op, offset, size, write)
    }

    /// Linear address of `size` bytes at `offset` in the segment of the memory operand.
    #[inline(always)]
    pub(crate) fn linear_at(&mut self, op: &Op, offset: u64, size: u64, write: bool) -> Result<u64, Stop> {
        if op.flags & OP_LEGACY == 0 {
            return Ok(offset.wrapping_add(self.seg_base[usize::from(op.seg & 7)]));
        }
        self.linear_legacy(op.seg, offset, size, write)
    }

    /// Segment checks outside 64-bit mode (Intel SDM volume 3, 5.3 and 5.4).
    pub(crate) fn linear_legacy(&mut self, seg: u8, offset: u64, size: u64, write: bool) -> Result<u64, Stop> {
        let segment = self.sys.segs[usize::from(seg)];
        let fault = if usize::from(seg) == SS { vector::SS } else { vector::GP };
        let flags = segment.flags;
        let code = flags & SEG_CODE != 0;
        let protected = self.sys.cr0 & crate::mmu::cr0::PE != 0;
        let denied = if write { code || flags & SEG_RW == 0 } else { code && flags & SEG_RW == 0 };
        if flags & SEG_P == 0 || (protected && denied) {
            return Err(self.raise_code(fault, 0));
        }
        if !segment.contains(offset, size) {
            return Err(self.raise_code(fault, 0));
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Loads the memory operand.
    #[inline(always)]
    pub(crate) fn load<T: Width>(&mut self, op: &Op) -> Result<T, Stop> {
        let linear = self.linear(op, T::BYTES, false)?;
        self.read::<T>(linear, op.seg)
    }

    /// Stores to the memory operand.
    #[inline(always)]
    pub(crate) fn store<T: Width>(&mut self, op: &Op, value: T) -> Result<(), Stop> {
        let linear = self.linear(op, T::BYTES, true)?;
        self.write::<T>(linear, op.seg, value)
    }

    /// Reads at a linear address with the rights of the current privilege. `seg` tells #SS from #GP.
    #[inline(always)]
    pub(crate) fn read<T: Width>(&mut self, linear: u64, seg: u8) -> Result<T, Stop> {
        if linear & 0xfff <= 0x1000 - T::BYTES
            && let Some(host) = self.tlb.read(linear, self.data_context)
        {
            // SAFETY: a cached translation points into live guest RAM, and the access stays in its page.
            return Ok(unsafe { host.cast::<T>().read_unaligned() });
        }
        Ok(T::from_u64(self.read_slow(linear, T::BYTES, seg)? as u64))
    }

    /// Writes at a linear address with the rights of the current privilege.
    #[inline(always)]
    pub(crate) fn write<T: Width>(&mut self, linear: u64, seg: u8, value: T) -> Result<(), Stop> {
        if linear & 0xfff <= 0x1000 - T::BYTES
            && let Some(host) = self.tlb.write(linear, self.data_context)
        {
            // SAFETY: as in `read`; pages that hold code or page tables are never cached for writing.
            unsafe { host.cast::<T>().write_unaligned(value) };
            return Ok(());
        }
        self.write_slow(linear, u128::from(value.zx()), T::BYTES, seg)
    }

    /// Reads 16 bytes, least significant word first.
    #[inline(always)]
    pub(crate) fn read128(&mut self, linear: u64, seg: u8) -> Result<u128, Stop> {
        if linear & 0xfff <= 0x1000 - 16
            && let Some(host) = self.tlb.read(linear, self.data_context)
        {
            // SAFETY: as in `read`.
            return Ok(unsafe { host.cast::<u128>().read_unaligned() });
        }
        self.read_slow(linear, 16, seg)
    }

    /// Writes 16 bytes.
    #[inline(always)]
    pub(crate) fn write128(&mut self, linear: u64, seg: u8, value: u128) -> Result<(), Stop> {
        if linear & 0xfff <= 0x1000 - 16
            && let Some(host) = self.tlb.write(linear, self.data_context)
        {
            // SAFETY: as in `write`.
            unsafe { host.cast::<u128>().write_unaligned(value) };
            return Ok(());
        }
        self.write_slow(linear, value, 16, seg)
    }

    /// Replaces the memory operand by `change(old)`: one access for the guest, write rights checked first.
    #[inline(always)]
    pub(crate) fn modify<T: Width>(&mut self, op: &Op, change: impl FnOnce(&mut Core, T) -> T) -> Result<(), Stop> {
        let linear = self.linear(op, T::BYTES, true)?;
        if linear & 0xfff <= 0x1000 - T::BYTES
            && let Some(host) = self.tlb.write(linear, self.data_context)
        {
            // SAFETY: as in `write`.
            let old = unsafe { host.cast::<T>().read_unaligned() };
            let new = change(self, old);
            // SAFETY: as in `write`; `change` computes on registers only.
            unsafe { host.cast::<T>().write_unaligned(new) };
            return Ok(());
        }
        self.probe_write(linear, T::BYTES, op.seg)?;
        let old = T::from_u64(self.read_slow(linear, T::BYTES, op.seg)? as u64);
        let new = change(self, old);
        self.write_slow(linear, u128::from(new.zx()), T::BYTES, op.seg)
    }

    /// Raises what a write of `size` bytes would raise, and sets dirty bits; memory is unchanged.
    pub(crate) fn probe_write(&mut self, linear: u64, size: u64, seg: u8) -> Result<(), Stop> {
        self.pieces(linear, size, seg, Access::Write).map(|_| ())
    }

    /// Raises what a read of `size` bytes (any number) would raise.
    pub(crate) fn probe_read(&mut self, linear: u64, size: u64, seg: u8) -> Result<(), Stop> {
        self.pieces(linear, size, seg, Access::Read).map(|_| ())
    }

    /// Rights of explicit data accesses at the current privilege.
    pub(crate) fn data_rights(&self) -> Rights {
        Rights { user: self.sys.cpl == 3, smap_suspended: self.flags.has(crate::flags::AC) }
    }

    /// #GP, or #SS for a stack segment, for an address that is not canonical.
    fn check_canonical(&mut self, linear: u64, size: u64, seg: u8) -> Result<(), Stop> {
        if !self.code_view.long {
            return Ok(());
        }
        let last = linear.wrapping_add(size - 1);
        if is_canonical(linear) && is_canonical(last) {
            return Ok(());
        }
        let stack = seg == SEG_FLAT_STACK || usize::from(seg) == SS;
        Err(self.raise_code(if stack { vector::SS } else { vector::GP }, 0))
    }

    /// Translates all bytes of an access of up to one page.
    fn pieces(&mut self, linear: u64, size: u64, seg: u8, access: Access) -> Result<[Piece; 2], Stop> {
        debug_assert!(size <= 4096);
        self.check_canonical(linear, size, seg)?;
        if self.slow_data {
            self.check_alignment(linear, size)?;
        }
        let rights = self.data_rights();
        let mask = self.code_view.linear_mask;
        let first = size.min(0x1000 - (linear & 0xfff));
        let mut pieces = [Piece::default(); 2];
        pieces[0] = Piece { physical: self.translate(linear, access, rights)?, linear, size: first };
        if first < size {
            let next = linear.wrapping_add(first) & mask;
            pieces[1] = Piece { physical: self.translate(next, access, rights)?, linear: next, size: size - first };
        }
        if self.slow_data {
            self.note_data_breakpoint(linear, size, access == Access::Write);
        }
        Ok(pieces)
    }

    /// #AC for user accesses that are not aligned, with CR0.AM and EFLAGS.AC set.
    fn check_alignment(&mut self, linear: u64, size: u64) -> Result<(), Stop> {
        let on = self.sys.cpl == 3 && self.flags.has(crate::flags::AC) && self.sys.cr0 & crate::mmu::cr0::AM != 0;
        if on && size.is_power_of_two() && size <= 8 && linear & (size - 1) != 0 {
            return Err(self.raise_code(vector::AC, 0));
        }
        Ok(())
    }

    /// A data breakpoint that the access hits becomes a trap after the instruction.
    fn note_data_breakpoint(&mut self, linear: u64, size: u64, write: bool) {
        for n in 0..4 {
            let enabled = self.sys.dr7 >> (2 * n) & 3 != 0;
            let kind = self.sys.dr7 >> (16 + 4 * n) & 3;
            let length = [1, 2, 8, 4][(self.sys.dr7 >> (18 + 4 * n) & 3) as usize];
            let start = self.sys.debug_address[n] & !(length - 1);
            let hit = linear < start.wrapping_add(length) && start < linear.wrapping_add(size);
            if enabled && hit && (kind == 3 || kind == 1 && write) {
                self.sys.pending_trap |= 1 << n;
                self.leave_block();
            }
        }
    }

    /// Reads up to 16 bytes; the result is zero-extended.
    #[cold]
    #[inline(never)]
    pub(crate) fn read_slow(&mut self, linear: u64, size: u64, seg: u8) -> Result<u128, Stop> {
        let pieces = self.pieces(linear, size, seg, Access::Read)?;
        let mut value = 0;
        let mut shift = 0;
        for piece in pieces.iter().filter(|piece| piece.size != 0) {
            value |= self.read_physical(*piece) << shift;
            shift += 8 * piece.size;
        }
        Ok(value)
    }

    fn read_physical(&mut self, piece: Piece) -> u128 {
        let Some(page) = self.ram.page_index(piece.physical) else { return self.read_bus(piece) };
        let host = self.ram.page_pointer(page);
        if self.data_context != crate::mmu::NO_CONTEXT {
            self.tlb.fill_read(piece.linear, self.data_context, host);
        }
        let mut bytes = [0; 16];
        // SAFETY: a piece never leaves its page, and is at most 16 bytes here.
        unsafe {
            let from = host.add(to_usize(piece.physical & 0xfff));
            from.copy_to_nonoverlapping(bytes.as_mut_ptr(), to_usize(piece.size));
        }
        u128::from_le_bytes(bytes)
    }

    fn read_bus(&mut self, piece: Piece) -> u128 {
        self.leave_block();
        let cx = self.position();
        let mut value = 0;
        let mut done = 0;
        while done < piece.size {
            let address = piece.physical + done;
            let step = bus_step(address, piece.size - done);
            let part = self.bus.mmio_read(cx, address, to_usize(step));
            let part = if step == 8 { part } else { part & ((1 << (8 * step)) - 1) };
            value |= u128::from(part) << (8 * done);
            done += step;
        }
        value
    }

    /// Writes up to 16 bytes.
    #[cold]
    #[inline(never)]
    pub(crate) fn write_slow(&mut self, linear: u64, value: u128, size: u64, seg: u8) -> Result<(), Stop> {
        let pieces = self.pieces(linear, size, seg, Access::Write)?;
        let mut value = value;
        for piece in pieces.iter().filter(|piece| piece.size != 0) {
            self.write_physical(*piece, value);
            value = value.checked_shr(8 * piece.size as u32).unwrap_or(0);
        }
        Ok(())
    }

    fn write_physical(&mut self, piece: Piece, value: u128) {
        let Some(page) = self.ram.page_index(piece.physical) else { return self.write_bus(piece, value) };
        let host = self.ram.page_pointer(page);
        let bytes = value.to_le_bytes();
        let offset = piece.physical & 0xfff;
        // SAFETY: a piece never leaves its page, and is at most 16 bytes here.
        unsafe { host.add(to_usize(offset)).copy_from_nonoverlapping(bytes.as_ptr(), to_usize(piece.size)) };
        self.page_written(page, offset, piece.size);
        if self.ram.flags(page) & (PAGE_CODE | PAGE_TABLE) == 0 && self.data_context != crate::mmu::NO_CONTEXT {
            self.tlb.fill_write(piece.linear, self.data_context, host);
        }
    }

    /// Keeps the page flags after a store of the CPU, and drops what the engine derived from the bytes.
    pub(crate) fn page_written(&mut self, page: usize, offset: u64, size: u64) {
        self.ram.set_flags(page, PAGE_DIRTY);
        let flags = self.ram.flags(page);
        if flags & PAGE_CODE != 0 {
            self.code_written(page, offset, size);
        }
        if flags & PAGE_TABLE != 0 {
            if !self.page_tables.in_use(page) {
                self.ram.clear_flags(page, PAGE_TABLE);
            } else if self.page_tables.hit(page, offset, size) {
                self.drop_translations();
            }
        }
    }

    fn write_bus(&mut self, piece: Piece, value: u128) {
        self.leave_block();
        let cx = self.position();
        let mut done = 0;
        while done < piece.size {
            let address = piece.physical + done;
            let step = bus_step(address, piece.size - done);
            let part = (value >> (8 * done)) as u64;
            let part = if step == 8 { part } else { part & ((1 << (8 * step)) - 1) };
            self.bus.mmio_write(cx, address, to_usize(step), part);
            done += step;
        }
        self.drop_stale();
    }

    /// Reads `size` bytes (up to 8) with supervisor rights: descriptor tables, TSS. SMAP is in force.
    #[inline]
    pub(crate) fn read_system(&mut self, linear: u64, size: u64) -> Result<u64, Stop> {
        if linear & 0xfff <= 0x1000 - size
            && let Some(host) = self.tlb.read(linear, self.supervisor_context)
        {
            let mut bytes = [0; 8];
            // SAFETY: as in `read`; at most 8 bytes.
            unsafe { host.copy_to_nonoverlapping(bytes.as_mut_ptr(), to_usize(size)) };
            return Ok(u64::from_le_bytes(bytes));
        }
        self.read_system_slow(linear, size)
    }

    #[cold]
    #[inline(never)]
    fn read_system_slow(&mut self, linear: u64, size: u64) -> Result<u64, Stop> {
        let pieces = self.system_pieces(linear, size, Access::Read)?;
        let own = std::mem::replace(&mut self.data_context, self.supervisor_context);
        let mut value = 0;
        let mut shift = 0;
        for piece in pieces.iter().filter(|piece| piece.size != 0) {
            value |= self.read_physical(*piece) << shift;
            shift += 8 * piece.size;
        }
        self.data_context = own;
        Ok(value as u64)
    }

    /// Writes bytes (at most a page) with supervisor rights: descriptors, interrupt stacks. All or none are written.
    #[inline]
    pub(crate) fn write_system(&mut self, linear: u64, bytes: &[u8]) -> Result<(), Stop> {
        if linear & 0xfff <= 0x1000 - bytes.len() as u64
            && let Some(host) = self.tlb.write(linear, self.supervisor_context)
        {
            // SAFETY: as in `write`, and the bytes stay in the page.
            unsafe { host.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            return Ok(());
        }
        self.write_system_slow(linear, bytes)
    }

    #[cold]
    #[inline(never)]
    fn write_system_slow(&mut self, linear: u64, bytes: &[u8]) -> Result<(), Stop> {
        let pieces = self.system_pieces(linear, bytes.len() as u64, Access::Write)?;
        self.data_context = self.supervisor_context;
        let mut rest = bytes;
        for piece in pieces.iter().filter(|piece| piece.size != 0) {
            let (own, others) = rest.split_at(to_usize(piece.size));
            rest = others;
            let mut done = 0;
            for chunk in own.chunks(8) {
                let mut word = [0; 16];
                word[..chunk.len()].copy_from_slice(chunk);
                let size = chunk.len() as u64;
                let part = Piece { physical: piece.physical + done, linear: piece.linear + done, size };
                self.write_physical(part, u128::from_le_bytes(word));
                done += size;
            }
        }
        // A store into a page table renewed the contexts; in any case the own one comes back.
        self.update_mode();
        Ok(())
    }

    /// Raises what a supervisor write of `size` bytes would raise, and sets dirty bits.
    pub(crate) fn probe_system_write(&mut self, linear: u64, size: u64) -> Result<(), Stop> {
        self.system_pieces(linear, size, Access::Write).map(|_| ())
    }

    /// Translates all bytes of an access that the processor makes by itself, whatever the privilege of the program.
    fn system_pieces(&mut self, linear: u64, size: u64, access: Access) -> Result<[Piece; 2], Stop> {
        debug_assert!(size <= 4096);
        let long = self.sys.efer & crate::mmu::efer::LMA != 0;
        let mask = if long { u64::MAX } else { 0xffff_ffff };
        let linear = linear & mask;
        if long && !(is_canonical(linear) && is_canonical(linear.wrapping_add(size - 1))) {
            return Err(self.gp(0));
        }
        let rights = Rights { user: false, smap_suspended: false };
        let first = size.min(0x1000 - (linear & 0xfff));
        let mut pieces = [Piece::default(); 2];
        pieces[0] = Piece { physical: self.translate(linear, access, rights)?, linear, size: first };
        if first < size {
            let next = linear.wrapping_add(first) & mask;
            pieces[1] = Piece { physical: self.translate(next, access, rights)?, linear: next, size: size - first };
        }
        Ok(pieces)
    }

    /// Linear address of an instruction pointer.
    #[inline(always)]
    pub(crate) fn code_linear(&self, rip: u64) -> u64 {
        self.code_view.base.wrapping_add(rip) & self.code_view.linear_mask
    }
}

/// True when bits 63:47 are equal.
#[inline(always)]
pub(crate) fn is_canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}

/// Largest naturally aligned power of two, at most 8, at the start of a device access.
fn bus_step(address: u64, left: u64) -> u64 {
    let aligned = if address == 0 { 8 } else { 1 << address.trailing_zeros().min(3) };
    let fits = 1 << (63 - left.min(8).leading_zeros());
    u64::min(aligned, fits)
}
