//! The task state segment: stacks of the inner rings and the I/O permission map (Intel SDM volume 3, 8.2 and 8.7).
//! Hardware task switches are not in the CPU model.

use super::descriptor::{is_null, kind, selector_code};
use crate::core::Core;
use crate::fault::vector;
use crate::op::Stop;
use crate::state::Segment;

/// Where the I/O map base lies in a 32-bit or 64-bit TSS.
const IO_MAP_BASE: u64 = 0x66;

impl Core {
    /// A 64-bit stack pointer from the TSS: `ist` 1 to 7, or 0 for the stack of ring `cpl`.
    pub(crate) fn long_stack(&mut self, cpl: u8, ist: u8, ext: u32) -> Result<u64, Stop> {
        let offset = if ist == 0 { 4 + 8 * u64::from(cpl) } else { 28 + 8 * u64::from(ist) };
        let tr = self.sys.tr;
        if offset + 7 > u64::from(tr.limit) {
            return Err(self.raise_code(vector::TS, selector_code(tr.selector) | ext));
        }
        let pointer = self.read_system(tr.base.wrapping_add(offset), 8)?;
        if !crate::access::is_canonical(pointer) {
            return Err(self.raise_code(vector::SS, ext));
        }
        Ok(pointer)
    }

    /// Stack segment and pointer of an inner ring from a 16-bit or 32-bit TSS, checked.
    pub(crate) fn legacy_stack(&mut self, cpl: u8, ext: u32) -> Result<(Segment, u64), Stop> {
        let tr = self.sys.tr;
        let wide = matches!((tr.flags & 0xf) as u8, kind::TSS | kind::TSS_BUSY);
        let (offset, size) = if wide { (4 + 8 * u64::from(cpl), 4) } else { (2 + 4 * u64::from(cpl), 2) };
        if offset + size + 1 > u64::from(tr.limit) {
            return Err(self.raise_code(vector::TS, selector_code(tr.selector) | ext));
        }
        let pointer = self.read_system(tr.base.wrapping_add(offset), size)?;
        let selector = self.read_system(tr.base.wrapping_add(offset + size), 2)? as u16;
        if is_null(selector) {
            return Err(self.raise_code(vector::TS, ext));
        }
        let stack = self.fetch_descriptor(selector, vector::TS, ext)?;
        if stack.rpl() != cpl || stack.dpl() != cpl || !stack.writable_data() {
            return Err(self.raise_code(vector::TS, stack.code_of(ext)));
        }
        if !stack.present() {
            return Err(self.raise_code(vector::SS, stack.code_of(ext)));
        }
        self.mark_accessed(&stack)?;
        Ok((stack.segment(cpl), pointer))
    }

    /// #GP(0) unless the program may use `size` ports from `port` on: by IOPL, or by the map in the TSS.
    pub(crate) fn check_ports(&mut self, port: u16, size: u64) -> Result<(), Stop> {
        if !self.protected() || u64::from(self.sys.cpl) <= self.iopl() {
            return Ok(());
        }
        let tr = self.sys.tr;
        let limit = u64::from(tr.limit);
        let wide = matches!((tr.flags & 0xf) as u8, kind::TSS | kind::TSS_BUSY);
        if !wide || limit < IO_MAP_BASE + 1 {
            return Err(self.gp(0));
        }
        let map = self.read_system(tr.base.wrapping_add(IO_MAP_BASE), 2)?;
        let at = map + u64::from(port >> 3);
        // Two bytes are always read, so that an access across a byte needs no second case.
        if at + 1 > limit {
            return Err(self.gp(0));
        }
        let bits = self.read_system(tr.base.wrapping_add(at), 2)? >> (port & 7);
        if bits & ((1 << size) - 1) != 0 {
            return Err(self.gp(0));
        }
        Ok(())
    }

    /// The I/O privilege level, 0 to 3.
    pub(crate) fn iopl(&self) -> u64 {
        self.flags.control >> 12 & 3
    }
}
