//! Far transfers: JMP, CALL, RET, IRET, SYSCALL, SYSRET, SYSENTER, SYSEXIT (Intel SDM volume 2 and volume 3, 5.8).

use super::descriptor::{CODE32, CODE64, Descriptor, STACK32, flat_segment, is_null, kind, selector_code};
use super::segment::null_stack;
use super::stack::{RSP, Stack};
use crate::core::Core;
use crate::fault::vector;
use crate::flags;
use crate::mmu::efer;
use crate::op::{Done, Stop};
use crate::state::{CS, SEG_DB, SS};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const R11: usize = 11;

/// Flags that SYSRET takes from R11.
const SYSRET_FLAGS: u64 = 0x3c_7fd7;
/// DR6: a single step.
const DR6_STEP: u64 = 1 << 14;

/// A call gate that was found good, and where it leads.
struct Gate {
    code: Descriptor,
    offset: u64,
    /// Size in bytes of what is pushed.
    size: u64,
    parameters: u64,
}

impl Core {
    /// Far JMP.
    pub(crate) fn far_jump(&mut self, selector: u16, offset: u64) -> Done {
        if !self.protected() {
            let limit = self.sys.segs[CS].limit;
            if offset > u64::from(limit) {
                return Err(self.gp(0));
            }
            self.enter_real_code(selector, offset);
            return Err(Stop::Jump);
        }
        let target = self.far_descriptor(selector)?;
        let (code, offset) = if target.kind().is_none() {
            self.check_direct(&target)?;
            (target, offset)
        } else {
            let gate = self.call_gate(&target)?;
            if !gate.code.conforming() && gate.code.dpl() != self.sys.cpl {
                return Err(self.gp(gate.code.code_of(0)));
            }
            (gate.code, gate.offset)
        };
        self.check_target(&code, offset, 0)?;
        self.mark_accessed(&code)?;
        self.enter_code(code.segment(self.sys.cpl), self.sys.cpl, offset);
        Err(Stop::Jump)
    }

    /// Far CALL with return addresses of `size` bytes.
    pub(crate) fn far_call(&mut self, selector: u16, offset: u64, size: u64, next: u64) -> Done {
        let frame = [u64::from(self.sys.segs[CS].selector), next];
        let stack = self.current_stack(0);
        if !self.protected() {
            if offset > u64::from(self.sys.segs[CS].limit) {
                return Err(self.gp(0));
            }
            let sp = self.push_frame(&stack, &frame, size)?;
            self.set_sp(sp);
            self.enter_real_code(selector, offset);
            return Err(Stop::Jump);
        }
        let target = self.far_descriptor(selector)?;
        if target.kind().is_some() {
            return self.call_through_gate(&target, next);
        }
        self.check_direct(&target)?;
        self.check_target(&target, offset, 0)?;
        self.mark_accessed(&target)?;
        let sp = self.push_frame(&stack, &frame, size)?;
        self.set_sp(sp);
        self.enter_code(target.segment(self.sys.cpl), self.sys.cpl, offset);
        Err(Stop::Jump)
    }

    fn call_through_gate(&mut self, target: &Descriptor, next: u64) -> Done {
        let gate = self.call_gate(target)?;
        let cpl = if gate.code.conforming() { self.sys.cpl } else { gate.code.dpl() };
        self.check_target(&gate.code, gate.offset, 0)?;
        let own = [u64::from(self.sys.segs[CS].selector), next];
        if cpl == self.sys.cpl {
            // From compatibility mode a 64-bit gate pushes to the stack as 64-bit code sees it.
            let mut stack = self.current_stack(0);
            if self.long_active() {
                stack.segment = None;
            }
            self.mark_accessed(&gate.code)?;
            let sp = self.push_frame(&stack, &own, gate.size)?;
            self.enter_code(gate.code.segment(cpl), cpl, gate.offset);
            self.set_sp(sp);
            return Err(Stop::Jump);
        }
        let mut frame = vec![u64::from(self.sys.segs[SS].selector), self.sp()];
        let (stack, segment) = if self.long_active() {
            let pointer = self.long_stack(cpl, 0, 0)?;
            (Stack { segment: None, pointer, cpl, fault_code: 0 }, null_stack(cpl))
        } else {
            let (segment, pointer) = self.legacy_stack(cpl, 0)?;
            for index in (0..gate.parameters).rev() {
                frame.push(self.peek_sized(index * gate.size, gate.size)?);
            }
            let fault_code = selector_code(segment.selector);
            (Stack { segment: Some(segment), pointer, cpl, fault_code }, segment)
        };
        frame.extend(own);
        self.mark_accessed(&gate.code)?;
        let sp = self.push_frame(&stack, &frame, gate.size)?;
        self.sys.segs[SS] = segment;
        self.enter_code(gate.code.segment(cpl), cpl, gate.offset);
        self.set_sp(sp);
        Err(Stop::Jump)
    }

