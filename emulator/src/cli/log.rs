//! Options of `record`, `replay` and `log`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{
    CharOption, DebugConOption, DiskOption, LOG_FILTER, OptionError, RunArguments, parse_count, parse_nonzero_count,
};

/// Where the data that a guest reads from its disks is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiskDataOption {
    /// In the log: replay needs no disk
    Log,
    /// Nowhere: replay is given unchanged copies of the disks with --disk, and a checksum in the log is compared
    Own,
}

/// Where kernel and initial RAM disk are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BootFilesOption {
    /// In the log
    Log,
    /// Nowhere: replay is given them with --kernel and --initrd, and their digests are compared
    Apart,
}

/// What `record` has beyond `run`.
#[derive(Debug, Clone, Args)]
pub struct LogOptions {
    /// File that receives the log; it must not exist. It holds the guest's secrets: only you can read it
    #[arg(long, value_name = "FILE", help_heading = "Log")]
    pub log: PathBuf,

    /// Put a snapshot into the log every so often (30s, 5m), so that replay can start in the middle
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Log")]
    pub snapshot_every: Option<Duration>,

    /// Put a digest of CPUs, devices and outputs into the log every COUNT steps, and one of memory every 100 times
    /// COUNT steps: replay compares them
    #[arg(long, value_name = "COUNT", default_value = "10M", value_parser = parse_nonzero_count, help_heading = "Log")]
    pub check_every: u64,

    /// Put a digest before every input too: a large log that shows exactly where a run went another way
    #[arg(long, help_heading = "Log")]
    pub check_inputs: bool,

    /// Where the data that the guest reads from its disks is kept
    #[arg(long, value_enum, default_value_t = DiskDataOption::Log, help_heading = "Log")]
    pub disk_data: DiskDataOption,

    /// Where kernel and initial RAM disk are kept
    #[arg(long, value_enum, default_value_t = BootFilesOption::Log, help_heading = "Log")]
    pub boot_files: BootFilesOption,

    /// Write the log as it is, not compressed with LZ4
    #[arg(long, help_heading = "Log")]
    pub no_compress: bool,
}

/// Options of `record`.
#[derive(Debug, Clone, Args)]
pub struct RecordArguments {
    /// The log.
    #[command(flatten)]
    pub log: LogOptions,
    /// The machine.
    #[command(flatten)]
    pub run: RunArguments,
}

/// How fast a log is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Speed {
    /// As fast as it goes
    Max,
    /// Guest time passes as it did when it was recorded, if the host can keep up
    Real,
}

/// A disturbance that `replay` makes on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InjectedFault {
    /// Whether it happens whenever this place is executed in the ordinary way, as a defect of the engine would; otherwise
    /// only the first time, as an error of the host's memory would.
    pub persistent: bool,
    /// Steps after which a register is changed.
    pub count: u64,
}

