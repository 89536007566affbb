//! libvirt's own daemons on the host: storage pools, virtual networks, node devices, interfaces, filters and secrets are
//! theirs. A call about those is passed on as it is, and so is the answer ([`crate::server::forward`]); and the daemon asks
//! for itself on which bridge a network is.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use virtft_rpc::remote::{
    Address, auth_list, auth_polkit, connect_open, network_get_bridge_name, network_get_dhcp_leases,
    network_lookup_by_name,
};
use virtft_rpc::{
    FrameBuffer, Header, MessageType, NetworkRef, Procedure, REMOTE_PROGRAM, REMOTE_VERSION, RemoteError, Status,
    from_bytes, to_bytes,
};

use crate::error::DriverError;
use crate::paths::Paths;

/// How long such a daemon may take to answer what is asked before anything is passed on.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Serials of the daemon's own calls begin here; clients count from 0 or 1.
const FIRST_SERIAL: u32 = 0x8000_0000;
/// The client may only look.
const OPEN_READ_ONLY: u32 = 1;
/// Authentication by polkit, which lets root through.
const AUTH_POLKIT: i32 = 2;

/// What a daemon of libvirt's is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Virtual networks.
    Network,
    /// Pools and volumes.
    Storage,
    /// Devices of the host.
    NodeDevice,
    /// The host's network interfaces.
    Interface,
    /// Filters of network traffic.
    NwFilter,
    /// Secrets.
    Secret,
}

impl Kind {
    /// Whose a procedure is, in libvirt's numbers.
    #[must_use]
    pub fn of(procedure: i32) -> Option<Self> {
        match procedure {
            36 | 38..=50 | 52 | 152 | 153 | 283 | 291 | 313 | 314 | 341 | 404 => Some(Self::Network),
            71..=100 | 125 | 154 | 155 | 165 | 208 | 209 | 259 | 260 | 281 | 282 | 368 | 369 | 403 => {
                Some(Self::Storage)
            }
            111..=120 | 123 | 124 | 285 | 374 | 375 => Some(Self::NodeDevice),
            126..=134 | 137 | 138 | 156 | 284 => Some(Self::Interface),
            175..=181 | 286 | 401 => Some(Self::NwFilter),
            139..=147 | 287 | 380 | 381 => Some(Self::Secret),
            _ => None,
        }
    }

    /// True for calls that open a stream.
    #[must_use]
    pub fn opens_stream(procedure: i32) -> bool {
        matches!(procedure, 208 | 209)
    }

