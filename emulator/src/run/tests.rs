//! Whole runs in processes of their own, filters and all, with a fake guest in place of the machine.
//!
//! Each test starts this test program again with a command line and a list of things for the guest to do.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;

use super::*;
use crate::cli::{Cli, Command as CliCommand};
use crate::driver::fake::{FakeGuest, Op};

const LINE: &str = "VIRTFT_RUN_LINE";
const PROGRAM: &str = "VIRTFT_RUN_PROGRAM";
/// Between the guest's first print and its end.
const READY: &str = "ready\n";

fn program(name: &str) -> Vec<Op> {
    match name {
        "session" => {
            vec![Op::Print(READY), Op::Read, Op::Work(300_000), Op::Read, Op::Print("done\n"), Op::Shutdown]
        }
        "button" => vec![Op::Print(READY), Op::Wait, Op::Print("bye\n"), Op::Shutdown],
        "busy" => vec![Op::Print(READY), Op::Work(1000), Op::Repeat],
        "sleepy" => vec![Op::Print(READY), Op::Sleep(500_000_000), Op::Shutdown],
        "fault" => vec![Op::TripleFault],
        "debug" => vec![Op::DebugExit(7)],
        other => panic!("no program {other}"),
    }
}

/// The body of the started processes; as a test by itself it does nothing.
#[test]
fn process_body() {
    let (Ok(line), Ok(name)) = (std::env::var(LINE), std::env::var(PROGRAM)) else { return };
    let words = ["virtft-emulator", "run"].into_iter().chain(line.split_whitespace());
    let CliCommand::Run(arguments) = Cli::try_parse_from(words).unwrap().command else { panic!("not a run") };
    let code = match run(&arguments, None, |plan| {
        Ok(match plan.snapshot {
            Some(state) => Box::new(FakeGuest::restore(&program(&name), &state)),
            None => Box::new(FakeGuest::new(&program(&name))),
        })
    }) {
        Ok(RunEnd { status, report }) => {
            eprintln!("{}", report.unwrap_or_default());
            status.code()
        }
        Err(error) => {
            eprintln!("{error}");
            ExitStatus::Configuration.code()
        }
    };
    std::process::exit(i32::from(code));
}

struct Process(Child);

fn start(name: &str, line: &str, stdio: impl Fn() -> Stdio) -> Process {
    // The test harness has a thread that knows nothing of our signals.
    let child = Command::new("env")
        .arg("--block-signal=TERM")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "run::tests::process_body", "--nocapture", "--test-threads=1"])
        .env(LINE, line)
        .env(PROGRAM, name)
        .stdin(stdio())
        .stdout(stdio())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Process(child)
}

impl Process {
    /// Waits for the end; returns the exit code, or minus the signal, and what was written.
    fn end(mut self) -> (i32, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        drop(self.0.stdin.take());
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut out).unwrap();
        }
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let status = self.0.wait().unwrap();
        (status.code().unwrap_or_else(|| -status.signal().unwrap()), out, err)
    }

    fn signal(&self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    }
}

