//! Calling the daemon of another host.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use virtft_rpc::pair::{PAIR_PROGRAM, PAIR_VERSION};
use virtft_rpc::remote::connect_open;
use virtft_rpc::{
    FrameBuffer, Header, MessageType, Procedure, REMOTE_PROGRAM, REMOTE_VERSION, RemoteError, Status, from_bytes,
    to_bytes,
};

use super::tls::{ACCEPTED, PORT, Pki};

/// A host that is there answers a connection within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A call may start a process.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// Where a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Unix(PathBuf),
    Tls { host: String, port: u16 },
}

/// Why a call did not do what it should.
#[derive(Debug)]
pub enum PeerError {
    /// Nobody answers there.
    Unreachable(String),
    /// The other daemon says no.
    Refused(String),
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection to another daemon.
pub struct Peer {
    stream: Box<dyn Stream>,
    frames: FrameBuffer,
    serial: u32,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("serial", &self.serial).finish_non_exhaustive()
    }
}

impl Peer {
    /// Connects to the daemon of a URI.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn connect(uri: &str, pki: &Pki) -> Result<Self, PeerError> {
        let unreachable = |reason: String| PeerError::Unreachable(format!("{uri}: {reason}"));
        let stream: Box<dyn Stream> = match place(uri).map_err(&unreachable)? {
            Place::Unix(path) => {
                let stream = UnixStream::connect(&path).map_err(|error| unreachable(error.to_string()))?;
                set_timeouts(|wait| stream.set_read_timeout(wait), |wait| stream.set_write_timeout(wait))
                    .map_err(|error| unreachable(error.to_string()))?;
                Box::new(stream)
            }
            Place::Tls { host, port } => Box::new(tls(&host, port, pki).map_err(unreachable)?),
        };
        let mut peer = Self { stream, frames: FrameBuffer::default(), serial: 0 };
        // Nothing may be called before something is opened.
        let open = connect_open::Args { name: Some("ft:///system".into()), flags: 0 };
        peer.exchange::<connect_open::Call>(REMOTE_PROGRAM, REMOTE_VERSION, &open)?;
        Ok(peer)
    }

    /// Calls a procedure of the pair's program.
    ///
    /// # Errors
    /// When it fails, or nothing is answered.
    pub fn call<P: Procedure>(&mut self, args: &P::Args) -> Result<P::Reply, PeerError> {
        self.exchange::<P>(PAIR_PROGRAM, PAIR_VERSION, args)
    }

    fn exchange<P: Procedure>(&mut self, program: u32, version: u32, args: &P::Args) -> Result<P::Reply, PeerError> {
        self.serial += 1;
        let header = Header {
            program,
            version,
            procedure: P::NUMBER,
            kind: MessageType::Call,
            serial: self.serial,
            status: Status::Ok,
        };
        let failed = |reason: String| PeerError::Unreachable(format!("{}: {reason}", P::NAME));
        let frame = header.frame(&to_bytes(args)).map_err(|error| failed(error.to_string()))?;
        self.stream
            .write_all(frame.bytes())
            .and_then(|()| self.stream.flush())
            .map_err(|error| failed(error.to_string()))?;
        loop {
            while let Some(frame) = self.frames.next_frame().map_err(|error| failed(error.to_string()))? {
                if frame.header.kind != MessageType::Reply || frame.header.serial != self.serial {
                    continue;
                }
                let bad = |error: virtft_rpc::XdrError| failed(error.to_string());
                return match frame.header.status {
                    Status::Ok => from_bytes(frame.payload()).map_err(bad),
                    Status::Error | Status::Continue => {
                        let error = from_bytes::<RemoteError>(frame.payload()).map_err(bad)?;
                        Err(PeerError::Refused(error.message.unwrap_or_else(|| "it gives no reason".into())))
                    }
                };
            }
            let mut bytes = [0; 16 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(failed("it hung up".into())),
                Ok(count) => self.frames.extend(&bytes[..count]),
                Err(error) => return Err(failed(error.to_string())),
            }
        }
    }
}

fn set_timeouts(
    read: impl Fn(Option<Duration>) -> io::Result<()>,
    write: impl Fn(Option<Duration>) -> io::Result<()>,
) -> io::Result<()> {
    read(Some(ANSWER_WITHIN)).and_then(|()| write(Some(ANSWER_WITHIN)))
}

fn tls(host: &str, port: u16, pki: &Pki) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let address = (plain, port).to_socket_addrs().map_err(|error| text(&error))?.next().ok_or("it has no address")?;
    let stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN).map_err(|error| text(&error))?;
    set_timeouts(|wait| stream.set_read_timeout(wait), |wait| stream.set_write_timeout(wait))
        .map_err(|error| text(&error))?;
    let name = ServerName::try_from(plain.to_owned()).map_err(|error| text(&error))?;
    let connection = ClientConnection::new(pki.client()?, name).map_err(|error| text(&error))?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut accepted = [0];
    stream
        .read_exact(&mut accepted)
        .map_err(|error| format!("it does not accept this host's certificate ({error})"))?;
    if accepted == [ACCEPTED] { Ok(stream) } else { Err("it does not accept this host's certificate".into()) }
}

/// `ft+tls://HOST[:PORT]/system`, or `ft+unix:///system?socket=PATH`.
fn place(uri: &str) -> Result<Place, String> {
    if let Some(rest) = uri.strip_prefix("ft+tls://") {
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !port.contains(']') => {
                (host, port.parse().map_err(|_| format!("'{port}' is no port"))?)
            }
            _ => (authority, PORT),
        };
        if host.is_empty() {
            return Err("it names no host".into());
        }
        return Ok(Place::Tls { host: host.to_owned(), port });
    }
    let socket = uri.split_once("?socket=").map(|(_, path)| path).filter(|path| path.starts_with('/'));
    socket.map(|path| Place::Unix(path.into())).ok_or_else(|| "write ft+tls://HOST/system".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_lead_to_places() {
        let tls = |host: &str, port| Place::Tls { host: host.into(), port };
        assert_eq!(place("ft+tls://hostb/system"), Ok(tls("hostb", PORT)));
        assert_eq!(place("ft+tls://10.0.0.2:7/system"), Ok(tls("10.0.0.2", 7)));
        assert_eq!(place("ft+tls://[fe80::1]/system"), Ok(tls("[fe80::1]", PORT)));
        assert_eq!(place("ft+tls://[fe80::1]:9/system"), Ok(tls("[fe80::1]", 9)));
        assert_eq!(place("ft+unix:///system?socket=/run/x"), Ok(Place::Unix("/run/x".into())));
        for bad in ["ft+tls:///system", "ft+tls://h:port/system", "ft:///system", "ft+unix:///system?socket=x"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
