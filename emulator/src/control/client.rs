//! The commands that speak to a running emulator: `status`, `failover`, `protect`, `unprotect`, `control`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::request::{Request, Response};
use super::status::Status;
use crate::cli::Operation;

/// How often a change is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One connection to a control socket.
struct Client {
    reader: BufReader<UnixStream>,
}

impl Client {
    fn connect(path: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(path).map_err(|error| {
            format!("{}: no emulator answers there ({error}); give the path of its --control option", path.display())
        })?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    fn ask(&mut self, request: &Request) -> Result<Response, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the emulator hung up ({error})");
        let mut text = serde_json::to_string(request).map_err(|error| failed(&error))?;
        text.push('\n');
        self.reader.get_mut().write_all(text.as_bytes()).map_err(|error| failed(&error))?;
        let mut line = String::new();
        if self.reader.read_line(&mut line).map_err(|error| failed(&error))? == 0 {
            return Err(failed(&"it has ended"));
        }
        match serde_json::from_str(&line).map_err(|error| failed(&error))? {
            Response::Refused(reason) => Err(reason),
            response => Ok(response),
        }
    }

    fn status(&mut self) -> Result<Status, String> {
        match self.ask(&Request::Status)? {
            Response::Status(status) => Ok(*status),
            Response::Done | Response::Statistics(_) | Response::Refused(_) => {
                Err("the emulator answered something else".into())
            }
        }
    }
}

/// `status SOCKET`: the text to print.
///
/// # Errors
/// One line.
pub fn status(path: &Path, json: bool) -> Result<String, String> {
    let status = Client::connect(path)?.status()?;
    if json {
        return serde_json::to_string_pretty(&status).map_err(|error| error.to_string());
    }
    let mut lines = vec![
        ("VM", status.vm.clone()),
        ("role", status.role.clone()),
        ("state", if status.paused { format!("{}, paused", status.state) } else { status.state.clone() }),
        ("incarnation, epoch", format!("{}, {}", status.incarnation, status.epoch)),
    ];
    lines.extend(status.peer.clone().map(|peer| ("peer", peer)));
    if status.role == "primary" {
        lines.push(("execution lag", format!("{} ms", status.lag_ms)));
        lines.push(("log", format!("{} bytes, {} bytes/s", status.log_bytes, status.log_bytes_per_s)));
        lines.push(("unacknowledged", format!("{} bytes", status.unacknowledged_bytes)));
        lines.push(("outputs held", status.outputs_held.to_string()));
        lines.push(("held back", format!("{:.1} %", f64::from(status.throttle) / 10.0)));
    }
    lines.extend(status.disks_copied.map(|parts| ("disks copied", format!("{:.1} %", f64::from(parts) / 10.0))));
    if status.disk_bytes_kept > 0 {
        lines.push(("disks known there", format!("{} bytes", status.disk_bytes_kept)));
    }
    lines.extend(status.transfer_pause_ms.map(|pause| ("pause of the transfer", format!("{pause} ms"))));
    lines.push(("failovers", status.failovers.to_string()));
    lines.push(("last event", status.last_event));
    let text = lines.into_iter().map(|(name, value)| format!("{name:<22} {value}"));
    Ok(text.collect::<Vec<_>>().join("\n"))
}

/// `protect SOCKET --peer URL [--ft OPTIONS]`: waits until the VM is protected.
///
/// # Errors
/// One line that says why it is not.
pub fn protect(path: &Path, peer: String, ft: Option<String>) -> Result<String, String> {
    let mut client = Client::connect(path)?;
    client.ask(&Request::Protect { peer, ft })?;
    loop {
        let status = client.status()?;
        match (status.role.as_str(), status.state.as_str()) {
            ("primary", "protected") => {
                let pause = status.transfer_pause_ms.unwrap_or(0);
                return Ok(format!("protected, epoch {}; the VM stood still for {pause} ms", status.epoch));
            }
            ("unprotected", _) => return Err(format!("not protected: {}", status.last_event)),
            _ => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// `failover SOCKET`: waits until the backup has taken over, or the switch has failed.
///
/// # Errors
/// One line that says why nothing was switched.
pub fn failover(path: &Path) -> Result<String, String> {
    let mut client = Client::connect(path)?;
    let start = Instant::now();
    client.ask(&Request::Failover)?;
    loop {
        match client.status() {
            // The process ends when the backup runs.
            Err(_) => return Ok(format!("the backup has taken over after {} ms", start.elapsed().as_millis())),
            Ok(status) if status.state == "stopped" => {
                return Ok(format!("the backup has taken over after {} ms", start.elapsed().as_millis()));
            }
            Ok(status) if status.role == "unprotected" => return Err(format!("not switched: {}", status.last_event)),
            Ok(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// `unprotect SOCKET`.
///
/// # Errors
/// One line.
pub fn unprotect(path: &Path) -> Result<String, String> {
    Client::connect(path)?.ask(&Request::Unprotect)?;
    Ok("the VM goes on without a backup".into())
}

/// `control SOCKET OPERATION`: the text to print.
///
/// # Errors
/// One line that says why it was not done.
pub fn operate(path: &Path, operation: &Operation) -> Result<String, String> {
    let request = operation.request().map_err(|error| error.to_string())?;
    match Client::connect(path)?.ask(&request)? {
        Response::Statistics(statistics) => {
            let own = [("count", statistics.count), ("guest_ns", statistics.guest_ns)]
                .map(|(name, value)| (name.to_owned(), value));
            let lines = own.into_iter().chain(statistics.counters).map(|(name, value)| format!("{name:<40} {value}"));
            Ok(lines.collect::<Vec<_>>().join("\n"))
        }
        _ => Ok("done".into()),
    }
}
