//! The rotation of vCPUs and the loop over blocks.
//!
//! A step is an instruction retired, one iteration of a repeated string instruction, the delivery of an exception
//! or interrupt, or the taking of an INIT, SIPI or NMI signal. [`Core::run`] stops exactly at the count it is given. How a run is cut into calls never shows: all
//! that decides what happens next (position, rest of the slice, interrupt shadow) is state.
//!
//! Interrupts, timers and signals are looked at between instructions whenever they may have changed: at the start of a
//! run, at the count that [`Bus::deadline`](crate::bus::Bus::deadline) names, and after every instruction that touched
//! the bus or a flag or register that holds interrupts back (such instructions end their block early).

use crate::bus::CpuSignal;
use crate::code::Block;
use crate::core::{Core, RunExit, StraightRun, TRAIL};
use crate::fault::{Fault, vector};
use crate::flags;
use crate::op::{Op, SLOT_RIP, Stop};
use crate::state::{Activity, CS, CpuState};
use crate::sys::Event;

/// DR6: a single step.
const DR6_STEP: u64 = 1 << 14;

/// Delivering an event met a fault that cannot be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TripleFault;

impl Core {
    /// Executes until `until` steps are done in all, or there is something for the caller to do.
    ///
    /// At return with [`RunExit::Count`] the count is exactly `until`, and timers due at it have fired.
    pub fn run(&mut self, until: u64) -> RunExit {
        self.drop_stale();
        loop {
            let mut deadline = self.bus.deadline();
            if deadline <= self.count {
                self.bus.advance(self.count);
                self.drop_stale();
                deadline = self.bus.deadline().max(self.count + 1);
            }
            if self.bus.attention() {
                return RunExit::Attention;
            }
            // Before any switch to another vCPU: the current one is the one that shut down.
            if self.sys.activity == Activity::Shutdown {
                return RunExit::TripleFault { cpu: self.current };
            }
            if self.count >= until {
                return RunExit::Count;
            }
            let Some(next) = self.next_runnable() else { return RunExit::Idle };
            self.switch_if_due(next);
            if self.take_signal() {
                continue;
            }
            let limit = (until.min(deadline) - self.count).min(self.slice_left);
            let before = self.count;
            if self.run_current(limit).is_err() {
                self.sys.activity = Activity::Shutdown;
            }
            self.slice_left -= (self.count - before).min(self.slice_left);
            if std::mem::take(&mut self.yielded) {
                self.slice_left = 0;
            }
        }
    }

    /// The vCPU to run: the current one while its slice lasts, else the next in the rotation that has work.
    fn next_runnable(&self) -> Option<usize> {
        let cpus = self.vcpus();
        let first = if self.slice_left > 0 { 0 } else { 1 };
        (first..=cpus).map(|step| (self.current + step) % cpus).find(|&cpu| self.has_work(cpu))
    }

    fn has_work(&self, cpu: usize) -> bool {
        let (sys, interrupts_on) = if cpu == self.current {
            (&self.sys, self.flags.has(flags::IF))
        } else {
            (&self.others[cpu].sys, self.others[cpu].rflags & flags::IF != 0)
        };
        match sys.activity {
            Activity::Running | Activity::Shutdown => true,
            Activity::WaitForStartup => self.bus.signal(cpu),
            Activity::Halted => {
                self.bus.signal(cpu)
                    || sys.pending_trap != 0
                    || sys.nmi_pending && !sys.nmi_blocked
                    || interrupts_on && self.bus.interrupt(cpu)
            }
        }
    }

    fn switch_if_due(&mut self, next: usize) {
        if next != self.current || self.slice_left == 0 {
            self.switch_to(next);
        }
    }

    /// The next INIT, SIPI or NMI for the current vCPU. Taking it is a step, for whatever changes a vCPU makes the count
    /// grow: at one count there is one state. True when there was one.
    fn take_signal(&mut self) -> bool {
        if !self.bus.signal(self.current) {
            return false;
        }
        let Some(signal) = self.bus.take_signal(self.current) else { return false };
        match signal {
            CpuSignal::Nmi => self.sys.nmi_pending = true,
            CpuSignal::Init => self.init(),
            CpuSignal::Startup(page) => self.startup(page),
        }
        self.count += 1;
        self.slice_left = self.slice_left.saturating_sub(1);
        true
    }

