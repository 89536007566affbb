//! The snapshot file: the machine's own state, and the inputs that were on their way to it.
//!
//! ```text
//! "VFTSNAP1"            8 bytes
//! length of the inputs  u64, little endian
//! the inputs            postcard: Pending
//! the machine's state   the rest
//! ```
//!
//! A disk request that is in flight when the machine is saved completes with the snapshot: its completion is
//! stored, and delivered after the restore at the count at which it was due. Disk images are not part of the
//! file: keep a copy taken at the same moment, for example by ending the run at the same count.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use virtft_machine::io::Input;

const MAGIC: &[u8; 8] = b"VFTSNAP1";

/// Inputs on their way, each with the count at which it is due.
pub type Pending = Vec<(u64, Input)>;

/// Makes a file that only this user can read: a snapshot holds the guest's secrets.
///
/// # Errors
/// As the system says.
pub fn create_private(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Writes a whole snapshot.
///
/// # Errors
/// As the system says.
pub fn write(file: &mut File, pending: &Pending, state: &[u8]) -> io::Result<()> {
    let inputs = postcard::to_stdvec(pending).map_err(io::Error::other)?;
    file.write_all(MAGIC)?;
    file.write_all(&(inputs.len() as u64).to_le_bytes())?;
    file.write_all(&inputs)?;
    file.write_all(state)
}

/// Takes a snapshot apart.
///
/// # Errors
/// The rest of a line that begins with the file's name.
pub fn parse(bytes: &[u8]) -> Result<(Pending, &[u8]), &'static str> {
    const DAMAGED: &str = "is truncated or damaged; make it again with --save-at";
    let rest = bytes.strip_prefix(MAGIC).ok_or("is no snapshot of this version; make one with --save-at")?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or(DAMAGED)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| DAMAGED)?;
    let (inputs, state) = rest.split_at_checked(length).ok_or(DAMAGED)?;
    let pending = postcard::from_bytes(inputs).map_err(|_| DAMAGED)?;
    Ok((pending, state))
}
