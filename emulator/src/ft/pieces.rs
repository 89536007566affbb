//! What a copy of a disk holds, piece by piece: a backup that had the disk before is sent only what differs.

use ring::digest::{SHA256, digest};
use virtft_ft::message::PieceDigest;
use virtft_machine::io::{BlockOperation, BlockStatus, RequestId};

use super::copy::PIECE;
use crate::disk::Disk;

/// Digests of the pieces of each disk; a disk of which nothing is known has none.
pub type Pieces = Vec<Vec<PieceDigest>>;

/// The digest of one piece. It is one that nobody can find two pieces for: a guest chooses what its disk holds.
#[must_use]
pub fn of(data: &[u8]) -> PieceDigest {
    let whole = digest(&SHA256, data);
    let mut half = PieceDigest::default();
    half.copy_from_slice(&whole.as_ref()[..16]);
    half
}

/// Reads a disk and digests its pieces.
///
/// # Errors
/// One line when a part of it cannot be read.
pub fn read(disk: &mut Disk) -> Result<Vec<PieceDigest>, String> {
    let size = disk.facts.size;
    let pieces = (0..size.div_ceil(PIECE)).map(|number| {
        let offset = number * PIECE;
        let length = u32::try_from(PIECE.min(size - offset)).expect("at most PIECE");
        let completion = disk.execute(RequestId(number), BlockOperation::Read { offset, length });
        match completion.status {
            BlockStatus::Ok => Ok(of(&completion.data)),
            status => Err(format!("disk {}: it cannot be read: {status:?}", disk.facts.id)),
        }
    });
    pieces.collect()
}
