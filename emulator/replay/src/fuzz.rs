//! Bodies of the fuzz targets, and samples of entries for them and for the tests.

use virtft_machine::io::{BlockStatus, CharPort, ClockAnchor, DeviceIndex, Input, InstructionCount, RequestId};
use virtft_machine::machine::StateDigest;

use crate::entry::{EndReason, LogEntry};
use crate::entry_decode::EntryDecoder;
use crate::entry_encode::EntryEncoder;
use crate::frame::Frame;
use crate::header::LogHeader;
use crate::reader::LogReader;
use crate::snapshot::SnapshotPart;

/// One or more entries of every kind.
#[must_use]
pub fn sample_entries() -> Vec<LogEntry> {
    let device = DeviceIndex(1);
    let far = DeviceIndex(200);
    let anchor = |time_ns, rate| Input::ClockAnchor(ClockAnchor { time_ns, rate });
    let inputs = [
        Input::RtcOrigin { unix_ns: 1 << 60 },
        Input::EntropySeed([9; 32]),
        anchor(5, 10 << 32),
        anchor(10_000, u64::MAX),
        anchor(u64::MAX, 1),
        Input::NetLink { device, up: true },
        Input::NetLink { device: far, up: false },
        Input::NetReceive { device, packet: (0..80).collect() },
        Input::NetReceive { device: far, packet: vec![1] },
        Input::BlockCompletion { device, request: RequestId(77), status: BlockStatus::Ok, data: vec![3; 700] },
        Input::BlockCompletion {
            device: far,
            request: RequestId(u64::MAX),
            status: BlockStatus::IoError,
            data: vec![],
        },
        Input::CharReceive { port: CharPort::Serial(1), data: b"ls\n".to_vec() },
        Input::CharReceive { port: CharPort::Console(3), data: vec![] },
        Input::Keyboard { scancodes: vec![0x1e, 0x9e] },
        Input::BalloonTarget { pages: u32::MAX },
        Input::PowerButton,
        Input::Reset,
        Input::Nmi,
    ];
    let (request, status) = (RequestId(5), BlockStatus::Unsupported);
    let mut entries: Vec<LogEntry> = inputs.into_iter().map(LogEntry::Input).collect();
    entries.extend([
        LogEntry::BlockReference { device, request, status, length: u32::MAX, crc: 0xdead_beef },
        LogEntry::Mark,
        LogEntry::StateDigest { state: StateDigest(u128::MAX - 7), outputs: 8 },
        LogEntry::MemoryDigest(StateDigest(1)),
        LogEntry::Snapshot(3),
        LogEntry::End(EndReason::TripleFault),
        LogEntry::End(EndReason::Stopped),
        LogEntry::End(EndReason::Off { status: 0x21 }),
    ]);
    entries
}

/// Any bytes as the payload of entries: what is understood encodes to entries that are understood the same way.
///
/// # Panics
/// On a defect.
pub fn entries(bytes: &[u8]) {
    let Ok(mut decoder) = EntryDecoder::new(bytes, 0) else { return };
    let mut decoded = Vec::new();
    while let Ok(Some(entry)) = decoder.next() {
        decoded.push(entry);
    }
    let Some(first) = decoded.first() else { return };
    let mut encoder = EntryEncoder::new(first.count);
    for entry in &decoded {
        encoder.put(entry.count, &entry.entry);
    }
    let payload = encoder.finish();
    let mut again = EntryDecoder::new(&payload, 0).expect("our own payload");
    for entry in decoded {
        assert_eq!(again.next(), Ok(Some(entry)));
    }
}

/// Any bytes as frames, as a header and as a part of a snapshot.
///
/// # Panics
/// On a defect.
pub fn frames(mut bytes: &[u8]) {
    let _ = LogHeader::from_bytes(bytes);
    if let Ok(part) = SnapshotPart::from_bytes(bytes) {
        let again = SnapshotPart::from_bytes(&part.to_bytes());
        assert_eq!(again.as_ref(), Ok(&part));
    }
    while let Ok(Some(frame)) = Frame::read(&mut bytes) {
        let copy = Frame::read(&mut frame.to_bytes(true).as_slice()).expect("our own frame");
        assert_eq!(copy, Some(frame));
    }
}

/// Any bytes as a log. They are framed first, for hardly any input would pass the checksums otherwise.
pub fn log(bytes: &[u8]) {
    let mut plain = Vec::from(bytes);
    read(&plain);
    let mut framed = Vec::from(crate::header::LOG_MAGIC);
    framed.extend(crate::header::FORMAT_VERSION.to_le_bytes());
    while let Some((&length, rest)) = plain.split_first() {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(length)));
        use crate::frame::FrameKind::{Entries, File, Header, Snapshot};
        let kind =
            if framed.len() == 12 { Header } else { [Entries, File, Snapshot, Entries][usize::from(length & 3)] };
        framed.extend(Frame { kind, epoch: 0, sequence: 0, payload: payload.to_vec() }.to_bytes(false));
        plain = rest.to_vec();
    }
    read(&framed);
}

fn read(bytes: &[u8]) {
    let Ok(mut reader) = LogReader::new(bytes) else { return };
    while let Ok(Some(_)) = reader.next() {}
    let _ = InstructionCount(reader.bytes_read());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator that is the same everywhere; the fuzz targets do the same with more patience.
    fn bytes(seed: u64, length: u64) -> Vec<u8> {
        (0..length).map(|at| xxhash_rust::xxh3::xxh3_64_with_seed(&at.to_le_bytes(), seed).to_le_bytes()[0]).collect()
    }

    #[test]
    fn random_and_damaged_bytes_are_survived() {
        let mut encoder = EntryEncoder::new(InstructionCount(0));
        for (count, entry) in (0..).zip(sample_entries()) {
            encoder.put(InstructionCount(count), &entry);
        }
        let payload = encoder.finish();
        for seed in 0..2000 {
            let random = bytes(seed, seed % 97);
            entries(&random);
            frames(&random);
            log(&random);
            let mut damaged = payload.clone();
            let noise = bytes(seed, 4);
            let at = (usize::from(noise[0]) << 8 | usize::from(noise[1])) % damaged.len();
            damaged[at] ^= noise[2] | 1;
            entries(&damaged);
        }
    }
}