    /// As it is called in sockets and URIs.
    fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Storage => "storage",
            Self::NodeDevice => "nodedev",
            Self::Interface => "interface",
            Self::NwFilter => "nwfilter",
            Self::Secret => "secret",
        }
    }

    /// The socket of a daemon of this kind alone, or of the one for all.
    fn socket(self, paths: &Paths) -> Option<PathBuf> {
        let names = [format!("virt{}d-sock", self.name()), "libvirt-sock".to_owned()];
        let mut sockets = names.into_iter().map(|name| paths.libvirt.join(name)).filter(|path| path.exists());
        // People link libvirt's socket to ours so that clients find us without a URI: we must not ask ourselves.
        sockets.find(|path| !is_same(path, &paths.socket))
    }

    fn uri(self, paths: &Paths) -> String {
        let path = if paths.is_session { "session" } else { "system" };
        format!("{}:///{path}", self.name())
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// A connection to one of libvirt's daemons.
#[derive(Debug)]
pub struct Upstream {
    stream: UnixStream,
    frames: FrameBuffer,
    serial: u32,
}

impl Upstream {
    /// Connects and opens. `None` when there is no such daemon, or it has no driver of this kind.
    ///
    /// # Errors
    /// When there is one and it does not answer, or refuses us.
    pub fn open(paths: &Paths, kind: Kind, read_only: bool) -> Result<Option<Self>, DriverError> {
        let Some(path) = kind.socket(paths) else { return Ok(None) };
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!("{}: {error}", path.display());
                return Ok(None);
            }
        };
        let failed =
            |error| DriverError::System { what: "cannot ask libvirt's daemon at", path: path.clone(), source: error };
        stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
        stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
        let mut upstream = Self { stream, frames: FrameBuffer::default(), serial: FIRST_SERIAL };
        let types = upstream.call::<auth_list::Call>(&auth_list::Args {})?.types;
        if types.first() == Some(&AUTH_POLKIT) {
            upstream.call::<auth_polkit::Call>(&auth_polkit::Args {})?;
        }
        let flags = if read_only { OPEN_READ_ONLY } else { 0 };
        match upstream.call::<connect_open::Call>(&connect_open::Args { name: Some(kind.uri(paths)), flags }) {
            Ok(_) => Ok(Some(upstream)),
            Err(DriverError::Upstream(error)) => {
                tracing::debug!("{}: {:?}", path.display(), error.message);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Calls a procedure and waits for its answer.
    ///
    /// # Errors
    /// When it fails, or nothing is answered.
    pub fn call<P: Procedure>(&mut self, args: &P::Args) -> Result<P::Reply, DriverError> {
        self.serial = self.serial.wrapping_add(1);
        let header = Header {
            program: REMOTE_PROGRAM,
            version: REMOTE_VERSION,
            procedure: P::NUMBER,
            kind: MessageType::Call,
            serial: self.serial,
            status: Status::Ok,
        };
        let failed = |reason: String| DriverError::Failed(format!("{} of libvirt's daemon: {reason}", P::NAME));
        let frame = header.frame(&to_bytes(args)).map_err(|error| failed(error.to_string()))?;
        self.stream.write_all(frame.bytes()).map_err(|error| failed(error.to_string()))?;
        loop {
            while let Some(frame) = self.frames.next_frame().map_err(|error| failed(error.to_string()))? {
                if frame.header.kind != MessageType::Reply || frame.header.serial != self.serial {
                    continue;
                }
                let bad = |error: virtft_rpc::XdrError| failed(error.to_string());
                return match frame.header.status {
                    Status::Ok => from_bytes(frame.payload()).map_err(bad),
                    Status::Error | Status::Continue => {
                        Err(DriverError::Upstream(Box::new(from_bytes::<RemoteError>(frame.payload()).map_err(bad)?)))
                    }
                };
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(failed("it has ended".into())),
                Ok(count) => self.frames.extend(&bytes[..count]),
                Err(error) => return Err(failed(error.to_string())),
            }
        }
    }

    /// The connection, for passing frames on. Nothing is left unread: each call was answered.
    ///
    /// # Errors
    /// When it cannot be prepared for waiting.
    pub fn into_stream(self) -> io::Result<UnixStream> {
        self.stream.set_nonblocking(true)?;
        Ok(self.stream)
    }
}

/// A network daemon and the network of this name.
fn open_network(paths: &Paths, network: &str) -> Result<(Upstream, NetworkRef), DriverError> {
    let Some(mut upstream) = Upstream::open(paths, Kind::Network, true)? else {
        let reason = format!("the virtual network '{network}': libvirt's network daemon is not there");
        return Err(DriverError::Unsupported(reason));
    };
    let args = network_lookup_by_name::Args { name: network.to_owned() };
    let net = upstream.call::<network_lookup_by_name::Call>(&args)?.net;
    Ok((upstream, net))
}

/// The bridge of a virtual network.
///
/// # Errors
/// When there is no network daemon, no such network, or it is not active.
pub fn bridge_of_network(paths: &Paths, network: &str) -> Result<String, DriverError> {
    let (mut upstream, net) = open_network(paths, network)?;
    Ok(upstream.call::<network_get_bridge_name::Call>(&network_get_bridge_name::Args { net })?.name)
}

/// Addresses that a virtual network has lent to a network card.
///
/// # Errors
/// When there is no network daemon or no such network.
pub fn leases_of_network(paths: &Paths, network: &str, mac: &str) -> Result<Vec<Address>, DriverError> {
    let (mut upstream, net) = open_network(paths, network)?;
    let args = network_get_dhcp_leases::Args { net, mac: Some(mac.to_owned()), need_results: 1, flags: 0 };
    let leases = upstream.call::<network_get_dhcp_leases::Call>(&args)?.leases;
    Ok(leases.into_iter().map(|lease| Address { kind: lease.kind, addr: lease.ip, prefix: lease.prefix }).collect())
}
