//! Options of fault tolerance.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::devices::{CharOption, DebugConOption, DiskOption, NetOption};
use super::keyval::{KeyValues, OptionError};
use crate::ft::{ArbiterOption, PeerUrl};
use virtft_ft::Timing;
use virtft_ft::timing::MS;

const EXAMPLE: &str = "--ft peer=tls://hostb:7788,arbiter=dir:/shared/ft";
const KNOWN: &str =
    "peer, spares, arbiter, disks, fence, fence-options, timeout, lag, on-backup-lost, pki, force-disks";
/// Detection timeouts that make sense, in milliseconds.
const TIMEOUTS: std::ops::RangeInclusive<u64> = 100..=60_000;

/// Where a VM's disks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskPolicy {
    /// Each side has its own copy.
    #[default]
    Replicated,
    /// Both sides reach the same images; the backup leaves them alone.
    Shared,
}

/// What a backup does before it touches shared disks, so that nothing which its primary still has to write comes later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceOption {
    /// Nothing: only the lock on the images, where their file system has one, keeps the primary's writes away.
    None,
    /// A program with the interface of fence-agents is run until it succeeds.
    Exec {
        /// The program.
        agent: PathBuf,
        /// Lines of `name=value` that it reads from its standard input.
        options: Option<PathBuf>,
    },
}

/// Value of `--ft`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FtOption {
    /// The first backup.
    pub peer: Option<PeerUrl>,
    /// Backups that are made when one was lost.
    pub spares: Vec<PeerUrl>,
    /// Who decides.
    pub arbiter: ArbiterOption,
    /// Detection timeout in milliseconds.
    pub timeout_ms: u64,
    /// Target lag of the backup in milliseconds.
    pub lag_ms: u64,
    /// The machine stands still when its backup is lost.
    pub pause_alone: bool,
    /// Where the disks are.
    pub disks: DiskPolicy,
    /// How a primary is kept from shared disks.
    pub fence: FenceOption,
    /// Folder with the certificates, when they are not where libvirt has them.
    pub pki: Option<PathBuf>,
    /// Disk copies are used although they may be outdated.
    pub force_disks: bool,
}

impl FtOption {
    /// The protocol's times.
    #[must_use]
    pub fn timing(&self) -> Timing {
        Timing { lag_target_ns: self.lag_ms.saturating_mul(MS), ..Timing::with_timeout_ms(self.timeout_ms) }
    }
}

impl FromStr for FtOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut values = KeyValues::parse(text)?;
        let number = |text: Option<String>, what, otherwise| match text {
            None => Ok(otherwise),
            Some(text) => text.parse().ok().filter(|value| TIMEOUTS.contains(value)).ok_or(OptionError::BadValue {
                what,
                value: text,
                hint: "write milliseconds from 100 to 60000",
            }),
        };
        let option = Self {
            peer: values.take("peer").map(|text| text.parse()).transpose()?,
            spares: values
                .take("spares")
                .map(|text| text.split('+').map(str::parse).collect::<Result<_, _>>())
                .transpose()?
                .unwrap_or_default(),
            arbiter: values
                .take("arbiter")
                .ok_or(OptionError::Missing { key: "arbiter", example: EXAMPLE })?
                .parse()?,
            timeout_ms: number(values.take("timeout"), "detection timeout", 500)?,
            lag_ms: number(values.take("lag"), "target lag", 200)?,
            pause_alone: match values.take("on-backup-lost").as_deref() {
                None | Some("continue") => false,
                Some("pause") => true,
                Some(other) => {
                    return Err(OptionError::BadValue {
                        what: "way to go on without a backup",
                        value: other.into(),
                        hint: "write continue or pause",
                    });
                }
            },
            disks: take_disk_policy(&mut values)?,
            fence: take_fence(&mut values)?.unwrap_or(FenceOption::None),
            pki: values.take("pki").map(Into::into),
            force_disks: values.take_flag("force-disks")?.unwrap_or(false),
        };
        values.finish(KNOWN)?;
        Ok(option)
    }
}

