//! Whole machines, recorded and replayed in memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod guest;
mod record;

use virtft_machine::Machine;
use virtft_machine::io::{CharPort, Input, InstructionCount, Output};
use virtft_machine::machine::StateDigest;
use virtft_replay::outputs::OutputDigest;
use virtft_replay::reader::{Ending, LogItem};
use virtft_replay::recorder::RecorderOptions;
use virtft_replay::replayer::Difference;
use virtft_replay::snapshot::SnapshotPart;
use virtft_replay::{Divergence, EndReason, LogEntry, LogError, LogReader, Positioned, Replayer, Step, diff};

use record::{Recording, record};

/// What a replayed run came to.
#[derive(Debug, PartialEq, Eq)]
struct Replayed {
    text: Vec<u8>,
    digests: u64,
    end: Option<EndReason>,
    state: StateDigest,
}

fn entries(log: &[u8]) -> Vec<Positioned> {
    let mut reader = LogReader::new(log).unwrap();
    let mut entries = Vec::new();
    while let Some(item) = reader.next().unwrap() {
        if let LogItem::Entry(entry, _) = item {
            entries.push(entry);
        }
    }
    entries
}

/// Applies entries to a machine, in slices.
fn apply(
    machine: &mut Machine,
    mut replayer: Replayer,
    entries: impl IntoIterator<Item = Positioned>,
    slice: u64,
) -> Result<Replayed, Box<Divergence>> {
    let mut entries = entries.into_iter();
    let (mut text, mut end) = (Vec::new(), None);
    while end.is_none() {
        let until = InstructionCount(machine.count().0.saturating_add(slice));
        match replayer.advance(machine, until)? {
            Step::NeedEntry => match entries.next() {
                Some(entry) => replayer.push(entry),
                None => break,
            },
            Step::Outputs(outputs) => {
                for output in outputs {
                    if let Output::CharTransmit { port: CharPort::Serial(0), data } = output {
                        text.extend(data);
                    }
                }
            }
            Step::Ended(reason) => end = Some(reason),
            Step::Limit | Step::Snapshot(_) => {}
            Step::NeedBlock { .. } => panic!("the guest has no disk"),
        }
    }
    Ok(Replayed { text, digests: replayer.digests(), end, state: machine.state_digest() })
}

fn replay(entries: impl IntoIterator<Item = Positioned>, slice: u64) -> Result<Replayed, Box<Divergence>> {
    let mut machine = Machine::new(guest::config()).unwrap();
    let replayer = Replayer::new(machine.count());
    apply(&mut machine, replayer, entries, slice)
}

fn every_input() -> RecorderOptions {
    RecorderOptions { digest_every: 20_000, memory_digest_every: 3, digest_inputs: true, ..RecorderOptions::default() }
}

#[test]
fn a_replayed_run_is_the_recorded_one() {
    for seed in 0..12 {
        let Recording { log, text, .. } = record(seed, every_input(), false);
        let entries = entries(&log);
        assert!(entries.len() > 100 && !text.is_empty(), "seed {seed}");
        let whole = replay(entries.clone(), u64::MAX).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(whole.text, text, "seed {seed}");
        assert_eq!(whole.end, Some(EndReason::Off { status: 0 }), "seed {seed}");
        assert!(whole.digests > 40, "seed {seed}: {} digests", whole.digests);
        for slice in [1, 777, 100_000] {
            assert_eq!(replay(entries.clone(), slice).as_ref(), Ok(&whole), "seed {seed}, slices of {slice}");
        }
    }
}

