//! Where things are on the host.

use std::env;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::cli::Cli;
use crate::ft::tls::Pki;

/// The emulator's file name.
const EMULATOR: &str = "virtft-emulator";

/// Files and directories of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Serves one user.
    pub is_session: bool,
    /// Socket for clients.
    pub socket: PathBuf,
    /// Socket for clients that may only look.
    pub socket_ro: Option<PathBuf>,
    /// Definitions, and links to those that start with the daemon.
    pub config: PathBuf,
    /// Where libvirt's own daemons listen.
    pub libvirt: PathBuf,
    /// What is known of running domains; gone after a boot of the host.
    pub run: PathBuf,
    /// What emulators say.
    pub log: PathBuf,
    /// Saved states.
    pub save: PathBuf,
    /// Emulator of domains that name none.
    pub emulator: PathBuf,
    /// This host's certificates.
    pub pki: Pki,
    /// Where backups of other hosts' domains are reached; `None` is the address by which the other host has come.
    pub ft_address: Option<IpAddr>,
    /// Ports of backups, first and last.
    pub ft_ports: (u16, u16),
}

impl Paths {
    /// Reads them off the command line; the rest is as libvirt's own drivers have it.
    #[must_use]
    pub fn new(cli: &Cli) -> Self {
        let is_session = cli.session || !rustix::process::geteuid().is_root();
        let (run, config, log, state) = if is_session {
            let home = env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
            let cache = directory("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache")).join("libvirt");
            let run = directory("XDG_RUNTIME_DIR").map_or_else(|| cache.clone(), |run| run.join("libvirt"));
            let config = directory("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")).join("libvirt");
            (run, config, cache.clone(), cache)
        } else {
            (
                PathBuf::from("/run/libvirt"),
                PathBuf::from("/etc/libvirt"),
                PathBuf::from("/var/log/libvirt"),
                PathBuf::from("/var/lib/libvirt"),
            )
        };
        let socket = cli.socket.clone().unwrap_or_else(|| run.join("virtftd-sock"));
        let socket_ro = match (&cli.socket_ro, is_session) {
            (Some(path), _) => Some(path.clone()),
            (None, true) => None,
            (None, false) => Some(with_suffix(&socket, "-ro")),
        };
        Self {
            is_session,
            socket,
            socket_ro,
            config: cli.config_dir.clone().unwrap_or_else(|| config.join("ft")),
            libvirt: cli.libvirt_dir.clone().unwrap_or_else(|| run.clone()),
            run: cli.run_dir.clone().unwrap_or_else(|| run.join("ft")),
            log: cli.log_dir.clone().unwrap_or_else(|| log.join("ft")),
            save: cli.save_dir.clone().unwrap_or_else(|| state.join("ft/save")),
            emulator: cli.emulator.clone().unwrap_or_else(find_emulator),
            pki: Pki { folder: cli.pki.clone() },
            ft_address: cli.ft_address,
            ft_ports: cli.ft_ports,
        }
    }

    /// The control socket of a running domain's emulator.
    #[must_use]
    pub fn control(&self, uuid: Uuid) -> PathBuf {
        self.run.join(format!("{uuid}.control"))
    }

    /// The URI that a client means who names none.
    #[must_use]
    pub fn default_uri(&self) -> &'static str {
        if self.is_session { "ft:///session" } else { "ft:///system" }
    }
}

/// An absolute directory named by the environment.
fn directory(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Clients are told an absolute path: virt-install copies it into domains.
fn find_emulator() -> PathBuf {
    let beside = env::current_exe().ok().map(|exe| exe.with_file_name(EMULATOR));
    let search = env::var_os("PATH").unwrap_or_default();
    let mut candidates = beside.into_iter().chain(env::split_paths(&search).map(|folder| folder.join(EMULATOR)));
    candidates.find(|path| path.is_file()).unwrap_or_else(|| Path::new("/usr/bin").join(EMULATOR))
}