fn take_disk_policy(values: &mut KeyValues) -> Result<DiskPolicy, OptionError> {
    let policy = match values.take("disks").as_deref() {
        None | Some("replicated") => DiskPolicy::Replicated,
        Some("shared") => DiskPolicy::Shared,
        Some(other) => {
            return Err(OptionError::BadValue {
                what: "disk policy",
                value: other.into(),
                hint: "write replicated: each side has its own copy; or shared: both reach the same images",
            });
        }
    };
    match (policy, values.has("fence")) {
        (DiskPolicy::Shared, false) => Err(OptionError::Missing {
            key: "fence",
            example: "--ft disks=shared,fence=exec:/usr/sbin/fence_ipmilan,fence-options=FILE,... (or fence=none, when the images' file \
                      system has locks that outlive no host)",
        }),
        (DiskPolicy::Replicated, true) => Err(OptionError::Conflict(
            "fence= is for disks=shared: a primary cannot reach the copies of its backup".into(),
        )),
        _ => Ok(policy),
    }
}

fn take_fence(values: &mut KeyValues) -> Result<Option<FenceOption>, OptionError> {
    let options: Option<PathBuf> = values.take("fence-options").map(Into::into);
    let Some(text) = values.take("fence") else {
        return match options {
            None => Ok(None),
            Some(_) => Err(OptionError::Conflict("fence-options= is for fence=exec:PROGRAM; name the program".into())),
        };
    };
    match text.strip_prefix("exec:") {
        Some(agent) if agent.starts_with('/') => Ok(Some(FenceOption::Exec { agent: agent.into(), options })),
        None if text == "none" && options.is_none() => Ok(Some(FenceOption::None)),
        _ => Err(OptionError::BadValue {
            what: "fence",
            value: text,
            hint: "write exec:/PATH, a program with the interface of fence-agents, or none, without fence-options",
        }),
    }
}

/// Options of `run` and `backup` about fault tolerance.
#[derive(Debug, Clone, Default, Args)]
pub struct FtArguments {
    /// Name of the VM, the same on both hosts
    #[arg(long, value_name = "NAME", help_heading = "Fault tolerance")]
    pub name: Option<String>,

    /// Fault tolerance: arbiter=dir:/PATH[,peer=URL][,spares=URL+URL][,disks=replicated|shared][,fence=exec:PATH|none][,fence-options=FILE][,timeout=MS][,lag=MS]
    /// [,on-backup-lost=continue|pause][,pki=DIR][,force-disks]. The arbiter is a directory that both hosts reach; it decides who may
    /// go on alone. Shared disks are images that both hosts reach; 'fence' is the program (as fence-agents are) that keeps the other host from
    /// them before a backup takes over. A URL is tls://HOST:PORT, or tcp://HOST:PORT on the loopback interface. A peer that is silent for
    /// 'timeout' is taken for dead
    #[arg(long, value_name = "OPTIONS", requires = "name", help_heading = "Fault tolerance")]
    pub ft: Option<FtOption>,

    /// Unix socket for 'status', 'protect', 'failover', 'unprotect' and 'control'. A VM that has one can be protected later
    #[arg(long, value_name = "PATH", requires = "name", help_heading = "Fault tolerance")]
    pub control: Option<PathBuf>,

    /// Folder in which what is left of a replica that failed is kept: the reason, and the end of the log
    #[arg(long, value_name = "DIR", requires = "ft", help_heading = "Fault tolerance")]
    pub post_mortem: Option<PathBuf>,

    #[arg(skip)]
    pub(crate) listen_tls: bool,
}

impl FtArguments {
    /// Whether the machine is one that can be protected, or that operators reach.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.ft.is_some() || self.control.is_some()
    }

    /// Whether certificates are needed to listen.
    #[must_use]
    pub fn listens_with_tls(&self) -> bool {
        self.listen_tls
    }
}

