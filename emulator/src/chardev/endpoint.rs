//! Where the bytes of a character channel go: descriptors, and how they come back when lost.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::CharError;
use crate::socket::{SocketFile, listen};

/// Descriptors of a present reader and writer.
#[derive(Debug)]
pub struct Connection {
    /// Input; `None` when there is none or it ended.
    pub input: Option<File>,
    /// Output.
    pub output: File,
    /// The end of the input is the end of the connection, as with sockets.
    pub ends_with_input: bool,
}

/// How a lost connection comes back.
#[derive(Debug)]
pub enum Reconnect {
    /// It does not.
    Never,
    /// We connect again.
    Dial(PathBuf),
    /// A client connects.
    Accept(UnixListener),
}

/// An opened backend.
#[derive(Debug)]
pub struct Endpoint {
    /// The present connection.
    pub connection: Option<Connection>,
    /// How to get another.
    pub reconnect: Reconnect,
    /// Ctrl-A at the input is a command to the emulator.
    pub has_escape: bool,
    /// Restores the terminal when dropped.
    pub terminal: Option<RawTerminal>,
    /// Removes the socket when dropped.
    pub socket: Option<SocketFile>,
}

impl Endpoint {
    fn around(connection: Option<Connection>, reconnect: Reconnect) -> Self {
        Self { connection, reconnect, has_escape: false, terminal: None, socket: None }
    }

    /// Standard input and output; a terminal is put into raw mode when input is wanted.
    pub fn stdio(with_input: bool) -> Result<Self, CharError> {
        let system = CharError::System;
        let output = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(system)?);
        let input = io::stdin().as_fd().try_clone_to_owned().ok().filter(|_| with_input).map(File::from);
        let mut endpoint = Self::around(Some(Connection { input, output, ends_with_input: false }), Reconnect::Never);
        if with_input && io::stdin().is_terminal() {
            endpoint.has_escape = true;
            endpoint.terminal = Some(RawTerminal::enter().map_err(system)?);
        }
        Ok(endpoint)
    }

    /// A new pseudo-terminal and the path of its far end.
    pub fn pty() -> Result<(Self, PathBuf), CharError> {
        let system = |error: nix::Error| CharError::System(error.into());
        let pair = nix::pty::openpty(None, None).map_err(system)?;
        let mut settings = tcgetattr(&pair.slave).map_err(system)?;
        cfmakeraw(&mut settings);
        tcsetattr(&pair.slave, SetArg::TCSANOW, &settings).map_err(system)?;
        let path = nix::unistd::ttyname(&pair.slave).map_err(system)?;
        set_nonblocking(&pair.master).map_err(CharError::System)?;
        let master = File::from(pair.master);
        let input = master.try_clone().map_err(CharError::System)?;
        let mut endpoint = Self::around(
            Some(Connection { input: Some(input), output: master, ends_with_input: false }),
            Reconnect::Never,
        );
        // Kept open: without any far end the near end reports a hang-up for ever.
        endpoint.terminal = Some(RawTerminal { file: File::from(pair.slave), saved: None });
        Ok((endpoint, path))
    }

    /// A unix socket: a client of `path`, or listening there.
    pub fn unix(path: &Path, server: bool) -> Result<Self, CharError> {
        let failed = |reason: String| CharError::Path { path: path.to_owned(), reason };
        if server {
            let (listener, file) = listen(path).map_err(failed)?;
            let mut endpoint = Self::around(None, Reconnect::Accept(listener));
            endpoint.socket = Some(file);
            return Ok(endpoint);
        }
        let stream = UnixStream::connect(path).map_err(|error| {
            failed(format!("cannot be connected to ({error}); start its server first, or add ,server"))
        })?;
        Ok(Self::around(Some(from_stream(stream).map_err(CharError::System)?), Reconnect::Dial(path.to_owned())))
    }

    /// A file for output; what it had is replaced.
    pub fn file(path: &Path) -> Result<Self, CharError> {
        let output = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            // A console shows what is typed at it.
            .mode(0o600)
            .open(path)
            .map_err(|error| CharError::Path {
                path: path.to_owned(),
                reason: format!("cannot be written ({error}); choose a path that you may write"),
            })?;
        Ok(Self::around(Some(Connection { input: None, output, ends_with_input: false }), Reconnect::Never))
    }

    /// Tries to get a connection. Returns whether there is one now.
    pub fn try_reconnect(&mut self) -> bool {
        let stream = match &self.reconnect {
            Reconnect::Never => None,
            Reconnect::Dial(path) => UnixStream::connect(path).ok(),
            Reconnect::Accept(listener) => listener.accept().ok().map(|(stream, _)| stream),
        };
        self.connection = stream.and_then(|stream| from_stream(stream).ok());
        self.connection.is_some()
    }
}

fn from_stream(stream: UnixStream) -> io::Result<Connection> {
    stream.set_nonblocking(true)?;
    let input = File::from(OwnedFd::from(stream.try_clone()?));
    let output = File::from(OwnedFd::from(stream));
    Ok(Connection { input: Some(input), output, ends_with_input: true })
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A terminal in raw mode; dropped, it is as it was.
#[derive(Debug)]
pub struct RawTerminal {
    file: File,
    saved: Option<Termios>,
}

impl RawTerminal {
    fn enter() -> io::Result<Self> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let saved = tcgetattr(&file)?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        // Log lines of this process still begin at the left.
        raw.output_flags |= OutputFlags::OPOST;
        tcsetattr(&file, SetArg::TCSANOW, &raw)?;
        Ok(Self { file, saved: Some(saved) })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            // A terminal that is gone needs no restoring.
            let _ = tcsetattr(&self.file, SetArg::TCSANOW, saved);
        }
    }
}
