//! Entry into a handler through the interrupt table: real mode, protected mode, long mode (Intel SDM volume 3, 6.12
//! and 6.14; volume 2, INT n).

use super::descriptor::{Descriptor, kind, selector_code};
use super::event::Delivery;
use super::segment::null_stack;
use super::stack::{RSP, Stack};
use crate::core::Core;
use crate::fault::vector;
use crate::flags;
use crate::op::Stop;
use crate::state::{CS, SS};

/// Error code bit: the selector field is an interrupt vector.
const CODE_IDT: u32 = 2;

impl Delivery {
    /// Error code that names the gate.
    fn gate_code(&self) -> u32 {
        u32::from(self.vector) << 3 | CODE_IDT | self.ext
    }
}

impl Core {
    /// Real mode: a table of far pointers. Error codes are not pushed.
    pub(super) fn enter_real(&mut self, delivery: &Delivery) -> Result<(), Stop> {
        let offset = u64::from(delivery.vector) * 4;
        if offset + 3 > u64::from(self.sys.idtr.limit) {
            return Err(self.gp(delivery.gate_code()));
        }
        let pointer = self.read_system(self.sys.idtr.base.wrapping_add(offset), 4)?;
        let stack = self.current_stack(0);
        let cs = self.sys.segs[CS].selector;
        let sp = self.push_frame(&stack, &[delivery.flags, u64::from(cs), delivery.rip], 2)?;
        self.set_sp(sp);
        self.flags.control &= !(flags::IF | flags::TF | flags::RF | flags::AC);
        let selector = (pointer >> 16) as u16;
        self.enter_real_code(selector, pointer & 0xffff);
        Ok(())
    }

    /// Long mode: 64-bit gates. The frame always has the old stack; the new one is 16-byte aligned.
    pub(super) fn enter_long(&mut self, delivery: &Delivery) -> Result<(), Stop> {
        let offset = u64::from(delivery.vector) * 16;
        if offset + 15 > u64::from(self.sys.idtr.limit) {
            return Err(self.gp(delivery.gate_code()));
        }
        let address = self.sys.idtr.base.wrapping_add(offset);
        let raw = self.read_system(address, 8)?;
        let upper = self.read_system(address.wrapping_add(8), 8)?;
        let gate = Descriptor { raw, address, selector: 0 };
        self.check_gate(&gate, delivery, &[kind::INTERRUPT_GATE, kind::TRAP_GATE])?;
        let target = gate.gate_offset() | upper << 32;
        let code = self.gate_code(gate.gate_selector(), delivery.ext)?;
        let cpl = if code.conforming() { self.sys.cpl } else { code.dpl() };
        if !crate::access::is_canonical(target) {
            return Err(self.gp(delivery.ext));
        }
        let ist = (raw >> 32 & 7) as u8;
        let inner = cpl < self.sys.cpl;
        let pointer = if ist != 0 || inner { self.long_stack(cpl, ist, delivery.ext)? } else { self.sp() };
        let stack = Stack { segment: None, pointer: pointer & !0xf, cpl, fault_code: delivery.ext };
        let frame = [
            u64::from(self.sys.segs[SS].selector),
            self.sp(),
            delivery.flags,
            u64::from(self.sys.segs[CS].selector),
            delivery.rip,
            u64::from(delivery.error_code.unwrap_or(0)),
        ];
        let length = if delivery.error_code.is_some() { 6 } else { 5 };
        self.mark_accessed(&code)?;
        let sp = self.push_frame(&stack, &frame[..length], 8)?;
        self.r[RSP] = sp;
        if inner {
            self.sys.segs[SS] = null_stack(cpl);
        }
        self.clear_flags_for(&gate);
        self.enter_code(code.segment(cpl), cpl, target);
        Ok(())
    }

    /// Protected mode: 16-bit and 32-bit gates. Task gates are not in the CPU model.
    pub(super) fn enter_legacy(&mut self, delivery: &Delivery) -> Result<(), Stop> {
        let offset = u64::from(delivery.vector) * 8;
        if offset + 7 > u64::from(self.sys.idtr.limit) {
            return Err(self.gp(delivery.gate_code()));
        }
        let address = self.sys.idtr.base.wrapping_add(offset);
        let raw = self.read_system(address, 8)?;
        let gate = Descriptor { raw, address, selector: 0 };
        let kinds = [kind::INTERRUPT_GATE, kind::TRAP_GATE, kind::INTERRUPT_GATE16, kind::TRAP_GATE16];
        self.check_gate(&gate, delivery, &kinds)?;
        let wide = matches!(gate.kind(), Some(kind::INTERRUPT_GATE | kind::TRAP_GATE));
        let (size, target) = if wide { (4, gate.gate_offset()) } else { (2, gate.gate_offset() & 0xffff) };
        let code = self.gate_code(gate.gate_selector(), delivery.ext)?;
        let cpl = if code.conforming() { self.sys.cpl } else { code.dpl() };
        let inner = cpl < self.sys.cpl;
        let (stack, new_segment) = if inner {
            let (segment, pointer) = self.legacy_stack(cpl, delivery.ext)?;
            let fault_code = selector_code(segment.selector) | delivery.ext;
            (Stack { segment: Some(segment), pointer, cpl, fault_code }, Some(segment))
        } else {
            (self.current_stack(delivery.ext), None)
        };
        self.check_target(&code, target, delivery.ext)?;
        let frame = [
            u64::from(self.sys.segs[SS].selector),
            self.r[RSP] & 0xffff_ffff,
            delivery.flags,
            u64::from(self.sys.segs[CS].selector),
            delivery.rip,
            u64::from(delivery.error_code.unwrap_or(0)),
        ];
        let first = if inner { 0 } else { 2 };
        let last = if delivery.error_code.is_some() { 6 } else { 5 };
        self.mark_accessed(&code)?;
        let sp = self.push_frame(&stack, &frame[first..last], size)?;
        if let Some(segment) = new_segment {
            self.sys.segs[SS] = segment;
        }
        self.set_sp(sp);
        self.clear_flags_for(&gate);
        self.enter_code(code.segment(cpl), cpl, target);
        Ok(())
    }

    fn check_gate(&mut self, gate: &Descriptor, delivery: &Delivery, kinds: &[u8]) -> Result<(), Stop> {
        let good = gate.kind().is_some_and(|kind| kinds.contains(&kind));
        if !good || delivery.software && gate.dpl() < self.sys.cpl {
            return Err(self.gp(delivery.gate_code()));
        }
        if !gate.present() {
            return Err(self.raise_code(vector::NP, delivery.gate_code()));
        }
        Ok(())
    }

    /// TF, NT, RF and VM are cleared; IF too by interrupt gates.
    fn clear_flags_for(&mut self, gate: &Descriptor) {
        let masks = matches!(gate.kind(), Some(kind::INTERRUPT_GATE | kind::INTERRUPT_GATE16));
        let interrupts = if masks { flags::IF } else { 0 };
        self.flags.control &= !(flags::TF | flags::NT | flags::RF | flags::VM | interrupts);
    }

    /// Code segment of real mode: limit and attributes stay.
    pub(super) fn enter_real_code(&mut self, selector: u16, rip: u64) {
        let old = self.sys.segs[CS];
        let cs = crate::state::Segment { selector, base: u64::from(selector) << 4, ..old };
        debug_assert!(!self.code_view.long);
        self.enter_code(cs, 0, rip);
    }
}
