"""virtftd on sockets and directories of its own, and stock virsh against it."""

import json
import os
import pty
import signal
import socket
import struct
import subprocess
import termios
import time
import uuid
from pathlib import Path
from xml.sax.saxutils import escape

from console import SCALE, Console
from vm import ASSETS, LOGS, ROOT, Emulator

COMMAND_TIMEOUT_S = 60


def binary():
    """The daemon to test: VIRTFTD, else that beside the emulator."""
    return Path(os.environ.get("VIRTFTD", Emulator().binary.with_name("virtftd")))


class CommandError(Exception):
    """virsh failed where it should not have."""


class Daemon:
    """A running virtftd. As a context manager it ends with its machines, whatever happened."""

    def __init__(self, folder, name, prefix=(), arguments=()):
        self.folder = Path(folder)
        self.socket = self.folder / "sock"
        self.run = self.folder / "run"
        self.config = self.folder / "etc"
        self.log = self.folder / "log"
        self.prefix = list(prefix)
        self.arguments = list(arguments)
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log_path = LOGS / f"{name}.virtftd"
        self.log_path.unlink(missing_ok=True)
        self.process = None

    @property
    def uri(self):
        return f"ft:///system?socket={self.socket}"

    @property
    def uri_read_only(self):
        return f"ft:///system?socket={self.socket}-ro"

    def libvirt_arguments(self):
        """Unless a test says otherwise, libvirt's own daemons are not there."""
        return [] if "--libvirt-dir" in self.arguments else ["--libvirt-dir", self.folder / "none"]

    def start(self):
        """Starts the daemon, or another one after it has ended."""
        command = [*self.prefix, str(binary()), "--socket", self.socket, "--config-dir", self.config]
        command += ["--run-dir", self.run, "--log-dir", self.log, "--save-dir", self.folder / "save", "--emulator", Emulator().binary]
        command += ["--log-filter", "debug", *self.libvirt_arguments(), *self.arguments]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 20 * SCALE
        while not self.listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise CommandError(f"virtftd did not start:\n{self.log_path.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        return self

    def listens(self):
        """True when a client is accepted."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.socket))
        except OSError:
            return False
        return True

    def kill(self, how=signal.SIGKILL):
        """Ends the daemon, by default without a warning; machines go on."""
        self.process.send_signal(how)
        self.process.wait(20 * SCALE)

    def machines(self):
        """Numbers of the emulators' processes, in the order in which they were started."""
        found = [json.loads(file.read_text()) for file in self.run.glob("*.json")]
        return [status["pid"] for status in sorted(found, key=lambda status: status["id"])]

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            self.kill()
        for pid in self.machines():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if kind is not None:
            print(f"    daemon: {self.log_path}")
            for file in sorted(self.log.glob("*.log")):
                print(f"    {file.name}: " + "\n        ".join(file.read_text(errors="replace").splitlines()[-5:]))

    def virsh(self, *arguments, status=0, uri=None, stdin=None, timeout=COMMAND_TIMEOUT_S):
        """Runs virsh, which must end with the status; returns what it printed on both outputs."""
        command = ["virsh", "-c", uri or self.uri, *map(str, arguments)]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout * SCALE, input=stdin or "",
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        said = (result.stdout + result.stderr).strip()
        if (result.returncode != 0) != (status != 0):
            raise CommandError(f"virsh {' '.join(map(str, arguments))}: status {result.returncode}, not {status}: {said}")
        return said

    def wait_state(self, name, state, timeout=60):
        """Waits until virsh domstate --reason says so."""
        deadline = time.monotonic() + timeout * SCALE
        while (seen := self.virsh("domstate", name, "--reason")) != state:
            if time.monotonic() > deadline:
                raise CommandError(f"{name} is '{seen}', not '{state}', after {timeout * SCALE:.0f} s")
            time.sleep(0.1)

    def console(self, name, log_name, *options):
        """virsh console on a terminal of its own."""
        return VirshConsole(["virsh", "-c", self.uri, "console", name, *options], log_name)


class VirshConsole:
    """A virsh console, with a `Console` to read and type at it."""

    def __init__(self, command, log_name):
        near, far = pty.openpty()
        self.process = subprocess.Popen(command, stdin=far, stdout=far, stderr=far, start_new_session=True)
        os.close(far)
        # One object for each direction, of which the descriptor is closed once.
        self._near = open(near, "r+b", buffering=0)
        self.console = Console(self._near, self._near, LOGS / f"{log_name}.console")

    def __enter__(self):
        self.console.expect("Escape character is", 30)
        # virsh throws away what was typed before it has set the terminal up.
        deadline = time.monotonic() + 30 * SCALE
        while termios.tcgetattr(self._near)[3] & termios.ICANON and self.process.poll() is None:
            if time.monotonic() > deadline:
                raise CommandError("virsh console does not set up its terminal")
            time.sleep(0.01)
        return self.console

    def __exit__(self, kind, value, trace):
        # virsh ignores SIGTERM here.
        self.process.kill()
        self.process.wait()

    def wait(self, timeout=30):
        """Waits until virsh ends by itself; returns what it showed."""
        self.process.wait(timeout * SCALE)
        self.console.finish()
        return self.console.text()


def domain_xml(name, append="console=ttyS0 quiet", devices="<console type='pty'/>", memory_mib=256, extra="", kernel=None):
    """A domain with Debian's kernel and the busybox root."""
    return f"""<domain type='qemu'>
  <name>{escape(name)}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <os>
    <type>hvm</type>
    <kernel>{kernel or ASSETS / "vmlinuz"}</kernel>
    <initrd>{ASSETS / "busybox.cpio"}</initrd>
    <cmdline>{escape(append)}</cmdline>
  </os>
  {extra}
  <devices>{devices}</devices>
</domain>
"""


def define(daemon, folder, name, **options):
    """Defines such a domain from a file."""
    path = Path(folder) / f"{uuid.uuid4()}.xml"
    path.write_text(domain_xml(name, **options))
    return daemon.virsh("define", path)


def frame(procedure, payload=b"", serial=0, program=0x20008086, kind=0, status=0):
    """A frame of the remote protocol."""
    return struct.pack(">IIIiiIi", 28 + len(payload), program, 1, procedure, kind, serial, status) + payload


def receive(client):
    """The next frame: header words and payload; None at the connection's end."""
    try:
        head = client.recv(4, socket.MSG_WAITALL)
        if len(head) < 4:
            return None
        rest = client.recv(struct.unpack(">I", head)[0] - 4, socket.MSG_WAITALL)
    except ConnectionResetError:
        return None
    return struct.unpack(">IIiiIi", rest[:24]), rest[24:]


__all__ = ["ROOT", "Daemon", "CommandError", "binary", "define", "domain_xml", "frame", "receive"]
