//! The command line of `virtft-emulator`.
//!
//! clap splits the line and prints the help; [`RunArguments::check`] does what concerns several options at
//! once. Nothing here touches the host.

mod control;
mod devices;
mod ft;
mod keyval;
mod log;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use control::{ControlArguments, Operation};
pub use devices::{CharOption, DebugConOption, DiskOption, ImageFormat, MacAddress, NetKind, NetLike, NetOption};
pub use ft::{
    BackupArguments, DiskPolicy, FenceOption, FtArguments, FtOption, ProtectArguments, SocketArguments, StatusArguments,
};
pub use keyval::{OptionError, parse_count, parse_size};
pub use log::{
    BootFilesOption, DiskDataOption, InjectedFault, LogCommand, LogOptions, RecordArguments, ReplayArguments, Speed,
};

use crate::exit::ExitStatus;
use crate::script::{Script, ScriptError};

/// What is logged by default: single mistakes that a guest makes with its virtio queues are counted by the devices.
pub(crate) const LOG_FILTER: &str = "warn,virtio_queue=off";

/// Runs one virtual machine.
#[derive(Debug, Parser)]
#[command(name = "virtft-emulator", version, about, after_help = ExitStatus::HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a kernel, or continue a snapshot, and run until the guest shuts down
    #[command(after_help = ExitStatus::HELP)]
    Run(Box<RunArguments>),
    /// Run as `run` does, and write everything that enters the machine to a log from which the run can be repeated
    #[command(after_help = ExitStatus::HELP)]
    Record(Box<RecordArguments>),
    /// Repeat a recorded run, instruction for instruction, and compare it with what the log says
    #[command(after_help = ExitStatus::HELP)]
    Replay(Box<ReplayArguments>),
    /// Wait for a primary, keep a copy of its machine, and take over when its host dies
    #[command(after_help = ExitStatus::HELP)]
    Backup(Box<BackupArguments>),
    /// Show how a VM and its protection stand
    #[command(after_help = ExitStatus::HELP)]
    Status(StatusArguments),
    /// Make a backup for a running VM, and wait until it protects
    #[command(after_help = ExitStatus::HELP)]
    Protect(ProtectArguments),
    /// Let the backup take over, as planned
    #[command(after_help = ExitStatus::HELP)]
    Failover(SocketArguments),
    /// Go on without the backup
    #[command(after_help = ExitStatus::HELP)]
    Unprotect(SocketArguments),
    /// Do something to a running machine
    #[command(after_help = ExitStatus::HELP)]
    Control(ControlArguments),
    /// Look at logs
    #[command(subcommand, after_help = ExitStatus::HELP)]
    Log(LogCommand),
}

/// Where guest time comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClockMode {
    /// Guest time follows the host's clock
    Real,
    /// Guest time is a function of the steps executed; an idle guest skips to its next timer. Two runs with
    /// the same arguments are the same to the last bit
    Virtual,
}

