//! Why a disk image cannot be used: one line each, with the way out.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::cli::OptionError;

/// See the module's description. Whatever the error, the image was not changed.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The file could not be opened.
    #[error("disk image {path}: {reason}", path = path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// What the system said and what to do.
        reason: String,
    },
    /// The backing file of an image could not be opened.
    #[error("disk image {path}: its backing file {backing} cannot be opened ({source}); restore it, or point the \
             image to where it is with 'qemu-img rebase -u'", path = path.display(), backing = backing.display())]
    Backing {
        /// The image that names it.
        path: PathBuf,
        /// The missing file.
        backing: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The chain of backing files comes back to a file already in it.
    #[error("disk image {path}: the chain of backing files loops back to {backing}; repair the link with \
             'qemu-img rebase -u'", path = path.display(), backing = backing.display())]
    Loop {
        /// The top image.
        path: PathBuf,
        /// The file met twice.
        backing: PathBuf,
    },
    /// The chain of backing files is too long to be meant.
    #[error("disk image {path}: more than {limit} backing files; shorten the chain with 'qemu-img convert'",
            path = path.display())]
    TooDeep {
        /// The top image.
        path: PathBuf,
        /// The longest chain accepted.
        limit: usize,
    },
    /// Someone else uses the image.
    #[error("disk image {path} is in use by another program; stop that program, or use readonly=on here and \
             there", path = path.display())]
    InUse {
        /// The image or one of its backing files.
        path: PathBuf,
    },
    /// The file system has no locks.
    #[error("disk image {path} cannot be locked ({source}); put it on a file system with POSIX locks",
            path = path.display())]
    Lock {
        /// The image or one of its backing files.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The size cannot be a disk's.
    #[error("disk image {path}: its size of {size} bytes is not a multiple of 512; extend it with \
             'qemu-img resize' or 'truncate'", path = path.display())]
    Size {
        /// The image.
        path: PathBuf,
        /// Its virtual size.
        size: u64,
    },
    /// The qcow2 structure is broken or cut off.
    #[error("disk image {path}: {reason}", path = path.display())]
    Qcow2 {
        /// The image or one of its backing files.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A backing file has a format that is not supported.
    #[error("disk image {path}: {source}", path = path.display())]
    Format {
        /// The image or one of its backing files.
        path: PathBuf,
        /// The format and what to do.
        source: OptionError,
    },
    /// A worker thread could not be started.
    #[error("disk thread: {0}")]
    Thread(io::Error),
}
