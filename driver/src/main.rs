//! The daemon's entry.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use virtftd::cli::Cli;
use virtftd::server;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::new(&cli.log_filter);
    let stderr = std::io::stderr;
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(stderr().is_terminal()).with_writer(stderr).init();
    match server::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("virtftd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