/// Options of `backup`.
#[derive(Debug, Clone, Args)]
pub struct BackupArguments {
    /// Where the primary connects: tls://ADDRESS:PORT, or tcp://ADDRESS:PORT on the loopback interface
    #[arg(long, value_name = "URL", help_heading = "Fault tolerance")]
    pub listen: PeerUrl,

    /// Name, arbiter and control socket.
    #[command(flatten)]
    pub ft: FtArguments,

    /// Disk, as in 'run': one for each of the primary's and at least as large. Its content is overwritten by the
    /// primary's
    #[arg(long, value_name = "OPTIONS", help_heading = "Devices")]
    pub disk: Vec<DiskOption>,

    /// Network device, as in 'run': one for each of the primary's, on the same segment
    #[arg(long, value_name = "OPTIONS", help_heading = "Devices")]
    pub net: Vec<NetOption>,

    /// Serial port, as in 'run'; used when this host takes over
    #[arg(long, value_name = "BACKEND", help_heading = "Devices")]
    pub serial: Vec<CharOption>,

    /// Port of the virtio console, as in 'run'
    #[arg(long, value_name = "BACKEND", help_heading = "Devices")]
    pub console: Vec<CharOption>,

    /// Output of the debug console at port 0xe9
    #[arg(long, value_name = "BACKEND", help_heading = "Devices")]
    pub debugcon: Option<DebugConOption>,

    /// Change the replicated machine by force after COUNT steps: for tests of how that is found
    #[arg(long, value_name = "COUNT", value_parser = super::parse_nonzero_count, hide = true)]
    pub inject_fault: Option<u64>,

    /// After the transfer, acknowledge the log and throw it away: to measure what the channel alone costs. It can never take over
    #[arg(long, hide = true)]
    pub ack_only: bool,

    /// Run without the seccomp filters (for debuggers and profilers)
    #[arg(long, help_heading = "Host")]
    pub no_seccomp: bool,

    /// What is logged to standard error, as in 'run'
    #[arg(long, value_name = "FILTER", default_value = super::LOG_FILTER, help_heading = "Host")]
    pub log_filter: String,
}

/// Options of `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArguments {
    /// The control socket
    pub socket: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `protect`.
#[derive(Debug, Clone, Args)]
pub struct ProtectArguments {
    /// The control socket
    pub socket: PathBuf,
    /// Where the backup listens
    #[arg(long, value_name = "URL")]
    pub peer: PeerUrl,
    /// As in 'run', for a VM that was started without it: arbiter=...
    #[arg(long, value_name = "OPTIONS")]
    pub ft: Option<String>,
}

/// Options of `failover` and `unprotect`.
#[derive(Debug, Clone, Args)]
pub struct SocketArguments {
    /// The control socket
    pub socket: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood_or_refused_by_name() {
        let option: FtOption =
            "peer=tls://b:1,spares=tls://c:1+tls://d:2,arbiter=dir:/x,timeout=300,on-backup-lost=pause"
                .parse()
                .unwrap();
        assert_eq!((option.spares.len(), option.timeout_ms, option.pause_alone), (2, 300, true));
        assert_eq!(option.timing().timeout_ns, 300 * MS);
        for (text, word) in [
            ("peer=tls://b:1", "arbiter"),
            ("arbiter=dir:x", "dir:/PATH"),
            ("arbiter=etcd:http://x", "dir:/PATH"),
            ("arbiter=dir:/x,timeout=5", "100 to 60000"),
            ("arbiter=dir:/x,disks=mirrored", "shared"),
            ("arbiter=dir:/x,disks=shared", "fence"),
            ("arbiter=dir:/x,fence=none", "disks=shared"),
            ("arbiter=dir:/x,disks=shared,fence=exec:agent", "exec:/PATH"),
            ("arbiter=dir:/x,disks=shared,fence=none,fence-options=/f", "without fence-options"),
            ("arbiter=dir:/x,fence-options=/f", "name the program"),
            ("arbiter=dir:/x,colour=red", "colour"),
            ("arbiter=dir:/x,on-backup-lost=panic", "continue or pause"),
        ] {
            let error = text.parse::<FtOption>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
