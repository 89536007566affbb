//! Compares two logs: where do they first differ?

use std::fmt;
use std::io::Read;

use crate::entry::Positioned;
use crate::header::LogHeader;
use crate::reader::{LogError, LogItem, LogReader};

/// The first difference of two logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogDifference {
    /// The machines are not the same.
    Header {
        /// Which property.
        what: &'static str,
        /// In both logs.
        values: [String; 2],
    },
    /// An entry.
    Entry {
        /// Entries that are equal.
        equal: u64,
        /// The entry in each log; `None` where the log has ended.
        entries: [Option<Box<Positioned>>; 2],
    },
}

impl fmt::Display for LogDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { what, values: [first, second] } => {
                write!(f, "the machines differ: {what} is {first} in the first log and {second} in the second")
            }
            Self::Entry { equal, entries } => {
                write!(f, "{equal} entries are equal; then")?;
                for (name, entry) in ["first", "second"].into_iter().zip(entries) {
                    match entry {
                        Some(entry) => write!(f, "\n  {name}: at count {}: {}", entry.count.0, entry.entry.summary())?,
                        None => write!(f, "\n  {name}: nothing more")?,
                    }
                }
                Ok(())
            }
        }
    }
}

/// Compares headers and entries. How entries are distributed over frames, and snapshots, make no difference. Returns the
/// number of equal entries, or the first difference.
///
/// # Errors
/// When one of the logs cannot be read to the difference or to its end.
pub fn compare<A: Read, B: Read>(
    first: &mut LogReader<A>,
    second: &mut LogReader<B>,
) -> Result<Result<u64, LogDifference>, LogError> {
    if let Some(difference) = compare_headers(first.header(), second.header()) {
        return Ok(Err(difference));
    }
    let mut equal = 0;
    loop {
        match (next_entry(first)?, next_entry(second)?) {
            (None, None) => return Ok(Ok(equal)),
            (Some(a), Some(b)) if a.count == b.count && a.entry == b.entry => equal += 1,
            (a, b) => return Ok(Err(LogDifference::Entry { equal, entries: [a.map(Box::new), b.map(Box::new)] })),
        }
    }
}

fn next_entry<R: Read>(reader: &mut LogReader<R>) -> Result<Option<Positioned>, LogError> {
    loop {
        match reader.next()? {
            None => return Ok(None),
            Some(LogItem::Entry(entry, _)) => return Ok(Some(entry)),
            Some(LogItem::File(..) | LogItem::Snapshot(_) | LogItem::Disk(_)) => {}
        }
    }
}

fn compare_headers(first: &LogHeader, second: &LogHeader) -> Option<LogDifference> {
    // In full, so that a new field stops the build here. What says how a log was written makes no difference.
    let LogHeader {
        writer: _,
        identity,
        disks,
        nets,
        console_ports,
        rng,
        balloon,
        clock,
        command_line,
        initrd,
        start,
        start_count,
        disk_data: _,
        boot_files: _,
    } = first;
    let rows: [(&'static str, String, String); 11] = [
        ("the identity", format!("{identity:?}"), format!("{:?}", second.identity)),
        ("the list of disks", format!("{disks:?}"), format!("{:?}", second.disks)),
        ("the list of network devices", format!("{nets:?}"), format!("{:?}", second.nets)),
        ("the list of console ports", format!("{console_ports:?}"), format!("{:?}", second.console_ports)),
        ("the entropy device", format!("{rng:?}"), format!("{:?}", second.rng)),
        ("the balloon", format!("{balloon:?}"), format!("{:?}", second.balloon)),
        ("the clock", format!("{clock:?}"), format!("{:?}", second.clock)),
        ("the command line", format!("{command_line:?}"), format!("{:?}", second.command_line)),
        ("the initial RAM disk", format!("{initrd:?}"), format!("{:?}", second.initrd)),
        ("the start", format!("{start:?}"), format!("{:?}", second.start)),
        ("the first count", format!("{start_count:?}"), format!("{:?}", second.start_count)),
    ];
    let differs = rows.into_iter().find(|(_, first, second)| first != second);
    differs.map(|(what, first, second)| LogDifference::Header { what, values: [first, second] })
}
