//! Reading a log from its beginning.
//!
//! What cannot be read is said in one sentence with its place in the file. A log that ends early, as that of a process that
//! was killed does, is read up to its last whole frame and then told apart from a finished one by [`LogReader::ending`].

use std::collections::VecDeque;
use std::io::{self, Read};

use thiserror::Error;
use virtft_machine::machine::SnapshotError;

use crate::entry::{EndReason, LogEntry, Positioned};
use crate::entry_decode::{EntryDecoder, EntryError};
use crate::frame::{Frame, FrameError, FrameKind};
use crate::header::{FORMAT_VERSION, HeaderError, LOG_MAGIC, LogHeader};
use crate::snapshot::{DiskPart, SnapshotPart};

/// Which file a part belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileId {
    /// The kernel.
    Kernel,
    /// The initial RAM disk.
    Initrd,
}

impl FileId {
    /// The first byte of the payload of a [`FrameKind::File`] frame.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Kernel => 0,
            Self::Initrd => 1,
        }
    }
}

/// What a log holds, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    /// The next bytes of a file.
    File(FileId, Vec<u8>),
    /// The next part of a snapshot.
    Snapshot(SnapshotPart),
    /// The next part of a disk, in a state transfer.
    Disk(DiskPart),
    /// An entry, and the bytes that it takes in its frame.
    Entry(Positioned, usize),
}

/// How a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its end was not read yet.
    Unknown,
    /// With an entry that says so.
    Complete(EndReason),
    /// Without one: the recording was interrupted.
    Unfinished {
        /// Whether the last frame is cut off.
        truncated: bool,
    },
}

