//! Directed tests of the system level: what a host processor cannot be asked from user mode.

#[path = "kit/mod.rs"]
mod kit;

#[path = "system/events.rs"]
mod events;