    /// INIT keeps caches, x87, SSE and most MSRs (Intel SDM volume 3, table 10-1).
    fn init(&mut self) {
        let old = self.store_cpu();
        let fresh = CpuState::power_on(old.sys.bootstrap);
        let mut state = CpuState { fpu: old.fpu, vector: old.vector, ..fresh };
        let kept = old.sys;
        state.sys.xcr0 = kept.xcr0;
        state.sys.tsc_adjust = kept.tsc_adjust;
        state.sys.tsc_aux = kept.tsc_aux;
        state.sys.pat = kept.pat;
        state.sys.mtrr_def_type = kept.mtrr_def_type;
        state.sys.mtrr_fixed = kept.mtrr_fixed;
        state.sys.mtrr_variable = kept.mtrr_variable;
        state.sys.misc_enable = kept.misc_enable;
        state.sys.spec_ctrl = kept.spec_ctrl;
        let not_write_through = crate::mmu::cr0::CD | crate::mmu::cr0::NW;
        state.sys.cr0 = crate::mmu::cr0::ET | kept.cr0 & not_write_through;
        let index = self.current;
        self.set_cpu(index, &state);
    }

    fn startup(&mut self, page: u8) {
        if self.sys.activity != Activity::WaitForStartup {
            return;
        }
        let segment = &mut self.sys.segs[CS];
        segment.selector = u16::from(page) << 8;
        segment.base = u64::from(page) << 12;
        segment.limit = 0xffff;
        self.rip = 0;
        self.sys.activity = Activity::Running;
        self.update_mode();
    }

    /// Runs the current vCPU for at most `left` steps, less when it should be looked at from outside.
    fn run_current(&mut self, left: u64) -> Result<(), TripleFault> {
        debug_assert!(left > 0);
        if self.sys.pending_trap != 0 && !self.sys.debug_shadow {
            let dr6 = std::mem::take(&mut self.sys.pending_trap);
            self.sys.activity = Activity::Running;
            let fault = Fault { vector: vector::DB, code: None, address: 0, dr6 };
            return self.deliver_step(fault, Event::Trap);
        }
        if !self.sys.interrupt_shadow && self.deliver_pending()? {
            return Ok(());
        }
        if self.sys.activity != Activity::Running {
            return Ok(());
        }
        let stepping = self.flags.has(flags::TF) || self.has_code_breakpoints();
        if self.sys.interrupt_shadow || stepping {
            return self.run_one(stepping);
        }
        self.run_blocks(left)
    }

