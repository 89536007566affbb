//! Listening sockets, and the set of clients.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection;
use super::session::Origin;
use crate::paths::Paths;
use crate::vm::Hypervisor;

/// After a failure to accept, which is a lack of descriptors, this long is waited.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often is looked whether nobody is connected any more.
const IDLE_POLL: Duration = Duration::from_secs(1);

/// What all listeners share.
#[derive(Debug)]
pub struct Server {
    hypervisor: Arc<Hypervisor>,
    clients: Arc<Semaphore>,
    max_clients: usize,
    last_client: AtomicU64,
}

impl Server {
    /// A server without clients.
    #[must_use]
    pub fn new(hypervisor: Arc<Hypervisor>, max_clients: u32) -> Arc<Self> {
        let max_clients = usize::try_from(max_clients).unwrap_or(Semaphore::MAX_PERMITS);
        let clients = Arc::new(Semaphore::new(max_clients));
        Arc::new(Self { hypervisor, clients, max_clients, last_client: AtomicU64::new(0) })
    }

    /// Returns when nobody was connected and nothing ran for the time given; never without one.
    pub async fn until_idle(&self, timeout: Option<Duration>) {
        let Some(timeout) = timeout else { return std::future::pending().await };
        let mut idle = Duration::ZERO;
        while idle < timeout {
            tokio::time::sleep(IDLE_POLL).await;
            let is_idle = self.clients.available_permits() == self.max_clients
                && self.hypervisor.registry().all().all(|entry| entry.run.is_none());
            idle = if is_idle { idle + IDLE_POLL } else { Duration::ZERO };
        }
    }
}

/// A listening socket. Dropped, its file is removed.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    is_read_only: bool,
    socket: StdListener,
}

type StdListener = std::os::unix::net::UnixListener;

impl Listener {
    /// Opens the daemon's sockets.
    ///
    /// # Errors
    /// When one cannot be used, or somebody else listens there.
    pub fn open_all(paths: &Paths, gid: Option<u32>) -> Result<Vec<Self>> {
        let mut all = vec![Self::open(&paths.socket, false, gid)?];
        if let Some(path) = &paths.socket_ro {
            all.push(Self::open(path, true, None)?);
        }
        Ok(all)
    }

    fn open(path: &Path, is_read_only: bool, gid: Option<u32>) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        remove_if_stale(path)?;
        let socket = StdListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        let listener = Self { path: path.to_owned(), is_read_only, socket };
        let mode = match (is_read_only, gid) {
            (true, _) => 0o666,
            (false, Some(_)) => 0o660,
            (false, None) => 0o600,
        };
        let permit = || {
            chown(path, None, gid)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            listener.socket.set_nonblocking(true)
        };
        permit().with_context(|| format!("cannot set the permissions of {}", path.display()))?;
        Ok(listener)
    }

    /// Accepts clients from now on.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    pub fn serve(&self, server: &Arc<Server>) -> io::Result<()> {
        let listener = UnixListener::from_std(self.socket.try_clone()?)?;
        let (server, is_read_only) = (Arc::clone(server), self.is_read_only);
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => accept(&server, stream, Origin { only_looks: is_read_only, local: None }),
                    Err(error) => {
                        tracing::warn!("a client cannot be accepted: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        Ok(())
    }
}

impl Server {
    /// Room for one more client; `None` when there are too many.
    pub(super) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.clients).try_acquire_owned().ok();
        if permit.is_none() {
            tracing::warn!("a client is turned away: there are {} already", self.max_clients);
        }
        permit
    }

    /// Serves a client that was admitted, to its end.
    pub(super) async fn serve<S>(&self, stream: S, origin: Origin, permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let id = self.last_client.fetch_add(1, Ordering::Relaxed) + 1;
        connection::serve(stream, id, Arc::clone(&self.hypervisor), origin).await;
        drop(permit);
    }
}

fn accept(server: &Arc<Server>, stream: tokio::net::UnixStream, origin: Origin) {
    let Some(permit) = server.admit() else { return };
    let server = Arc::clone(server);
    tokio::spawn(async move { server.serve(stream, origin, permit).await });
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.path);
    }
}

/// A socket that nobody listens on is what a killed daemon leaves.
fn remove_if_stale(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    match StdUnixStream::connect(path) {
        Ok(_) => bail!("somebody listens on {} already; end it, or give --socket", path.display()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
        }
        Err(error) => bail!("{} is in the way: {error}", path.display()),
    }
}
