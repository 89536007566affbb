"""Results of a suite: one line per case with its time, a closing line with the counts."""

import sys
import time
import traceback


class Skip(Exception):
    """Raised by a case that cannot run here; the text says why."""


class Report:
    """Runs cases and counts them."""

    def __init__(self, suite):
        self.suite = suite
        self.passed = self.failed = self.skipped = 0

    def case(self, name, function, *arguments):
        """Runs one case; returns its result, or None when it failed or was skipped."""
        start = time.monotonic()
        try:
            result = function(*arguments)
        except Skip as reason:
            self.skipped += 1
            print(f"  skip   {name}: {reason}", flush=True)
            return None
        except Exception as error:  # any failure of a case is a result, not the end of the suite
            self.failed += 1
            print(f"  FAILED {name} ({time.monotonic() - start:.1f} s): {error}", flush=True)
            if not isinstance(error, (OSError, RuntimeError, AssertionError)) and type(error).__module__ == "builtins":
                traceback.print_exc(file=sys.stdout)
            return None
        self.passed += 1
        print(f"  ok     {name} ({time.monotonic() - start:.1f} s)", flush=True)
        return result if result is not None else True

    def finish(self):
        """Prints the counts and ends the process, with 1 when a case failed or none ran."""
        print(f"{self.suite}: {self.passed} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        sys.exit(1 if self.failed or not self.passed + self.skipped else 0)


def expect_equal(what, got, want):
    """Fails the case when the two differ."""
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, expected {want!r}")