    /// Delivers an NMI or interrupt if one may be delivered now. True when it took the step.
    fn deliver_pending(&mut self) -> Result<bool, TripleFault> {
        if self.sys.nmi_pending && !self.sys.nmi_blocked {
            self.sys.nmi_pending = false;
            self.sys.nmi_blocked = true;
            self.sys.activity = Activity::Running;
            self.deliver_step(Fault::new(vector::NMI, None), Event::Nmi)?;
            return Ok(true);
        }
        if self.flags.has(flags::IF) && self.bus.interrupt(self.current) {
            let position = crate::bus::BusContext { cpu: self.current, count: self.count };
            if let Some(vector) = self.bus.acknowledge(position) {
                self.sys.activity = Activity::Running;
                self.deliver_step(Fault::new(vector, None), Event::Interrupt)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Delivers an event; it takes one step.
    fn deliver_step(&mut self, fault: Fault, event: Event) -> Result<(), TripleFault> {
        self.begin_between();
        self.count += 1;
        *self.statistics.delivered.entry(fault.vector).or_default() += 1;
        self.deliver(fault, event)
    }

    /// Between blocks: positions are counted from here.
    fn begin_between(&mut self) {
        self.block_start = std::ptr::null();
        self.current_op = std::ptr::null();
        self.extra_steps = 0;
    }

    fn has_code_breakpoints(&self) -> bool {
        let dr7 = self.sys.dr7;
        dr7 & 0xff != 0 && (0..4).any(|n| dr7 >> (2 * n) & 3 != 0 && dr7 >> (16 + 4 * n) & 3 == 0)
    }

    /// Executes one instruction under a shadow, a single step or code breakpoints.
    fn run_one(&mut self, stepping: bool) -> Result<(), TripleFault> {
        if stepping && !self.flags.has(flags::RF) {
            let linear = self.code_linear(self.rip);
            let hit = (0..4).filter(|&n| {
                let enabled = self.sys.dr7 >> (2 * n) & 3 != 0 && self.sys.dr7 >> (16 + 4 * n) & 3 == 0;
                enabled && self.sys.debug_address[n] == linear
            });
            let dr6 = hit.fold(0, |bits, n| bits | 1 << n);
            if dr6 != 0 && !self.sys.debug_shadow {
                let fault = Fault { vector: vector::DB, code: None, address: 0, dr6 };
                // A fault that pushes RF as it is, unlike all others (SDM volume 3, 17.3.1.1).
                return self.deliver_step(fault, Event::Trap);
            }
        }
        // Both shadows last for the instruction that runs now, which may cast new ones.
        self.sys.interrupt_shadow = false;
        self.sys.debug_shadow = false;
        self.reports_step = self.flags.has(flags::TF);
        self.run_blocks(1)?;
        if std::mem::take(&mut self.reports_step) && !self.sys.debug_shadow {
            self.sys.pending_trap |= DR6_STEP;
        }
        Ok(())
    }

    /// Chains blocks until the steps are used up or an instruction ended its block early.
    fn run_blocks(&mut self, mut left: u64) -> Result<(), TripleFault> {
        let mut from: *mut Block = std::ptr::null_mut();
        // RF holds back code breakpoints for one instruction, which starts here. It comes back when that is repeated.
        self.flags.control &= !flags::RF;
        self.bury();
        while left > 0 {
            self.begin_between();
            let Ok(block) = self.block_at_rip(from) else {
                return self.deliver_step(self.fault, Event::Exception);
            };
            // SAFETY: the block is alive, and stays allocated until `bury`.
            let ops = unsafe { &*(*block).ops };
            let mut usable = ops.len();
            if !self.code_view.long {
                usable = self.ops_inside_limit(ops);
                if usable == 0 {
                    self.gp(0);
                    return self.deliver_step(self.fault, Event::Exception);
                }
            }
            let rip = self.rip;
            let (steps, stop) = self.run_block(ops.as_ptr(), usable, left);
            self.trail[self.trail_length % TRAIL] = StraightRun { cpu: self.current, rip, steps };
            self.trail_length = self.trail_length.wrapping_add(1);
            self.count += steps;
            left -= steps;
            match stop {
                Some(Stop::Fault) => return self.deliver_step(self.fault, Event::Exception),
                Some(Stop::Again) => {
                    // The instruction has begun: its breakpoint is not reported again, and events push RF.
                    self.flags.control |= flags::RF;
                    return Ok(());
                }
                _ => {}
            }
            if self.block_end.is_null() || self.has_dropped_blocks() {
                return Ok(());
            }
            from = block;
        }
        Ok(())
    }

    /// Executes up to `left` of the `usable` instructions at `ops`. Returns the steps taken and why it stopped, and
    /// leaves RIP at the next instruction to execute (for a fault, at the one that faulted).
    #[inline(always)]
    fn run_block(&mut self, ops: *const Op, usable: usize, left: u64) -> (u64, Option<Stop>) {
        self.r[usize::from(SLOT_RIP)] = self.rip;
        let count = usable.min(usize::try_from(left).unwrap_or(usize::MAX));
        self.budget = left;
        self.block_start = ops;
        // SAFETY: `count` is at most the length of the block.
        self.block_end = unsafe { ops.add(count) };
        let mut op = ops;
        let stop = loop {
            self.current_op = op;
            // SAFETY: `op` is below the end of the block, whose instructions stay in place until `bury`.
            let current = unsafe { &*op };
            if let Err(stop) = (current.run)(self, current) {
                break Some(stop);
            }
            // SAFETY: at most one past the last instruction.
            op = unsafe { op.add(1) };
            if op >= self.block_end {
                break None;
            }
        };
        // SAFETY: both are in the block.
        let done = unsafe { op.offset_from(ops) }.unsigned_abs() as u64;
        match stop {
            None => {
                // SAFETY: at least one instruction was executed, so the one before `op` exists.
                let last = unsafe { &*op.sub(1) };
                self.rip = self.next_rip(last);
                (done + self.extra_steps, None)
            }
            Some(stop) => {
                if stop != Stop::Jump {
                    // SAFETY: `op` is the instruction that stopped.
                    self.rip = self.op_rip(unsafe { &*op });
                }
                let own = if stop == Stop::Fault { 0 } else { 1 + self.extra_steps };
                (done + own, Some(stop))
            }
        }
    }

    /// How many instructions of a block lie inside the code segment's limit.
    #[cold]
    fn ops_inside_limit(&self, ops: &[Op]) -> usize {
        let limit = u64::from(self.sys.segs[CS].limit);
        let room = (limit + 1).saturating_sub(self.rip);
        ops.iter().take_while(|op| op.next_off() <= room).count()
    }
}
