//! The command line of `virtftd`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;

use crate::ft::tls;

/// The libvirt driver of virtft: stock clients open ft:///system
#[derive(Debug, Clone, Parser)]
#[command(name = "virtftd", version)]
pub struct Cli {
    /// Serve one user (ft:///session) instead of the host; the default for everyone but root
    #[arg(long)]
    pub session: bool,

    /// Socket for clients. Default: virtftd-sock in libvirt's run directory
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Socket for clients that may only look. Default: the socket's path with -ro; none for a session
    #[arg(long, value_name = "PATH")]
    pub socket_ro: Option<PathBuf>,

    /// Group whose members may use the socket; without it only the daemon's own user and root may
    #[arg(long, value_name = "GID")]
    pub socket_gid: Option<u32>,

    /// Directory of the definitions. Default: /etc/libvirt/ft
    #[arg(long, value_name = "DIRECTORY")]
    pub config_dir: Option<PathBuf>,

    /// Directory of what is known of running domains. Default: /run/libvirt/ft
    #[arg(long, value_name = "DIRECTORY")]
    pub run_dir: Option<PathBuf>,

    /// Directory of the sockets of libvirt's own daemons, whose storage pools and networks are used. Default: /run/libvirt
    #[arg(long, value_name = "DIRECTORY")]
    pub libvirt_dir: Option<PathBuf>,

    /// Directory of what emulators say. Default: /var/log/libvirt/ft
    #[arg(long, value_name = "DIRECTORY")]
    pub log_dir: Option<PathBuf>,

    /// Directory of saved states. Default: /var/lib/libvirt/ft/save
    #[arg(long, value_name = "DIRECTORY")]
    pub save_dir: Option<PathBuf>,

    /// Emulator of domains that name none. Default: virtft-emulator beside this program, else in the search path
    #[arg(long, value_name = "FILE")]
    pub emulator: Option<PathBuf>,

    /// Listen for clients and other hosts' daemons under TLS at this address, too; libvirt's port is 16514
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_listen)]
    pub listen_tls: Option<SocketAddr>,

    /// Folder with cacert.pem, servercert.pem, serverkey.pem, clientcert.pem and clientkey.pem. Default: libvirt's places under /etc/pki
    #[arg(long, value_name = "DIRECTORY")]
    pub pki: Option<PathBuf>,

    /// Address at which this host keeps backups of other hosts' domains. Default: that by which the other host has come
    #[arg(long, value_name = "IP")]
    pub ft_address: Option<IpAddr>,

    /// Ports for them
    #[arg(long, value_name = "FIRST-LAST", value_parser = parse_ports, default_value = "49152-49215")]
    pub ft_ports: (u16, u16),

    /// End when nobody has been connected, and no domain has run, for so long
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub timeout: Option<u64>,

    /// Most clients at once
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_clients: u32,

    /// What is logged to standard error: error, warn, info, debug, trace, or filters such as 'info,virtftd::calls=debug'
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log_filter: String,
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<SocketAddr>().ok();
    let address = address.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, tls::PORT)));
    address.ok_or_else(|| "write an IP address, with a port or without: 0.0.0.0, [::]:16515".into())
}

fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let ports = text.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)));
    ports
        .filter(|(first, last)| first <= last)
        .ok_or_else(|| "write two ports, the smaller one first: 49152-49215".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn help_is_complete() {
        super::Cli::command().debug_assert();
    }
}
