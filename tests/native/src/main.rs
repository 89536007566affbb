//! Executes random instructions on random state on the host's own processor and in virtft's interpreter, and compares
//! registers, defined flags, x87 and SSE state, memory and the exception raised.
//!
//! A case follows from the seed and its number: `native --seed S --case K` runs it again.

mod aim;
mod case;
mod compare;
mod encode;
mod forms;
mod fp;
mod generate;
mod guest;
mod host;
mod layout;
mod options;
mod report;
mod rng;
mod safety;
mod sequence;
mod special;
mod undefined;
mod values;
mod vendor;

use std::io::Write as _;
use std::process::ExitCode;

use case::{Event, Outcome};
use generate::{Generated, Generator, Purpose};
use guest::Guest;
use host::Host;
use options::{Command, Options};
use report::Report;

/// Vector of #UD.
const UD: u8 = 6;
/// Vector of #GP.
const GP: u8 = 13;
/// Vector of #PF.
const PF: u8 = 14;

fn main() -> ExitCode {
    let result = match options::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => print(options::HELP).map(|()| true),
        Ok(Command::List) => list(),
        Ok(Command::Run(options)) => run(&options),
        Err(error) => Err(error),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("native: {error}");
            ExitCode::from(2)
        }
    }
}

fn print(text: &str) -> Result<(), String> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
}

/// Prints the forms that are tried, those that are not, and where vendors differ.
fn list() -> Result<bool, String> {
    let mut text = String::new();
    for form in forms::forms() {
        text += &format!("{:32} {}\n", form.name(), form.info.instruction_string());
    }
    text += "\nnot tried:\n";
    for code in iced_x86::Code::values().filter(|&code| forms::in_model(code)) {
        if let Some(reason) = forms::excluded(code) {
            text += &format!("{code:?}: {reason}\n");
        }
    }
    text += &differences();
    print(&text).map(|()| true)
}

/// The table of vendors' differences.
fn differences() -> String {
    let mut text = "\nnot compared, since processors differ:\n".to_owned();
    for (forms, reason) in vendor::TABLE {
        text += &format!("{forms}: {reason}\n");
    }
    text
}

/// The two processors and what they did last.
struct Pair {
    host: Host,
    guest: Guest,
    native: Outcome,
    interpreted: Outcome,
}

impl Pair {
    /// Runs one case; returns the differences.
    fn run(&mut self, generated: &Generated, report: &mut Report) -> String {
        self.guest.run(&generated.case, &mut self.interpreted);
        if generated.purpose == Purpose::Absent {
            report.count_absent();
            let event = self.interpreted.event;
            let overlong = matches!(event, Event::Exception { vector: GP, .. })
                && forms::prefixes(&generated.case.bytes) >= vendor::MANY_PREFIXES;
            let refused = overlong || matches!(event, Event::Exception { vector: UD, .. });
            let elsewhere = matches!(event, Event::Exception { vector: PF, .. });
            self.native.event = event;
            return if refused || elsewhere {
                String::new()
            } else {
                format!("  event   {event:?}\n    not   #UD: the model does not have the instruction\n")
            };
        }
        self.host.run(&generated.case, &mut self.native);
        report.count(generated, &self.native);
        compare::compare(generated, &self.native, &self.interpreted)
    }
}

fn run(options: &Options) -> Result<bool, String> {
    let generator = Generator::new(options.seed);
    let names: Vec<String> = generator.forms().iter().map(forms::Form::name).collect();
    let wanted = options.form.as_ref().map(|part| {
        let matches = |name: &&usize| names[**name].to_lowercase().contains(&part.to_lowercase());
        (0..names.len()).collect::<Vec<_>>().iter().filter(matches).copied().collect::<Vec<_>>()
    });
    if wanted.as_ref().is_some_and(Vec::is_empty) {
        return Err("no form has such a name; `native --list` shows them".into());
    }
    let host = Host::new(generator.constant()).map_err(|error| format!("cannot run code here: {error}"))?;
    let guest = Guest::new(generator.constant()).map_err(|error| error.to_string())?;
    let mut report = Report::new(options.seed, names);
    let mut pair = Pair { host, guest, native: Outcome::empty(), interpreted: Outcome::empty() };
    let forms = generator.forms().len() as u64;
    for index in 0..options.cases {
        let number = match &wanted {
            _ if options.case.is_some() => options.case.unwrap_or(0),
            Some(wanted) => {
                let length = wanted.len() as u64;
                let form = wanted[usize::try_from(index % length).unwrap_or(0)];
                options.first / forms * forms + index / length * forms + form as u64
            }
            None => options.first + index,
        };
        let Some(generated) = generator.generate(number) else {
            report.skip();
            continue;
        };
        if options.verbose {
            print(&format!("{}\n", report::title(number, &generated)))?;
        }
        let text = pair.run(&generated, &mut report);
        if !text.is_empty() {
            report.fail(number, &generated, &text);
        }
        if options.verbose {
            print(&format!("  {:?}\n", pair.native.event))?;
        }
    }
    finish(options, &report)
}

fn finish(options: &Options, report: &Report) -> Result<bool, String> {
    print(&report.failed_forms())?;
    if options.table {
        print(&report.table())?;
    }
    if options.case.is_none() {
        if options.form.is_none() {
            print(&report.gaps())?;
            print(&differences())?;
        }
        print(&format!("\n{}", report.summary()))?;
    }
    Ok(report.failures() == 0)
}
