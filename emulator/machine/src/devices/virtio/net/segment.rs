//! Segmentation of received TCP packets for guests that did not accept it as an offload.
//!
//! A host that offers the offload may merge segments before the guest's driver has said what it can take. They are
//! taken apart here: same headers, lengths and sequence numbers adjusted, checksums complete (RFC 791, 8200, 9293).

use super::HEADER_SIZE;
use super::packet::{GSO_SIZE, field, finish_sum, sum_words};

/// Most segments that one packet is taken apart into: 64 KiB in segments of 128 bytes.
const SEGMENT_LIMIT: usize = 512;

const ETHERNET: usize = 14;
const TYPE_VLAN: u16 = 0x8100;
const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_TCP: u8 = 6;
const IPV6_HEADER: usize = 40;
const TCP_MINIMUM: usize = 20;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// Where the headers of a frame are, as offsets in the frame.
struct Layout {
    ipv6: bool,
    /// Network header, TCP header, payload.
    network: usize,
    tcp: usize,
    payload: usize,
}

impl Layout {
    /// Finds TCP behind IPv4, or behind IPv6 without extension headers; `None` for anything else.
    fn of(frame: &[u8]) -> Option<Self> {
        let mut network = ETHERNET;
        let mut kind = word(frame, 12)?;
        if kind == TYPE_VLAN {
            kind = word(frame, 16)?;
            network += 4;
        }
        let (ipv6, protocol, tcp) = match kind {
            TYPE_IPV4 => {
                let length = usize::from(frame.get(network)? & 0xf) * 4;
                (false, *frame.get(network + 9)?, network + length.max(20))
            }
            TYPE_IPV6 => (true, *frame.get(network + 6)?, network + IPV6_HEADER),
            _ => return None,
        };
        let length = usize::from(frame.get(tcp + 12)? >> 4) * 4;
        let payload = tcp + length;
        let fits = protocol == PROTOCOL_TCP && length >= TCP_MINIMUM && payload < frame.len();
        fits.then_some(Self { ipv6, network, tcp, payload })
    }
}

/// Takes a packet with its header apart into packets whose headers ask for nothing; `None` when it is not TCP, or
/// would become too many.
pub(super) fn segments(packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let frame = packet.get(HEADER_SIZE..)?;
    let size = field(packet, GSO_SIZE);
    let layout = Layout::of(frame)?;
    let (headers, payload) = frame.split_at(layout.payload);
    if size == 0 || payload.len().div_ceil(size) > SEGMENT_LIMIT {
        return None;
    }
    let last = payload.len().div_ceil(size) - 1;
    let segment = |(index, chunk): (usize, &[u8])| {
        let mut bytes = vec![0; HEADER_SIZE];
        bytes.extend_from_slice(headers);
        bytes.extend_from_slice(chunk);
        let place = (index, index * size, index == last);
        adjust(&mut bytes[HEADER_SIZE..], &layout, place)?;
        Some(bytes)
    };
    payload.chunks(size).enumerate().map(segment).collect()
}

/// Makes the headers fit the segment at `place`: its number, its offset in the payload, and whether it is the last.
fn adjust(frame: &mut [u8], layout: &Layout, place: (usize, usize, bool)) -> Option<()> {
    let (index, offset, last) = place;
    let network = layout.network;
    let length = frame.len() - network;
    if layout.ipv6 {
        put(frame, network + 4, u16::try_from(length - IPV6_HEADER).ok()?);
    } else {
        put(frame, network + 2, u16::try_from(length).ok()?);
        let id = word(frame, network + 4)?.wrapping_add(u16::try_from(index).ok()?);
        put(frame, network + 4, id);
        put(frame, network + 10, 0);
        let sum = finish_sum(sum_words(&frame[network..layout.tcp]));
        put(frame, network + 10, sum);
    }
    let tcp = layout.tcp;
    let (high, low) = (word(frame, tcp + 4)?, word(frame, tcp + 6)?);
    let sequence = (u32::from(high) << 16) | u32::from(low);
    let sequence = sequence.wrapping_add(u32::try_from(offset).ok()?);
    frame[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
    if !last {
        frame[tcp + 13] &= !(TCP_FIN | TCP_PSH);
    }
    if index > 0 {
        frame[tcp + 13] &= !TCP_CWR;
    }
    put(frame, tcp + 16, 0);
    let addresses = if layout.ipv6 { network + 8..network + 40 } else { network + 12..network + 20 };
    let pseudo = sum_words(&frame[addresses]) + u64::from(PROTOCOL_TCP) + (frame.len() - tcp) as u64;
    let sum = finish_sum(pseudo + sum_words(&frame[tcp..]));
    put(frame, tcp + 16, sum);
    Some(())
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
