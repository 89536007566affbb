//! Runs cases in a process of its own: they need fixed addresses and the process's signal handlers.

use std::process::Command;

/// A few; `tests/run` has a suite of its own for many.
const CASES: &str = "50000";

/// A fixed seed, so that a failure is not a matter of luck; the suite and `make soak` draw others.
#[test]
fn interpreter_agrees_with_the_host() {
    let output = Command::new(env!("CARGO_BIN_EXE_native")).args(["--seed", "1", "--cases", CASES]).output();
    let output = output.expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the interpreter and the host's processor differ: {}", output.status);
}
