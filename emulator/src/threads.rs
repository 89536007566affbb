//! Starts the threads of the process, each under the filter of its class.

use std::io;
use std::thread::{Builder, JoinHandle};

use crate::seccomp::Confinement;
pub use crate::seccomp::ThreadClass;

/// Starts a thread that confines itself and then runs `body`.
///
/// # Errors
/// When the system has no more threads. If the filter cannot be installed, the process ends: running without
/// it silently would be worse.
pub fn spawn(
    name: &str,
    class: ThreadClass,
    confinement: &Confinement,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let confinement = confinement.clone();
    // The kernel keeps 15 bytes of the name.
    let short: String = name.chars().filter(char::is_ascii).take(15).collect();
    Builder::new().name(short.clone()).spawn(move || {
        if let Err(error) = confinement.enter(class) {
            tracing::error!("thread {short}: {error}");
            std::process::abort();
        }
        body();
    })
}
