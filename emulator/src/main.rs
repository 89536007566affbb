//! `virtft-emulator`: runs one virtual machine.

use std::process::ExitCode;

use clap::Parser;
use virtft_emulator::cli::{Cli, Command, RunArguments};
use virtft_emulator::driver::{Guest, RunEnd};
use virtft_emulator::exit::ExitStatus;
use virtft_emulator::guest::MachineGuest;
use virtft_emulator::recording::RecordingGuest;
use virtft_emulator::run::{self, MachinePlan};
use virtft_emulator::{control, ft, logging, logtool, replay};

/// What `log` says beside its findings.
const LOG_COMMAND_FILTER: &str = "warn";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = match &cli.command {
        Command::Run(arguments) => &arguments.log_filter,
        Command::Record(arguments) => &arguments.run.log_filter,
        Command::Replay(arguments) => &arguments.log_filter,
        Command::Backup(arguments) => &arguments.log_filter,
        Command::Log(_)
        | Command::Status(_)
        | Command::Protect(_)
        | Command::Failover(_)
        | Command::Unprotect(_)
        | Command::Control(_) => LOG_COMMAND_FILTER,
    };
    if let Err(message) = logging::start(filter) {
        return fail(&message);
    }
    let result = match &cli.command {
        Command::Run(arguments) if arguments.ft.is_used() => run_protected(arguments),
        Command::Run(arguments) => run::run(arguments, None, make_machine).map_err(|error| error.to_string()),
        Command::Record(arguments) => {
            let make = |plan: MachinePlan<'_>| -> Result<Box<dyn Guest>, String> {
                Ok(Box::new(RecordingGuest::new(plan, &arguments.log)?))
            };
            run::run(&arguments.run, None, make).map_err(|error| error.to_string())
        }
        Command::Replay(arguments) => replay::replay(arguments),
        Command::Log(command) => logtool::run(command),
        Command::Backup(arguments) => ft::backup(arguments),
        Command::Status(arguments) => said(control::client::status(&arguments.socket, arguments.json)),
        Command::Protect(arguments) => {
            said(control::client::protect(&arguments.socket, arguments.peer.to_string(), arguments.ft.clone()))
        }
        Command::Failover(arguments) => said(control::client::failover(&arguments.socket)),
        Command::Control(arguments) => said(control::client::operate(&arguments.socket, &arguments.operation)),
        Command::Unprotect(arguments) => said(control::client::unprotect(&arguments.socket)),
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

/// Prints the answer of a running emulator.
fn said(answer: Result<String, String>) -> Result<RunEnd, String> {
    println!("{}", answer?);
    Ok(RunEnd::quiet(ExitStatus::Clean))
}

/// Runs a machine that operators reach, and that a backup can protect.
fn run_protected(arguments: &RunArguments) -> Result<RunEnd, String> {
    let setup = ft::Setup::new(&arguments.ft)?;
    let link = std::sync::Arc::clone(&setup.link);
    let make = move |plan: MachinePlan<'_>| -> Result<Box<dyn Guest>, String> {
        Ok(Box::new(ft::ProtectedGuest::new(MachineGuest::new(plan)?, link)))
    };
    run::run(arguments, Some(setup), make).map_err(|error| error.to_string())
}

/// Makes the machine of a plan.
fn make_machine(plan: MachinePlan<'_>) -> Result<Box<dyn Guest>, String> {
    Ok(Box::new(MachineGuest::new(plan)?))
}