/// Bytes that are no log that this program can read.
#[derive(Debug, Error)]
pub enum LogError {
    /// It begins otherwise.
    #[error("this is not a virtft log")]
    NotALog,
    /// Nothing but the beginning.
    #[error("the log ends inside its header: nothing was recorded")]
    NothingRecorded,
    /// A later format.
    #[error("the log has format {found}, this program reads format {FORMAT_VERSION}; use a newer virtft-emulator")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// A frame is damaged.
    #[error("the log is damaged at byte {offset}: {source}")]
    Frame {
        /// Where the frame begins.
        offset: u64,
        /// What is wrong.
        source: FrameError,
    },
    /// A frame is whole, but holds no entries.
    #[error("the log is damaged at byte {offset}: {source}")]
    Entry {
        /// Where the frame begins.
        offset: u64,
        /// What is wrong.
        source: EntryError,
    },
    /// A frame is whole, but holds no part of a snapshot.
    #[error("the log is damaged at byte {offset}: {source}")]
    Snapshot {
        /// Where the frame begins.
        offset: u64,
        /// What is wrong.
        source: SnapshotError,
    },
    /// A frame is missing, or stands where it does not belong.
    #[error("the log is damaged at byte {offset}: {what}")]
    Order {
        /// Where the frame begins.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The machine cannot be made.
    #[error("the log cannot be replayed here: {0}")]
    Header(#[from] HeaderError),
    /// The source failed.
    #[error("the log cannot be read ({0})")]
    Read(#[from] io::Error),
}

/// See the module's description.
#[derive(Debug)]
pub struct LogReader<R> {
    source: Counted<R>,
    header: LogHeader,
    entries: VecDeque<(Positioned, usize)>,
    /// Number of the next entry.
    sequence: u64,
    /// Count of the last entry.
    count: u64,
    ending: Ending,
    frames: u64,
}

impl<R: Read> LogReader<R> {
    /// Reads the beginning and the header.
    ///
    /// # Errors
    /// When it is no log that this program can read.
    pub fn new(source: R) -> Result<Self, LogError> {
        let mut source = Counted { source, bytes: 0 };
        let mut beginning = Vec::new();
        source.by_ref().take(12).read_to_end(&mut beginning)?;
        let magic = &beginning[..beginning.len().min(LOG_MAGIC.len())];
        if magic.is_empty() || !LOG_MAGIC.starts_with(magic) {
            return Err(LogError::NotALog);
        }
        let version = beginning.last_chunk::<4>().filter(|_| beginning.len() == 12);
        match u32::from_le_bytes(*version.ok_or(LogError::NothingRecorded)?) {
            FORMAT_VERSION => {}
            0 => return Err(LogError::NotALog),
            found => return Err(LogError::Newer { found }),
        }
        let offset = source.bytes;
        let frame = match Frame::read(&mut source) {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(FrameError::Truncated) => return Err(LogError::NothingRecorded),
            Err(source) => return Err(LogError::Frame { offset, source }),
        };
        if frame.kind != FrameKind::Header {
            return Err(LogError::Order { offset, what: "the header is missing".into() });
        }
        let header = LogHeader::from_bytes(&frame.payload)?;
        let count = header.start_count;
        Ok(Self { source, header, entries: VecDeque::new(), sequence: 0, count, ending: Ending::Unknown, frames: 1 })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &LogHeader {
        &self.header
    }

    /// How the log ends; known when everything was read.
    #[must_use]
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.source.bytes
    }

    /// Frames read so far.
    #[must_use]
    pub fn frames_read(&self) -> u64 {
        self.frames
    }

    /// What comes next; `None` at the end.
    ///
    /// # Errors
    /// When the log is damaged here; nothing can be read after that.
    #[expect(clippy::should_implement_trait, reason = "an error ends the reading, which an iterator cannot say")]
    pub fn next(&mut self) -> Result<Option<LogItem>, LogError> {
        loop {
            if let Some((entry, bytes)) = self.entries.pop_front() {
                return Ok(Some(LogItem::Entry(entry, bytes)));
            }
            let offset = self.source.bytes;
            let frame = match Frame::read(&mut self.source) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(self.end(false)),
                Err(FrameError::Truncated) => return Ok(self.end(true)),
                Err(source) => return Err(LogError::Frame { offset, source }),
            };
            self.frames += 1;
            let order = |what: String| LogError::Order { offset, what };
            if matches!(self.ending, Ending::Complete(_)) {
                return Err(order("a frame follows the end".into()));
            }
            if frame.sequence != self.sequence {
                return Err(order(format!(
                    "entry {} is missing, a frame begins with {}",
                    self.sequence, frame.sequence
                )));
            }
            match frame.kind {
                FrameKind::Header => return Err(order("a second header".into())),
                FrameKind::File => {
                    let (code, part) =
                        frame.payload.split_first().ok_or_else(|| order("a file part without a file".into()))?;
                    let id = [FileId::Kernel, FileId::Initrd].into_iter().find(|id| id.code() == *code);
                    let id = id.ok_or_else(|| order("a part of an unknown file".into()))?;
                    return Ok(Some(LogItem::File(id, part.to_vec())));
                }
                FrameKind::Snapshot => {
                    let part = SnapshotPart::from_bytes(&frame.payload);
                    return Ok(Some(LogItem::Snapshot(part.map_err(|source| LogError::Snapshot { offset, source })?)));
                }
                FrameKind::Disk => {
                    let part = DiskPart::from_bytes(&frame.payload);
                    return Ok(Some(LogItem::Disk(part.map_err(|source| LogError::Snapshot { offset, source })?)));
                }
                FrameKind::Entries => self.take_entries(offset, &frame)?,
            }
        }
    }

    /// At the end of the source.
    fn end(&mut self, truncated: bool) -> Option<LogItem> {
        if self.ending == Ending::Unknown {
            self.ending = Ending::Unfinished { truncated };
        }
        None
    }

    fn take_entries(&mut self, offset: u64, frame: &Frame) -> Result<(), LogError> {
        let failed = |source| LogError::Entry { offset, source };
        let order = |what: String| LogError::Order { offset, what };
        let mut decoder = EntryDecoder::new(&frame.payload, frame.sequence).map_err(failed)?;
        let mut left = decoder.remaining_bytes();
        while let Some(entry) = decoder.next().map_err(failed)? {
            let bytes = left - decoder.remaining_bytes();
            left = decoder.remaining_bytes();
            if entry.count.0 < self.count {
                return Err(order(format!("entry {} lies before the entry before it", entry.sequence)));
            }
            if matches!(self.ending, Ending::Complete(_)) {
                return Err(order("an entry follows the end".into()));
            }
            if let LogEntry::End(reason) = entry.entry {
                self.ending = Ending::Complete(reason);
            }
            self.count = entry.count.0;
            self.sequence = entry.sequence + 1;
            self.entries.push_back((entry, bytes));
        }
        Ok(())
    }
}

/// A source that knows how many bytes were read.
#[derive(Debug)]
struct Counted<R> {
    source: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}
