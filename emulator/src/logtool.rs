//! The `log` command: what is in a log, whether it is whole, where two logs differ.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use virtft_replay::entry::EntryKind;
use virtft_replay::header::{BootFiles, DiskData};
use virtft_replay::reader::{Ending, LogItem};
use virtft_replay::snapshot::SnapshotPart;
use virtft_replay::statistics::{KindTotals, LogStatistics};
use virtft_replay::{EndReason, LogEntry, LogError, LogHeader, diff};

use crate::cli::LogCommand;
use crate::driver::RunEnd;
use crate::exit::ExitStatus;
use crate::replay::LogFile;

/// Carries out a `log` command; what it finds goes to standard output.
///
/// # Errors
/// One line when a log cannot be opened.
pub fn run(command: &LogCommand) -> Result<RunEnd, String> {
    match command {
        LogCommand::Info { log } => read(log, &mut |_| Ok(())).map(|summary| summary.end_of_info(log)),
        LogCommand::Verify { log } => read(log, &mut |_| Ok(())).map(|summary| summary.end_of_verify(log)),
        LogCommand::Dump { log, from, to } => {
            let range = *from..=to.unwrap_or(u64::MAX);
            let mut out = io::BufWriter::new(io::stdout().lock());
            let mut show = |item: &LogItem| match item {
                LogItem::Entry(entry, bytes) if range.contains(&entry.count.0) => {
                    writeln!(out, "{:>10} {:>16} {bytes:>8} {}", entry.sequence, entry.count.0, entry.entry.summary())
                }
                _ => Ok(()),
            };
            let summary = read(log, &mut show)?;
            // A reader that has seen enough is no error.
            let _ = out.flush();
            Ok(summary.end_of_dump(log))
        }
        LogCommand::Diff { first, second } => compare(first, second),
    }
}

/// A log, read to its end or to where it is damaged.
struct Summary {
    header: Option<LogHeader>,
    statistics: LogStatistics,
    /// Bytes and frames that were read.
    bytes: u64,
    frames: u64,
    /// Snapshots: number and count.
    snapshots: Vec<(u32, u64)>,
    result: Result<Ending, LogError>,
}

/// Reads a whole log and shows each item. It stops when `show` fails: whoever reads the output has seen enough.
fn read(path: &Path, show: &mut dyn FnMut(&LogItem) -> io::Result<()>) -> Result<Summary, String> {
    let log = LogFile::open(path)?;
    let mut summary = Summary {
        header: None,
        statistics: LogStatistics::default(),
        bytes: 0,
        frames: 0,
        snapshots: Vec::new(),
        result: Ok(Ending::Unknown),
    };
    let mut reader = match log.reader() {
        Ok(reader) => reader,
        Err(error) => {
            summary.result = Err(error);
            return Ok(summary);
        }
    };
    summary.header = Some(reader.header().clone());
    loop {
        match reader.next() {
            Ok(Some(item)) => {
                summary.add(&item);
                if show(&item).is_err() {
                    break;
                }
            }
            Ok(None) => {
                summary.result = Ok(reader.ending());
                break;
            }
            Err(error) => {
                summary.result = Err(error);
                break;
            }
        }
    }
    (summary.bytes, summary.frames) = (reader.bytes_read(), reader.frames_read());
    Ok(summary)
}

impl Summary {
    fn add(&mut self, item: &LogItem) {
        match item {
            LogItem::Entry(entry, bytes) => {
                self.statistics.add(entry, *bytes);
                if let LogEntry::Snapshot(number) = entry.entry {
                    self.snapshots.push((number, entry.count.0));
                }
            }
            LogItem::File(_, bytes) => self.statistics.file_bytes += bytes.len() as u64,
            LogItem::Disk(part) => self.statistics.file_bytes += part.data.len() as u64,
            LogItem::Snapshot(part) => {
                self.statistics.snapshot_bytes += match part {
                    SnapshotPart::Pages { pages, .. } => pages.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
                    SnapshotPart::State { state, .. } => state.len() as u64,
                };
            }
        }
    }

    /// How the log ends, as the process's end.
    fn end(&self, path: &Path) -> RunEnd {
        let report =
            |text: String| RunEnd::with_report(ExitStatus::LogIncomplete, format!("{}: {text}", path.display()));
        match &self.result {
            Ok(Ending::Complete(_) | Ending::Unknown) => RunEnd::quiet(ExitStatus::Clean),
            Ok(Ending::Unfinished { .. }) => {
                let last = self.statistics.counts.map_or(0, |(_, last)| last);
                report(format!("the log is unfinished: recording was interrupted after count {last}"))
            }
            Err(error) => report(error.to_string()),
        }
    }

    fn end_of_dump(&self, path: &Path) -> RunEnd {
        self.end(path)
    }

    fn end_of_verify(&self, path: &Path) -> RunEnd {
        let end = self.end(path);
        if end.status == ExitStatus::Clean {
            print(&format!(
                "{}: whole: {} frames, {} entries\n",
                path.display(),
                self.frames,
                self.statistics.total().entries
            ));
        }
        end
    }

    fn end_of_info(&self, path: &Path) -> RunEnd {
        if let Some(header) = &self.header {
            print(&(machine_text(header) + &self.sums_text()));
        }
        self.end(path)
    }

