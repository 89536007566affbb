//! A backup's own copies of outputs that its primary may not have released, and the end of what consoles have shown.

use std::collections::{BTreeMap, VecDeque};

use virtft_machine::io::{CharPort, Output};

/// Bytes kept. A primary tells what it has released many times a second, so only what waits for acknowledgements is here.
const LIMIT: usize = 64 << 20;
/// Bytes of a console's past.
const SCROLLBACK: usize = 64 << 10;

/// Outputs by number, counted from the beginning of the log.
#[derive(Debug, Default)]
pub struct Retained {
    outputs: VecDeque<Kept>,
    /// Number of the first one kept.
    first: u64,
    /// Outputs below this number have left the primary.
    forgotten: u64,
    bytes: usize,
    lost: u64,
    scrollback: BTreeMap<CharPort, VecDeque<u8>>,
}

/// An output that is kept.
#[derive(Debug)]
enum Kept {
    /// To be emitted when this host takes over.
    Output(Output),
    /// A request to a shared disk: the machine itself says which of them are to be made again.
    DiskRequest,
}

fn size(output: &Output) -> usize {
    match output {
        Output::NetTransmit { packet, .. } => packet.len(),
        Output::CharTransmit { data, .. } => data.len(),
        Output::Block { .. } | Output::BalloonInflate { .. } => 0,
    }
}

impl Retained {
    /// The replayed machine emitted its next output.
    pub fn add(&mut self, output: Output) {
        self.bytes += size(&output);
        self.outputs.push_back(match output {
            Output::Block { .. } => Kept::DiskRequest,
            output => Kept::Output(output),
        });
        self.trim();
    }

    /// Outputs below `number` have left the primary.
    pub fn forget(&mut self, number: u64) {
        self.forgotten = self.forgotten.max(number);
        self.trim();
    }

    /// Everything that may not have left, in order, and how many more there were than could be kept.
    pub fn take(&mut self) -> (Vec<Output>, u64) {
        self.bytes = 0;
        self.first += self.outputs.len() as u64;
        let outputs = self.outputs.drain(..).filter_map(|kept| match kept {
            Kept::Output(output) => Some(output),
            Kept::DiskRequest => None,
        });
        (outputs.collect(), std::mem::take(&mut self.lost))
    }

    fn trim(&mut self) {
        while self.first < self.forgotten || self.bytes > LIMIT {
            let Some(kept) = self.outputs.pop_front() else { return };
            self.first += 1;
            let Kept::Output(output) = kept else { continue };
            self.lost += u64::from(self.first > self.forgotten);
            self.bytes -= size(&output);
            if let Output::CharTransmit { port, data } = output {
                let past = self.scrollback.entry(port).or_default();
                past.extend(data);
                let old = past.len().saturating_sub(SCROLLBACK);
                past.drain(..old);
            }
        }
    }

    /// The last 64 KiB that each console has shown elsewhere.
    pub fn take_scrollback(&mut self) -> Vec<Output> {
        let pasts = std::mem::take(&mut self.scrollback).into_iter();
        pasts.map(|(port, past)| Output::CharTransmit { port, data: past.into() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(byte: u8) -> Output {
        Output::CharTransmit { port: CharPort::Serial(0), data: vec![byte] }
    }

    #[test]
    fn what_has_left_is_forgotten_also_before_it_is_replayed() {
        let mut retained = Retained::default();
        (0..3).for_each(|byte| retained.add(output(byte)));
        retained.forget(2);
        retained.forget(1);
        retained.add(output(3));
        assert_eq!(retained.take(), (vec![output(2), output(3)], 0));
        // The replay is behind what the primary tells.
        retained.forget(6);
        (4..8).for_each(|byte| retained.add(output(byte)));
        assert_eq!(retained.take(), (vec![output(6), output(7)], 0));
        // A disk request has its number like any other.
        retained.add(Output::Block {
            device: virtft_machine::io::DeviceIndex(0),
            request: virtft_machine::io::RequestId(1),
            operation: virtft_machine::io::BlockOperation::Flush,
        });
        retained.add(output(9));
        assert_eq!(retained.take(), (vec![output(9)], 0));
        let past = Output::CharTransmit { port: CharPort::Serial(0), data: vec![0, 1, 4, 5] };
        assert_eq!(retained.take_scrollback(), [past]);
    }
}