fn wait_for_file(path: &Path, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !std::fs::read_to_string(path).is_ok_and(|content| content.contains(text)) {
        assert!(Instant::now() < deadline, "{} never had {text:?}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Files(tempfile::TempDir);

impl Files {
    /// A directory with a kernel and an image.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("kernel"), "kernel").unwrap();
        File::create(directory.path().join("disk.raw")).unwrap().set_len(1 << 20).unwrap();
        Self(directory)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// `line` with `@` replaced by the directory, after the kernel and a disk.
    fn line(&self, line: &str) -> String {
        let directory = self.0.path().display().to_string();
        format!("--kernel @/kernel --disk file=@/disk.raw,format=raw {line}").replace('@', &directory)
    }
}

#[test]
fn a_whole_run_with_disk_log_and_snapshot() {
    let files = Files::new();
    for clock in ["real", "virtual"] {
        let line = files.line(&format!(
            "--clock {clock} --serial file:@/log --save-at 100k=@/snap-{clock} --digest-every 50k --digest-log @/digest"
        ));
        let (code, _, err) = start("session", &line, Stdio::null).end();
        assert_eq!(code, 0, "{clock}: {err}");
        assert_eq!(std::fs::read_to_string(files.path("log")).unwrap(), "ready\ndone\n");
        assert!(std::fs::read_to_string(files.path("digest")).unwrap().lines().count() >= 6);
        assert!(!files.path(&format!("snap-{clock}.unfinished")).exists());
        // The kernel's name gives way to the snapshot's.
        let line = files.line(&format!("--clock {clock} --serial file:@/log --snapshot @/snap-{clock}"));
        let line = line.split_once("--disk").unwrap().1;
        let (code, _, err) = start("session", &format!("--disk{line}"), Stdio::null).end();
        assert_eq!(code, 0, "{clock}: {err}");
        assert_eq!(std::fs::read_to_string(files.path("log")).unwrap(), "done\n");
    }
}

#[test]
fn sigterm_presses_the_button_and_the_second_one_stops() {
    let files = Files::new();
    let process = start("button", &files.line("--serial file:@/log"), Stdio::null);
    wait_for_file(&files.path("log"), READY);
    process.signal();
    let (code, _, err) = process.end();
    assert_eq!(code, 0, "{err}");
    assert_eq!(std::fs::read_to_string(files.path("log")).unwrap(), "ready\nbye\n");

    let process = start("busy", &files.line("--serial file:@/log2"), Stdio::null);
    wait_for_file(&files.path("log2"), READY);
    process.signal();
    std::thread::sleep(Duration::from_millis(50));
    process.signal();
    let (code, _, err) = process.end();
    assert_eq!(code, 5, "{err}");
}

#[test]
fn stdio_by_pipes_carries_bytes_both_ways() {
    let files = Files::new();
    let mut process = start("button", &files.line("--serial stdio"), Stdio::piped);
    process.0.stdin.as_mut().unwrap().write_all(b"key").unwrap();
    let (code, out, err) = process.end();
    assert_eq!(code, 0, "{err}");
    assert!(out.ends_with("ready\nbye\n"), "{out}");
}

#[test]
fn a_terminal_is_restored_after_the_way_out() {
    let files = Files::new();
    let pair = nix::pty::openpty(None, None).unwrap();
    let before = tcgetattr(&pair.slave).unwrap();
    let slave = || Stdio::from(pair.slave.try_clone().unwrap());
    let process = start("busy", &files.line("--serial stdio"), slave);
    let mut terminal = File::from(pair.master);
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("ready") {
        let mut buffer = [0; 256];
        let got = terminal.read(&mut buffer).unwrap();
        seen.extend(&buffer[..got]);
    }
    assert_ne!(tcgetattr(&pair.slave).unwrap(), before, "raw mode");
    terminal.write_all(b"\x01x").unwrap();
    // The output is a loop of lines that somebody must read.
    let reader = std::thread::spawn(move || while terminal.read(&mut [0; 4096]).is_ok_and(|got| got > 0) {});
    let (code, _, err) = process.end();
    assert_eq!(code, 5, "{err}");
    assert_eq!(tcgetattr(&pair.slave).unwrap(), before);
    drop(pair.slave);
    reader.join().unwrap();
}

#[test]
fn every_backend_lives_with_the_filters() {
    let files = Files::new();
    let passt = if Command::new("passt").arg("--version").output().is_ok() { "--net passt" } else { "" };
    let line = files.line(&format!(
        "--serial unix:@/serial,server --serial pty --console file:@/log --debugcon file:@/debug \
         --net stream=@/net,server --net none {passt}"
    ));
    let (code, _, err) = start("sleepy", &line, Stdio::null).end();
    // Where passt cannot live, it says so before anything starts.
    assert!(code == 0 || (code == 2 && err.contains("passt")), "{code}: {err}");
    assert!(!files.path("serial").exists() && !files.path("net").exists(), "sockets are removed");
}

#[test]
fn ends_of_the_guest_have_their_statuses() {
    let files = Files::new();
    let (code, _, err) = start("fault", &files.line(""), Stdio::null).end();
    assert_eq!(code, 4);
    assert!(err.contains("triple fault\nRIP=0"), "{err}");
    let (code, _, err) = start("debug", &files.line(""), Stdio::null).end();
    assert_eq!(code, 64 + 7, "{err}");
}

#[test]
fn what_cannot_be_used_is_said_in_one_line() {
    let files = Files::new();
    std::fs::write(files.path("empty"), "").unwrap();
    std::fs::write(files.path("script"), "5 fly\n").unwrap();
    let cases = [
        ("--kernel @/absent", "no such file"),
        ("--kernel @/empty", "it is empty"),
        ("--kernel @/kernel --initrd @/absent", "--initrd"),
        ("--snapshot @/kernel", "is no snapshot"),
        ("--kernel @/kernel --disk file=@/absent.qcow2", "qemu-img create"),
        ("--kernel @/kernel --net tap=virtft-none", "ip tuntap add"),
        ("--kernel @/kernel --serial unix:@/absent", "start its server first"),
        ("--kernel @/kernel --clock virtual --inputs @/script", "line 1: there is no step 'fly'"),
        ("--kernel @/kernel --save-at 5=@/absent/x", "cannot be written"),
        ("--kernel @/kernel --serial stdio --serial stdio", "stdio is used by more than one"),
    ];
    for (line, expected) in cases {
        let line = line.replace('@', &files.0.path().display().to_string());
        let (code, _, err) = start("session", &line, Stdio::null).end();
        assert_eq!(code, 2, "{line}: {err}");
        assert!(err.contains(expected) && err.trim().lines().count() == 1, "{line}: {err}");
    }
}