/// A place and a file, as in `--save-at 100M=file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavePoint {
    /// Steps at which to save; `None` for the end of the run.
    pub count: Option<u64>,
    /// The snapshot to write.
    pub file: PathBuf,
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// Kernel to boot: bzImage, ELF with a PVH note, or Multiboot v1
    #[arg(long, value_name = "FILE", required_unless_present = "snapshot", help_heading = "Boot")]
    pub kernel: Option<PathBuf>,

    /// Initial RAM disk handed to the kernel
    #[arg(long, value_name = "FILE", requires = "kernel", help_heading = "Boot")]
    pub initrd: Option<PathBuf>,

    /// Kernel command line
    #[arg(long, value_name = "TEXT", default_value = "", help_heading = "Boot")]
    pub append: String,

    /// Continue from a snapshot written by --save-at; memory, vCPUs and devices must be given as they were
    #[arg(long, value_name = "FILE", conflicts_with = "kernel", help_heading = "Boot")]
    pub snapshot: Option<PathBuf>,

    /// Guest memory in bytes, with suffix K, M or G; a multiple of 1 MiB, at least 16M
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_memory, help_heading = "Machine")]
    pub memory: u64,

    /// Number of virtual CPUs, 1 to 8; they take turns on one host thread
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8),
          help_heading = "Machine")]
    pub vcpus: u8,

    /// Disk: file=PATH[,id=NAME][,format=raw|qcow2][,readonly=on]. The format is probed when not given; give
    /// format=raw for raw images, or the guest could turn its disk into another format. Repeatable
    #[arg(long, value_name = "OPTIONS", help_heading = "Devices")]
    pub disk: Vec<DiskOption>,

    /// Network device: tap=NAME | passt | stream=PATH[,server][,small-windows] | none[,like=KIND], each with
    /// [,mac=ADDRESS]. 'passt' starts a passt process: the guest reaches what the host reaches, no privilege
    /// needed. 'stream' speaks the framing of QEMU's '-netdev stream' and of passt; with a passt that you started
    /// yourself, which loses frames that it cannot deliver at once, give small-windows. 'none' has no link; with
    /// like=tap, passt or stream it offers what such a device does, for a snapshot that is continued with one. Repeatable
    #[arg(long, value_name = "OPTIONS", help_heading = "Devices")]
    pub net: Vec<NetOption>,

    /// Serial port (16550): stdio | pty | unix:PATH[,server] | file:PATH | null. At most two: COM1, COM2. On
    /// a terminal, stdio leaves the emulator with Ctrl-A x; Ctrl-A Ctrl-A types a Ctrl-A
    #[arg(long, value_name = "BACKEND", help_heading = "Devices")]
    pub serial: Vec<CharOption>,

    /// Port of the virtio console, with the same backends as --serial. Repeatable
    #[arg(long, value_name = "BACKEND", help_heading = "Devices")]
    pub console: Vec<CharOption>,

    /// Output of the debug console at port 0xe9: file:PATH | stdio
    #[arg(long, value_name = "BACKEND", help_heading = "Devices")]
    pub debugcon: Option<DebugConOption>,

    /// Where guest time comes from
    #[arg(long, value_enum, default_value_t = ClockMode::Real, help_heading = "Determinism")]
    pub clock: ClockMode,

    /// Script of packets, keys and serial input at given positions; needs --clock virtual
    #[arg(long, value_name = "FILE", help_heading = "Determinism")]
    pub inputs: Option<PathBuf>,

    /// Seed of the guest's random numbers: up to 64 hex digits. Default: fresh entropy with the real clock,
    /// zero with the virtual one
    #[arg(long, value_name = "HEX", value_parser = parse_seed, help_heading = "Determinism")]
    pub rng_seed: Option<[u8; 32]>,

    /// Write a digest of CPUs and devices every COUNT steps, and of memory too every 100 times COUNT steps
    #[arg(long, value_name = "COUNT", value_parser = parse_nonzero_count, requires = "digest_log",
          help_heading = "Determinism")]
    pub digest_every: Option<u64>,

    /// File that receives the digests, one line each
    #[arg(long, value_name = "FILE", requires = "digest_every", help_heading = "Determinism")]
    pub digest_log: Option<PathBuf>,

    /// End the run when COUNT steps have been executed
    #[arg(long, value_name = "COUNT", value_parser = parse_nonzero_count, help_heading = "Determinism")]
    pub max_count: Option<u64>,

    /// Write a snapshot to FILE when COUNT steps have been executed, and go on; use --max-count to end there. 'end' in
    /// place of COUNT: where --max-count or an input script ends the run; needs --clock virtual
    #[arg(long, value_name = "COUNT=FILE", value_parser = parse_save_point, help_heading = "Determinism")]
    pub save_at: Vec<SavePoint>,

    /// Flush translation and code caches, and save and restore the machine, at random counts drawn from SEED:
    /// none of it may change a digest. For tests; needs --clock virtual
    #[arg(long, value_name = "SEED", help_heading = "Determinism")]
    pub perturb: Option<u64>,

    /// Stand still before the first step, until 'control SOCKET resume'
    #[arg(long, requires = "control", help_heading = "Host")]
    pub paused: bool,

    /// Fault tolerance.
    #[command(flatten)]
    pub ft: FtArguments,

    /// Run without the seccomp filters (for debuggers and profilers)
    #[arg(long, help_heading = "Host")]
    pub no_seccomp: bool,

    /// What is logged to standard error: error, warn, info, debug, trace, or filters such as
    /// 'info,virtft_emulator::disk=debug'. The default leaves out each single mistake that a guest makes with its
    /// virtio queues: the devices count them
    #[arg(long, value_name = "FILTER", default_value = LOG_FILTER, help_heading = "Host")]
    pub log_filter: String,
}

