//! `virtft-emulator`: runs one virtual machine.

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use virtft_emulator::cli::{Cli, Command};
use virtft_emulator::driver::{Guest, RunEnd};
use virtft_emulator::exit::ExitStatus;
use virtft_emulator::guest::MachineGuest;
use virtft_emulator::run::{self, MachinePlan};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Command::Run(arguments) = cli.command;
    if let Err(message) = start_log(&arguments.log) {
        return fail(&message);
    }
    match run::run(&arguments, make_machine) {
        Ok(RunEnd { status, report }) => {
            if let Some(report) = report {
                eprintln!("virtft-emulator: {report}");
            }
            status.into()
        }
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("virtft-emulator: {message}");
    ExitStatus::Configuration.into()
}

fn start_log(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| format!("--log '{filter}': {error}; write error, warn, info, debug or trace"))?;
    let colour = stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(colour).with_target(false).init();
    Ok(())
}

/// Makes the machine of a plan.
fn make_machine(plan: MachinePlan<'_>) -> Result<Box<dyn Guest>, String> {
    Ok(Box::new(MachineGuest::new(plan)?))
}