#[test]
fn a_run_continues_from_each_snapshot() {
    let Recording { log, text, .. } = record(3, every_input(), true);
    let whole = replay(entries(&log), u64::MAX).unwrap();
    let mut started = 0;
    for wanted in 0.. {
        let mut machine = Machine::new(guest::config()).unwrap();
        let mut reader = LogReader::new(log.as_slice()).unwrap();
        let mut start = None;
        let mut rest = Vec::new();
        while let Some(item) = reader.next().unwrap() {
            match item {
                LogItem::Snapshot(part) if part.number() < wanted => part.apply_pages(&mut machine).unwrap(),
                LogItem::Snapshot(part) if part.number() == wanted => {
                    part.apply(&mut machine).unwrap();
                    if let SnapshotPart::State { outputs, .. } = part {
                        start = Some(outputs);
                    }
                }
                LogItem::Entry(entry, _) if start.is_some() => rest.push(entry),
                _ => {}
            }
        }
        let Some(outputs) = start else { break };
        started += 1;
        let replayer = Replayer::resumed(machine.count(), OutputDigest(outputs));
        let replayed = apply(&mut machine, replayer, rest, 10_000).unwrap();
        assert!(text.ends_with(&replayed.text), "snapshot {wanted}");
        assert_eq!((replayed.end, replayed.state), (whole.end, whole.state), "snapshot {wanted}");
    }
    assert!(started >= 3, "{started} snapshots");
}

#[test]
fn what_was_changed_in_a_log_is_found() {
    let Recording { log, .. } = record(5, every_input(), false);
    let good = entries(&log);
    let typed =
        good.iter().position(|entry| matches!(&entry.entry, LogEntry::Input(Input::CharReceive { .. }))).unwrap();

    let mut other_key = good.clone();
    other_key[typed].entry = LogEntry::Input(Input::CharReceive { port: CharPort::Serial(0), data: b"Z".to_vec() });
    let divergence = replay(other_key, u64::MAX).unwrap_err();
    assert!(divergence.count >= good[typed].count);
    assert!(divergence.last_equal <= divergence.count);
    assert!(matches!(divergence.difference, Difference::Values { .. }), "{divergence}");
    let text = divergence.to_string();
    assert!(text.contains("when recorded") && text.contains("rip") && text.contains("\"Z\""), "{text}");

    // A step later is another run too: the digest before the next input shows it.
    let mut later = good.clone();
    later[typed].count.0 += 1;
    let next = later[typed + 1].count;
    let divergence = replay(later, u64::MAX).unwrap_err();
    assert!(divergence.count.0 <= next.0 + 1, "{divergence}");

    let mut missing = good.clone();
    missing.remove(typed);
    assert!(replay(missing, u64::MAX).is_err());

    // Cut off before the end, all of it is replayed and nothing is claimed.
    let cut = replay(good[..good.len() / 2].to_vec(), u64::MAX).unwrap();
    assert_eq!(cut.end, None);

    // A run that goes on where the recorded one ended.
    let mut early_end = good[..=typed].to_vec();
    early_end.push(Positioned { entry: LogEntry::End(EndReason::Off { status: 0 }), ..early_end[typed].clone() });
    let divergence = replay(early_end, u64::MAX).unwrap_err();
    assert!(matches!(divergence.difference, Difference::End { .. }), "{divergence}");

    // A refused input: time never goes back.
    let mut backwards = good.clone();
    let anchor = backwards.iter_mut().skip(40).find_map(|entry| match &mut entry.entry {
        LogEntry::Input(Input::ClockAnchor(anchor)) => Some(anchor),
        _ => None,
    });
    anchor.unwrap().time_ns = 0;
    let divergence = replay(backwards, u64::MAX).unwrap_err();
    assert!(matches!(divergence.difference, Difference::Refused { .. }), "{divergence}");
}

