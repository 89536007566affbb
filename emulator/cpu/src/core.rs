//! The engine: all vCPUs of a machine, what is derived from their state, and the public interface.
//!
//! One vCPU is current: its registers lie in [`Core`] itself, where the handlers reach them with one
//! indirection. The others wait in [`Core::others`]. Translations and decoded code are shared by all vCPUs, keyed
//! by the address space and mode they were made for.

use serde::{Deserialize, Serialize};

use crate::bus::{Bus, BusContext};
use crate::code::CodeCache;
use crate::fault::Fault;
use crate::flags::Flags;
use crate::memory::GuestRam;
use crate::mmu::{CodeView, Contexts, PageTables, Tlb};
use crate::op::Op;
use crate::state::{CpuState, FpuState, SystemState, VectorState};

/// Steps that a vCPU executes before the next one has its turn.
pub const SLICE: u64 = 20_000;

/// Why [`Core::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunExit {
    /// The count asked for is reached, exactly.
    Count,
    /// Every vCPU waits, no interrupt is pending and no timer is due at this count.
    Idle,
    /// [`Bus::attention`] is true.
    Attention,
    /// A vCPU met a fault while delivering a double fault.
    TripleFault {
        /// Which vCPU.
        cpu: usize,
    },
}

/// State of the engine and of every vCPU, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreState {
    /// Steps executed by all vCPUs.
    pub count: u64,
    /// The vCPU whose turn it is.
    pub current: u8,
    /// Steps left of its turn.
    pub slice_left: u64,
    /// Every vCPU, by index.
    pub cpus: Vec<CpuState>,
}

/// What the guest did that the engine does not have, and other figures. Not part of the state.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Undefined instructions by their first bytes, with how often each raised #UD.
    pub undefined: std::collections::BTreeMap<String, u64>,
    /// Blocks decoded.
    pub blocks_decoded: u64,
    /// Times all translations were dropped.
    pub translation_flushes: u64,
    /// Exceptions and interrupts delivered, by vector.
    pub delivered: std::collections::BTreeMap<u8, u64>,
}

/// A straight run of instructions that was executed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StraightRun {
    /// The vCPU.
    pub cpu: usize,
    /// Instruction pointer of the first instruction.
    pub rip: u64,
    /// Steps taken: instructions, and iterations of a repeated one.
    pub steps: u64,
}

/// Runs that [`Core::recent_runs`] remembers; a power of two.
pub(crate) const TRAIL: usize = 16;

/// The vCPUs of one machine.
pub struct Core {
    /// General registers of the current vCPU by encoding; then [`crate::op::SLOT_ZERO`] and
    /// [`crate::op::SLOT_RIP`]. 32 slots so that an index needs no bounds check.
    pub(crate) r: [u64; 32],
    pub(crate) flags: Flags,
    pub(crate) rip: u64,
    /// Segment bases by slot: the six registers, then zero twice (64-bit mode).
    pub(crate) seg_base: [u64; 8],
    pub(crate) sys: SystemState,
    pub(crate) fpu: FpuState,
    pub(crate) vector: VectorState,

    /// Translation context of data accesses at the current privilege, or [`crate::mmu::NO_CONTEXT`].
    pub(crate) data_context: u64,
    /// Translation context of supervisor accesses (descriptor tables).
    pub(crate) supervisor_context: u64,
    /// What look-ups of code depend on, derived from CS and the mode.
    pub(crate) code_view: CodeView,
    /// Translation contexts of user accesses and of supervisor accesses with SMAP suspended;
    /// [`crate::mmu::NO_CONTEXT`] until they are needed.
    pub(crate) user_context: u64,
    pub(crate) access_context: u64,
    /// True when data accesses take the slow path: alignment checks or data breakpoints are on.
    pub(crate) slow_data: bool,

    /// Steps executed before the block that is running.
    pub(crate) count: u64,
    /// Iterations of a repeated instruction beyond the first, in the block that is running.
    pub(crate) extra_steps: u64,
    /// Steps that the block that is running may take, repeated iterations included.
    pub(crate) budget: u64,
    pub(crate) block_start: *const Op,
    pub(crate) block_end: *const Op,
    pub(crate) current_op: *const Op,
    pub(crate) fault: Fault,
    /// The current vCPU gives its turn away after this instruction (PAUSE, HLT).
    pub(crate) yielded: bool,
    /// The instruction that runs under TF reports its single step. Cleared by the delivery of events and by
    /// instructions that do not report one.
    pub(crate) reports_step: bool,

