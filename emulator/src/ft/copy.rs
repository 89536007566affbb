//! Copies disks to a new backup while the machine uses them.
//!
//! Pieces are read through the disk's own thread, behind every request that the machine submitted before, so a piece read after
//! a write was submitted has it. What is written while the copy runs is copied again.

use std::collections::{BTreeMap, BTreeSet};

use virtft_ft::message::PieceDigest;
use virtft_machine::io::RequestId;
use virtft_replay::snapshot::DiskPart;

use super::pieces;
use crate::disk::DiskFacts;

/// Bytes of a piece.
pub const PIECE: u64 = 256 << 10;
/// Requests of a copy have this bit in their number, which the machine's never have.
pub const COPY_BIT: u64 = 1 << 63;
/// Pieces that are read at a time.
const AT_A_TIME: usize = 8;
/// With so few pieces left the machine may be stopped for them.
const FEW: usize = 32;

/// A piece: disk and number.
type Piece = (u8, u64);

/// What is still to be copied.
#[derive(Debug, Default)]
pub struct DiskCopy {
    sizes: Vec<u64>,
    wanted: BTreeSet<Piece>,
    /// Being read.
    reading: BTreeSet<Piece>,
    /// What the other side's copies hold, as long as nothing was sent for a piece.
    theirs: BTreeMap<Piece, PieceDigest>,
    /// The other side has not said yet what it holds.
    unknown: bool,
    /// Pieces that were not sent because the other side has them.
    kept: usize,
    /// Disks whose last flush is waited for.
    flushing: BTreeSet<u8>,
    total: usize,
}

impl DiskCopy {
    /// Everything of every disk that can be written.
    #[must_use]
    pub fn of(disks: &[DiskFacts]) -> Self {
        let pieces = |facts: &DiskFacts| if facts.readonly { 0 } else { facts.size.div_ceil(PIECE) };
        let wanted: BTreeSet<Piece> =
            (0..).zip(disks).flat_map(|(disk, facts)| (0..pieces(facts)).map(move |number| (disk, number))).collect();
        Self {
            sizes: disks.iter().map(|facts| facts.size).collect(),
            total: wanted.len(),
            wanted,
            reading: BTreeSet::new(),
            flushing: BTreeSet::new(),
            theirs: BTreeMap::new(),
            unknown: true,
            kept: 0,
        }
    }

    /// The other side says what its copy of a disk holds; with the last such message reading may begin.
    pub fn they_have(&mut self, disk: u8, first: u64, digests: Vec<PieceDigest>, last: bool) {
        // After the first piece was sent, what it had at first says nothing: a connection that is made again may say it once more.
        if !self.unknown {
            return;
        }
        self.theirs.extend((first..).zip(digests).map(|(number, digest)| ((disk, number), digest)));
        self.unknown &= !last;
    }

