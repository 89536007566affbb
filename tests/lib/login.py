"""Debian at its login prompt, without booting it each time.

The image is booted once, under the virtual clock, and saved where it prints its prompt; what needs Debian continues from there:
with the real clock and a host's networks, or with the virtual clock and a script. The snapshot is kept beside the other assets
under a key of all that it depends on: the machine's sources, kernel, initial RAM disk and image.

The saved machine has two network cards without a link, which offer what a tap and a stream socket do; their links come up when
it is continued with such backends.
"""

import fcntl
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import recorded
from image import folder_disk, overlay
from vm import ASSETS, LOGS, ROOT, Disk, Machine, Net
from world import MACS

APPEND = "console=ttyS0 root=/dev/vda1"
WORKLOADS = ROOT / "tests/workloads/guest"
# The cards have no carrier until the machine is continued, so that nothing in the guest gives up waiting for an address.
SCRIPT = 'link 0 down\nlink 1 down\nexpect "virtft login: "\n+20M end\n'
TYPE_LOGIN = 'send "root\\n"\nexpect "Password: "\nsend "virtft\\n"\nexpect "root@virtft:~# "\n'
# All workloads of the second disk, and a clean power-off.
WORK = r"""
send "mkdir -p tests && tar x -f /dev/vdb -C tests && sh tests/all.sh\n"
expect "virtft: workloads ok"
expect "root@virtft:~# "
send "systemctl poweroff\n"
"""


@dataclass
class Login:
    """A saved machine, and what the run that made it left behind."""

    snapshot: Path
    image: Path
    data: Path
    vcpus: int
    boot: recorded.Run | None

    def machine(self, name, nets=None):
        """The saved machine, to be continued on an image of its own; without `nets` it has no network."""
        return machine(overlay(self.image, LOGS / f"{name}.qcow2"), self.data, self.vcpus, nets or unlinked(), self.snapshot)


def unlinked():
    """Network cards without backends, in the places of the tap and of passt."""
    return [Net("none", like, MACS[like]) for like in ("tap", "stream")]


def machine(image, data, vcpus, nets, snapshot=None):
    """Debian with its tests on a second disk."""
    disks = [Disk(image, "root"), Disk(data, "tests", "raw", readonly=True)]
    initrd = ASSETS / "debian-initrd.cpio"
    return Machine(APPEND, initrd=initrd, memory="1G", vcpus=vcpus, disks=disks, nets=nets, snapshot=snapshot)


def key(data):
    """Changes with everything that the snapshot depends on."""
    digest = hashlib.sha256()
    sources = sorted(path for crate in ("cpu", "machine") for path in (ROOT / "emulator" / crate / "src").rglob("*.rs"))
    keys = [ASSETS / f"{name}.key" for name in ("vmlinuz", "debian.qcow2")]
    for path in [*sources, *keys, ASSETS / "debian-initrd.cpio", data, ROOT / "emulator/src/driver/snapshot.rs", Path(__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def login(vcpus=1):
    """The saved machine; boots it if there is none for these sources yet."""
    LOGS.mkdir(parents=True, exist_ok=True)
    folder = ASSETS / f"login-{vcpus}"
    with open(ASSETS / f".login-{vcpus}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        data = folder_disk(WORKLOADS, ASSETS / "workloads.tar")
        wanted = key(data)
        saved = Login(folder / "snapshot", folder / "disk.qcow2", data, vcpus, None)
        stamp = folder / "key"
        if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
            return saved
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        saved.boot = boot(saved)
        stamp.write_text(wanted, encoding="ascii")
        return saved


def boot(saved):
    """From power-on to the prompt."""
    image = overlay(ASSETS / "debian.qcow2", saved.image)
    run = recorded.run(
        machine(image, saved.data, saved.vcpus, unlinked()),
        f"login-{saved.vcpus}",
        SCRIPT,
        extra=["--save-at", f"end={saved.snapshot}"],
    )
    if run.status != 0 or b"virtft login: " not in run.console:
        raise RuntimeError(f"Debian did not come to its prompt; see {LOGS}/login-{saved.vcpus}.console")
    os.chmod(saved.image, 0o444)
    return run


def enter(console):
    """From the prompt to a quiet root shell."""
    console.send("root\n")
    console.expect("Password:", 60)
    console.send("virtft\n")
    console.expect(r"root@virtft:~# ", 60)
    console.prepare_shell()