/// Options of `replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArguments {
    /// The log
    #[arg(value_name = "LOG")]
    pub log: PathBuf,

    /// Stop when COUNT steps have been executed
    #[arg(long, value_name = "COUNT", value_parser = parse_count, help_heading = "Range")]
    pub until: Option<u64>,

    /// Start from snapshot N of the log (`log info` lists them), not from its beginning
    #[arg(long, value_name = "N", help_heading = "Range")]
    pub from_snapshot: Option<u32>,

    /// How fast
    #[arg(long, value_enum, default_value_t = Speed::Max, help_heading = "Range")]
    pub speed: Speed,

    /// Where the output of a serial port goes, as for `run`; there is no input. At most two: COM1, COM2
    #[arg(long, value_name = "BACKEND", help_heading = "Output")]
    pub serial: Vec<CharOption>,

    /// Where the output of a port of the virtio console goes. Repeatable
    #[arg(long, value_name = "BACKEND", help_heading = "Output")]
    pub console: Vec<CharOption>,

    /// Output of the debug console: file:PATH | stdio
    #[arg(long, value_name = "BACKEND", help_heading = "Output")]
    pub debugcon: Option<DebugConOption>,

    /// The kernel, for a log recorded with --boot-files apart
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    pub kernel: Option<PathBuf>,

    /// The initial RAM disk, for a log recorded with --boot-files apart
    #[arg(long, value_name = "FILE", requires = "kernel", help_heading = "Files")]
    pub initrd: Option<PathBuf>,

    /// A copy of a disk as it was when recording began, for a log recorded with --disk-data own; it is only read.
    /// Repeatable, in the order of recording
    #[arg(long, value_name = "OPTIONS", help_heading = "Files")]
    pub disk: Vec<DiskOption>,

    /// Flush caches, and save and restore the machine, at random counts drawn from SEED: none of it may show
    #[arg(long, value_name = "SEED", help_heading = "Tests")]
    pub perturb: Option<u64>,

    /// Change a register at COUNT, to see how a divergence is found: memory@COUNT once, engine@COUNT whenever COUNT is
    /// executed with the usual caches
    #[arg(long, value_name = "KIND@COUNT", value_parser = parse_fault, help_heading = "Tests")]
    pub inject_fault: Option<InjectedFault>,

    /// Run without the seccomp filters (for debuggers and profilers)
    #[arg(long, help_heading = "Host")]
    pub no_seccomp: bool,

    /// What is logged to standard error, as for `run`
    #[arg(long, value_name = "FILTER", default_value = LOG_FILTER, help_heading = "Host")]
    pub log_filter: String,
}

/// What `log` does.
#[derive(Debug, Clone, Subcommand)]
pub enum LogCommand {
    /// Say what is in a log: the machine, entries and bytes by kind, rates, snapshots, how it ends
    Info {
        /// The log
        log: PathBuf,
    },
    /// List the entries of a log, one line each
    Dump {
        /// The log
        log: PathBuf,
        /// Leave out entries before this count
        #[arg(long, value_name = "COUNT", value_parser = parse_count, default_value = "0")]
        from: u64,
        /// Leave out entries after this count
        #[arg(long, value_name = "COUNT", value_parser = parse_count)]
        to: Option<u64>,
    },
    /// Check that every frame of a log is whole and can be decoded; replay is what checks that the run is the same
    Verify {
        /// The log
        log: PathBuf,
    },
    /// Find the first entry in which two logs differ
    Diff {
        /// The first log
        first: PathBuf,
        /// The second log
        second: PathBuf,
    },
}

fn parse_duration(text: &str) -> Result<Duration, OptionError> {
    let bad = || OptionError::BadValue {
        what: "time",
        value: text.to_owned(),
        hint: "write a number with ms, s, m or h, for example 30s",
    };
    let split = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    number.checked_mul(unit_ms).filter(|time_ms| *time_ms > 0).map(Duration::from_millis).ok_or_else(bad)
}

fn parse_fault(text: &str) -> Result<InjectedFault, OptionError> {
    let bad = || OptionError::BadValue {
        what: "fault",
        value: text.to_owned(),
        hint: "write memory@COUNT or engine@COUNT, for example memory@5M",
    };
    let (kind, count) = text.split_once('@').ok_or_else(bad)?;
    let persistent = match kind {
        "memory" => false,
        "engine" => true,
        _ => return Err(bad()),
    };
    Ok(InjectedFault { persistent, count: parse_nonzero_count(count)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_faults_are_read_or_refused_by_name() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "30", "s", "0s", "1d", "99999999999999999999s", "-1s"] {
            let error = parse_duration(wrong).unwrap_err().to_string();
            assert!(error.contains("30s"), "{wrong}: {error}");
        }
        assert_eq!(parse_fault("engine@5M"), Ok(InjectedFault { persistent: true, count: 5_000_000 }));
        assert!(parse_fault("cosmic@1").unwrap_err().to_string().contains("memory@COUNT"));
    }
}
