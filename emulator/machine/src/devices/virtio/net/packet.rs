//! Headers in front of packets: what a driver may ask for, and what it may be given.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
};

use super::HEADER_SIZE;
use crate::devices::virtio::byte;

const NEEDS_CSUM: u8 = byte(VIRTIO_NET_HDR_F_NEEDS_CSUM);
const GSO_ECN: u8 = byte(VIRTIO_NET_HDR_GSO_ECN);

const FLAGS: usize = 0;
const GSO_TYPE: usize = 1;
const GSO_SIZE: usize = 4;
const CSUM_START: usize = 6;
const CSUM_OFFSET: usize = 8;
/// Offset of the number of buffers.
pub(super) const NUM_BUFFERS: usize = 10;

/// Features that allow segmentation of TCP over IPv4, over IPv6, and of packets with ECN.
struct Offload {
    checksum: u32,
    tcp4: u32,
    tcp6: u32,
    ecn: u32,
    /// A packet to be segmented must say where its checksum is. The standard asks this of drivers; hosts also deliver
    /// packets that are known to be good instead.
    strict: bool,
}

const TO_HOST: Offload = Offload {
    checksum: VIRTIO_NET_F_CSUM,
    tcp4: VIRTIO_NET_F_HOST_TSO4,
    tcp6: VIRTIO_NET_F_HOST_TSO6,
    ecn: VIRTIO_NET_F_HOST_ECN,
    strict: true,
};

const TO_GUEST: Offload = Offload {
    checksum: VIRTIO_NET_F_GUEST_CSUM,
    tcp4: VIRTIO_NET_F_GUEST_TSO4,
    tcp6: VIRTIO_NET_F_GUEST_TSO6,
    ecn: VIRTIO_NET_F_GUEST_ECN,
    strict: false,
};

impl Offload {
    /// True when the segmentation that the packet asks for is negotiated, and describes the packet.
    fn segmentation_fits(&self, packet: &[u8], has: impl Fn(u32) -> bool) -> bool {
        let gso = packet[GSO_TYPE];
        let kind = match u32::from(gso & !GSO_ECN) {
            VIRTIO_NET_HDR_GSO_NONE => return gso == 0,
            VIRTIO_NET_HDR_GSO_TCPV4 => self.tcp4,
            VIRTIO_NET_HDR_GSO_TCPV6 => self.tcp6,
            _ => return false,
        };
        let ecn = gso & GSO_ECN == 0 || has(self.ecn);
        let checksum = !self.strict || packet[FLAGS] & NEEDS_CSUM != 0;
        has(kind) && ecn && checksum && field(packet, GSO_SIZE) != 0
    }
}

fn field(packet: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([packet[at], packet[at + 1]]))
}

/// Where the checksum is in the packet, if the header points inside the frame.
fn checksum_place(packet: &[u8]) -> Option<(usize, usize)> {
    let start = HEADER_SIZE + field(packet, CSUM_START);
    let at = start + field(packet, CSUM_OFFSET);
    (at + 2 <= packet.len()).then_some((start, at))
}

/// Checks and cleans the header of a packet that the guest sends; false when it has to be dropped.
/// `packet` has at least [`HEADER_SIZE`] bytes.
pub(super) fn admit_from_guest(packet: &mut [u8], has: impl Fn(u32) -> bool) -> bool {
    packet[FLAGS] &= NEEDS_CSUM;
    packet[NUM_BUFFERS..HEADER_SIZE].fill(0);
    let checksum = packet[FLAGS] & NEEDS_CSUM != 0;
    if checksum && (!has(TO_HOST.checksum) || checksum_place(packet).is_none()) {
        return false;
    }
    TO_HOST.segmentation_fits(packet, has)
}

/// Fits a packet from outside to what the guest negotiated; false when it has to be dropped.
/// `packet` has at least [`HEADER_SIZE`] bytes.
pub(super) fn admit_to_guest(packet: &mut [u8], has: impl Fn(u32) -> bool) -> bool {
    if !TO_GUEST.segmentation_fits(packet, &has) {
        return false;
    }
    if packet[FLAGS] & NEEDS_CSUM != 0 && checksum_place(packet).is_none() {
        return false;
    }
    if !has(TO_GUEST.checksum) {
        if packet[FLAGS] & NEEDS_CSUM != 0 {
            fill_checksum(packet);
        }
        packet[..NUM_BUFFERS].fill(0);
    }
    true
}

/// Completes a checksum that so far covers the pseudo header (RFC 1071).
fn fill_checksum(packet: &mut [u8]) {
    let Some((start, at)) = checksum_place(packet) else { return };
    let mut sum = 0u64;
    for pair in packet[start..].chunks(2) {
        let high = u64::from(pair[0]) << 8;
        sum += high + pair.get(1).map_or(0, |&low| u64::from(low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let folded = !u16::try_from(sum).unwrap_or(u16::MAX);
    // Zero means "no checksum" in UDP; its other representation says the same to TCP.
    let folded = if folded == 0 { 0xffff } else { folded };
    packet[at..at + 2].copy_from_slice(&folded.to_be_bytes());
}
