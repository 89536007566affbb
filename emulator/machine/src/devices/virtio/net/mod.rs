//! Virtio network device (virtio 1.2, 5.1).
//!
//! Packets travel with their 12-byte `virtio_net_hdr_v1` inside and outside.
//!
//! - **Transmit** completes at the notification: the packet becomes an [`crate::io::Output::NetTransmit`] and its chain
//!   is used. A packet whose header asks for something that was not negotiated, or points outside the frame, is dropped
//!   and counted. While the link is down everything is dropped.
//! - **Receive** happens at the input. A packet that finds no buffers, the link down, or a filter against it is dropped
//!   here and counted, so that every replica drops the same ones. With MRG_RXBUF a packet may be spread over many
//!   buffers.
//! - **Offloads** the driver did not accept: a missing checksum is filled in here, and merged TCP segments are taken
//!   apart; anything else that would have to be segmented is dropped.
//! - **Announcing**: when the link comes up, or is said to be up again while it is, a driver with GUEST_ANNOUNCE is asked to
//!   announce its addresses.
//!
//! Not offered: multiple queue pairs, VLAN filters, UFO and USO, RSS, notification coalescing.

mod control;
mod device;
mod filter;
mod packet;
mod segment;

pub use device::{Net, NetCounters, NetState};
pub use filter::ReceiveFilter;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MRG_RXBUF,
};

use super::feature;
use crate::io::DeviceIndex;

/// Bytes of the header in front of each packet.
pub const HEADER_SIZE: usize = 12;
/// Largest frame in bytes: 64 KiB behind an Ethernet header.
pub const FRAME_LIMIT: usize = 65536 + 14;
/// Smallest frame in bytes: an Ethernet header.
pub const FRAME_MINIMUM: usize = 14;
/// Size of the receive and transmit queues.
pub const QUEUE_SIZE: u16 = 256;
/// Size of the control queue.
pub const CONTROL_QUEUE_SIZE: u16 = 64;

/// Receive queue.
pub const RECEIVE: u16 = 0;
/// Transmit queue.
pub const TRANSMIT: u16 = 1;
/// Control queue.
pub const CONTROL: u16 = 2;

/// Features of which a configuration may leave some out (host backends without offloads).
pub const OFFLOAD_FEATURES: u64 = feature(VIRTIO_NET_F_CSUM)
    | feature(VIRTIO_NET_F_GUEST_CSUM)
    | feature(VIRTIO_NET_F_GUEST_TSO4)
    | feature(VIRTIO_NET_F_GUEST_TSO6)
    | feature(VIRTIO_NET_F_GUEST_ECN)
    | feature(VIRTIO_NET_F_HOST_TSO4)
    | feature(VIRTIO_NET_F_HOST_TSO6)
    | feature(VIRTIO_NET_F_HOST_ECN)
    | feature(VIRTIO_NET_F_MRG_RXBUF);

/// What a network device looks like to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetConfig {
    /// Index among the machine's network devices.
    pub index: DeviceIndex,
    /// Its address.
    pub mac: [u8; 6],
    /// Which of [`OFFLOAD_FEATURES`] are offered; other bits are ignored.
    pub offloads: u64,
    /// Largest packet above Ethernet, told to the guest, from 68 on.
    pub mtu: Option<u16>,
}

impl NetConfig {
    /// A device with every offload.
    #[must_use]
    pub fn new(index: DeviceIndex, mac: [u8; 6]) -> Self {
        Self { index, mac, offloads: OFFLOAD_FEATURES, mtu: None }
    }
}
