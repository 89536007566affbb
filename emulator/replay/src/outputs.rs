//! A running digest of all that a machine sent out.
//!
//! Each output is hashed, with its position, into the digest of those before it. So two runs with the same digest sent the
//! same things at the same positions in the same order, and the digest's own state is its value.

use virtft_machine::io::{BlockOperation, CharPort, InstructionCount, Output};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// See the module's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputDigest(pub u64);

impl OutputDigest {
    /// Adds an output that was emitted at `count`.
    pub fn add(&mut self, count: InstructionCount, output: &Output) {
        let none: &[u8] = &[];
        let (what, words, data): (u64, [u64; 3], &[u8]) = match output {
            Output::NetTransmit { device, packet } => (0, [device.0.into(), 0, 0], packet),
            Output::CharTransmit { port, data } => (1, [code(*port), 0, 0], data),
            Output::BalloonInflate { frames } => {
                let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
                return self.mix(count, 2, [0; 3], &bytes);
            }
            Output::Block { device, request, operation } => {
                let (kind, offset, length, data) = match operation {
                    BlockOperation::Read { offset, length } => (3, *offset, u64::from(*length), none),
                    BlockOperation::Write { offset, data } => (4, *offset, 0, data.as_slice()),
                    BlockOperation::Flush => (5, 0, 0, none),
                    BlockOperation::Discard { offset, length } => (6, *offset, *length, none),
                    BlockOperation::WriteZeroes { offset, length, unmap } => {
                        (7 + u64::from(*unmap), *offset, *length, none)
                    }
                };
                (kind | u64::from(device.0) << 8, [request.0, offset, length], data)
            }
        };
        self.mix(count, what, words, data);
    }

    fn mix(&mut self, count: InstructionCount, what: u64, words: [u64; 3], data: &[u8]) {
        let head = [count.0, what, words[0], words[1], words[2], data.len() as u64];
        let mut bytes = [0; 48];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(head) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        self.0 = xxh3_64_with_seed(data, xxh3_64_with_seed(&bytes, self.0));
    }
}

fn code(port: CharPort) -> u64 {
    match port {
        CharPort::Serial(index) => u64::from(index),
        CharPort::Console(index) => 0x100 | u64::from(index),
        CharPort::DebugCon => 0x200,
    }
}

#[cfg(test)]
mod tests {
    use virtft_machine::io::{DeviceIndex, RequestId};

    use super::*;

    #[test]
    fn content_order_and_position_all_count() {
        let packet = Output::NetTransmit { device: DeviceIndex(0), packet: vec![1, 2, 3] };
        let text = Output::CharTransmit { port: CharPort::Serial(0), data: vec![1, 2, 3] };
        let read = Output::Block {
            device: DeviceIndex(0),
            request: RequestId(1),
            operation: BlockOperation::Read { offset: 512, length: 512 },
        };
        let digest = |outputs: &[(u64, &Output)]| {
            let mut digest = OutputDigest::default();
            for (count, output) in outputs {
                digest.add(InstructionCount(*count), output);
            }
            digest.0
        };
        let all = [
            digest(&[(1, &packet), (2, &text), (3, &read)]),
            digest(&[(2, &packet), (2, &text), (3, &read)]),
            digest(&[(1, &text), (2, &packet), (3, &read)]),
            digest(&[(1, &packet), (2, &text)]),
            digest(&[]),
        ];
        let distinct: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
