"""Recording runs of the emulator and replaying them.

A recording keeps its log, what the guest printed while it was recorded, and the command. When a replay is not what was
recorded, the log stays where it is and the message has the command that replays it.
"""

import contextlib
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from console import SCALE
from report import expect_equal
from vm import LOGS, Emulator, Vm

DIVERGED = 7
INCOMPLETE = 8


@dataclass
class Recording:
    """A recorded run."""

    name: str
    log: Path
    console: Path
    status: int | None = None
    # Copies of the disks as they were, for a log without disk data: values of --disk.
    disks: list = field(default_factory=list)

    def info(self):
        """What `log info` prints."""
        return tool("info", self.log).stdout

    def snapshots(self):
        """Numbers of the snapshots in the log."""
        return [int(number) for number in re.findall(r"(?m)^snapshot (\d+) +at count", self.info())]


class Recorder(Emulator):
    """Starts machines as `record` does; `options` go before those of the machine."""

    def __init__(self, log, options=()):
        super().__init__(["record", "--log", str(log), *map(str, options)])


@contextlib.contextmanager
def recorded(machine, name, options=(), prefix=()):
    """A running machine that is recorded: yields the Vm and the Recording, which is complete after the context."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.ftlog"
    log.unlink(missing_ok=True)
    with Vm(Recorder(log, options), machine, name, prefix) as vm:
        recording = Recording(name, log, vm.log_path)
        yield vm, recording
        recording.status = vm.process.poll()


def record(machine, name, options=(), timeout=300):
    """Records a run that needs nobody."""
    with recorded(machine, name, options) as (vm, recording):
        status = vm.wait(timeout)
        vm.console.finish()
    expect_equal(f"{name}: exit status of the recorded run", status, 0)
    return recording


def tool(*arguments, status=0):
    """`virtft-emulator log ...`; returns the finished process."""
    command = [str(Emulator().binary), "log", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120 * SCALE)
    expect_equal(f"exit status of {' '.join(command)}: {result.stderr}", result.returncode, status)
    return result


def replay(recording, options=(), prefix=(), status=0, timeout=900):
    """Replays a log; returns what was said about it and the bytes that the guest printed."""
    output = LOGS / f"{recording.name}.replayed"
    output.unlink(missing_ok=True)
    command = [*prefix, Emulator().binary, "replay", recording.log, "--serial", f"file:{output}"]
    command += [word for disk in recording.disks for word in ("--disk", disk)]
    command = [str(word) for word in [*command, *options]]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout * SCALE)
    if result.returncode != status:
        raise AssertionError(f"exit status {result.returncode} of\n    {' '.join(command)}\n{result.stderr[-6000:]}")
    return result.stderr, output.read_bytes() if output.exists() else b""


def same(recording, options=(), prefix=(), whole=True):
    """Replays a log to its end: every digest equal, and the console byte for byte, or its end when replay began later."""
    said, output = replay(recording, options, prefix)
    wanted = recording.console.read_bytes()
    equal = output == wanted if whole else wanted.endswith(output)
    if not equal:
        raise AssertionError(f"{recording.log}: replayed with {list(options)}, the console is another one")
    match = re.search(r"(\d+) steps, (\d+) entries, (\d+) digests equal, in ([\d.]+) s", said)
    expect_equal(f"a summary in {said!r}", match is not None, True)
    expect_equal("digests were compared", int(match.group(3)) > 0, True)
    return match


def one_core():
    """Runs a command on one processor, wherever that is allowed."""
    return ["taskset", "-c", str(min(os.sched_getaffinity(0)))]


# Ways to replay that must not show: options and a prefix.
WAYS = {
    "at once": ([], []),
    "on one core, niced, without randomised addresses": ([], ["nice", "-n", "10", "setarch", "-R", *one_core()]),
    "with caches flushed, saved and restored": (["--perturb", "20261"], []),
}
