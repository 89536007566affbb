//! Delivery of exceptions and interrupts: which event is delivered in the end.
//!
//! A fault met while an event is delivered replaces it, or makes a double fault of both, or shuts the vCPU down (Intel
//! SDM volume 3, 6.15, tables 6-4 and 6-5). An attempt that fails changes nothing, so each starts from the same state.

use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::flags;
use crate::op::{Done, Stop};
use crate::run::TripleFault;

/// DR6 bits 3:0: which breakpoints were met.
const DR6_BREAKPOINTS: u64 = 0xf;
/// DR7: a MOV to or from a debug register faults.
const DR7_GENERAL_DETECT: u64 = 1 << 13;

/// What kind of event is delivered; RIP is already the one to push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A fault of an instruction, which RIP points at; RF is set in the pushed flags.
    Exception,
    /// A #DB trap, for which RIP points after the instruction, or a code breakpoint. RF is pushed as it is.
    Trap,
    /// An external interrupt.
    Interrupt,
    /// A non-maskable interrupt.
    Nmi,
}

/// One attempt to enter a handler.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivery {
    pub vector: u8,
    pub error_code: Option<u32>,
    /// The gate's DPL is checked: INT n, INT3, INTO.
    pub software: bool,
    /// The EXT bit of error codes met on the way.
    pub ext: u32,
    /// Instruction pointer to push.
    pub rip: u64,
    /// Flags to push.
    pub flags: u64,
}

/// How an exception combines with an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
}

fn class(vector: u8) -> Class {
    match vector {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
        vector::PF => Class::PageFault,
        _ => Class::Benign,
    }
}

/// True when `second`, met while `first` was delivered, makes a double fault.
fn doubles(first: u8, second: u8) -> bool {
    use Class::{Contributory, PageFault};
    matches!((class(first), class(second)), (Contributory, Contributory) | (PageFault, Contributory | PageFault))
}

impl Core {
    /// Delivers an event through the IDT.
    pub(crate) fn deliver(&mut self, fault: Fault, event: Event) -> Result<(), TripleFault> {
        let (mut fault, mut event) = (fault, event);
        loop {
            self.note_event(&fault, event);
            let rf = if event == Event::Exception { flags::RF } else { 0 };
            let delivery = Delivery {
                vector: fault.vector,
                error_code: fault.code,
                software: false,
                ext: 1,
                rip: self.rip,
                flags: self.flags.bits() | rf,
            };
            if self.enter_handler(&delivery).is_ok() {
                return Ok(());
            }
            let second = self.fault;
            let exception = matches!(event, Event::Exception | Event::Trap);
            if exception && fault.vector == vector::DF {
                self.note_event(&second, Event::Exception);
                return Err(TripleFault);
            }
            if exception && doubles(fault.vector, second.vector) {
                self.note_event(&second, Event::Exception);
                fault = Fault::new(vector::DF, Some(0));
            } else {
                fault = second;
            }
            event = Event::Exception;
        }
    }

    /// What an exception leaves in CR2 and DR6.
    fn note_event(&mut self, fault: &Fault, event: Event) {
        match (event, fault.vector) {
            (Event::Interrupt | Event::Nmi, _) => {}
            (_, vector::PF) => self.sys.cr2 = fault.address,
            (_, vector::DB) => {
                self.sys.dr6 = self.sys.dr6 & !DR6_BREAKPOINTS | fault.dr6;
                self.sys.dr7 &= !DR7_GENERAL_DETECT;
            }
            _ => {}
        }
    }

    /// INT n, INT3 and INTO: a call of a handler by the program. `next` is the instruction after.
    pub(crate) fn software_interrupt(&mut self, vector: u8, next: u64) -> Done {
        let flags = self.flags.bits();
        let delivery = Delivery { vector, error_code: None, software: true, ext: 0, rip: next, flags };
        self.enter_handler(&delivery)?;
        Err(Stop::Jump)
    }

    /// INT1: #DB as a trap, without the check of the gate's privilege.
    pub(crate) fn debug_interrupt(&mut self, next: u64) -> Done {
        let flags = self.flags.bits();
        let delivery = Delivery { vector: vector::DB, error_code: None, software: false, ext: 1, rip: next, flags };
        self.enter_handler(&delivery)?;
        self.sys.dr7 &= !DR7_GENERAL_DETECT;
        Err(Stop::Jump)
    }

    /// Enters the handler of a vector. On an error nothing has changed and [`Core::fault`] says why.
    fn enter_handler(&mut self, delivery: &Delivery) -> Result<(), Stop> {
        if !self.protected() {
            self.enter_real(delivery)?;
        } else if self.long_active() {
            self.enter_long(delivery)?;
        } else {
            self.enter_legacy(delivery)?;
        }
        self.sys.interrupt_shadow = false;
        self.sys.debug_shadow = false;
        self.reports_step = false;
        self.leave_block();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn double_faults_are_those_of_table_6_5() {
        for first in [vector::DE, vector::TS, vector::NP, vector::SS, vector::GP] {
            assert!(doubles(first, vector::GP));
            assert!(doubles(first, vector::NP));
            assert!(!doubles(first, vector::PF), "a page fault after #{first} is delivered as it is");
            assert!(!doubles(first, vector::DB));
        }
        assert!(doubles(vector::PF, vector::PF));
        assert!(doubles(vector::PF, vector::TS));
        assert!(!doubles(vector::DB, vector::GP));
        assert!(!doubles(vector::UD, vector::PF));
        assert!(!doubles(vector::AC, vector::SS));
    }
}
