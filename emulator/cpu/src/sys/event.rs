//! Delivery of exceptions and interrupts.

use crate::core::Core;
use crate::fault::Fault;
use crate::run::TripleFault;

/// What kind of event is delivered; RIP is already the one to push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A fault of an instruction, which RIP points at; RF is set in the pushed flags.
    Exception,
    /// A #DB trap; RIP points after the instruction.
    Trap,
    /// An external interrupt.
    Interrupt,
    /// A non-maskable interrupt.
    Nmi,
}

impl Core {
    /// Delivers an event through the IDT.
    pub(crate) fn deliver(&mut self, fault: Fault, event: Event) -> Result<(), TripleFault> {
        let _ = (fault, event);
        Err(TripleFault)
    }
}
