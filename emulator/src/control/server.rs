//! The socket: clients send one JSON object a line and get one back, each client on a thread of its own.
//!
//! Only the user who started the emulator may connect.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use super::operations::Machine;
use super::request::{Command, Request, Response};
use super::status::SharedStatus;
use crate::ft::Link;

/// Longest request in bytes.
const REQUEST_LIMIT: u64 = 8192;
/// Clients at a time; more are hung up on.
const CLIENT_LIMIT: usize = 32;
/// A client that does not take its answers is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);
/// A subscriber that has gone is noticed this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The socket's listening side. Dropping it removes the socket.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    place: Place,
}

/// Where the socket is, for as long as somebody answers there.
#[derive(Debug)]
pub struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What requests are carried out with.
#[derive(Debug, Clone)]
pub struct Reach {
    /// The status.
    pub status: SharedStatus,
    /// The machine.
    pub machine: Machine,
    /// To the ft thread.
    pub commands: Sender<Command>,
    /// Wakes the ft thread.
    pub link: Arc<Link>,
}

impl Control {
    /// Makes the socket.
    ///
    /// # Errors
    /// One line that says why it cannot be made.
    pub fn bind(path: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("--control {}: it cannot be made ({error})", path.display());
        // What a process that was killed left behind answers nobody.
        if path.exists() && UnixStream::connect(path).is_err() {
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let place = Place(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, place })
    }

    /// Serves clients for as long as the process lives. The socket is removed when what is returned is dropped.
    ///
    /// # Errors
    /// When there are no more threads.
    pub fn serve(self, reach: Reach) -> io::Result<Place> {
        let Self { listener, place } = self;
        let clients = Arc::new(AtomicUsize::new(0));
        std::thread::Builder::new().name("control".into()).spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                if clients.load(Ordering::Relaxed) >= CLIENT_LIMIT {
                    tracing::warn!("a client of the control socket was hung up on: there are {CLIENT_LIMIT} already");
                    continue;
                }
                clients.fetch_add(1, Ordering::Relaxed);
                let (reach, clients) = (reach.clone(), Arc::clone(&clients));
                let served = std::thread::Builder::new().name("control-client".into()).spawn(move || {
                    // A client that hangs up has its own reasons.
                    let _ = serve_client(&stream, &reach);
                    clients.fetch_sub(1, Ordering::Relaxed);
                });
                if let Err(error) = served {
                    tracing::error!("a client of the control socket cannot be served: {error}");
                    return;
                }
            }
        })?;
        Ok(place)
    }
}

fn serve_client(client: &UnixStream, reach: &Reach) -> io::Result<()> {
    client.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(client);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(REQUEST_LIMIT).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let response = match serde_json::from_str(&line) {
            Err(error) => Response::Refused(format!("this is no request: {error}")),
            Ok(Request::Status) => Response::Status(Box::new(reach.status.read())),
            Ok(Request::Subscribe) => return serve_subscriber(client, reach),
            // A rule of the protection may hold the machine too.
            Ok(Request::Resume) => match reach.machine.carry_out(&Request::Resume, &reach.status) {
                Some(Response::Done) | None => ask_ft(Request::Resume, reach),
                Some(refused) => refused,
            },
            Ok(request) => match reach.machine.carry_out(&request, &reach.status) {
                Some(response) => response,
                None => ask_ft(request, reach),
            },
        };
        send(client, &response)?;
    }
}

fn send(mut client: &UnixStream, response: &Response) -> io::Result<()> {
    let mut text = serde_json::to_string(response).map_err(io::Error::other)?;
    text.push('\n');
    client.write_all(text.as_bytes())
}

/// Says how things stand at every change, until the client hangs up.
fn serve_subscriber(client: &UnixStream, reach: &Reach) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_millis(1)))?;
    // The first status is sent whatever it is.
    let mut seen = u64::MAX;
    loop {
        match reach.status.next(seen, LOOK_EVERY) {
            Some((change, status)) => {
                seen = change;
                send(client, &Response::Status(Box::new(status)))?;
            }
            None if has_gone(client)? => return Ok(()),
            None => {}
        }
    }
}

/// Whether the other side has closed; what a subscriber still says is not listened to.
fn has_gone(mut client: &UnixStream) -> io::Result<bool> {
    match client.read(&mut [0; 64]) {
        Ok(0) => Ok(true),
        Ok(_) => Ok(false),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(false),
        Err(error) => Err(error),
    }
}

fn ask_ft(request: Request, reach: &Reach) -> Response {
    let (answer, answered) = channel();
    let gone = || Response::Refused("the emulator is ending".into());
    if reach.commands.send(Command { request, answer }).is_err() {
        return gone();
    }
    reach.link.wake();
    match answered.recv_timeout(PATIENCE) {
        Ok(Ok(())) => Response::Done,
        Ok(Err(reason)) => Response::Refused(reason),
        Err(_) => gone(),
    }
}
