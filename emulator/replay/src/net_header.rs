//! The 12-byte header of a received packet in few bytes.
//!
//! A `virtio_net_hdr_v1` (virtio 1.2, 5.1.6) is mostly zeroes: a mask byte says which of its seven fields are not, and those
//! follow as integers. A mask of [`WHOLE`] says that the packet follows as it is: it is shorter than a header.

use crate::bytes::{BytesError, Cursor, put_bytes, put_integer};

/// Bytes of the header.
const HEADER: usize = 12;
/// Position and width of each field: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers.
const FIELDS: [(usize, usize); 7] = [(0, 1), (1, 1), (2, 2), (4, 2), (6, 2), (8, 2), (10, 2)];
/// Mask of a packet without a header of its own.
const WHOLE: u8 = 0x80;

/// Appends a packet.
pub fn put_packet(out: &mut Vec<u8>, packet: &[u8]) {
    let Some((header, frame)) = packet.split_first_chunk::<HEADER>() else {
        out.push(WHOLE);
        put_bytes(out, packet);
        return;
    };
    let value = |(at, width): (usize, usize)| {
        (0..width).fold(0, |value, byte| value | u64::from(header[at + byte]) << (8 * byte))
    };
    let mask =
        FIELDS.iter().enumerate().filter(|(_, field)| value(**field) != 0).fold(0, |mask, (bit, _)| mask | 1 << bit);
    out.push(mask);
    for field in FIELDS {
        if value(field) != 0 {
            put_integer(out, value(field));
        }
    }
    put_bytes(out, frame);
}

/// Reads a packet; `None` when a field does not fit.
pub fn take_packet(cursor: &mut Cursor<'_>) -> Result<Option<Vec<u8>>, BytesError> {
    let mask = cursor.byte()?;
    if mask == WHOLE {
        let packet = cursor.bytes()?;
        return Ok((packet.len() < HEADER).then(|| packet.to_vec()));
    }
    if mask & WHOLE != 0 {
        return Ok(None);
    }
    let mut header = [0; HEADER];
    for (bit, (at, width)) in FIELDS.into_iter().enumerate() {
        if mask & (1 << bit) == 0 {
            continue;
        }
        let value = cursor.integer()?;
        if value == 0 || value >> (8 * width) != 0 {
            return Ok(None);
        }
        header[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    }
    let frame = cursor.bytes()?;
    let mut packet = Vec::with_capacity(HEADER + frame.len());
    packet.extend_from_slice(&header);
    packet.extend_from_slice(frame);
    Ok(Some(packet))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(packet: &[u8]) -> usize {
        let mut out = Vec::new();
        put_packet(&mut out, packet);
        let mut cursor = Cursor::new(&out);
        assert_eq!(take_packet(&mut cursor), Ok(Some(packet.to_vec())));
        assert!(cursor.is_empty());
        out.len()
    }

    #[test]
    fn packets_come_back_and_plain_headers_cost_a_byte() {
        let mut packet = vec![0; 12 + 60];
        assert_eq!(round_trip(&packet), 1 + 1 + 60);
        packet[0] = 2;
        assert_eq!(round_trip(&packet), 1 + 1 + 1 + 60);
        packet[..12].copy_from_slice(&[1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 1, 0]);
        assert!(round_trip(&packet) <= 60 + 12);
        assert_eq!(round_trip(&[1, 2, 3]), 1 + 1 + 3);
        round_trip(&[]);
        round_trip(&[0xff; 12]);
    }

    #[test]
    fn impossible_headers_are_refused() {
        assert_eq!(take_packet(&mut Cursor::new(&[0x81, 0])), Ok(None));
        assert_eq!(take_packet(&mut Cursor::new(&[1, 0x80, 2, 0])), Ok(None), "flags have eight bits");
        assert_eq!(take_packet(&mut Cursor::new(&[1, 0, 0])), Ok(None), "a zero is not written");
        let mut whole = vec![WHOLE];
        put_bytes(&mut whole, &[0; 12]);
        assert_eq!(take_packet(&mut Cursor::new(&whole)), Ok(None));
    }
}
