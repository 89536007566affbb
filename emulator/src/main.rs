//! `virtft-emulator`: runs one virtual machine.

use std::process::ExitCode;

use clap::Parser;
use virtft_emulator::cli::{Cli, Command};
use virtft_emulator::driver::{Guest, RunEnd};
use virtft_emulator::exit::ExitStatus;
use virtft_emulator::guest::MachineGuest;
use virtft_emulator::recording::RecordingGuest;
use virtft_emulator::run::{self, MachinePlan};
use virtft_emulator::{logging, logtool, replay};

/// What `log` says beside its findings.
const LOG_COMMAND_FILTER: &str = "warn";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = match &cli.command {
        Command::Run(arguments) => &arguments.log_filter,
        Command::Record(arguments) => &arguments.run.log_filter,
        Command::Replay(arguments) => &arguments.log_filter,
        Command::Log(_) => LOG_COMMAND_FILTER,
    };
    if let Err(message) = logging::start(filter) {
        return fail(&message);
    }
    let result = match &cli.command {
        Command::Run(arguments) => run::run(arguments, make_machine).map_err(|error| error.to_string()),
        Command::Record(arguments) => {
            let make = |plan: MachinePlan<'_>| -> Result<Box<dyn Guest>, String> {
                Ok(Box::new(RecordingGuest::new(plan, &arguments.log)?))
            };
            run::run(&arguments.run, make).map_err(|error| error.to_string())
        }
        Command::Replay(arguments) => replay::replay(arguments),
        Command::Log(command) => logtool::run(command),
    };
    match result {
        Ok(RunEnd { status, report }) => {
            if let Some(report) = report {
                eprintln!("virtft-emulator: {report}");
            }
            status.into()
        }
        Err(error) => fail(&error),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("virtft-emulator: {message}");
    ExitStatus::Configuration.into()
}

/// Makes the machine of a plan.
fn make_machine(plan: MachinePlan<'_>) -> Result<Box<dyn Guest>, String> {
    Ok(Box::new(MachineGuest::new(plan)?))
}
