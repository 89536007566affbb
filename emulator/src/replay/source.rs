//! Where a replayed log comes from: a file, or a primary that is still writing it.
//!
//! A file is opened once and read by position, so that a second pass needs no second descriptor: the confined thread may not
//! open files.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use virtft_replay::{LogError, LogReader};

use crate::ft::GrowingLog;

/// Bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A log file, opened.
#[derive(Debug, Clone)]
pub struct LogFile {
    file: Arc<File>,
}

/// Reads a log from its beginning.
#[derive(Debug)]
pub enum LogSource {
    /// A [`LogFile`], and how far it was read.
    File(Arc<File>, u64),
    /// A log that still grows.
    Growing(Arc<GrowingLog>),
}

impl LogFile {
    /// Opens a log.
    ///
    /// # Errors
    /// One line that says why it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, String> {
        let failed = |reason: &str| format!("{}: {reason}", path.display());
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => failed("there is no such file; check the path"),
            io::ErrorKind::PermissionDenied => {
                failed("no permission to read it; logs are private to who recorded them")
            }
            _ => failed(&format!("it cannot be opened ({error})")),
        })?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(failed("it is a directory; name a log file"));
        }
        Ok(Self { file: Arc::new(file) })
    }

    /// A reader at the beginning of the log.
    ///
    /// # Errors
    /// When it is no log that this program can read.
    pub fn reader(&self) -> Result<LogReader<BufReader<LogSource>>, LogError> {
        let source = LogSource::File(Arc::clone(&self.file), 0);
        LogReader::new(BufReader::with_capacity(BUFFER_BYTES, source))
    }
}

impl Read for LogSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file, at) => {
                let read = file.read_at(buffer, *at)?;
                *at += read as u64;
                Ok(read)
            }
            Self::Growing(log) => Ok(log.read(buffer)),
        }
    }
}