#[test]
fn a_disturbed_machine_is_found_at_the_next_digest() {
    let Recording { log, .. } = record(6, every_input(), false);
    let entries = entries(&log);
    let mut machine = Machine::new(guest::config()).unwrap();
    let mut replayer = Replayer::new(machine.count());
    let (mut next, mut disturbed) = (entries.into_iter(), false);
    let divergence = loop {
        let until = InstructionCount(machine.count().0 + 5_000);
        match replayer.advance(&mut machine, until) {
            Ok(Step::NeedEntry) => replayer.push(next.next().expect("the divergence comes before the end")),
            Ok(_) => {}
            Err(divergence) => break divergence,
        }
        if !disturbed && machine.count().0 > 100_000 {
            machine.disturb();
            disturbed = true;
        }
    };
    assert!(divergence.count.0 > 100_000 && divergence.count.0 <= 125_000, "{divergence}");
}

#[test]
fn truncated_and_damaged_logs_are_read_up_to_there() {
    let Recording { log, .. } =
        record(7, RecorderOptions { digest_every: 20_000, ..RecorderOptions::default() }, false);
    let all = entries(&log);
    // Wherever it is cut: a prefix of the entries, and never a claim of being complete.
    for length in (13..log.len()).step_by(97) {
        let mut reader = match LogReader::new(&log[..length]) {
            Ok(reader) => reader,
            Err(error) => {
                assert!(matches!(error, LogError::NothingRecorded), "{error}");
                continue;
            }
        };
        let mut read = Vec::new();
        while let Some(item) = reader.next().unwrap() {
            if let LogItem::Entry(entry, _) = item {
                read.push(entry);
            }
        }
        assert_eq!(read, all[..read.len()], "cut at {length}");
        assert!(matches!(reader.ending(), Ending::Unfinished { .. }), "cut at {length}");
    }
    for at in (0..log.len()).step_by(131) {
        let mut damaged = log.clone();
        damaged[at] ^= 0x10;
        let mut outcome = LogReader::new(damaged.as_slice()).map(|mut reader| {
            while let Some(item) = reader.next()? {
                if let LogItem::Entry(entry, _) = item {
                    assert!(all.contains(&entry), "a damaged entry was taken for good");
                }
            }
            Ok::<_, LogError>(reader.ending())
        });
        if let Ok(Ok(ending)) = &mut outcome {
            assert!(matches!(ending, Ending::Unfinished { truncated: true }), "byte {at}: {ending:?}");
        }
    }
}

#[test]
fn foreign_and_newer_files_are_named() {
    let Recording { log, .. } = record(8, RecorderOptions::default(), false);
    let error = |bytes: &[u8]| LogReader::new(bytes).unwrap_err().to_string();
    assert_eq!(error(b"QFI\xfb and so on"), "this is not a virtft log");
    assert_eq!(error(b""), "this is not a virtft log");
    let mut newer = log.clone();
    newer[8] = 9;
    assert_eq!(error(&newer), "the log has format 9, this program reads format 1; use a newer virtft-emulator");
    let mut other_model = log;
    let at = other_model.windows(11).position(|bytes| bytes == b"virtft-v2.1").unwrap();
    other_model[at + 10] = b'7';
    // The frame's checksum must fit again.
    let payload_bytes = u32::from_le_bytes(*other_model[28..].first_chunk().unwrap()) as usize;
    other_model[36..40].fill(0);
    let crc = crc32c::crc32c(&other_model[12..40 + payload_bytes]);
    other_model[36..40].copy_from_slice(&crc.to_le_bytes());
    let text = error(&other_model);
    assert!(text.contains("CPU model is virtft-v2.7, here it is virtft-v2.1"), "{text}");
}

#[test]
fn two_logs_are_compared_entry_by_entry() {
    let log = |seed| record(seed, RecorderOptions::default(), false).log;
    let compare = |first: &[u8], second: &[u8]| {
        diff::compare(&mut LogReader::new(first).unwrap(), &mut LogReader::new(second).unwrap()).unwrap()
    };
    let first = log(1);
    assert_eq!(compare(&first, &first), Ok(entries(&first).len() as u64));
    let difference = compare(&first, &log(2)).unwrap_err().to_string();
    assert!(difference.contains("entries are equal; then\n  first: at count"), "{difference}");
}
