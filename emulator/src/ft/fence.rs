//! Keeps a dead primary's host from shared disks before this one uses them.
//!
//! The arbiter decides who may run; it cannot stop a write that the loser's host has already begun. A fence agent can: it is the interface
//! of the fence-agents project (FenceAgentAPI): a program that reads lines of `name=value` from its standard input and ends with 0
//! when the other host can write no more.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::cli::FenceOption;

/// Runs the agent on a thread of its own, which is there before others are confined.
#[derive(Debug)]
pub struct Fence {
    attempts: Option<SyncSender<()>>,
    results: Receiver<Result<(), String>>,
}

impl Fence {
    /// A fence that was asked for; `vm` is told to the agent as its port when the options name none.
    ///
    /// # Errors
    /// One line when the agent or its options cannot be used.
    pub fn start(option: &FenceOption, vm: &str) -> Result<Self, String> {
        let (attempts, attempted) = sync_channel(1);
        let (sender, results) = sync_channel(1);
        let FenceOption::Exec { agent, options } = option else { return Ok(Self { attempts: None, results }) };
        if !agent.is_file() {
            return Err(format!("fence=exec:{}: there is no such program", agent.display()));
        }
        let input = match options {
            None => String::new(),
            Some(path) => fs::read_to_string(path)
                .map_err(|error| format!("fence-options={}: it cannot be read ({error})", path.display()))?,
        };
        let (agent, input) = (agent.clone(), complete(&input, vm));
        std::thread::Builder::new()
            .name("fence".into())
            .spawn(move || {
                for () in attempted {
                    if sender.send(run(&agent, &input)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| format!("the fence's thread cannot be started ({error})"))?;
        Ok(Self { attempts: Some(attempts), results })
    }

    /// One attempt, waited for. Without an agent there is nothing to do.
    ///
    /// # Errors
    /// What the agent said.
    pub fn attempt(&self) -> Result<(), String> {
        let Some(attempts) = &self.attempts else { return Ok(()) };
        let gone = || "the fence's thread has ended".to_owned();
        attempts.send(()).map_err(|_| gone())?;
        self.results.recv().map_err(|_| gone())?
    }
}

/// The agent's input: the options, an action and a port when they name none.
fn complete(options: &str, vm: &str) -> String {
    let mut input: String = options.lines().map(|line| format!("{}\n", line.trim())).collect();
    let has = |name: &str| options.lines().any(|line| line.trim().split('=').next() == Some(name));
    if !has("action") {
        input.push_str("action=off\n");
    }
    if !has("port") && !has("plug") {
        input.push_str(&format!("port={vm}\n"));
    }
    input
}

fn run(agent: &Path, input: &str) -> Result<(), String> {
    let failed = |what: String| Err(format!("{}: {what}", agent.display()));
    let child = Command::new(agent).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return failed(format!("it cannot be started ({error})")),
    };
    // An agent that does not read its input may still do its work.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    match child.wait_with_output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            failed(format!("{}, and said: {}", output.status, said.lines().last().unwrap_or("nothing")))
        }
        Err(error) => failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn agent(folder: &Path, body: &str) -> FenceOption {
        let path = folder.join("agent");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join("options"), "ip=10.0.0.1\n port=7 \n").unwrap();
        FenceOption::Exec { agent: path, options: Some(folder.join("options")) }
    }

    #[test]
    fn an_agent_is_told_what_to_do_and_heard() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display();
        let option = agent(
            folder.path(),
            &format!("cat > {place}/told; test -e {place}/may || {{ echo locked out >&2; exit 1; }}"),
        );
        let fence = Fence::start(&option, "web").unwrap();
        let error = fence.attempt().unwrap_err();
        assert!(error.contains("locked out") && error.contains("agent"), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join("told")).unwrap(), "ip=10.0.0.1\nport=7\naction=off\n");
        fs::write(folder.path().join("may"), "").unwrap();
        assert_eq!(fence.attempt(), Ok(()));
        assert_eq!(Fence::start(&FenceOption::None, "web").unwrap().attempt(), Ok(()));
        let missing = FenceOption::Exec { agent: "/nonexistent".into(), options: None };
        assert!(Fence::start(&missing, "web").unwrap_err().contains("no such program"));
    }

    #[test]
    fn an_agent_without_options_gets_the_vms_name() {
        assert_eq!(complete("", "web"), "action=off\nport=web\n");
        assert_eq!(complete("action=reboot\nplug=n1", "web"), "action=reboot\nplug=n1\n");
    }
}
