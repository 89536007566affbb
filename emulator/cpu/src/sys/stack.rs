//! Stacks: push and pop at every operand and stack-address size, and frames that are pushed as a whole.

use crate::core::Core;
use crate::fault::vector;
use crate::op::{SEG_FLAT_STACK, Stop};
use crate::state::{SEG_DB, SS, Segment};
use crate::width::Width;

/// Register slot of RSP.
pub(crate) const RSP: usize = 4;
/// Register slot of RBP.
pub(crate) const RBP: usize = 5;

/// A stack to push a frame to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stack {
    /// The segment; `None` for a 64-bit stack.
    pub segment: Option<Segment>,
    /// Stack pointer before the frame.
    pub pointer: u64,
    /// CPL that uses the stack. At 3 it is the current one.
    pub cpl: u8,
    /// Error code of #SS when the frame does not fit.
    pub fault_code: u32,
}

impl Stack {
    /// Mask of the stack-address size.
    pub fn mask(&self) -> u64 {
        match self.segment {
            None => u64::MAX,
            Some(segment) if segment.flags & SEG_DB != 0 => 0xffff_ffff,
            Some(_) => 0xffff,
        }
    }
}

impl Core {
    /// Mask of the current stack-address size.
    #[inline]
    pub(crate) fn sp_mask(&self) -> u64 {
        if self.code_view.long {
            u64::MAX
        } else if self.sys.segs[SS].flags & SEG_DB != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// The stack pointer, truncated to the stack-address size.
    #[inline]
    pub(crate) fn sp(&self) -> u64 {
        self.r[RSP] & self.sp_mask()
    }

    /// Sets the stack pointer: a 16-bit one keeps the upper bits of the register.
    #[inline]
    pub(crate) fn set_sp(&mut self, value: u64) {
        let mask = self.sp_mask();
        self.r[RSP] = if mask == 0xffff { self.r[RSP] & !0xffff | value & 0xffff } else { value & mask };
    }

    /// Linear address of `size` bytes at an offset in the stack segment.
    #[inline]
    fn sp_linear(&mut self, offset: u64, size: u64, write: bool) -> Result<(u64, u8), Stop> {
        if self.code_view.long {
            return Ok((offset, SEG_FLAT_STACK));
        }
        Ok((self.linear_legacy(SS as u8, offset, size, write)?, SS as u8))
    }

    /// Reads the value that lies `offset` bytes above the stack pointer; nothing moves.
    #[inline]
    pub(crate) fn peek_stack<T: Width>(&mut self, offset: u64) -> Result<T, Stop> {
        let at = self.sp().wrapping_add(offset) & self.sp_mask();
        self.read_stack::<T>(at)
    }

    /// Reads at an offset in the stack segment.
    #[inline]
    pub(crate) fn read_stack<T: Width>(&mut self, at: u64) -> Result<T, Stop> {
        let (linear, seg) = self.sp_linear(at, T::BYTES, false)?;
        self.read::<T>(linear, seg)
    }

    /// Writes at an offset in the stack segment; the stack pointer does not move.
    #[inline]
    pub(crate) fn write_stack<T: Width>(&mut self, at: u64, value: T) -> Result<(), Stop> {
        let (linear, seg) = self.sp_linear(at, T::BYTES, true)?;
        self.write::<T>(linear, seg, value)
    }

    /// Raises what a write of `size` bytes at an offset in the stack segment would raise.
    pub(crate) fn probe_stack(&mut self, at: u64, size: u64) -> Result<(), Stop> {
        let (linear, seg) = self.sp_linear(at, size, true)?;
        self.probe_write(linear, size, seg)
    }

    /// Reads a value of `size` bytes (2, 4 or 8) `offset` bytes above the stack pointer.
    pub(crate) fn peek_sized(&mut self, offset: u64, size: u64) -> Result<u64, Stop> {
        match size {
            2 => self.peek_stack::<u16>(offset).map(u64::from),
            4 => self.peek_stack::<u32>(offset).map(u64::from),
            _ => self.peek_stack::<u64>(offset),
        }
    }

    /// Moves the stack pointer up by `size` bytes.
    #[inline]
    pub(crate) fn release_stack(&mut self, size: u64) {
        self.set_sp(self.sp().wrapping_add(size));
    }

    /// Pushes a value of `size` bytes (2, 4 or 8).
    pub(crate) fn push_sized(&mut self, value: u64, size: u64) -> Result<(), Stop> {
        let at = self.sp().wrapping_sub(size) & self.sp_mask();
        match size {
            2 => self.write_stack(at, value as u16)?,
            4 => self.write_stack(at, value as u32)?,
            _ => self.write_stack(at, value)?,
        }
        self.set_sp(at);
        Ok(())
    }

    /// The stack that is current, as a place for a frame.
    pub(crate) fn current_stack(&self, fault_code: u32) -> Stack {
        let flat = self.code_view.long;
        Stack { segment: (!flat).then_some(self.sys.segs[SS]), pointer: self.sp(), cpl: self.sys.cpl, fault_code }
    }

    /// Pushes values of `size` bytes each, first to last. Returns the new stack pointer; no register changes, and on
    /// a fault memory is unchanged.
    pub(crate) fn push_frame(&mut self, stack: &Stack, values: &[u64], size: u64) -> Result<u64, Stop> {
        match &stack.segment {
            None => self.push_flat_frame(stack, values, size),
            Some(segment) => self.push_legacy_frame(stack, segment, values, size),
        }
    }

    fn push_flat_frame(&mut self, stack: &Stack, values: &[u64], size: u64) -> Result<u64, Stop> {
        let total = values.len() as u64 * size;
        let bottom = stack.pointer.wrapping_sub(total);
        let canonical = crate::access::is_canonical;
        if !canonical(bottom) || !canonical(bottom.wrapping_add(total - 1)) {
            return Err(self.raise_code(vector::SS, stack.fault_code));
        }
        let mut bytes = [0; 8 * 8];
        let width = size as usize;
        for (slot, value) in bytes.chunks_exact_mut(width).zip(values.iter().rev()) {
            slot.copy_from_slice(&value.to_le_bytes()[..width]);
        }
        let frame = &bytes[..values.len() * width];
        if stack.cpl < 3 {
            self.write_system(bottom, frame)?;
        } else {
            // Each value is a store of its own, with its own alignment.
            for index in 0..values.len() as u64 {
                self.probe_write(bottom.wrapping_add(index * size), size, SEG_FLAT_STACK)?;
            }
            for (index, slot) in frame.chunks_exact(width).enumerate() {
                let mut word = [0; 16];
                word[..width].copy_from_slice(slot);
                let at = bottom.wrapping_add(index as u64 * size);
                self.write_slow(at, u128::from_le_bytes(word), size, SEG_FLAT_STACK)?;
            }
        }
        Ok(bottom)
    }

    fn push_legacy_frame(&mut self, stack: &Stack, segment: &Segment, values: &[u64], size: u64) -> Result<u64, Stop> {
        let mask = stack.mask();
        let offsets = |index: usize| stack.pointer.wrapping_sub((index as u64 + 1) * size) & mask;
        let linear = |offset: u64| segment.base.wrapping_add(offset) & 0xffff_ffff;
        for index in 0..values.len() {
            let offset = offsets(index);
            if !segment.contains(offset, size) {
                return Err(self.raise_code(vector::SS, stack.fault_code));
            }
            if stack.cpl < 3 {
                self.probe_system_write(linear(offset), size)?;
            } else {
                self.probe_write(linear(offset), size, SS as u8)?;
            }
        }
        for (index, value) in values.iter().enumerate() {
            let at = linear(offsets(index));
            if stack.cpl < 3 {
                self.write_system(at, &value.to_le_bytes()[..size as usize])?;
            } else {
                self.write_slow(at, u128::from(*value), size, SS as u8)?;
            }
        }
        Ok(offsets(values.len() - 1))
    }
}
