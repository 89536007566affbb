"""Runs of the emulator under its virtual clock, and comparing them: console, exit status, digests by position.

A digest log has lines `COUNT devices HEX` and `COUNT memory HEX`.
"""

import os
import subprocess
from dataclasses import dataclass

from console import SCALE
from vm import LOGS, ROOT, Emulator

DIGEST_EVERY = "1M"


@dataclass
class Run:
    """What one run left behind."""

    command: list
    status: int
    console: bytes
    digests: dict

    @property
    def last_count(self):
        """The position of the last digest."""
        return max((count for count, _ in self.digests), default=0)


def run(machine, name, script=None, binary=None, extra=(), timeout=1800):
    """Runs a machine under the virtual clock to its end; `script` is the text of an input script."""
    LOGS.mkdir(parents=True, exist_ok=True)
    emulator = Emulator()
    if binary:
        emulator.binary = binary
    console, errors, digests = (LOGS / f"{name}.{suffix}" for suffix in ("console", "stderr", "digests"))
    digests.unlink(missing_ok=True)
    command = emulator.command(machine)
    command += ["--clock", "virtual", "--digest-every", DIGEST_EVERY, "--digest-log", str(digests), *map(str, extra)]
    if script is not None:
        path = LOGS / f"{name}.script"
        path.write_text(script, encoding="utf-8")
        command += ["--inputs", str(path)]
    with open(console, "wb") as out, open(errors, "wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            status = process.wait(timeout * SCALE)
        finally:
            process.kill()
            process.wait()
    if not digests.exists():
        raise RuntimeError(f"{' '.join(command)}: status {status}: {errors.read_text(errors='replace').strip()}")
    return Run(command, status, console.read_bytes(), read_digests(digests))


def read_digests(path):
    """{(count, kind): hex} of a digest log."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {(int(count), kind): value for count, kind, value in lines}


def compare(first, second, since=0):
    """Raises AssertionError at the first difference after `since`; returns how many digests were equal."""
    wanted = {key: value for key, value in first.digests.items() if key[0] > since}
    got = {key: value for key, value in second.digests.items() if key[0] > since}
    for key in sorted(wanted.keys() | got.keys()):
        if wanted.get(key) != got.get(key):
            raise AssertionError(
                f"the {key[1]} digests at {key[0]} differ: {wanted.get(key)} and {got.get(key)}\n"
                f"    first:  {' '.join(first.command)}\n    second: {' '.join(second.command)}"
            )
    if first.status != second.status:
        raise AssertionError(f"exit statuses differ: {first.status} and {second.status}")
    same = first.console.endswith(second.console) if since else first.console == second.console
    if not same:
        raise AssertionError("the consoles differ")
    if not wanted:
        raise AssertionError("no digest to compare")
    return len(wanted)


class HostLoad:
    """Keeps every host processor and its memory bus busy while the context lasts."""

    def __enter__(self):
        cpus = os.cpu_count() or 1
        command = ["stress-ng", "--quiet", "--cpu", str(cpus), "--vm", "1", "--vm-bytes", "128M", "--vm-keep"]
        self._load = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        self._load.terminate()
        self._load.wait()


def other_builds():
    """Binaries of other Cargo profiles than the one under test: those built since the sources last changed."""
    tested = Emulator().binary.resolve()
    sources = [path.stat().st_mtime for path in (ROOT / "emulator").rglob("*.rs")]
    binaries = (tested.parents[1] / profile / tested.name for profile in ("release", "checked", "debug"))
    return [
        binary
        for binary in binaries
        if binary.exists() and binary.resolve() != tested and binary.stat().st_mtime >= max(sources)
    ]
