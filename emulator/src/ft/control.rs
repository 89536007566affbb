//! The control socket: a Unix socket on which clients send one JSON object a line and get one back.
//!
//! Only the user who started the emulator may connect.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use super::link::Link;
use super::status::{Command, Request, Response, SharedStatus, read};

/// Longest request in bytes.
const REQUEST_LIMIT: u64 = 4096;
/// A client that says nothing is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket's listening side.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
}

impl Control {
    /// Makes the socket.
    ///
    /// # Errors
    /// One line that says why it cannot be made.
    pub fn bind(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("--control {}: it cannot be made ({error})", path.display());
        // What a process that was killed left behind answers nobody.
        if path.exists() && UnixStream::connect(path).is_err() {
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener })
    }

    /// Serves clients on a thread of its own, one after the other, for as long as the process lives.
    ///
    /// # Errors
    /// When there are no more threads.
    pub fn serve(self, status: SharedStatus, commands: Sender<Command>, link: Arc<Link>) -> std::io::Result<()> {
        std::thread::Builder::new().name("control".into()).spawn(move || {
            for client in self.listener.incoming().filter_map(Result::ok) {
                // A client that hangs up has its own reasons.
                let _ = serve_client(&client, &status, &commands, &link);
            }
        })?;
        Ok(())
    }
}

fn serve_client(
    client: &UnixStream,
    status: &SharedStatus,
    commands: &Sender<Command>,
    link: &Link,
) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(client);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(REQUEST_LIMIT).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let response = match serde_json::from_str(&line) {
            Err(error) => Response::Refused(format!("this is no request: {error}")),
            Ok(Request::Status) => Response::Status(Box::new(read(status))),
            Ok(request) => carry_out(request, commands, link),
        };
        let mut text = serde_json::to_string(&response).map_err(std::io::Error::other)?;
        text.push('\n');
        (&*client).write_all(text.as_bytes())?;
    }
}

fn carry_out(request: Request, commands: &Sender<Command>, link: &Link) -> Response {
    let (answer, answered) = channel();
    let gone = || Response::Refused("the emulator is ending".into());
    if commands.send(Command { request, answer }).is_err() {
        return gone();
    }
    link.wake();
    match answered.recv_timeout(PATIENCE) {
        Ok(Ok(())) => Response::Done,
        Ok(Err(reason)) => Response::Refused(reason),
        Err(_) => gone(),
    }
}
