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
/// Offset of the size of a segment's payload.
pub(super) const GSO_SIZE: usize = 4;
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

/// A 16-bit field of the header.
pub(super) fn field(packet: &[u8], at: usize) -> usize {
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

/// What becomes of a packet from outside.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It fits what the guest negotiated.
    Whole,
    /// The guest cannot take it in one piece.
    InSegments,
    /// Its header makes no sense.
    Dropped,
}

/// Fits a packet from outside to what the guest negotiated. `packet` has at least [`HEADER_SIZE`] bytes.
pub(super) fn admit_to_guest(packet: &mut [u8], has: impl Fn(u32) -> bool) -> Admission {
    if packet[FLAGS] & NEEDS_CSUM != 0 && checksum_place(packet).is_none() {
        return Admission::Dropped;
    }
    if !TO_GUEST.segmentation_fits(packet, &has) {
        return Admission::InSegments;
    }
    if !has(TO_GUEST.checksum) {
        if packet[FLAGS] & NEEDS_CSUM != 0 {
            fill_checksum(packet);
        }
        packet[..NUM_BUFFERS].fill(0);
    }
    Admission::Whole
}

/// Completes a checksum that so far covers the pseudo header.
fn fill_checksum(packet: &mut [u8]) {
    let Some((start, at)) = checksum_place(packet) else { return };
    let sum = finish_sum(sum_words(&packet[start..]));
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Sum of big-endian 16-bit words; an odd byte at the end counts as the upper half of one (RFC 1071).
pub(super) fn sum_words(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let sum: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
    sum + rest.first().map_or(0, |&byte| u64::from(byte) << 8)
}

/// The checksum for a sum. Zero means "no checksum" in UDP; its other representation says the same to everyone.
pub(super) fn finish_sum(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let folded = !u16::try_from(sum).unwrap_or(u16::MAX);
    if folded == 0 { 0xffff } else { folded }
}
