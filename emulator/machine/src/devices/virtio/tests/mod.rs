//! The devices, worked through the registers of the PCI bus as a guest works them.

mod balloon;
mod block;
mod console;
mod hostile;
mod net;
mod rng;
mod transport;
