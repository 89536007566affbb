//! The control socket of an emulator: one JSON object a line, and one back.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

/// An emulator answers at once, but for what takes its machine's time.
const PATIENCE: Duration = Duration::from_secs(12);
/// Longest line that is read.
const LINE_LIMIT: u64 = 1 << 20;

/// How a machine and its protection stand, as its emulator says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `primary`, `backup` or `unprotected`.
    pub role: String,
    /// Where the protocol stands.
    pub state: String,
    /// An operator made the machine stand still.
    pub paused: bool,
    /// Epoch of the pair, or that the next one would have.
    pub epoch: u64,
    /// The backup's address.
    pub peer: Option<String>,
    /// Milliseconds by which the backup is behind.
    pub lag_ms: u64,
    /// Bytes of log since protection began.
    pub log_bytes: u64,
    /// Bytes of log in the last second.
    pub log_bytes_per_s: u64,
    /// Outputs that wait for an acknowledgement.
    pub outputs_held: u64,
    /// Milliseconds that the machine stood still for the last transfer.
    pub transfer_pause_ms: Option<u64>,
    /// Parts of 1000 of the disks that are copied, while they are.
    pub disks_copied: Option<u64>,
    /// Failovers in which this process took over.
    pub failovers: u64,
    /// What happened last.
    pub last_event: String,
}

impl Status {
    /// Another host can go on.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        self.role == "primary" && self.state == "protected"
    }
}

/// A connection to a control socket.
#[derive(Debug)]
struct Connection(BufReader<UnixStream>);

impl Connection {
    fn open(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn send(&mut self, request: &Value) -> io::Result<()> {
        let mut text = request.to_string();
        text.push('\n');
        self.0.get_mut().write_all(text.as_bytes())
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.0.by_ref().take(LINE_LIMIT).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(io::Error::from)
    }
}

/// Asks an emulator something, and gives what it answers.
///
/// # Errors
/// One sentence: it does not answer, or refuses.
pub fn ask(path: &Path, request: &Value) -> Result<Value, String> {
    ask_within(path, request, PATIENCE)
}

/// As [`ask`], with more time for the answer.
///
/// # Errors
/// As [`ask`].
pub fn ask_within(path: &Path, request: &Value, patience: Duration) -> Result<Value, String> {
    let failed = |error: io::Error| format!("the emulator does not answer ({error})");
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.0.get_mut().set_read_timeout(Some(patience)).map_err(failed)?;
    connection.send(request).map_err(failed)?;
    let answer = connection.read().map_err(failed)?;
    match answer.get("refused").and_then(Value::as_str) {
        Some(reason) => Err(reason.to_owned()),
        None => Ok(answer),
    }
}

/// Has an emulator do something that needs no more than its name.
///
/// # Errors
/// As [`ask`].
pub fn order(path: &Path, command: &str) -> Result<(), String> {
    ask(path, &json!({ "command": command })).map(drop)
}

/// How things stand now.
///
/// # Errors
/// As [`ask`].
pub fn status(path: &Path) -> Result<Status, String> {
    let mut answer = ask(path, &json!({ "command": "status" }))?;
    serde_json::from_value(answer["status"].take()).map_err(|error| format!("the emulator's status: {error}"))
}

/// Somebody who is told of every change.
#[derive(Debug)]
pub struct Subscription(Connection);

impl Subscription {
    /// Subscribes; the present status comes first.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut connection = Connection::open(path)?;
        connection.send(&json!({ "command": "subscribe" }))?;
        Ok(Self(connection))
    }

    /// The next change, waited for; `None` when there was none.
    ///
    /// # Errors
    /// When the emulator has ended.
    pub fn next(&mut self, wait: Duration) -> io::Result<Option<Status>> {
        self.0.0.get_mut().set_read_timeout(Some(wait))?;
        // Lines are short and sent whole: waiting ends between two of them.
        if self.0.0.buffer().is_empty() {
            match self.0.0.fill_buf() {
                Ok([]) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        self.0.0.get_mut().set_read_timeout(Some(PATIENCE))?;
        let mut answer = self.0.read()?;
        serde_json::from_value(answer["status"].take()).map(Some).map_err(io::Error::from)
    }
}
