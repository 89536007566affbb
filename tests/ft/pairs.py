"""Pairs for tests: emulators on hosts of their own, and a client whose connection must live.

A guest of Debian's kernel and busybox answers on a TCP connection. Needs root: hosts are network namespaces.
"""

import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "lib"))
from console import SCALE, Console  # noqa: E402
from hosts import CLIENT, GUEST, MAC  # noqa: E402
from report import expect_equal  # noqa: E402
from vm import ASSETS, LOGS, Emulator  # noqa: E402

STOPPED = 5
ELSEWHERE = 9
DIVERGED = 7
REFUSED = 2
BOOT = 120
# How long whatever happens next may take before it counts as never.
LIMIT = 60 * SCALE
DISK_BYTES = 48 << 20


class Node:
    """One emulator on one host."""

    def __init__(self, world, host, arguments, name):
        self.world, self.host, self.name = world, world[host], f"ft-{name}-{host}"
        self.control = world.folder / f"{self.name}.socket"
        self.stderr = LOGS / f"{self.name}.stderr"
        self.command = [str(Emulator().binary), *map(str, arguments), "--control", str(self.control), "--log-filter", "info"]
        with open(self.stderr, "wb") as errors:
            self.process = subprocess.Popen(
                [*self.host.prefix, *self.command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
            )
        self.console = Console(self.process.stdout, self.process.stdin, LOGS / f"{self.name}.console")

    def status(self):
        """What `status` says, or None when nobody answers."""
        command = [str(Emulator().binary), "status", "--json", str(self.control)]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
        return json.loads(result.stdout) if result.returncode == 0 else None

    def until(self, **wanted):
        """Waits until the status is so; returns it."""
        deadline, status = time.monotonic() + LIMIT, None
        while time.monotonic() < deadline:
            status = self.status()
            if status and all(status[key] == value for key, value in wanted.items()):
                return status
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{self.name} never was {wanted}: {status}; {self.said()}")

    def ask(self, *command, status=0):
        """One of the commands for a running emulator; returns what it said."""
        result = subprocess.run(
            [str(Emulator().binary), command[0], str(self.control), *command[1:]],
            capture_output=True, text=True, check=False, timeout=LIMIT,
        )  # fmt: skip
        expect_equal(f"status of {command}: {result.stdout}{result.stderr}{self.said()}", result.returncode, status)
        return result.stdout + result.stderr

    def said(self):
        """What it wrote to standard error."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.stderr.read_text(errors="replace"))

    def emulator_pid(self):
        """The emulator's own process: `ip netns exec` becomes it, or is its parent."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return int(found.stdout or self.process.pid)

    def wait(self):
        """Waits for the process to end; returns its status."""
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end: {self.said()}") from None

    def kill(self):
        """As a host that loses its power does."""
        self.process.kill()
        self.process.wait()


class Pair:
    """A protected guest; `disk` gives it one: True for a copy on each host, or the path of an image that all share. A context manager."""

    def __init__(self, world, name, disk=False, more="", machine=()):
        self.world, self.name, self.more = world, name, more
        self.nodes, self.disks, self.disk = {}, {}, disk
        self.machine = list(machine) or ["--memory", "128M"]

    def options(self, host, peers=""):
        """Options of both roles."""
        net = ["--net", f"tap=tap0,mac={MAC}"]
        more = self.more.format(host=host)
        ft = f"arbiter=dir:{self.world.arbiter},pki={self.world.pki}{peers and ','}{peers}{more and ','}{more}"
        disk = []
        if isinstance(self.disk, Path):
            # One image for all.
            disk = ["--disk", f"file={self.disk},id=data,format={self.disk.suffix[1:]}"]
        elif self.disk and host in self.disks:
            disk = ["--disk", f"file={self.disks[host]},id=data,format=raw"]
        elif self.disk:
            self.disks[host] = LOGS / f"ft-{self.name}-{host}.raw"
            with open(self.disks[host], "wb") as file:
                file.write(random.Random(host).randbytes(DISK_BYTES) if host == "a" else b"\xff" * DISK_BYTES)
            disk = ["--disk", f"file={self.disks[host]},id=data,format=raw"]
        return [*net, *disk, "--serial", "stdio", "--name", self.name, "--ft", ft]

    def backup(self, host, peers="", more=()):
        """Starts a backup."""
        command = ["backup", "--listen", self.world[host].url, *self.options(host, peers), *more]
        node = Node(self.world, host, command, self.name)
        self.nodes[host] = node
        node.until(role="backup")
        return node

    def primary(self, host, peers):
        """Starts the guest, and waits for its shell."""
        boot = ["--kernel", ASSETS / "vmlinuz", "--initrd", ASSETS / "busybox.cpio", "--append", "console=ttyS0 quiet"]
        node = Node(self.world, host, ["run", *boot, *self.machine, *self.options(host, peers)], self.name)
        self.nodes[host] = node
        node.console.expect("virtft: shell", BOOT)
        node.console.prepare_shell()
        node.console.check(f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up; true", 30)
        node.console.send("nc -ll -p 5000 -e cat &\n")
        node.console.check(f"for i in 1 2 3 4 5 6 7 8 9; do ping -c 1 -W 1 {CLIENT} && break; done", 60, "1 packets received")
        return node

    def start(self):
        """A primary on host a and its backup on host b."""
        backup = self.backup("b")
        primary = self.primary("a", f"peer={self.world['b'].url}")
        primary.until(role="primary", state="protected")
        backup.until(state="protecting")
        return primary, backup

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for node in self.nodes.values():
            node.kill()
        for node in list(self.nodes.values())[-3:]:
            if kind is not None:
                print(f"    {node.name}: {' '.join(node.command)}")
                print("      " + "\n      ".join(node.said().splitlines()[-15:]))


class Talk:
    """A client with one TCP connection: numbered lines go out, and must all come back in order."""

    def __init__(self, world, pause=0.005):
        self.pause, self.times = pause, []
        with world.at("client"):
            self.socket = socket.create_connection((GUEST, 5000), LIMIT)
        self.socket.settimeout(LIMIT)
        self.over = threading.Event()
        self.sent, self.heard, self.longest, self.wrong = 0, 0, 0.0, None
        self.thread = threading.Thread(target=self._talk, daemon=True)
        self.thread.start()

    def _talk(self):
        try:
            lines = self.socket.makefile("rb")
            while not self.over.is_set():
                start = time.monotonic()
                self.sent += 1
                self.socket.sendall(b"line %d\n" % self.sent)
                answer = lines.readline()
                if answer != b"line %d\n" % self.sent:
                    raise AssertionError(f"line {self.sent} came back as {answer!r}")
                self.heard += 1
                self.times.append(time.monotonic() - start)
                self.longest = max(self.longest, self.times[-1])
                time.sleep(self.pause)
        except (OSError, AssertionError) as error:
            self.wrong = error

    def more(self, lines=20):
        """Waits until so many further lines have come back."""
        wanted, deadline = self.heard + lines, time.monotonic() + LIMIT
        while self.heard < wanted and not self.wrong and time.monotonic() < deadline:
            time.sleep(0.01)
        if self.wrong or self.heard < wanted:
            raise AssertionError(f"the connection is dead after {self.heard} lines: {self.wrong}")

    def end(self):
        """Closes it; says how it went."""
        self.over.set()
        self.thread.join(LIMIT)
        self.socket.close()
        print(f"    {self.heard} lines, the longest wait {self.longest * 1000:.0f} ms")
        expect_equal("what went wrong", self.wrong, None)