    /// The descriptor that a far pointer names.
    fn far_descriptor(&mut self, selector: u16) -> Result<Descriptor, Stop> {
        if is_null(selector) {
            return Err(self.gp(0));
        }
        self.fetch_descriptor(selector, vector::GP, 0)
    }

    /// Checks code that a far pointer names directly.
    fn check_direct(&mut self, code: &Descriptor) -> Result<(), Stop> {
        let cpl = self.sys.cpl;
        let privileged = if code.conforming() { code.dpl() > cpl } else { code.rpl() > cpl || code.dpl() != cpl };
        let both_sizes = self.long_active() && code.long() && code.has(SEG_DB);
        if !code.code() || privileged || both_sizes {
            return Err(self.gp(code.code_of(0)));
        }
        if !code.present() {
            return Err(self.raise_code(vector::NP, code.code_of(0)));
        }
        Ok(())
    }

    /// Checks a call gate and the code behind it. Task gates and task state segments are refused with #GP.
    fn call_gate(&mut self, gate: &Descriptor) -> Result<Gate, Stop> {
        let long = self.long_active();
        let size = match gate.kind() {
            Some(kind::CALL_GATE) if long => 8,
            Some(kind::CALL_GATE) => 4,
            Some(kind::CALL_GATE16) if !long => 2,
            _ => return Err(self.gp(gate.code_of(0))),
        };
        if gate.dpl() < self.sys.cpl || gate.rpl() > gate.dpl() {
            return Err(self.gp(gate.code_of(0)));
        }
        let upper = if long { self.fetch_upper(gate)? << 32 } else { 0 };
        if !gate.present() {
            return Err(self.raise_code(vector::NP, gate.code_of(0)));
        }
        let code = self.gate_code(gate.gate_selector(), 0)?;
        let offset = if size == 2 { gate.gate_offset() & 0xffff } else { gate.gate_offset() | upper };
        Ok(Gate { code, offset, size, parameters: gate.raw >> 32 & 0x1f })
    }

    /// Far RET of operand size `size` that releases `extra` bytes.
    pub(crate) fn far_return(&mut self, size: u64, extra: u64) -> Done {
        let rip = self.peek_sized(0, size)?;
        let selector = self.peek_sized(size, size)? as u16;
        if !self.protected() {
            if rip > u64::from(self.sys.segs[CS].limit) {
                return Err(self.gp(0));
            }
            self.release_stack(2 * size + extra);
            self.enter_real_code(selector, rip);
            return Err(Stop::Jump);
        }
        let code = self.returned_code(selector)?;
        let cpl = code.rpl();
        if cpl == self.sys.cpl {
            self.check_target(&code, rip, 0)?;
            self.mark_accessed(&code)?;
            let sp = self.sp().wrapping_add(2 * size + extra);
            self.set_sp(sp);
            self.enter_code(code.segment(cpl), cpl, rip);
            return Err(Stop::Jump);
        }
        let sp = self.peek_sized(2 * size + extra, size)?;
        let ss = self.peek_sized(3 * size + extra, size)? as u16;
        let stack = self.returned_stack(ss, cpl, self.long_active() && code.long())?;
        self.check_target(&code, rip, 0)?;
        self.mark_accessed(&code)?;
        self.sys.segs[SS] = stack;
        self.enter_code(code.segment(cpl), cpl, rip);
        self.set_sp(sp.wrapping_add(extra));
        self.drop_inner_segments();
        Err(Stop::Jump)
    }

