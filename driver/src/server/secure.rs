//! Clients by TCP under TLS: libvirt's port, certificates on both sides.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::listener::Server;
use super::session::Origin;
use crate::ft::tls::{ACCEPTED, Pki};

/// A client that does not come to terms within this is hung up on.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// After a failure to accept, which is a lack of descriptors, this long is waited.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens; a place that cannot be had, or certificates that cannot be used, are said and do not keep the daemon from its other work.
pub async fn listen(address: SocketAddr, pki: &Pki, server: &Arc<Server>) {
    let config = match pki.server() {
        Ok(config) => config,
        Err(reason) => return tracing::error!("nobody is served under TLS: {reason}"),
    };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let hint = "libvirt's own daemon may have it: choose another port with --listen-tls";
            return tracing::warn!("nobody is served under TLS: {address} is in use; {hint}");
        }
        Err(error) => return tracing::error!("nobody is served under TLS: {address}: {error}"),
    };
    tracing::info!("listening on {address}, under TLS");
    let (acceptor, server) = (TlsAcceptor::from(config), Arc::clone(server));
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => accept(&acceptor, &server, stream, from),
                Err(error) => {
                    tracing::warn!("a client cannot be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

fn accept(acceptor: &TlsAcceptor, server: &Arc<Server>, stream: TcpStream, from: SocketAddr) {
    let Some(permit) = server.admit() else { return };
    let (acceptor, server) = (acceptor.clone(), Arc::clone(server));
    tokio::spawn(async move {
        let local = stream.local_addr().ok().map(|address| address.ip());
        let greeted = async {
            stream.set_nodelay(true)?;
            let mut stream = acceptor.accept(stream).await?;
            stream.write_all(&[ACCEPTED]).await?;
            stream.flush().await?;
            Ok::<_, io::Error>(stream)
        };
        match tokio::time::timeout(HANDSHAKE_WITHIN, greeted).await {
            Ok(Ok(stream)) => server.serve(stream, Origin { only_looks: false, local }, permit).await,
            Ok(Err(error)) => tracing::warn!("a client from {from} is refused: {error}"),
            Err(_) => tracing::warn!("a client from {from} is refused: it does not come to terms"),
        }
    });
}
