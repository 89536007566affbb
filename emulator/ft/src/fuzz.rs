//! Body of the fuzz target for the channel's decoder.

use crate::message::{Decoder, encode};

/// Bytes of any kind, in two pieces: they decode or they are refused, and what decodes encodes to the same bytes.
///
/// # Panics
/// When the decoder is broken.
pub fn messages(data: &[u8]) {
    let mut decoder = Decoder::default();
    let (first, second) = data.split_at(data.len() / 2);
    for piece in [first, second] {
        decoder.push(piece);
        while let Ok(Some((epoch, message))) = decoder.next_message() {
            let frame = encode(epoch, &message);
            let mut again = Decoder::default();
            again.push(&frame);
            assert_eq!(again.next_message(), Ok(Some((epoch, message))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    #[test]
    fn changed_frames_do_no_harm() {
        let frame = encode(9, &Message::Log { offset: 1, bytes: vec![5; 100] });
        for at in 0..frame.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = frame.clone();
                bad[at] = value;
                // With a checksum that fits again, the body itself is tried.
                let sum = crc32c::crc32c(&bad[8..]).to_le_bytes();
                bad[4..8].copy_from_slice(&sum);
                messages(&bad);
            }
        }
    }
}