    /// Checks the code segment that RET or IRET goes back to.
    fn returned_code(&mut self, selector: u16) -> Result<Descriptor, Stop> {
        if is_null(selector) {
            return Err(self.gp(0));
        }
        let code = self.fetch_descriptor(selector, vector::GP, 0)?;
        let rpl = code.rpl();
        let privileged = if code.conforming() { code.dpl() > rpl } else { code.dpl() != rpl };
        let both_sizes = self.long_active() && code.long() && code.has(SEG_DB);
        if rpl < self.sys.cpl || !code.code() || privileged || both_sizes {
            return Err(self.gp(code.code_of(0)));
        }
        if !code.present() {
            return Err(self.raise_code(vector::NP, code.code_of(0)));
        }
        Ok(code)
    }

    /// IRET of operand size `size`. It ends the blocking of NMIs even when it faults.
    pub(crate) fn interrupt_return(&mut self, size: u64) -> Done {
        self.sys.nmi_blocked = false;
        self.leave_block();
        if self.protected() && self.flags.has(flags::NT) {
            // In long mode there are no nested tasks; outside it our model has none.
            return Err(self.gp(0));
        }
        let rip = self.peek_sized(0, size)?;
        let selector = self.peek_sized(size, size)? as u16;
        let image = self.peek_sized(2 * size, size)?;
        if !self.protected() {
            if rip > u64::from(self.sys.segs[CS].limit) {
                return Err(self.gp(0));
            }
            self.release_stack(3 * size);
            self.set_returned_flags(image, size);
            self.enter_real_code(selector, rip);
            return Err(Stop::Jump);
        }
        if !self.long_active() && image & flags::VM != 0 && size == 4 && self.sys.cpl == 0 {
            // Virtual-8086 mode is not in the model.
            return Err(self.gp(0));
        }
        let code = self.returned_code(selector)?;
        let cpl = code.rpl();
        let with_stack = self.code_view.long || cpl != self.sys.cpl;
        if !with_stack {
            self.check_target(&code, rip, 0)?;
            self.mark_accessed(&code)?;
            self.release_stack(3 * size);
            self.set_returned_flags(image, size);
            self.enter_code(code.segment(cpl), cpl, rip);
            return Err(Stop::Jump);
        }
        let sp = self.peek_sized(3 * size, size)?;
        let ss = self.peek_sized(4 * size, size)? as u16;
        let stack = self.returned_stack(ss, cpl, self.long_active() && code.long())?;
        self.check_target(&code, rip, 0)?;
        self.mark_accessed(&code)?;
        let outer = cpl != self.sys.cpl;
        self.set_returned_flags(image, size);
        self.sys.segs[SS] = stack;
        self.enter_code(code.segment(cpl), cpl, rip);
        self.set_sp(sp);
        if outer {
            self.drop_inner_segments();
        }
        Err(Stop::Jump)
    }

    /// POPF: flags from a stack image. RF is cleared, and the block ends when that may matter.
    pub(crate) fn set_popped_flags(&mut self, image: u64, size: u64) {
        let before = self.flags.control;
        self.set_returned_flags(image & !flags::RF, size);
        let changed = before ^ self.flags.control;
        if changed & flags::AC != 0 {
            self.update_privilege();
        }
        if changed & (flags::IF | flags::TF) != 0 {
            self.leave_block();
        }
    }

    /// Flags from a stack image, as far as the present privilege may change them.
    fn set_returned_flags(&mut self, image: u64, size: u64) {
        let mut may = flags::TF | flags::DF | flags::NT;
        if size > 2 {
            may |= flags::RF | flags::AC | flags::ID;
        }
        if u64::from(self.sys.cpl) <= self.iopl() {
            may |= flags::IF;
        }
        if self.sys.cpl == 0 {
            may |= flags::IOPL;
        }
        self.flags.control = self.flags.control & !may | image & may;
        self.flags.set_arithmetic(image);
    }

