//! System level: delivery of events, segments, control registers, model-specific registers, CPUID.

mod event;

pub(crate) use event::Event;
