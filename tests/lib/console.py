"""A guest's console: what it printed, waiting for text, and running shell commands over it.

Every wait is bounded. VIRTFT_TIMEOUT_SCALE (a number, default 1) stretches all of them on slow hosts.
"""

import os
import re
import threading
import time

SCALE = float(os.environ.get("VIRTFT_TIMEOUT_SCALE", "1"))


class ConsoleError(Exception):
    """The guest did not say what was waited for; the text has the last lines it did say."""


class Console:
    """Reads everything from `source` into a log, and writes to `sink` (both binary, unbuffered)."""

    # Told apart by number: whoever takes a guest over shows what its console printed before.
    _consoles = 0

    def __init__(self, source, sink, log_path):
        self._source = source
        self._sink = sink
        self._log = open(log_path, "wb", buffering=0)
        self._text = ""
        self._position = 0
        self._closed = False
        self._changed = threading.Condition()
        self._commands = 0
        Console._consoles += 1
        self._number = Console._consoles
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            try:
                data = os.read(self._source.fileno(), 65536)
            except (OSError, ValueError):
                data = b""
            with self._changed:
                if data:
                    self._log.write(data)
                    self._text += data.decode("utf-8", "replace")
                else:
                    self._closed = True
                self._changed.notify_all()
            if not data:
                return

    def finish(self, timeout=30):
        """After the machine's end: waits until all that it printed is in the log."""
        self._reader.join(timeout * SCALE)
        if self._reader.is_alive():
            raise ConsoleError("the console is still open after the machine's end")

    def text(self):
        """All that was printed so far."""
        with self._changed:
            return self._text

    def tail(self, lines=25):
        """The last lines printed, for messages."""
        return "\n".join(self.text().replace("\r", "").splitlines()[-lines:])

    def expect(self, pattern, timeout):
        """Waits for the regular expression in what was printed after the last match; returns the match."""
        compiled = re.compile(pattern)
        deadline = time.monotonic() + timeout * SCALE
        with self._changed:
            while True:
                match = compiled.search(self._text, self._position)
                if match:
                    self._position = match.end()
                    return match
                left = deadline - time.monotonic()
                if self._closed or left <= 0:
                    break
                self._changed.wait(left)
            why = "the console closed" if self._closed else f"not within {timeout * SCALE:.0f} s"
        raise ConsoleError(f"waiting for {pattern!r}: {why}; the last lines were:\n{self.tail()}")

    def send(self, text):
        """Types the text, in pieces that a 16550 without flow control can take."""
        data = text.encode()
        try:
            for at in range(0, len(data), 64):
                self._sink.write(data[at : at + 64])
                self._sink.flush()
                if len(data) > 64:
                    time.sleep(0.01)
        except OSError as error:
            raise ConsoleError(f"cannot type {text!r}: {error}; the last lines were:\n{self.tail()}") from error

    def prepare_shell(self):
        """Makes a shell quiet: no echo, no prompt, no colour."""
        self.send("stty -echo cols 1000; dmesg -n 1; PS1=; PS2=; export TERM=dumb PAGER=cat; bind 'set enable-bracketed-paste off' 2>/dev/null\n")
        self.run("true", 30)

    def run(self, command, timeout):
        """Runs one command line in the guest's shell; returns its exit status and output."""
        self._commands += 1
        mark = f"virtft-done-{self._number}-{self._commands}"
        # The quotes keep the echoed command line, should echo be on, from looking like the answer.
        self.send(f"{command}; echo \"virtft\"-done-{self._number}-{self._commands}:$?:\n")
        with self._changed:
            start = self._position
        match = self.expect(rf"{mark}:(\d+):", timeout)
        output = self.text()[start : match.start()].replace("\r", "").strip("\n")
        return int(match.group(1)), output

    def check(self, command, timeout, pattern=None):
        """Runs a command that must succeed and, where a pattern is given, print it; returns the output."""
        status, output = self.run(command, timeout)
        if status != 0:
            raise ConsoleError(f"{command!r} ended with {status}:\n{output[-2000:]}")
        if pattern and not re.search(pattern, output):
            raise ConsoleError(f"{command!r} did not print {pattern!r} but:\n{output[-2000:]}")
        return output
