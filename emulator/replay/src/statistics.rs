//! What is in a log, by kind.

use std::collections::BTreeMap;

use virtft_machine::io::{ClockAnchor, Input};

use crate::entry::{EntryKind, LogEntry, Positioned};
use crate::entry_encode::Line;

/// Entries of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KindTotals {
    /// How many.
    pub entries: u64,
    /// Bytes that they take in their frames, uncompressed.
    pub bytes: u64,
    /// Bytes among them that are the guest's own: of packets, disk data, typed text.
    pub content_bytes: u64,
}

/// Sums over a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogStatistics {
    kinds: BTreeMap<EntryKind, KindTotals>,
    /// Bytes of snapshots, uncompressed.
    pub snapshot_bytes: u64,
    /// Snapshots.
    pub snapshots: u32,
    /// Bytes of kernel and initial RAM disk.
    pub file_bytes: u64,
    /// Count of the first and last entry.
    pub counts: Option<(u64, u64)>,
    /// The first clock anchor, and the last with its count.
    anchors: Option<(ClockAnchor, u64, ClockAnchor)>,
}

impl LogStatistics {
    /// Adds an entry that takes `bytes`.
    pub fn add(&mut self, entry: &Positioned, bytes: usize) {
        let totals = self.kinds.entry(entry.entry.kind()).or_default();
        totals.entries += 1;
        totals.bytes += bytes as u64;
        totals.content_bytes += content_bytes(&entry.entry);
        let count = entry.count.0;
        self.counts = Some((self.counts.map_or(count, |(first, _)| first), count));
        match &entry.entry {
            LogEntry::Input(Input::ClockAnchor(anchor)) => {
                let first = self.anchors.map_or(*anchor, |(first, ..)| first);
                self.anchors = Some((first, count, *anchor));
            }
            LogEntry::Snapshot(_) => self.snapshots += 1,
            _ => {}
        }
    }

    /// Totals of one kind.
    #[must_use]
    pub fn of(&self, kind: EntryKind) -> KindTotals {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }

    /// Totals of all kinds.
    #[must_use]
    pub fn total(&self) -> KindTotals {
        self.kinds.values().fold(KindTotals::default(), |sum, totals| KindTotals {
            entries: sum.entries + totals.entries,
            bytes: sum.bytes + totals.bytes,
            content_bytes: sum.content_bytes + totals.content_bytes,
        })
    }

    /// Steps from the first entry to the last.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.counts.map_or(0, |(first, last)| last - first)
    }

    /// Guest time from the first clock anchor to the last entry, in nanoseconds.
    #[must_use]
    pub fn guest_ns(&self) -> u64 {
        let (Some((first, at, last)), Some((_, end))) = (self.anchors, self.counts) else { return 0 };
        Line { at, anchor: last }.time_at(end).saturating_sub(first.time_ns)
    }
}

/// Header of a packet inside the machine: not the guest's own bytes.
const NET_HEADER: u64 = 12;

fn content_bytes(entry: &LogEntry) -> u64 {
    match entry {
        LogEntry::Input(Input::NetReceive { packet, .. }) => (packet.len() as u64).saturating_sub(NET_HEADER),
        LogEntry::Input(Input::BlockCompletion { data, .. } | Input::CharReceive { data, .. }) => data.len() as u64,
        _ => 0,
    }
}
