//! Loads of segment registers, LDTR and TR (Intel SDM volume 2, MOV, LLDT, LTR).

use super::descriptor::{Descriptor, is_null, kind, selector_code};
use crate::core::Core;
use crate::fault::vector;
use crate::mmu::CodeMode;
use crate::op::Stop;
use crate::state::{CS, SEG_CODE, SEG_DC, SEG_P, SEG_S, SS, Segment};

impl Core {
    /// Sets a segment register other than CS with its hidden part.
    #[inline]
    pub(crate) fn set_segment(&mut self, index: usize, segment: Segment) {
        self.sys.segs[index] = segment;
        let flat = index < 4 && self.code_view.long;
        self.seg_base[index] = if flat { 0 } else { segment.base };
    }

    /// Sets the base of FS or GS.
    #[inline]
    pub(crate) fn set_segment_base(&mut self, index: usize, base: u64) {
        self.sys.segs[index].base = base;
        self.seg_base[index] = base;
    }

    /// Loads ES, SS, DS, FS or GS as MOV and POP do.
    pub(crate) fn load_segment(&mut self, index: usize, selector: u16) -> Result<(), Stop> {
        if !self.protected() {
            // Limit and attributes stay what they were.
            let old = self.sys.segs[index];
            self.set_segment(index, Segment { selector, base: u64::from(selector) << 4, ..old });
            return Ok(());
        }
        let segment =
            if index == SS { self.checked_stack(selector, self.sys.cpl)? } else { self.checked_data(selector)? };
        self.set_segment(index, segment);
        Ok(())
    }

    /// Contents for DS, ES, FS or GS.
    fn checked_data(&mut self, selector: u16) -> Result<Segment, Stop> {
        if is_null(selector) {
            return Ok(Segment { selector, ..Segment::default() });
        }
        let data = self.fetch_descriptor(selector, vector::GP, 0)?;
        let outranked = !data.conforming() && data.dpl() < self.sys.cpl.max(data.rpl());
        if !data.readable() || outranked {
            return Err(self.gp(data.code_of(0)));
        }
        if !data.present() {
            return Err(self.raise_code(vector::NP, data.code_of(0)));
        }
        self.mark_accessed(&data)?;
        Ok(data.segment(data.rpl()))
    }

    /// Contents for SS by MOV, POP and LSS at the current privilege.
    fn checked_stack(&mut self, selector: u16, cpl: u8) -> Result<Segment, Stop> {
        if is_null(selector) {
            let allowed = self.code_view.long && cpl < 3 && selector & 3 == u16::from(cpl);
            return if allowed { Ok(null_stack(cpl)) } else { Err(self.gp(0)) };
        }
        let stack = self.fetch_descriptor(selector, vector::GP, 0)?;
        self.check_stack(&stack, cpl)?;
        self.mark_accessed(&stack)?;
        Ok(stack.segment(cpl))
    }

    fn check_stack(&mut self, stack: &Descriptor, cpl: u8) -> Result<(), Stop> {
        if stack.rpl() != cpl || stack.dpl() != cpl || !stack.writable_data() {
            return Err(self.gp(stack.code_of(0)));
        }
        if !stack.present() {
            return Err(self.raise_code(vector::SS, stack.code_of(0)));
        }
        Ok(())
    }

    /// Contents for SS by a return to privilege `cpl`, to 64-bit code or not.
    pub(crate) fn returned_stack(&mut self, selector: u16, cpl: u8, to_long: bool) -> Result<Segment, Stop> {
        if is_null(selector) {
            let allowed = to_long && cpl < 3 && selector & 3 == u16::from(cpl);
            return if allowed { Ok(null_stack(cpl)) } else { Err(self.gp(0)) };
        }
        let stack = self.fetch_descriptor(selector, vector::GP, 0)?;
        self.check_stack(&stack, cpl)?;
        self.mark_accessed(&stack)?;
        Ok(stack.segment(cpl))
    }

    /// After a return to an outer ring: data segments that the new privilege may not use become null.
    pub(crate) fn drop_inner_segments(&mut self) {
        for index in [crate::state::ES, crate::state::DS, crate::state::FS, crate::state::GS] {
            let segment = self.sys.segs[index];
            let conforming = segment.flags & (SEG_CODE | SEG_DC) == SEG_CODE | SEG_DC;
            let usable = segment.flags & SEG_P != 0 && segment.flags & SEG_S != 0;
            if usable && !conforming && segment.dpl() < self.sys.cpl {
                self.set_segment(index, Segment::default());
            }
        }
    }

    /// LLDT.
    pub(crate) fn load_ldt(&mut self, selector: u16) -> Result<(), Stop> {
        if is_null(selector) {
            self.sys.ldtr = Segment { selector, ..Segment::default() };
            return Ok(());
        }
        let table = self.system_segment(selector, &[kind::LDT])?;
        self.sys.ldtr = table.0;
        Ok(())
    }

    /// LTR.
    pub(crate) fn load_task(&mut self, selector: u16) -> Result<(), Stop> {
        if is_null(selector) {
            return Err(self.gp(0));
        }
        let kinds: &[u8] = if self.long_active() { &[kind::TSS] } else { &[kind::TSS, kind::TSS16] };
        let (mut segment, descriptor) = self.system_segment(selector, kinds)?;
        let busy = (descriptor.raw >> 40) as u8 | 2;
        self.write_system(descriptor.address.wrapping_add(5), &[busy])?;
        segment.flags |= 2;
        self.sys.tr = segment;
        Ok(())
    }

    /// Checks a system segment in the GDT; its base has 64 bits in long mode.
    fn system_segment(&mut self, selector: u16, kinds: &[u8]) -> Result<(Segment, Descriptor), Stop> {
        if selector & 4 != 0 {
            return Err(self.gp(selector_code(selector)));
        }
        let descriptor = self.fetch_descriptor(selector, vector::GP, 0)?;
        if !descriptor.kind().is_some_and(|kind| kinds.contains(&kind)) {
            return Err(self.gp(descriptor.code_of(0)));
        }
        let mut base = descriptor.base();
        if self.long_active() {
            base |= self.fetch_upper(&descriptor)? << 32;
        }
        if !descriptor.present() {
            return Err(self.raise_code(vector::NP, descriptor.code_of(0)));
        }
        if !crate::access::is_canonical(base) {
            return Err(self.gp(descriptor.code_of(0)));
        }
        let flags = descriptor.flags();
        Ok((Segment { selector, base, limit: descriptor.limit(), flags }, descriptor))
    }

    /// Makes `cs` the code segment at privilege `cpl`, and `rip` the next instruction. SS and the flags must be set
    /// before.
    pub(crate) fn enter_code(&mut self, cs: Segment, cpl: u8, rip: u64) {
        let before = self.code_view.long;
        self.sys.segs[CS] = cs;
        self.sys.cpl = cpl;
        self.rip = rip;
        if before && self.code_mode() == CodeMode::Bits64 {
            self.update_privilege();
        } else {
            self.update_mode();
        }
    }
}

/// The null stack segment of a 64-bit ring.
pub(crate) fn null_stack(cpl: u8) -> Segment {
    Segment { selector: u16::from(cpl), base: 0, limit: 0, flags: u16::from(cpl) << 5 }
}
