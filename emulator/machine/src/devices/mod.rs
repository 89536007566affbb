//! The devices of the computer: pure register cores that know guest memory, guest time and nothing else.

pub mod pci;
pub mod virtio;