    pub(crate) tlb: Box<Tlb>,
    pub(crate) contexts: Contexts,
    pub(crate) page_tables: PageTables,
    pub(crate) code: CodeCache,
    pub(crate) ram: GuestRam,
    pub(crate) bus: Box<dyn Bus>,

    pub(crate) current: usize,
    pub(crate) slice_left: u64,
    /// State of every vCPU but the current one, whose entry is out of date.
    pub(crate) others: Vec<CpuState>,
    pub(crate) statistics: Statistics,
    /// The last runs, as a ring, and how many there were. Not part of the state.
    pub(crate) trail: [StraightRun; TRAIL],
    pub(crate) trail_length: usize,
}

// SAFETY: the raw pointers are into blocks that `code` owns and are only used while a block runs; nothing is
// shared with another thread.
unsafe impl Send for Core {}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("count", &self.count)
            .field("current", &self.current)
            .field("rip", &self.rip)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// Makes `vcpus` vCPUs (1 to 8) in power-on state.
    ///
    /// # Panics
    /// When `vcpus` is not 1 to 8; the machine checks its configuration first.
    #[must_use]
    pub fn new(ram: GuestRam, vcpus: usize, bus: Box<dyn Bus>) -> Self {
        assert!((1..=8).contains(&vcpus), "{vcpus} vCPUs; 1 to 8 are possible");
        let others: Vec<_> = (0..vcpus).map(|index| CpuState::power_on(index == 0)).collect();
        let mut core = Self {
            r: [0; 32],
            flags: Flags::from_bits(2),
            rip: 0,
            seg_base: [0; 8],
            sys: others[0].sys,
            fpu: FpuState::default(),
            vector: VectorState::default(),
            data_context: 0,
            supervisor_context: 0,
            code_view: CodeView::default(),
            user_context: 0,
            access_context: 0,
            slow_data: false,
            count: 0,
            extra_steps: 0,
            budget: 0,
            block_start: std::ptr::null(),
            block_end: std::ptr::null(),
            current_op: std::ptr::null(),
            fault: Fault::new(0, None),
            yielded: false,
            reports_step: false,
            tlb: Tlb::new(),
            contexts: Contexts::new(),
            page_tables: PageTables::new(ram.page_count()),
            code: CodeCache::new(ram.page_count()),
            ram,
            bus,
            current: 0,
            slice_left: SLICE,
            others,
            statistics: Statistics::default(),
            trail: [StraightRun::default(); TRAIL],
            trail_length: 0,
        };
        core.load_cpu(0);
        core
    }

    /// Steps executed by all vCPUs.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Number of vCPUs.
    #[must_use]
    pub fn vcpus(&self) -> usize {
        self.others.len()
    }

    /// The vCPU whose turn it is.
    #[must_use]
    pub fn current_cpu(&self) -> usize {
        self.current
    }

    /// The computer around the vCPUs.
    #[must_use]
    pub fn bus(&self) -> &dyn Bus {
        &*self.bus
    }

    /// The computer around the vCPUs, to change.
    pub fn bus_mut(&mut self) -> &mut dyn Bus {
        &mut *self.bus
    }

    /// Guest memory.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Figures about the run so far.
    #[must_use]
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The straight runs executed last, the oldest first: what led to a crash.
    #[must_use]
    pub fn recent_runs(&self) -> Vec<StraightRun> {
        let known = self.trail_length.min(TRAIL);
        (self.trail_length - known..self.trail_length).map(|index| self.trail[index % TRAIL]).collect()
    }

    /// State of one vCPU.
    ///
    /// # Panics
    /// When there is no such vCPU.
    #[must_use]
    pub fn cpu(&self, index: usize) -> CpuState {
        if index == self.current { self.store_cpu() } else { self.others[index] }
    }

    /// Replaces the state of one vCPU.
    ///
    /// # Panics
    /// When there is no such vCPU.
    pub fn set_cpu(&mut self, index: usize, state: &CpuState) {
        self.others[index] = *state;
        if index == self.current {
            self.load_cpu(index);
        }
    }

    /// All state of the engine.
    #[must_use]
    pub fn save(&self) -> CoreState {
        let cpus = (0..self.vcpus()).map(|index| self.cpu(index)).collect();
        let current = u8::try_from(self.current).expect("at most 8 vCPUs");
        CoreState { count: self.count, current, slice_left: self.slice_left, cpus }
    }

    /// Replaces all state; memory must have been restored before.
    ///
    /// # Errors
    /// When the state has another number of vCPUs or an impossible rotation.
    pub fn restore(&mut self, state: &CoreState) -> Result<(), String> {
        if state.cpus.len() != self.vcpus() {
            return Err(format!("state has {} vCPUs, this machine {}", state.cpus.len(), self.vcpus()));
        }
        if usize::from(state.current) >= state.cpus.len() || state.slice_left > SLICE {
            return Err(format!("rotation at vCPU {} with {} steps left", state.current, state.slice_left));
        }
        self.others.clone_from(&state.cpus);
        self.count = state.count;
        self.slice_left = state.slice_left;
        self.flush_caches();
        self.load_cpu(usize::from(state.current));
        Ok(())
    }

    /// Drops every cached translation and all decoded code. The guest cannot tell.
    pub fn flush_caches(&mut self) {
        self.code.clear(&self.ram);
        self.page_tables.clear(&self.ram);
        self.drop_translations();
    }

    /// Power-on state of every vCPU. The count goes on.
    pub fn reset(&mut self) {
        for (index, cpu) in self.others.iter_mut().enumerate() {
            *cpu = CpuState::power_on(index == 0);
        }
        self.slice_left = SLICE;
        self.flush_caches();
        self.load_cpu(0);
    }

    /// Marks every page clean and returns the indices of those written since the last call, ascending.
    pub fn take_dirty_pages(&mut self) -> Vec<usize> {
        let dirty: Vec<usize> =
            (0..self.ram.page_count()).filter(|&page| self.ram.flags(page) & crate::memory::PAGE_DIRTY != 0).collect();
        for &page in &dirty {
            self.ram.clear_flags(page, crate::memory::PAGE_DIRTY);
        }
        self.tlb.drop_writes();
        dirty
    }

    /// Makes `index` the current vCPU; the previous one must have been stored.
    pub(crate) fn load_cpu(&mut self, index: usize) {
        let CpuState { gpr, rip, rflags, sys, fpu, vector } = self.others[index];
        self.r[..16].copy_from_slice(&gpr);
        self.rip = rip;
        self.flags = Flags::from_bits(rflags);
        self.sys = sys;
        self.fpu = fpu;
        self.vector = vector;
        self.current = index;
        self.update_mode();
    }

    /// State of the current vCPU.
    pub(crate) fn store_cpu(&self) -> CpuState {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.r[..16]);
        CpuState { gpr, rip: self.rip, rflags: self.flags.bits(), sys: self.sys, fpu: self.fpu, vector: self.vector }
    }

    /// Gives the turn to another vCPU.
    pub(crate) fn switch_to(&mut self, index: usize) {
        self.slice_left = SLICE;
        if index != self.current {
            self.others[self.current] = self.store_cpu();
            self.load_cpu(index);
        }
    }

    /// Instruction pointer of the instruction that is executing.
    #[inline]
    pub(crate) fn op_rip(&self, op: &Op) -> u64 {
        self.r[usize::from(crate::op::SLOT_RIP)].wrapping_add(u64::from(op.off)) & self.code_view.rip_mask
    }

    /// Instruction pointer of the instruction after `op`, truncated as the code size demands.
    #[inline]
    pub(crate) fn next_rip(&self, op: &Op) -> u64 {
        self.r[usize::from(crate::op::SLOT_RIP)].wrapping_add(op.next_off()) & self.code_view.rip_mask
    }

    /// Position of the instruction that is executing.
    #[inline]
    pub(crate) fn position(&self) -> BusContext {
        BusContext { cpu: self.current, count: self.count + self.done_in_block() + self.extra_steps }
    }

    /// The block ends after the current instruction: code, mappings or interrupt state may have changed.
    #[inline]
    pub(crate) fn leave_block(&mut self) {
        self.block_end = std::ptr::null();
    }

    /// Steps that the current (repeated) instruction may still take, itself included.
    #[inline]
    pub(crate) fn steps_allowed(&self) -> u64 {
        self.budget - self.done_in_block()
    }

    /// Instructions of the running block before the current one; zero between blocks.
    #[inline]
    fn done_in_block(&self) -> u64 {
        // SAFETY: both point into the block that is running, or are both null.
        unsafe { self.current_op.offset_from(self.block_start) }.unsigned_abs() as u64
    }
}
