//! The command line.

/// What `--help` prints.
pub const HELP: &str = "\
native: random instructions on the host's processor and in virtft's interpreter, compared

  native [--cases N] [--seed S] [--first K] [--form NAME] [--table] [--verbose]
  native --seed S --case K       one case again, as a failure named it
  native --list                  the forms that are tried, and what is not compared

  --cases N    cases to run (200000)
  --seed S     seed of the cases (by default from the clock); it is printed
  --first K    number of the first case (0)
  --form NAME  only forms whose name contains NAME
  --table      counts of every form
  --verbose    every case before it runs

Exit status: 0 when all cases agree, 1 when some do not, 2 when they could not be run.
";

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Print [`HELP`].
    Help,
    /// Print the forms.
    List,
    /// Run cases.
    Run(Options),
}

/// Which cases to run, and what to say about them.
#[derive(Debug)]
pub struct Options {
    /// How many.
    pub cases: u64,
    /// Their seed.
    pub seed: u64,
    /// Number of the first.
    pub first: u64,
    /// Only this one.
    pub case: Option<u64>,
    /// Only forms whose name contains this.
    pub form: Option<String>,
    /// Print counts of every form.
    pub table: bool,
    /// Print each case.
    pub verbose: bool,
}

/// Reads the command line.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut options = Options {
        cases: 200_000,
        seed: seed_from_clock(),
        first: 0,
        case: None,
        form: None,
        table: false,
        verbose: false,
    };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--list" => return Ok(Command::List),
            "--cases" => options.cases = number(&value()?)?,
            "--seed" => options.seed = number(&value()?)?,
            "--first" => options.first = number(&value()?)?,
            "--case" => options.case = Some(number(&value()?)?),
            "--form" => options.form = Some(value()?),
            "--table" => options.table = true,
            "--verbose" => options.verbose = true,
            other => return Err(format!("unknown option {other}; see --help")),
        }
    }
    if options.case.is_some() {
        options.cases = 1;
    }
    Ok(Command::Run(options))
}

fn number(text: &str) -> Result<u64, String> {
    text.replace('_', "").parse().map_err(|_| format!("{text} is not a number"))
}

fn seed_from_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_secs() % 1_000_000_000)
}
