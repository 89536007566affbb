//! The exit statuses of `virtft-emulator`. They are an interface: the driver and scripts rely on them.

use std::process::ExitCode;

/// Why the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// 0: the guest shut down by itself, or the run reached its `--max-count` or `--save-at`.
    Clean,
    /// 1: something that should not happen: a defect of this program.
    Internal,
    /// 2: the command line or what it names cannot be used; nothing was started.
    Configuration,
    /// 3: a host resource failed while the guest ran.
    Io,
    /// 4: the guest's processor shut down by a triple fault.
    TripleFault,
    /// 5: stopped by the user: a second SIGTERM or Ctrl-A x.
    Stopped,
    /// 6: an input script waited for text that never came.
    ScriptFailed,
    /// 7: a replayed run diverged from its log.
    Diverged,
    /// 8: a log is damaged or unfinished; what could be read of it was used.
    LogIncomplete,
    /// 9: the other host of a pair runs the VM now.
    RunsElsewhere,
    /// 64 + the low six bits of the byte that the guest wrote to the debug exit port.
    DebugExit(u8),
}

impl ExitStatus {
    /// The table for `--help`.
    pub const HELP: &'static str = "\
Exit status:
  0     the guest shut down cleanly, or the run reached --max-count or --save-at
  1     internal error
  2     the command line, or a file or device named on it, cannot be used; nothing was started
  3     a host resource failed while the guest was running
  4     triple fault: the processor's state is printed
  5     stopped by a second SIGTERM or by Ctrl-A x
  6     an input script waited for text that never came
  7     divergence: a replayed run is not the recorded one (or two compared logs differ)
  8     the log is damaged or unfinished; everything before that place was read, or replayed and equal
  9     the other host of the pair has won the epoch and runs the VM, or protection ended before a backup was ready
  64-127  the guest wrote to the debug exit port: 64 + the low six bits of the value";

    /// The number that the parent process sees.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Internal => 1,
            Self::Configuration => 2,
            Self::Io => 3,
            Self::TripleFault => 4,
            Self::Stopped => 5,
            Self::ScriptFailed => 6,
            Self::Diverged => 7,
            Self::LogIncomplete => 8,
            Self::RunsElsewhere => 9,
            Self::DebugExit(value) => 64 | (value & 63),
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_distinct() {
        let all = [
            ExitStatus::Clean,
            ExitStatus::Internal,
            ExitStatus::Configuration,
            ExitStatus::Io,
            ExitStatus::TripleFault,
            ExitStatus::Stopped,
            ExitStatus::ScriptFailed,
            ExitStatus::Diverged,
            ExitStatus::LogIncomplete,
            ExitStatus::RunsElsewhere,
            ExitStatus::DebugExit(0),
        ];
        let codes: std::collections::BTreeSet<u8> = all.iter().map(|status| status.code()).collect();
        assert_eq!(codes.len(), all.len());
        assert_eq!(ExitStatus::DebugExit(0xff).code(), 127);
    }
}