    /// Bytes that were not sent because the other side has them.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.kept as u64 * PIECE
    }

    /// Nothing of disks that are shared, of which nothing [`written`](Self::written) is told either; but what was completed on them before must be brought to the medium, by a request of number
    /// [`COPY_BIT`] for each.
    #[must_use]
    pub fn flush_of(disks: &[DiskFacts]) -> Self {
        Self { flushing: (0..).zip(disks).map(|(disk, _)| disk).collect(), ..Self::default() }
    }

    /// A request of the copy is done; whether it was a flush.
    pub fn flushed(&mut self, disk: u8) -> bool {
        self.flushing.remove(&disk)
    }

    /// The machine wrote here.
    pub fn written(&mut self, disk: u8, offset: u64, length: u64) {
        let last = offset.saturating_add(length.saturating_sub(1)) / PIECE;
        self.wanted.extend((offset / PIECE..=last).map(|number| (disk, number)));
    }

    /// The next piece to read: disk, number of the request, first byte and length.
    pub fn next_read(&mut self) -> Option<(u8, RequestId, u64, u32)> {
        if self.unknown || self.reading.len() >= AT_A_TIME {
            return None;
        }
        // One that is being read is read again when that is done.
        let piece = *self.wanted.iter().find(|piece| !self.reading.contains(piece))?;
        self.wanted.remove(&piece);
        self.reading.insert(piece);
        let (disk, number) = piece;
        let offset = number * PIECE;
        let length = PIECE.min(self.sizes[usize::from(disk)] - offset);
        Some((disk, RequestId(COPY_BIT | number), offset, u32::try_from(length).expect("at most PIECE")))
    }

    /// A piece was read: what is to be sent of it, unless the other side has the same.
    pub fn read(&mut self, disk: u8, request: RequestId, data: Vec<u8>) -> Option<DiskPart> {
        let number = request.0 & !COPY_BIT;
        self.reading.remove(&(disk, number));
        let same = self.theirs.get(&(disk, number)).is_some_and(|theirs| *theirs == pieces::of(&data));
        if same {
            self.kept += 1;
            return None;
        }
        // It holds something else from now on.
        self.theirs.remove(&(disk, number));
        Some(DiskPart::new(disk, number * PIECE, data))
    }

    /// Whether so little is left that the machine may be stopped for it.
    #[must_use]
    pub fn nearly_done(&self) -> bool {
        self.wanted.len() + self.reading.len() <= FEW && self.flushing.is_empty()
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn done(&self) -> bool {
        self.wanted.is_empty() && self.reading.is_empty() && self.flushing.is_empty()
    }

    /// Pieces that are left, and all there were at first.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        (self.wanted.len() + self.reading.len(), self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(size: u64, readonly: bool) -> DiskFacts {
        DiskFacts { size, readonly, id: "disk".into() }
    }

    #[test]
    fn shared_disks_are_flushed_and_not_copied() {
        let mut copy = DiskCopy::flush_of(&[disk(PIECE, false), disk(PIECE, true)]);
        assert_eq!((copy.next_read(), copy.done(), copy.nearly_done()), (None, false, false));
        assert!(copy.flushed(0) && !copy.flushed(0) && !copy.done());
        assert!(copy.flushed(1) && copy.done() && copy.nearly_done());
    }

    #[test]
    fn what_the_other_side_has_is_not_sent_until_it_changes_there() {
        let mut copy = DiskCopy::of(&[disk(2 * PIECE, false)]);
        // A digest of a piece that this disk does not have says nothing.
        copy.they_have(7, 1 << 40, vec![pieces::of(b"first")], false);
        copy.they_have(0, 0, vec![pieces::of(b"first"), pieces::of(b"second")], true);
        copy.they_have(0, 0, vec![pieces::of(b"late")], true);
        assert_eq!(copy.read(0, RequestId(COPY_BIT), b"first".to_vec()), None);
        assert!(copy.read(0, RequestId(COPY_BIT | 1), b"changed".to_vec()).is_some());
        assert_eq!(copy.kept_bytes(), PIECE);
        // It has "changed" now: what it had at first is sent again.
        assert!(copy.read(0, RequestId(COPY_BIT | 1), b"second".to_vec()).is_some());
        assert!(copy.read(0, RequestId(COPY_BIT), b"written meanwhile".to_vec()).is_some());
    }

    #[test]
    fn everything_is_read_once_and_what_changes_again() {
        let mut copy = DiskCopy::of(&[disk(3 * PIECE + 512, false), disk(PIECE, true)]);
        assert_eq!(copy.progress(), (4, 4));
        assert_eq!(copy.next_read(), None, "the other side has not said what it has");
        copy.they_have(0, 0, Vec::new(), true);
        let mut seen = Vec::new();
        while let Some((disk, request, offset, length)) = copy.next_read() {
            if seen.len() == 1 {
                // While the first and second are being read.
                copy.written(0, 0, 1);
                copy.written(0, PIECE - 1, 2);
            }
            seen.push((offset, length));
            if seen.len() > 1 {
                let part = copy.read(disk, request, vec![1; length as usize]).unwrap();
                assert_eq!((part.offset, part.length), (offset, length));
            }
        }
        let whole = u32::try_from(PIECE).unwrap();
        // The first piece is still being read, and is wanted again.
        assert_eq!(seen[..2], [(0, whole), (PIECE, whole)]);
        assert!(!copy.done());
        copy.read(0, RequestId(COPY_BIT), vec![0; whole as usize]);
        let (disk, request, offset, _) = copy.next_read().unwrap();
        assert_eq!(offset, 0);
        copy.read(disk, request, Vec::new());
        assert!(copy.done());
        assert!(seen.contains(&(3 * PIECE, 512)), "{seen:?}");
    }
}
