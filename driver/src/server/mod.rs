//! Sockets, connections and what is said on them.

pub mod connection;
pub mod console;
pub mod forward;
pub mod keepalive;
pub mod listener;
pub mod outbox;
pub mod secure;
pub mod session;

use std::fs::{self, File};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Cli;
use crate::ft;
use crate::paths::Paths;
use crate::vm::Hypervisor;
use listener::{Listener, Server};

/// Threads on which calls are carried out. A call that starts or ends a machine waits on one.
const CALL_THREADS: usize = 64;
/// How long calls may take to end when the daemon ends.
const END_WAIT: Duration = Duration::from_secs(1);

/// Runs the daemon until it is told to end. Machines go on.
///
/// # Errors
/// When a directory or socket cannot be used; nothing was changed then.
pub fn run(cli: &Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(CALL_THREADS)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let result = runtime.block_on(serve(cli));
    runtime.shutdown_timeout(END_WAIT);
    result
}

async fn serve(cli: &Cli) -> Result<()> {
    let paths = Paths::new(cli);
    let _lock = lock(&paths)?;
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()]
        .map(|kind| signal(kind).context("cannot wait for signals"));
    let host = ft::identity(&paths.config)?;
    let hypervisor = Hypervisor::new(paths.clone(), host, tokio::runtime::Handle::current());
    hypervisor.load()?;
    let server = Server::new(Arc::clone(&hypervisor), cli.max_clients);
    let listeners = Listener::open_all(&paths, cli.socket_gid)?;
    for listener in &listeners {
        listener.serve(&server)?;
    }
    tracing::info!("listening on {}", paths.socket.display());
    if let Some(address) = cli.listen_tls {
        secure::listen(address, &paths.pki, &server).await;
    }
    let starter = Arc::clone(&hypervisor);
    tokio::task::spawn_blocking(move || starter.autostart());
    let idle = server.until_idle(cli.timeout.map(Duration::from_secs));
    let [terminate, interrupt, quit] = &mut ends;
    tokio::select! {
        () = until(terminate) => {}
        () = until(interrupt) => {}
        () = until(quit) => {}
        () = idle => tracing::info!("nobody was connected for the time given"),
    }
    Ok(())
}

async fn until(signal: &mut Result<tokio::signal::unix::Signal>) {
    match signal {
        Ok(signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// Two daemons with the same state would start the same machines.
fn lock(paths: &Paths) -> Result<File> {
    fs::create_dir_all(&paths.run).with_context(|| format!("cannot make {}", paths.run.display()))?;
    let path = paths.run.join("virtftd.lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("another virtftd uses {}; end it, or give --run-dir", paths.run.display());
    }
    Ok(file)
}
