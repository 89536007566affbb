"""Hosts with a virtftd each, on network namespaces, and a domain that they protect together: for tests and the demonstration.

Each host has directories of its own; in its own mount namespace its disks are under `IMAGES`, at the same path as on the others.
"""

import re
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "lib"), str(TESTS / "ft")]
from console import SCALE  # noqa: E402
from daemon import CommandError, Daemon, VirshConsole, domain_xml  # noqa: E402
from hosts import ADDRESSES, CLIENT, GUEST, MAC  # noqa: E402

IMAGES = Path("/srv")
LIMIT = 60 * SCALE
UUID = "0b0a6d54-6c7d-4a5e-9c0e-0123456789ab"
NAMESPACE = "urn:virtft:domain:1.0"
DISK_BYTES = 16 << 20


class HostDaemon(Daemon):
    """The daemon of one host."""

    def __init__(self, world, name, label):
        self.world, self.host, self.name = world, world[name], name
        folder = world.folder / f"daemon-{name}"
        self.images = folder / "images"
        self.images.mkdir(parents=True, exist_ok=True)
        # `ip netns exec` gives each command a mount namespace of its own.
        mounts = f'mount --bind "{self.images}" {IMAGES} && exec "$@"'
        prefix = [*self.host.prefix, "sh", "-c", mounts, "sh"]
        arguments = ["--listen-tls", self.host.address, "--pki", world.pki]
        super().__init__(folder, f"pair-{label}-{name}", prefix, arguments)

    @property
    def peer_uri(self):
        """How other daemons reach it."""
        return f"ft+tls://{self.host.address}/system"

    def figures(self, name):
        """domstats as a dictionary."""
        said = self.virsh("domstats", "--state", name)
        return dict(re.findall(r"(?m)^\s+([\w.]+)=(.*)$", said))

    def until(self, name, **wanted):
        """Waits until figures have these values (`ft_state` for ft.state); returns all."""
        wanted = {key.replace("_", "."): str(value) for key, value in wanted.items()}
        deadline, figures = time.monotonic() + LIMIT, {}
        while time.monotonic() < deadline:
            try:
                figures = self.figures(name)
            except CommandError as error:
                figures = {"error": str(error)}
            if all(figures.get(key) == value for key, value in wanted.items()):
                return figures
            time.sleep(0.05)
        raise CommandError(f"{name} on {self.name} never was {wanted}: {figures}")

    def dies(self):
        """The host loses its power: nothing on it does anything more."""
        self.host.plug(False)
        if self.process.poll() is None:
            self.kill()
        self.kill_machines()

    def kill_machines(self):
        """Ends all emulators at once."""
        import os
        import signal

        for pid in self.machines():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def element(world, names="bca", more=""):
    """The ft element: the hosts that may have the backup, in this order."""
    first, *others = (f"ft+tls://{ADDRESSES[name]}/system" for name in names)
    spares = "".join(f"<spare uri='{uri}'/>" for uri in others)
    return f"<fault-tolerance><peer uri='{first}'/>{spares}<arbiter type='dir' path='{world.arbiter}'/>{more}</fault-tolerance>"


def define(daemon, name, protected=None, disk=True):
    """Defines a busybox guest with a card on the host's bridge and a disk."""
    devices = f"<console type='pty'/><interface type='bridge'><source bridge='br0'/><mac address='{MAC}'/></interface>"
    if disk:
        (daemon.images / "data.raw").write_bytes(bytes(DISK_BYTES))
        devices += f"<disk type='file'><driver name='qemu' type='raw'/><source file='{IMAGES}/data.raw'/><target dev='vda' bus='virtio'/></disk>"
    metadata = ""
    if protected:
        body = re.sub(r"<(/?)([a-z])", r"<\1ft:\2", protected).replace("<ft:fault-tolerance", f"<ft:fault-tolerance xmlns:ft='{NAMESPACE}'", 1)
        metadata = f"<metadata>{body}</metadata>"
    path = daemon.folder / "domain.xml"
    path.write_text(domain_xml(name, devices=devices, memory_mib=128, extra=f"<uuid>{UUID}</uuid>{metadata}"), encoding="utf-8")
    daemon.virsh("define", path)


def serve(daemon, name):
    """The guest answers on a TCP port from now on."""
    with VirshConsole([*daemon.host.prefix, "virsh", "-c", daemon.uri, "console", name], f"pair-{name}-serve") as console:
        console.send("\n")
        console.expect("/ # |~ # |# ", 120)
        console.prepare_shell()
        console.check(f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up; true", 30)
        console.send("nc -ll -p 5000 -e cat &\n")
        console.check(f"for i in 1 2 3 4 5 6 7 8 9; do ping -c 1 -W 1 {CLIENT} && break; done", 60, "1 packets received")
