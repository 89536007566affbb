//! Bodies of the fuzz targets, with what they check; `cargo test` runs them on seeded input.

use crate::frame::{FrameBuffer, MAX_FRAME_BYTES};
use crate::pair;
use crate::remote::{PROCEDURES, RoundTrip, round_trip};

/// A stream of bytes, read in pieces: the frames are the same however it is cut.
pub fn frames(data: &[u8]) {
    let whole = cut(data, data.len().max(1));
    let pieces = cut(data, usize::from(data.first().copied().unwrap_or(1)).max(1));
    assert_eq!(whole, pieces);
}

fn cut(data: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut buffer = FrameBuffer::default();
    let mut seen = Vec::new();
    for part in data.chunks(piece) {
        buffer.extend(part);
        loop {
            match buffer.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.bytes().len() <= MAX_FRAME_BYTES);
                    let again = frame.header.frame(frame.payload()).expect("what came can be sent");
                    assert_eq!(again, frame);
                    seen.push(frame.bytes().to_vec());
                }
                Ok(None) => break,
                Err(_) => return (seen, false),
            }
        }
    }
    (seen, true)
}

/// Arguments, replies and messages of every procedure and event: what can be decoded is the same after it was encoded and
/// decoded once more.
pub fn payloads(data: &[u8]) {
    for row in PROCEDURES {
        payload(row.number, data, round_trip);
    }
    for row in pair::PROCEDURES {
        payload(row.number, data, pair::round_trip);
    }
    for event in [318, 319, 331, 362, 379] {
        payload(event, data, round_trip);
    }
    if let Ok(error) = crate::from_bytes::<crate::RemoteError>(data) {
        assert_eq!(crate::from_bytes(&crate::to_bytes(&error)), Ok(error));
    }
}

fn payload(number: i32, data: &[u8], table: fn(i32, &[u8]) -> Option<RoundTrip>) {
    let first = table(number, data).expect("it is in the table");
    let RoundTrip { args, reply } = &first;
    for (bytes, is_reply) in [(args, false), (reply, true)] {
        let Some(bytes) = bytes else { continue };
        // Flags and padding may differ from the input, which is why its own encoding is what has to be stable.
        assert!(bytes.len() <= data.len(), "procedure {number} grew");
        let second = table(number, bytes).expect("it is in the table");
        assert_eq!(if is_reply { second.reply.as_ref() } else { second.args.as_ref() }, Some(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator that needs no crate: xorshift.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, limit: u64) -> u8 {
            u8::try_from(self.next() % limit.min(256)).unwrap()
        }
    }

    /// Mostly zeros and small numbers: lengths and flags that make sense lead further than noise.
    fn words(random: &mut Random, count: usize) -> Vec<u8> {
        let mut data = Vec::new();
        for _ in 0..count {
            let word = match random.below(8) {
                0..=2 => [0, 0, 0, 0],
                3..=5 => [0, 0, 0, random.below(9)],
                6 => [random.below(256), random.below(256), random.below(256), random.below(256)],
                _ => *b"abcd",
            };
            data.extend_from_slice(&word);
        }
        data
    }

    #[test]
    fn payloads_of_any_content() {
        let mut random = Random(0x5eed);
        for round in 0..3000 {
            let mut data = words(&mut random, round % 40);
            data.truncate(data.len().saturating_sub(usize::from(random.below(4) / 3)));
            payloads(&data);
        }
    }

    #[test]
    fn frames_of_any_content() {
        let mut random = Random(0xf4a3e);
        for round in 0..3000 {
            let mut data = Vec::new();
            for _ in 0..random.below(5) {
                let count = usize::from(random.below(10));
                let payload = words(&mut random, count);
                let mut bytes = crate::keepalive::header(1).frame(&payload).unwrap().bytes().to_vec();
                if random.below(3) == 0 {
                    let at = usize::from(random.below(28));
                    bytes[at] ^= 1 << random.below(8);
                }
                data.extend_from_slice(&bytes);
            }
            data.extend(words(&mut random, round % 3));
            frames(&data);
        }
    }
}
