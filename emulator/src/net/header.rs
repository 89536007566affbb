//! The `virtio_net_hdr_v1` in front of every frame (virtio 1.2, section 5.1.6), and the checksums it defers.

/// Length of the header.
pub const HEADER_BYTES: usize = 12;

/// Flag: the frame's checksum is not finished.
pub const NEEDS_CHECKSUM: u8 = 1;
/// Flag: the frame's checksum was verified.
pub const DATA_VALID: u8 = 2;

const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Explicit congestion notification bit of the segmentation type.
const GSO_ECN: u8 = 0x80;

/// What a header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetHeader {
    /// Flags: [`NEEDS_CHECKSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// Kind of segmentation, without the ECN bit; 0 for none.
    pub gso_type: u8,
    /// Length of the headers that each segment gets; a hint.
    pub header_length: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where checksumming starts, from the frame's first byte.
    pub checksum_start: u16,
    /// Where the checksum is, from `checksum_start`.
    pub checksum_offset: u16,
}

impl NetHeader {
    /// Splits a packet into its header and the frame. `None` when it is too short for both.
    #[must_use]
    pub fn split(packet: &[u8]) -> Option<(Self, &[u8])> {
        let (head, frame) = packet.split_at_checked(HEADER_BYTES)?;
        let word = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let header = Self {
            flags: head[0],
            gso_type: head[1] & !GSO_ECN,
            header_length: word(2),
            gso_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        };
        (frame.len() >= 14).then_some((header, frame))
    }

    /// Whether the frame is to be cut into TCP segments.
    #[must_use]
    pub fn is_tcp_gso(&self) -> bool {
        self.gso_type == GSO_TCPV4 || self.gso_type == GSO_TCPV6
    }
}

/// The header of a received frame: `valid` says that its checksum was verified here. One buffer.
#[must_use]
pub fn receive_header(valid: bool) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0] = if valid { DATA_VALID } else { 0 };
    header[10] = 1;
    header
}

/// Sums 16-bit words as the internet checksum does (RFC 1071), folded but not inverted.
#[must_use]
pub fn ones_sum(bytes: &[u8], start: u32) -> u32 {
    let mut sum = u64::from(start);
    let mut chunks = bytes.chunks_exact(2);
    for pair in &mut chunks {
        sum += u64::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    if let [last] = chunks.remainder() {
        sum += u64::from(*last) << 8;
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u32::try_from(sum).unwrap_or(0)
}

/// The checksum to be written for a folded sum: never zero on the wire, which UDP takes for "none".
#[must_use]
pub fn finish_sum(sum: u32) -> u16 {
    match !u16::try_from(sum & 0xffff).unwrap_or(0) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Finishes the checksum of `frame` as its header asks. Returns false when the header points outside.
#[must_use]
pub fn complete_checksum(header: &NetHeader, frame: &mut [u8]) -> bool {
    if header.flags & NEEDS_CHECKSUM == 0 {
        return true;
    }
    let start = usize::from(header.checksum_start);
    let field = start + usize::from(header.checksum_offset);
    if start >= frame.len() || field + 2 > frame.len() {
        return false;
    }
    // The guest left the pseudo header's sum in the field, so it takes part.
    let checksum = finish_sum(ones_sum(&frame[start..], 0));
    frame[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    true
}

/// Whether `frame` is plain TCP or UDP over IP whose checksum is right, so that the guest need not look.
#[must_use]
pub fn checksum_is_valid(frame: &[u8]) -> bool {
    let Some(ip) = frame.get(14..) else { return false };
    match frame.get(12..14) {
        Some([0x08, 0x00]) => ipv4_is_valid(ip),
        Some([0x86, 0xdd]) => ipv6_is_valid(ip),
        _ => false,
    }
}

fn ipv4_is_valid(ip: &[u8]) -> bool {
    if ip.len() < 20 || ip[0] >> 4 != 4 {
        return false;
    }
    let header_bytes = usize::from(ip[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
    if header_bytes < 20 || fragment != 0 {
        return false;
    }
    let Some(segment) = ip.get(header_bytes..total) else { return false };
    transport_is_valid(&ip[12..20], ip[9], segment)
}

fn ipv6_is_valid(ip: &[u8]) -> bool {
    if ip.len() < 40 || ip[0] >> 4 != 6 {
        return false;
    }
    let payload = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let Some(segment) = ip.get(40..40 + payload) else { return false };
    transport_is_valid(&ip[8..40], ip[6], segment)
}

fn transport_is_valid(addresses: &[u8], protocol: u8, segment: &[u8]) -> bool {
    let minimum = match protocol {
        6 => 20,
        17 => 8,
        _ => return false,
    };
    let Ok(length) = u32::try_from(segment.len()) else { return false };
    if segment.len() < minimum || (protocol == 17 && segment[6..8] == [0, 0]) {
        return false;
    }
    let pseudo = ones_sum(addresses, u32::from(protocol) + length);
    ones_sum(segment, pseudo) == 0xffff
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A UDP frame over IPv4 with `payload`; the checksum is that of the pseudo header, as guests leave it.
    pub fn udp_frame(payload: &[u8]) -> (NetHeader, Vec<u8>) {
        let udp_length = u16::try_from(8 + payload.len()).unwrap();
        let mut frame = vec![0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 8, 0];
        frame.extend([0x45, 0]);
        frame.extend((20 + udp_length).to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x12, 0x34, 0, 53]);
        frame.extend(udp_length.to_be_bytes());
        let pseudo = ones_sum(&[10, 0, 0, 1, 10, 0, 0, 2], 17 + u32::from(udp_length));
        frame.extend(u16::try_from(pseudo).unwrap().to_be_bytes());
        frame.extend(payload);
        let header = NetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: 0,
            header_length: 0,
            gso_size: 0,
            checksum_start: 34,
            checksum_offset: 6,
        };
        (header, frame)
    }

    #[test]
    fn a_completed_checksum_is_valid() {
        for length in [0, 1, 2, 3, 100, 1471] {
            let (header, mut frame) = udp_frame(&vec![0xa7; length]);
            assert!(!checksum_is_valid(&frame) || length == 0);
            assert!(complete_checksum(&header, &mut frame));
            assert!(checksum_is_valid(&frame));
            frame[40 - length % 2] ^= 1;
            assert!(!checksum_is_valid(&frame));
        }
    }

    #[test]
    fn known_sum_of_rfc_1071() {
        assert_eq!(ones_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0), 0xddf2);
    }

    #[test]
    fn hostile_headers_and_frames_are_harmless() {
        let (mut header, mut frame) = udp_frame(b"x");
        header.checksum_start = 60_000;
        assert!(!complete_checksum(&header, &mut frame));
        header.checksum_start = u16::MAX;
        header.checksum_offset = u16::MAX;
        assert!(!complete_checksum(&header, &mut frame));
        for length in 0..frame.len() {
            let _ = checksum_is_valid(&frame[..length]);
            assert!(!checksum_is_valid(&frame[..length]));
        }
        assert_eq!(NetHeader::split(&[0; 25]), None);
    }
}
