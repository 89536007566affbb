//! Cuts a large TCP packet into segments, for backends whose wire has no segmentation offload.
//!
//! A guest that may leave segmentation to the device runs its network stack once for 64 KiB instead of once
//! for 1460 bytes, which is worth much on an emulated processor.

use super::header::{NetHeader, finish_sum, ones_sum};

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// Where the headers of a frame are.
struct Layout {
    ip: usize,
    is_v6: bool,
    tcp: usize,
    payload: usize,
}

/// Cuts `frame` as `header` asks and hands each finished segment to `emit`. Returns false, having emitted
/// nothing, when header and frame do not fit together.
#[must_use]
pub fn segment_tcp(header: &NetHeader, frame: &[u8], mut emit: impl FnMut(&[u8])) -> bool {
    let size = usize::from(header.gso_size);
    let Some(layout) = find_headers(frame).filter(|_| size > 0) else { return false };
    let (head, payload) = frame.split_at(layout.payload);
    let count = payload.len().div_ceil(size);
    let mut segment = Vec::with_capacity(head.len() + size);
    for (index, chunk) in payload.chunks(size).enumerate() {
        segment.clear();
        segment.extend_from_slice(head);
        segment.extend_from_slice(chunk);
        fix_ip(&mut segment, &layout, index);
        fix_tcp(&mut segment, &layout, index * size, index == 0, index + 1 == count);
        emit(&segment);
    }
    true
}

fn find_headers(frame: &[u8]) -> Option<Layout> {
    let ip = 14;
    let (is_v6, tcp) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let first = *frame.get(ip)?;
            let header_bytes = usize::from(first & 15) * 4;
            if first >> 4 != 4 || header_bytes < 20 || *frame.get(ip + 9)? != 6 {
                return None;
            }
            (false, ip + header_bytes)
        }
        [0x86, 0xdd] if *frame.get(ip)? >> 4 == 6 && *frame.get(ip + 6)? == 6 => (true, ip + 40),
        _ => return None,
    };
    let tcp_bytes = usize::from(*frame.get(tcp + 12)? >> 4) * 4;
    let payload = tcp + tcp_bytes;
    (tcp_bytes >= 20 && payload < frame.len()).then_some(Layout { ip, is_v6, tcp, payload })
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Sets length, identification and header checksum.
fn fix_ip(segment: &mut [u8], layout: &Layout, index: usize) {
    let ip = layout.ip;
    if layout.is_v6 {
        let payload = u16::try_from(segment.len() - ip - 40).unwrap_or(u16::MAX);
        put16(segment, ip + 4, payload);
        return;
    }
    put16(segment, ip + 2, u16::try_from(segment.len() - ip).unwrap_or(u16::MAX));
    let step = u16::try_from(index & 0xffff).unwrap_or(0);
    let identification = get16(segment, ip + 4).wrapping_add(step);
    put16(segment, ip + 4, identification);
    put16(segment, ip + 10, 0);
    let checksum = !u16::try_from(ones_sum(&segment[ip..layout.tcp], 0)).unwrap_or(0);
    put16(segment, ip + 10, checksum);
}

/// Sets sequence number, flags and checksum: PSH and FIN belong to the last segment, CWR to the first.
fn fix_tcp(segment: &mut [u8], layout: &Layout, offset: usize, first: bool, last: bool) {
    let tcp = layout.tcp;
    let sequence = segment[tcp + 4..tcp + 8].iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
    let sequence = sequence.wrapping_add(u32::try_from(offset).unwrap_or(0));
    segment[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
    if !last {
        segment[tcp + 13] &= !(TCP_FIN | TCP_PSH);
    }
    if !first {
        segment[tcp + 13] &= !TCP_CWR;
    }
    put16(segment, tcp + 16, 0);
    let addresses = if layout.is_v6 { layout.ip + 8..layout.ip + 40 } else { layout.ip + 12..layout.ip + 20 };
    let length = u32::try_from(segment.len() - tcp).unwrap_or(0);
    let pseudo = ones_sum(&segment[addresses], 6 + length);
    let checksum = finish_sum(ones_sum(&segment[tcp..], pseudo));
    put16(segment, tcp + 16, checksum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::header::checksum_is_valid;

    fn tcp_frame(is_v6: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        let length = u16::try_from(20 + payload.len()).unwrap();
        if is_v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([6, 64]);
            frame.extend([0xfd; 32]);
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((length + 20).to_be_bytes());
            frame.extend([0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        frame.extend([0, 22, 0, 80, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0x50, 0x99, 1, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    fn gso(size: u16) -> NetHeader {
        NetHeader { flags: 1, gso_type: 1, header_length: 54, gso_size: size, checksum_start: 34, checksum_offset: 16 }
    }

    #[test]
    fn segments_carry_the_payload_with_right_checksums() {
        let payload: Vec<u8> = (0..5000_u32).map(|i| u8::try_from(i % 256).unwrap()).collect();
        for is_v6 in [false, true] {
            let frame = tcp_frame(is_v6, &payload);
            let head = frame.len() - payload.len();
            let mut segments = Vec::new();
            assert!(segment_tcp(&gso(1460), &frame, |segment| segments.push(segment.to_vec())));
            assert_eq!(segments.len(), 4);
            let joined: Vec<u8> = segments.iter().flat_map(|segment| segment[head..].to_vec()).collect();
            assert_eq!(joined, payload);
            for (index, segment) in segments.iter().enumerate() {
                assert!(checksum_is_valid(segment), "segment {index}");
                let flags = segment[head - 7];
                assert_eq!(flags & (TCP_FIN | TCP_PSH) != 0, index == 3);
                assert_eq!(flags & TCP_CWR != 0, index == 0);
                let sequence = u32::from_be_bytes(segment[head - 16..head - 12].try_into().unwrap());
                assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(u32::try_from(index).unwrap() * 1460));
            }
        }
    }

    #[test]
    fn misfits_are_refused() {
        let frame = tcp_frame(false, &[1; 100]);
        assert!(!segment_tcp(&gso(0), &frame, |_| panic!("nothing to emit")));
        for length in 0..frame.len() - 99 {
            assert!(!segment_tcp(&gso(10), &frame[..length], |_| panic!("nothing to emit")));
        }
        let mut udp = frame;
        udp[23] = 17;
        assert!(!segment_tcp(&gso(10), &udp, |_| panic!("nothing to emit")));
    }
}