    /// SYSCALL.
    pub(crate) fn syscall(&mut self, next: u64) -> Done {
        if !self.code_view.long || self.sys.efer & efer::SCE == 0 {
            return Err(self.ud());
        }
        let word = self.flags.bits();
        self.r[RCX] = next;
        self.r[R11] = word & !flags::RF;
        self.set_flags_word(word & !self.sys.fmask);
        let selector = (self.sys.star >> 32) as u16 & !3;
        self.sys.segs[SS] = flat_segment(selector.wrapping_add(8), 0, STACK32);
        self.enter_code(flat_segment(selector, 0, CODE64), 0, self.sys.lstar);
        // A mask that clears TF keeps the step from being reported in the kernel.
        self.reports_step &= self.flags.has(flags::TF);
        if self.flags.has(flags::TF) {
            self.leave_block();
        }
        Err(Stop::Jump)
    }

    /// SYSRET to 64-bit code, or to compatibility mode.
    pub(crate) fn sysret(&mut self, to_long: bool) -> Done {
        if !self.code_view.long || self.sys.efer & efer::SCE == 0 {
            return Err(self.ud());
        }
        let rip = if to_long { self.r[RCX] } else { self.r[RCX] & 0xffff_ffff };
        if self.sys.cpl != 0 || !crate::access::is_canonical(rip) {
            return Err(self.gp(0));
        }
        let stepped = self.flags.has(flags::TF);
        self.set_flags_word(self.r[R11] & SYSRET_FLAGS);
        let base = (self.sys.star >> 48) as u16;
        let (selector, size) = if to_long { (base.wrapping_add(16), CODE64) } else { (base, CODE32) };
        self.sys.segs[SS] = flat_segment(base.wrapping_add(8) | 3, 3, STACK32);
        self.enter_code(flat_segment(selector | 3, 3, size), 3, rip);
        if self.flags.has(flags::TF) && !stepped {
            // The step of the SYSCALL that came here is reported now.
            self.sys.pending_trap |= DR6_STEP;
        }
        self.leave_block();
        Err(Stop::Jump)
    }

    /// SYSENTER.
    pub(crate) fn sysenter(&mut self) -> Done {
        let selector = self.sys.sysenter_cs as u16 & !3;
        if !self.protected() || selector == 0 {
            return Err(self.gp(0));
        }
        let long = self.long_active();
        let mask = if long { u64::MAX } else { 0xffff_ffff };
        self.flags.control &= !(flags::VM | flags::IF);
        self.sys.segs[SS] = flat_segment(selector.wrapping_add(8), 0, STACK32);
        let size = if long { CODE64 } else { CODE32 };
        self.enter_code(flat_segment(selector, 0, size), 0, self.sys.sysenter_eip & mask);
        self.r[RSP] = self.sys.sysenter_esp & mask;
        Err(Stop::Jump)
    }

    /// SYSEXIT to 64-bit code, or to 32-bit code.
    pub(crate) fn sysexit(&mut self, to_long: bool) -> Done {
        let selector = self.sys.sysenter_cs as u16 & !3;
        let mask = if to_long { u64::MAX } else { 0xffff_ffff };
        let (rip, rsp) = (self.r[RDX] & mask, self.r[RCX] & mask);
        let canonical = crate::access::is_canonical(rip) && crate::access::is_canonical(rsp);
        if !self.protected() || selector == 0 || self.sys.cpl != 0 || !canonical {
            return Err(self.gp(0));
        }
        let (offset, size) = if to_long { (32, CODE64) } else { (16, CODE32) };
        let code = selector.wrapping_add(offset);
        self.sys.segs[SS] = flat_segment(code.wrapping_add(8) | 3, 3, STACK32);
        self.enter_code(flat_segment(code | 3, 3, size), 3, rip);
        self.r[RSP] = rsp;
        Err(Stop::Jump)
    }

    /// Replaces all flags.
    pub(crate) fn set_flags_word(&mut self, word: u64) {
        self.flags = flags::Flags::from_bits(word);
    }

    /// EDX:EAX.
    pub(crate) fn edx_eax(&self) -> u64 {
        self.r[RDX] << 32 | self.r[RAX] & 0xffff_ffff
    }

    /// Sets EDX:EAX; the upper halves of both registers become zero.
    pub(crate) fn set_edx_eax(&mut self, value: u64) {
        self.r[RAX] = value & 0xffff_ffff;
        self.r[RDX] = value >> 32;
    }
}
