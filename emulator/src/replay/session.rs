//! One pass over a log with a machine.

use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;
use virtft_machine::io::{DeviceIndex, InstructionCount, Output, RequestId};
use virtft_machine::machine::SnapshotError;
use virtft_machine::{Machine, MachineError};
use virtft_replay::header::{BootFiles, DiskData, HeaderError, StartState};
use virtft_replay::outputs::OutputDigest;
use virtft_replay::reader::{FileId, LogItem};
use virtft_replay::snapshot::{DiskPart, SnapshotPart};
use virtft_replay::{Divergence, EndReason, LogEntry, LogError, LogHeader, LogReader, Positioned, Replayer, Step};

use super::disks::OwnDisks;
use super::source::{LogFile, LogSource};
use crate::cli::DiskOption;
use crate::disk::Disk;
use crate::ft::ReplicaDisks;

/// Why a pass cannot go on.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The machine is not that of the log.
    #[error("the log cannot be replayed here: {0}")]
    Header(#[from] HeaderError),
    /// The machine cannot be made.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A snapshot of the log does not fit.
    #[error("a snapshot in the log cannot be used: {0}")]
    Snapshot(#[from] SnapshotError),
    /// The snapshot asked for is not in the log.
    #[error("the log has no snapshot {number}; it has {found}, counted from 0")]
    NoSnapshot {
        /// The number asked for.
        number: u32,
        /// How many there are.
        found: u32,
    },
    /// Something that the log needs is missing or wrong.
    #[error("{0}")]
    Files(String),
    /// The run is not the recorded one.
    #[error(transparent)]
    Diverged(#[from] Box<Divergence>),
}

/// What a log needs beside itself.
#[derive(Debug, Clone, Default)]
pub struct SessionFiles {
    /// Kernel, for logs that do not carry it.
    pub kernel: Option<Arc<[u8]>>,
    /// Initial RAM disk, likewise.
    pub initrd: Option<Arc<[u8]>>,
    /// Copies of the disks, for logs that do not carry what was read.
    pub disks: Vec<DiskOption>,
}

/// Why [`Session::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionStop {
    /// The count asked for is reached.
    Limit,
    /// The log ends here as the run did.
    Ended(EndReason),
    /// The log is unfinished and everything in it was replayed.
    Unfinished,
}

/// Where the replayed machine's disk requests go.
#[derive(Debug)]
enum SessionDisks {
    /// Copies that are only read, or nothing: the log has the data.
    Own(OwnDisks),
    /// The disks of a backup.
    Replica(ReplicaDisks),
    /// The primary's own, which a backup leaves alone.
    Shared,
}

impl SessionDisks {
    fn carry_out(&mut self, output: Output) -> Result<(), String> {
        match self {
            Self::Own(disks) => disks.carry_out(output),
            Self::Replica(disks) => disks.carry_out(output),
            Self::Shared => Ok(()),
        }
    }

    fn take(&mut self, device: DeviceIndex, request: RequestId) -> Option<Vec<u8>> {
        match self {
            Self::Own(disks) => disks.take(device, request),
            Self::Replica(disks) => disks.take(device, request),
            // What was read is in the log.
            Self::Shared => None,
        }
    }

    fn transferred(&mut self, part: &DiskPart) -> Result<(), String> {
        match self {
            Self::Own(_) | Self::Shared => Err("the log has parts of disks, which only a backup can take".into()),
            Self::Replica(disks) => disks.transferred(part),
        }
    }
}

/// How far a session has come, for other threads.
#[derive(Debug, Default)]
pub struct Reached {
    /// Guest time in nanoseconds up to which everything that was read has been replayed.
    pub guest_ns: AtomicU64,
    /// Entries replayed.
    pub entries: AtomicU64,
}

/// A machine and its log.
#[derive(Debug)]
pub struct Session {
    /// The machine.
    pub machine: Machine,
    replayer: Replayer,
    reader: LogReader<BufReader<LogSource>>,
    disks: SessionDisks,
    reached: Arc<Reached>,
    /// The first entry, found on the way to it.
    first: Option<Positioned>,
}

impl Session {
    /// Makes the machine of a log, at its beginning or at one of its snapshots.
    ///
    /// # Errors
    /// When the log cannot be replayed here.
    pub fn open(log: &LogFile, files: &SessionFiles, from_snapshot: Option<u32>) -> Result<Self, SessionError> {
        let reader = log.reader()?;
        let disks = match &reader.header().disk_data {
            DiskData::OwnCopies(_) if from_snapshot.is_some_and(|number| number > 0) => {
                let text =
                    "the log does not carry what was read from disks, so it can only be replayed from its beginning";
                return Err(SessionError::Files(text.into()));
            }
            DiskData::OwnCopies(digests) => OwnDisks::open(&files.disks, digests).map_err(SessionError::Files)?,
            DiskData::InLog => OwnDisks::default(),
        };
        let start = match reader.header().start {
            StartState::Boot => from_snapshot,
            StartState::Snapshot => Some(from_snapshot.unwrap_or(0)),
        };
        Self::begin(reader, files, SessionDisks::Own(disks), start)
    }

    /// Follows a primary: takes its state, disks included unless they are shared, and stands where its log begins.
    ///
    /// # Errors
    /// When the log cannot be followed here. `check` looks at its header first.
    pub fn follow(
        source: LogSource,
        disks: Option<ReplicaDisks>,
        check: impl FnOnce(&LogHeader) -> Result<(), String>,
    ) -> Result<Self, SessionError> {
        let reader = LogReader::new(BufReader::with_capacity(64 << 10, source))?;
        check(reader.header()).map_err(SessionError::Files)?;
        let disks = disks.map_or(SessionDisks::Shared, SessionDisks::Replica);
        let mut session = Self::begin(reader, &SessionFiles::default(), disks, Some(0))?;
        // The primary's completions of these come in the log.
        for output in session.machine.in_flight() {
            session.disks.carry_out(output).map_err(SessionError::Files)?;
        }
        Ok(session)
    }

    /// The machine and its disks, unless they are shared, to go on without the log.
    #[must_use]
    pub fn into_replica(self) -> (Machine, Vec<Disk>) {
        match self.disks {
            SessionDisks::Own(_) | SessionDisks::Shared => (self.machine, Vec::new()),
            SessionDisks::Replica(disks) => (self.machine, disks.into_disks()),
        }
    }

    fn begin(
        reader: LogReader<BufReader<LogSource>>,
        files: &SessionFiles,
        mut disks: SessionDisks,
        start: Option<u32>,
    ) -> Result<Self, SessionError> {
        let mut opening = Opening { reader, kernel: Vec::new(), initrd: Vec::new(), pending: None };
        opening.read_files()?;
        let header = opening.reader.header().clone();
        let (kernel, initrd) = opening.boot_files(&header, files)?;
        let mut machine = Machine::new(header.config(kernel, initrd)?)?;
        let replayer = match start {
            None => Replayer::new(machine.count()),
            Some(number) => {
                let outputs = opening.restore(&mut machine, number, &mut disks)?;
                Replayer::resumed(machine.count(), outputs)
            }
        };
        let first = match opening.pending {
            Some(LogItem::Entry(entry, _)) => Some(entry),
            _ => None,
        };
        let reached = Arc::default();
        Ok(Self { machine, replayer, reader: opening.reader, disks, reached, first })
    }

    /// The log's header.
    #[must_use]
    pub fn header(&self) -> &LogHeader {
        self.reader.header()
    }

    /// How far the comparison has come.
    #[must_use]
    pub fn replayer(&self) -> &Replayer {
        &self.replayer
    }

    /// Replays up to `until` and hands out what the machine emits, with its count.
    ///
    /// # Errors
    /// When the log is damaged or the run is another one.
    pub fn run(
        &mut self,
        until: InstructionCount,
        emit: &mut dyn FnMut(InstructionCount, Output),
    ) -> Result<SessionStop, SessionError> {
        loop {
            match self.replayer.advance(&mut self.machine, until)? {
                Step::NeedEntry => match self.next_entry_from_here()? {
                    Some(entry) => self.replayer.push(entry),
                    None => return Ok(SessionStop::Unfinished),
                },
                Step::Outputs(outputs) => {
                    for output in outputs {
                        match output {
                            Output::Block { .. } if !matches!(self.disks, SessionDisks::Shared) => {
                                self.disks.carry_out(output).map_err(SessionError::Files)?
                            }
                            output => emit(self.machine.count(), output),
                        }
                    }
                }
                Step::NeedBlock { device, request } => {
                    let data = self.disks.take(device, request).unwrap_or_default();
                    self.replayer.supply_block(&mut self.machine, data)?;
                }
                Step::Limit => return Ok(SessionStop::Limit),
                Step::Snapshot(_) => {}
                Step::Ended(reason) => return Ok(SessionStop::Ended(reason)),
            }
        }
    }

    /// The entries up to `count`, which the replayer has not seen yet; for a second way through them.
    ///
    /// # Errors
    /// When the log is damaged.
    pub fn take_entries(&mut self, count: InstructionCount) -> Result<Vec<Positioned>, SessionError> {
        let mut entries: Vec<Positioned> = self.replayer.take_pending().into_iter().collect();
        while entries.last().is_none_or(|entry| entry.count <= count)
            && let Some(entry) = self.next_entry()?
        {
            entries.push(entry);
        }
        Ok(entries)
    }

    /// How far the replay has come, also while it waits for the log to grow.
    #[must_use]
    pub fn reached(&self) -> Arc<Reached> {
        Arc::clone(&self.reached)
    }

    /// Reading may take long: a log that grows is waited for.
    fn next_entry_from_here(&mut self) -> Result<Option<Positioned>, SessionError> {
        self.reached.guest_ns.store(self.machine.now_ns(), Ordering::Relaxed);
        self.reached.entries.store(self.replayer.entries(), Ordering::Relaxed);
        self.next_entry()
    }

    fn next_entry(&mut self) -> Result<Option<Positioned>, SessionError> {
        if let Some(entry) = self.first.take() {
            return Ok(Some(entry));
        }
        loop {
            match self.reader.next()? {
                None => return Ok(None),
                Some(LogItem::Entry(entry, _)) => return Ok(Some(entry)),
                // Snapshots are for those who begin there.
                Some(LogItem::Snapshot(_) | LogItem::File(..) | LogItem::Disk(_)) => {}
            }
        }
    }
}

/// A log of which only the beginning was read.
struct Opening {
    reader: LogReader<BufReader<LogSource>>,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    /// An item that was read and not used yet.
    pending: Option<LogItem>,
}

impl Opening {
    /// Reads the files that the log carries.
    fn read_files(&mut self) -> Result<(), SessionError> {
        loop {
            match self.reader.next()? {
                Some(LogItem::File(FileId::Kernel, bytes)) => self.kernel.extend(bytes),
                Some(LogItem::File(FileId::Initrd, bytes)) => self.initrd.extend(bytes),
                other => {
                    self.pending = other;
                    return Ok(());
                }
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "kernel and initial RAM disk, as a configuration takes them")]
    fn boot_files(
        &mut self,
        header: &LogHeader,
        files: &SessionFiles,
    ) -> Result<(Arc<[u8]>, Option<Arc<[u8]>>), SessionError> {
        if header.boot_files == BootFiles::InLog {
            let initrd = header.initrd.then(|| Arc::from(std::mem::take(&mut self.initrd)));
            return Ok((Arc::from(std::mem::take(&mut self.kernel)), initrd));
        }
        let missing = |what: &str| {
            SessionError::Files(format!(
                "the log was recorded with --boot-files apart: give {what} of the recorded run"
            ))
        };
        let kernel = files.kernel.clone().ok_or_else(|| missing("--kernel, the kernel"))?;
        if header.initrd && files.initrd.is_none() {
            return Err(missing("--initrd, the initial RAM disk"));
        }
        Ok((kernel, files.initrd.clone()))
    }

    /// Puts the machine to snapshot `number`; what follows it is read next.
    fn restore(
        &mut self,
        machine: &mut Machine,
        number: u32,
        disks: &mut SessionDisks,
    ) -> Result<OutputDigest, SessionError> {
        let (mut found, mut outputs) = (0, None);
        loop {
            let item = match self.pending.take() {
                Some(item) => Some(item),
                None => self.reader.next()?,
            };
            match item {
                None => return Err(SessionError::NoSnapshot { number, found }),
                Some(LogItem::Snapshot(part)) if part.number() == number => {
                    part.apply(machine)?;
                    if let SnapshotPart::State { outputs: digest, .. } = part {
                        outputs = Some(OutputDigest(digest));
                    }
                }
                Some(LogItem::Snapshot(part)) => part.apply_pages(machine)?,
                Some(LogItem::Entry(Positioned { entry: LogEntry::Snapshot(place), .. }, _)) => {
                    found = place + 1;
                    if let Some(outputs) = outputs.filter(|_| place == number) {
                        return Ok(outputs);
                    }
                }
                Some(LogItem::Disk(part)) => disks.transferred(&part).map_err(SessionError::Files)?,
                Some(LogItem::Entry(..) | LogItem::File(..)) => {}
            }
        }
    }
}

/// Reads a file that was named on the command line.
///
/// # Errors
/// One line that says why it cannot be read.
pub fn read_whole(option: &str, path: &Path) -> Result<Arc<[u8]>, String> {
    std::fs::read(path)
        .map(Arc::from)
        .map_err(|error| format!("{option} {}: it cannot be read ({error})", path.display()))
}