    fn sums_text(&self) -> String {
        let sums = &self.statistics;
        let (steps, guest_ns) = (sums.steps(), sums.guest_ns());
        let mut text = String::new();
        let _ = writeln!(text, "steps             {steps}");
        let _ = writeln!(text, "guest time        {}.{:03} s", guest_ns / 1_000_000_000, guest_ns / 1_000_000 % 1000);
        let _ = writeln!(text, "file              {} bytes in {} frames", self.bytes, self.frames);
        let _ = writeln!(text, "boot files        {} bytes", sums.file_bytes);
        for (number, count) in &self.snapshots {
            let _ = writeln!(text, "snapshot {number:<8} at count {count}");
        }
        let _ = writeln!(text, "snapshots         {} bytes", sums.snapshot_bytes);
        let _ = writeln!(
            text,
            "\n{:<18} {:>10} {:>14} {:>14} {:>12} {:>14}",
            "entries", "number", "bytes", "of the guest", "bytes/s", "bytes/1000 st."
        );
        let rows = EntryKind::ALL.into_iter().map(|kind| (kind.name(), sums.of(kind)));
        for (name, totals) in rows.chain([("all", sums.total())]) {
            let KindTotals { entries, bytes, content_bytes } = totals;
            let _ = writeln!(
                text,
                "{name:<18} {entries:>10} {bytes:>14} {content_bytes:>14} {:>12} {:>14}",
                per(bytes, guest_ns, 1_000_000_000),
                per(bytes, steps, 1000)
            );
        }
        let _ = writeln!(text, "\nending            {}", self.ending_text());
        text
    }

    fn ending_text(&self) -> String {
        match &self.result {
            Ok(Ending::Complete(EndReason::Off { status: 0 })) => "the guest powered off".into(),
            Ok(Ending::Complete(reason)) => LogEntry::End(*reason).summary(),
            Ok(Ending::Unknown) => "not read".into(),
            Ok(Ending::Unfinished { truncated: true }) => "unfinished, in the middle of a frame".into(),
            Ok(Ending::Unfinished { truncated: false }) => "unfinished".into(),
            Err(_) => "damaged".into(),
        }
    }
}

/// `bytes * unit / of` with four decimals.
fn per(bytes: u64, of: u64, unit: u64) -> String {
    if of == 0 {
        return "-".into();
    }
    let scaled = u128::from(bytes) * u128::from(unit) * 10_000 / u128::from(of);
    format!("{}.{:04}", scaled / 10_000, scaled % 10_000)
}

fn machine_text(header: &LogHeader) -> String {
    let identity = &header.identity;
    let mut text = String::new();
    let _ = writeln!(text, "written by        virtft-emulator {}", header.writer);
    let _ = writeln!(text, "machine           {}, CPU model {}", identity.machine_type, identity.cpu_model);
    let _ = writeln!(text, "memory            {} MiB", identity.memory_bytes >> 20);
    let _ = writeln!(text, "vCPUs             {}", identity.vcpus);
    for disk in &header.disks {
        let access = if disk.read_only { ", read-only" } else { "" };
        let _ = writeln!(text, "disk {:<12} {} bytes, serial '{}'{access}", disk.index.0, disk.size_bytes, disk.serial);
    }
    for net in &header.nets {
        let mac: Vec<String> = net.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "network {:<9} {}", net.index.0, mac.join(":"));
    }
    let _ = writeln!(text, "console ports     {}", header.console_ports.len());
    let _ = writeln!(text, "command line      {}", header.command_line);
    let disk_data = match header.disk_data {
        DiskData::InLog => "in the log",
        DiskData::OwnCopies(_) => "not in the log: replay needs copies of the disks",
    };
    let _ = writeln!(text, "disk data         {disk_data}");
    let boot_files = match header.boot_files {
        BootFiles::InLog => "in the log",
        BootFiles::Apart => "not in the log: replay needs them",
    };
    let _ = writeln!(text, "kernel, initrd    {boot_files}");
    let _ = writeln!(text, "first count       {}", header.start_count);
    text
}

fn compare(first: &Path, second: &Path) -> Result<RunEnd, String> {
    let named = |path: &Path, error: LogError| {
        RunEnd::with_report(ExitStatus::LogIncomplete, format!("{}: {error}", path.display()))
    };
    let (a, b) = (LogFile::open(first)?, LogFile::open(second)?);
    let mut a = match a.reader() {
        Ok(reader) => reader,
        Err(error) => return Ok(named(first, error)),
    };
    let mut b = match b.reader() {
        Ok(reader) => reader,
        Err(error) => return Ok(named(second, error)),
    };
    Ok(match diff::compare(&mut a, &mut b) {
        Err(error) => RunEnd::with_report(ExitStatus::LogIncomplete, error.to_string()),
        Ok(Ok(equal)) => {
            print(&format!("{equal} entries, all equal\n"));
            RunEnd::quiet(ExitStatus::Clean)
        }
        Ok(Err(difference)) => {
            print(&format!("{difference}\n"));
            RunEnd::quiet(ExitStatus::Diverged)
        }
    })
}

/// Writes to standard output. Whoever closed it does not want more.
fn print(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}
