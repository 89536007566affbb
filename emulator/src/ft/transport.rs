//! One connection to a peer: a stream that never blocks, plain or under TLS 1.3 with certificates on both sides.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, Connection, RootCertStore, ServerConfig};

/// Where libvirt keeps its certificates.
const CA_FILE: &str = "/etc/pki/CA/cacert.pem";
const LIBVIRT_FOLDER: &str = "/etc/pki/libvirt";

/// Certificates for the channel.
#[derive(Debug, Clone)]
pub struct Security {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Security {
    /// Reads the certificates: from `folder` if one is named (cacert.pem, servercert.pem, serverkey.pem, clientcert.pem,
    /// clientkey.pem), otherwise where libvirt has them.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it.
    pub fn load(folder: Option<&Path>) -> Result<Self, String> {
        let file = |name: &str| match folder {
            Some(folder) => folder.join(name),
            None if name == "cacert.pem" => PathBuf::from(CA_FILE),
            None if name.ends_with("key.pem") => Path::new(LIBVIRT_FOLDER).join("private").join(name),
            None => Path::new(LIBVIRT_FOLDER).join(name),
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&file("cacert.pem"))? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", file("cacert.pem").display()))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = |error: rustls::Error| format!("the certificates cannot be used: {error}");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| format!("{}: {error}", file("cacert.pem").display()))?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&file("servercert.pem"))?, key(&file("serverkey.pem"))?)
            .map_err(|error| format!("{}: {error}", file("servercert.pem").display()))?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&file("clientcert.pem"))?, key(&file("clientkey.pem"))?)
            .map_err(|error| format!("{}: {error}", file("clientcert.pem").display()))?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("{}: it cannot be used as a certificate ({error})", path.display());
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?.collect();
    let found = found.map_err(|error| failed(&error))?;
    if found.is_empty() { Err(failed(&"there is none in it")) } else { Ok(found) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| format!("{}: it cannot be used as a private key ({error})", path.display()))
}

/// See the module's description.
pub struct Transport {
    stream: TcpStream,
    tls: Option<Connection>,
    /// Plain bytes that the socket did not take yet.
    out: VecDeque<u8>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("stream", &self.stream)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// The connecting side; `host` must be in the peer's certificate.
    ///
    /// # Errors
    /// When the socket fails or the name is none.
    pub fn client(stream: TcpStream, host: &str, security: Option<&Security>) -> io::Result<Self> {
        let tls = match security {
            None => None,
            Some(security) => {
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let config = Arc::clone(&security.client);
                Some(Connection::Client(rustls::ClientConnection::new(config, name).map_err(io::Error::other)?))
            }
        };
        Self::new(stream, tls)
    }

    /// The listening side.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn server(stream: TcpStream, security: Option<&Security>) -> io::Result<Self> {
        let connection = |security: &Security| rustls::ServerConnection::new(Arc::clone(&security.server));
        let tls = security.map(connection).transpose().map_err(io::Error::other)?.map(Connection::Server);
        Self::new(stream, tls)
    }

    fn new(stream: TcpStream, mut tls: Option<Connection>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        if let Some(tls) = &mut tls {
            // What is sent is bounded by the protocol's own window.
            tls.set_buffer_limit(None);
        }
        Ok(Self { stream, tls, out: VecDeque::new() })
    }

    /// Queues bytes.
    ///
    /// # Errors
    /// When the connection is closed.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes),
            None => {
                self.out.extend(bytes);
                Ok(())
            }
        }
    }

    /// Whether bytes wait for the socket.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().map_or(!self.out.is_empty(), |tls| tls.wants_write())
    }

    /// Gives the socket what it takes.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.wants_write() {
            let written = match &mut self.tls {
                Some(tls) => tls.write_tls(&mut self.stream),
                None => {
                    let (front, _) = self.out.as_slices();
                    self.stream.write(front).inspect(|&count| drop(self.out.drain(..count)))
                }
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the connection so that the last words arrive: unread bytes would make the system reset it.
    pub fn close(mut self) {
        // Whoever is gone does not hear them.
        let _ = self.flush();
        let _ = self.stream.shutdown(Shutdown::Write);
        let _ = self.read(&mut Vec::new());
    }

    /// Reads what has come. False when the peer has closed the connection.
    ///
    /// # Errors
    /// When the connection is broken, or the peer is not who it should be.
    pub fn read(&mut self, into: &mut Vec<u8>) -> io::Result<bool> {
        let mut buffer = [0; 64 << 10];
        loop {
            let count = match &mut self.tls {
                None => self.stream.read(&mut buffer),
                Some(tls) => {
                    let count = tls.read_tls(&mut self.stream);
                    if count.is_ok() {
                        let state = tls.process_new_packets().map_err(io::Error::other)?;
                        let mut plain = vec![0; state.plaintext_bytes_to_read()];
                        tls.reader().read_exact(&mut plain)?;
                        into.extend(plain);
                    }
                    count
                }
            };
            match count {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    if self.tls.is_none() {
                        into.extend_from_slice(&buffer[..count]);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
