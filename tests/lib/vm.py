"""Starting virtual machines: the same description of a machine for the emulator and for QEMU.

QEMU (TCG) is the second opinion: what fails under both is the test's fault, not the emulator's.
"""

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from console import SCALE, Console

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(os.environ.get("VIRTFT_ASSETS", ROOT / "target/assets"))
LOGS = Path(os.environ.get("VIRTFT_LOGS", ROOT / "target/tests"))


@dataclass
class Disk:
    """One disk; `image_format` is raw or qcow2."""

    file: Path
    name: str
    image_format: str = "qcow2"
    readonly: bool = False


@dataclass
class Net:
    """One network card: `kind` is tap (with the interface as `target`), stream (a socket), passt, or none (with the kind of
    backend whose features it offers)."""

    kind: str
    target: str
    mac: str


@dataclass
class Machine:
    """What a test wants to start."""

    append: str
    kernel: Path = ASSETS / "vmlinuz"
    initrd: Path = ASSETS / "busybox.cpio"
    memory: str = "512M"
    vcpus: int = 1
    disks: list = field(default_factory=list)
    nets: list = field(default_factory=list)
    extra: list = field(default_factory=list)
    # Continues this snapshot in place of booting.
    snapshot: Path | None = None


class Emulator:
    """virtft-emulator. VIRTFT_EMULATOR names the binary; VIRTFT_EMULATOR_ARGS adds arguments."""

    name = "emulator"

    def __init__(self, subcommand=("run",)):
        self.subcommand = subcommand
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        self.binary = Path(os.environ.get("VIRTFT_EMULATOR", target / "release/virtft-emulator"))
        self.arguments = os.environ.get("VIRTFT_EMULATOR_ARGS", "").split()

    def command(self, machine):
        """The command line that starts the machine with its console on standard input and output."""
        command = [self.binary, *self.subcommand]
        if machine.snapshot:
            command += ["--snapshot", machine.snapshot]
        else:
            command += ["--kernel", machine.kernel, "--initrd", machine.initrd, "--append", machine.append]
        command += ["--memory", machine.memory, "--vcpus", machine.vcpus, "--serial", "stdio"]
        for disk in machine.disks:
            options = f"file={disk.file},id={disk.name},format={disk.image_format}"
            command += ["--disk", options + (",readonly=on" if disk.readonly else "")]
        for net in machine.nets:
            # The stream sockets of the tests lead to passt.
            targets = {"tap": f"tap={net.target}", "stream": f"stream={net.target},small-windows", "none": f"none,like={net.target}"}
            target = targets.get(net.kind, net.kind)
            command += ["--net", f"{target},mac={net.mac}"]
        return [str(word) for word in command + self.arguments + machine.extra]


class Qemu:
    """qemu-system-x86_64 with TCG; `icount` counts instructions as virtft does."""

    def __init__(self, icount=False):
        self.name = "qemu-icount" if icount else "qemu"
        self.icount = icount

    def command(self, machine):
        """The command line that starts the machine with its console on standard input and output."""
        command = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "Nehalem", "-nodefaults"]
        command += ["-display", "none", "-serial", "stdio", "-device", "virtio-rng-pci"]
        command += ["-kernel", machine.kernel, "-initrd", machine.initrd, "-append", machine.append]
        command += ["-m", machine.memory, "-smp", machine.vcpus]
        if self.icount:
            command += ["-icount", "shift=0,sleep=off"]
        for disk in machine.disks:
            readonly = "on" if disk.readonly else "off"
            command += ["-drive", f"file={disk.file},format={disk.image_format},if=virtio,readonly={readonly}"]
        for number, net in enumerate(machine.nets):
            backend = {
                "tap": f"tap,ifname={net.target},script=no,downscript=no",
                "stream": f"stream,server=off,addr.type=unix,addr.path={net.target}",
            }[net.kind]
            command += ["-netdev", f"{backend},id=net{number}"]
            command += ["-device", f"virtio-net-pci,netdev=net{number},mac={net.mac}"]
        return [str(word) for word in command + machine.extra]


LAUNCHERS = {"emulator": Emulator, "qemu": Qemu, "qemu-icount": lambda: Qemu(icount=True)}


class Vm:
    """A running machine; as a context manager it is stopped at the end whatever happened."""

    def __init__(self, launcher, machine, log_name, prefix=()):
        LOGS.mkdir(parents=True, exist_ok=True)
        self.command = [*prefix, *launcher.command(machine)]
        self.log_path = LOGS / f"{log_name}.console"
        self.stderr_path = LOGS / f"{log_name}.stderr"
        self.started = time.monotonic()
        with open(self.stderr_path, "wb") as errors:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
            )
        self.console = Console(self.process.stdout, self.process.stdin, self.log_path)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.stop()
        if kind is not None:
            print(f"    command: {' '.join(self.command)}")
            print(f"    console: {self.log_path}")
            errors = self.stderr_path.read_text(errors="replace").strip()
            if errors:
                print("    stderr: " + "\n            ".join(errors.splitlines()[-10:]))

    def wait(self, timeout):
        """Waits for the process to end; returns its exit status."""
        try:
            return self.process.wait(timeout * SCALE)
        except subprocess.TimeoutExpired:
            tail = self.console.tail()
            raise TimeoutError(f"the machine did not end within {timeout * SCALE:.0f} s:\n{tail}") from None

    def terminate(self):
        """SIGTERM: the power button of the emulator."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self):
        """Ends the process if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def peak_memory_kib(self):
        """The process's largest resident set so far, in KiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
        return 0