impl RunArguments {
    /// Checks what concerns more than one option.
    ///
    /// # Errors
    /// One line that says what excludes what.
    pub fn check(&self) -> Result<(), OptionError> {
        let conflict = |text: &str| Err(OptionError::Conflict(text.to_owned()));
        if self.serial.len() > 2 {
            return conflict("--serial is given more than twice; the machine has two serial ports: use --console");
        }
        if self.console.len() > 8 || self.disk.len() > 16 || self.net.len() > 8 {
            return conflict("too many devices; at most 16 disks, 8 network devices and 8 console ports");
        }
        let stdio = self.char_options().filter(|option| **option == CharOption::Stdio).count();
        if stdio > 1 {
            return conflict("stdio is used by more than one --serial, --console or --debugcon; use it for one");
        }
        if self.inputs.is_some() && self.clock == ClockMode::Real {
            return conflict("--inputs needs --clock virtual: with the real clock positions differ from run to run");
        }
        if self.perturb.is_some() && self.clock == ClockMode::Real {
            return conflict("--perturb needs --clock virtual: with the real clock there is nothing to compare");
        }
        if self.save_at.iter().any(|point| point.count.is_none()) && self.clock == ClockMode::Real {
            return conflict("--save-at end=FILE needs --clock virtual: otherwise give a count");
        }
        if self.clock == ClockMode::Virtual {
            if self.ft.is_used() {
                return conflict("--ft and --control need --clock real: a pair follows the hosts' clocks");
            }
            if self.net.iter().any(|net| !matches!(net.kind, NetKind::None { .. })) {
                return conflict(
                    "--clock virtual has no host network: use --net none and let --inputs bring the packets",
                );
            }
            let listening = |option: &&CharOption| matches!(option, CharOption::Pty | CharOption::Unix { .. });
            if self.char_options().any(|option| listening(&option)) {
                return conflict(
                    "--clock virtual takes no input from the host: use stdio (output only), file: or null",
                );
            }
        }
        let mut ids: Vec<&String> = self.disk.iter().filter_map(|disk| disk.id.as_ref()).collect();
        ids.sort();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(OptionError::Conflict(format!("two disks have the id '{}'; give each its own", pair[0])));
        }
        Ok(())
    }

    /// Loads the script named by `--inputs`.
    ///
    /// # Errors
    /// When the file cannot be read or a line of it is wrong.
    pub fn load_script(&self) -> Result<Option<Script>, ScriptError> {
        self.inputs.as_deref().map(Script::load).transpose()
    }

    /// The devices of a backup; everything else comes from its primary.
    #[must_use]
    pub fn for_backup(backup: &BackupArguments) -> Self {
        Self {
            kernel: None,
            initrd: None,
            append: String::new(),
            snapshot: None,
            memory: 0,
            vcpus: 1,
            disk: backup.disk.clone(),
            net: backup.net.clone(),
            serial: backup.serial.clone(),
            console: backup.console.clone(),
            debugcon: backup.debugcon.clone(),
            clock: ClockMode::Real,
            inputs: None,
            rng_seed: None,
            digest_every: None,
            digest_log: None,
            max_count: None,
            save_at: Vec::new(),
            perturb: None,
            paused: false,
            ft: FtArguments::default(),
            no_seccomp: backup.no_seccomp,
            log_filter: backup.log_filter.clone(),
        }
    }

    /// The images of disks that can be written.
    #[must_use]
    pub fn writable_images(&self) -> Vec<PathBuf> {
        self.disk.iter().filter(|disk| !disk.readonly).map(|disk| disk.file.clone()).collect()
    }

    /// Every character backend of the command line.
    fn char_options(&self) -> impl Iterator<Item = &CharOption> {
        let debugcon = self.debugcon.iter().map(|option| &option.0);
        self.serial.iter().chain(&self.console).chain(debugcon)
    }
}

fn parse_memory(text: &str) -> Result<u64, OptionError> {
    let size = parse_size(text)?;
    // Above 512 GiB the memory map would need a hole that the machine does not describe.
    if !(16 << 20..=512 << 30).contains(&size) || size % (1 << 20) != 0 {
        return Err(OptionError::BadValue {
            what: "memory size",
            value: text.to_owned(),
            hint: "write a multiple of 1M from 16M to 512G, for example 1G",
        });
    }
    Ok(size)
}

fn parse_nonzero_count(text: &str) -> Result<u64, OptionError> {
    match parse_count(text)? {
        0 => Err(OptionError::BadValue { what: "step count", value: text.to_owned(), hint: "write at least 1" }),
        count => Ok(count),
    }
}

fn parse_save_point(text: &str) -> Result<SavePoint, OptionError> {
    let (count, file) = text.split_once('=').filter(|(_, file)| !file.is_empty()).ok_or(OptionError::BadValue {
        what: "save point",
        value: text.to_owned(),
        hint: "write COUNT=FILE, for example 100M=boot.snapshot",
    })?;
    let count = if count == "end" { None } else { Some(parse_nonzero_count(count)?) };
    Ok(SavePoint { count, file: file.into() })
}

fn parse_seed(text: &str) -> Result<[u8; 32], OptionError> {
    let bad = || OptionError::BadValue {
        what: "seed",
        value: text.to_owned(),
        hint: "write 1 to 64 hex digits, for example 2a",
    };
    if text.is_empty() || text.len() > 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let padded = format!("{text:0>64}");
    let mut seed = [0; 32];
    for (index, byte) in seed.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&padded[2 * index..2 * index + 2], 16).map_err(|_| bad())?;
    }
    Ok(seed)
}
