//! Image locks that QEMU understands.
//!
//! Two processes that write one image destroy it. QEMU marks images with open-file-description locks on single
//! bytes (`block/file-posix.c`, `RAW_LOCK_PERM_BASE` and `RAW_LOCK_SHARED_BASE`): byte 100 + n says "I use
//! permission n", byte 200 + n says "I do not share permission n". All locks are shared locks, so they say
//! something rather than exclude; a conflict is seen by asking whether anyone holds the opposite byte. Using
//! the same bytes makes QEMU, `qemu-img` and other emulators of this project refuse an image that is in use
//! here, and the other way round.
//!
//! The locks belong to the open file: they vanish when it is closed, also by a crash.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};

const PERMISSION_BASE: i64 = 100;
const UNSHARED_BASE: i64 = 200;

/// Permissions of QEMU's block layer, by bit number.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// What is done with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is written: nobody else may read or write it.
    Write,
    /// It is read and must not change: others may read it.
    Read,
}

/// Why an image could not be locked.
#[derive(Debug)]
pub enum LockFailure {
    /// Someone else uses it in a way that excludes ours.
    InUse,
    /// The file system refused the lock.
    Os(io::Error),
}

/// Takes the locks for `access` on `file`. They last until `file` is closed.
///
/// # Errors
/// When another open file holds a conflicting lock, or the file system has no locks.
pub fn lock_image(file: &File, access: Access) -> Result<(), LockFailure> {
    let used: &[i64] = match access {
        Access::Write => &[CONSISTENT_READ, WRITE, RESIZE],
        Access::Read => &[CONSISTENT_READ],
    };
    // Neither a writer nor a reader tolerates another writer: a reader caches metadata.
    let unshared = [WRITE, RESIZE];
    for permission in used {
        set_shared(file, PERMISSION_BASE + permission)?;
    }
    for permission in unshared {
        set_shared(file, UNSHARED_BASE + permission)?;
    }
    // Mark first, look afterwards: of two that start at once, at least one sees the other.
    let used_bytes = used.iter().map(|permission| UNSHARED_BASE + permission);
    let unshared_bytes = unshared.iter().map(|permission| PERMISSION_BASE + permission);
    for byte in used_bytes.chain(unshared_bytes) {
        if held_by_other(file, byte)? {
            return Err(LockFailure::InUse);
        }
    }
    Ok(())
}

fn byte_lock(kind: libc::c_int, byte: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or(0),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or(0),
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

fn set_shared(file: &File, byte: i64) -> Result<(), LockFailure> {
    let request = byte_lock(libc::F_RDLCK, byte);
    match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&request)) {
        Ok(_) => Ok(()),
        // Only an exclusive lock of a foreign program conflicts with a shared one.
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Err(LockFailure::InUse),
        Err(error) => Err(LockFailure::Os(error.into())),
    }
}

fn held_by_other(file: &File, byte: i64) -> Result<bool, LockFailure> {
    let mut question = byte_lock(libc::F_WRLCK, byte);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut question)).map_err(|error| LockFailure::Os(error.into()))?;
    Ok(i32::from(question.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn one_writer_or_many_readers() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let first = open(image.path());
        lock_image(&first, Access::Read).unwrap();
        let second = File::open(image.path()).unwrap();
        lock_image(&second, Access::Read).unwrap();
        let writer = open(image.path());
        assert!(matches!(lock_image(&writer, Access::Write), Err(LockFailure::InUse)));
        drop((first, second, writer));

        let writer = open(image.path());
        lock_image(&writer, Access::Write).unwrap();
        assert!(matches!(lock_image(&open(image.path()), Access::Write), Err(LockFailure::InUse)));
        assert!(matches!(lock_image(&open(image.path()), Access::Read), Err(LockFailure::InUse)));
    }
}
