//! System level: delivery of events, descriptors and segments, stacks, far transfers, control registers and
//! model-specific registers. The instructions that use it are in `ops/system*.rs`.

mod control;
mod descriptor;
mod event;
mod far;
mod gate;
mod msr;
mod segment;
mod stack;
mod task;

pub(crate) use descriptor::{Descriptor, is_null, kind};
pub(crate) use event::Event;
pub(crate) use stack::{RBP, RSP};
