"""A host for network tests in network namespaces of its own: nothing outside them is touched or reached.

    virtft-PID                                                  virtft-PID-gw
      lo       127.0.0.1
      uplink   192.0.2.2/24: what passt shows its guest  <--->    gateway  192.0.2.1/24
      tap0     10.77.0.1/24: the guest is 10.77.0.2

Needs root. Everything is removed at the end, also after a failure.
"""

import ctypes
import os
import subprocess
import tempfile
import time
from pathlib import Path

from vm import Net

CLONE_NEWNET = 0x4000_0000
TAP_GUEST = "10.77.0.2"
TAP_HOST = "10.77.0.1"
# By passt, TCP to the gateway's address reaches the namespace's own loopback; pings reach the gateway.
PASST_HOST = "192.0.2.1"
PASST_SSH_PORT = 2222
MACS = {"tap": "52:54:00:00:00:01", "stream": "52:54:00:00:00:02"}


class World:
    """The namespace, its interfaces and passt, as a context manager."""

    def __init__(self, word=""):
        """`word` tells several of one process apart."""
        self.name = f"virtft-{os.getpid()}{word and '-'}{word}"
        self.gateway = f"{self.name}-gw"
        self.prefix = ["ip", "netns", "exec", self.name]
        self._passt = None
        self._folder = None

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="virtft-net-")
        # passt gives up root and must still reach its socket.
        os.chmod(self._folder.name, 0o777)
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self._passt:
            self._passt.kill()
            self._passt.wait()
        for name in (self.name, self.gateway):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        self._folder.cleanup()

    def _build(self):
        ip("netns", "add", self.name)
        ip("netns", "add", self.gateway)
        inside = ["-n", self.name]
        ip(*inside, "link", "set", "lo", "up")
        ip(*inside, "link", "add", "uplink", "type", "veth", "peer", "name", "gateway", "netns", self.gateway)
        ip("-n", self.gateway, "addr", "add", "192.0.2.1/24", "dev", "gateway")
        ip("-n", self.gateway, "link", "set", "gateway", "up")
        ip(*inside, "addr", "add", "192.0.2.2/24", "dev", "uplink")
        ip(*inside, "link", "set", "uplink", "up")
        ip(*inside, "route", "add", "default", "via", "192.0.2.1", "dev", "uplink")
        ip(*inside, "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr")
        ip(*inside, "addr", "add", f"{TAP_HOST}/24", "dev", "tap0")
        ip(*inside, "link", "set", "tap0", "up")
        # passt pings with unprivileged sockets.
        self.run(["sh", "-c", "echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range"])
        self._start_passt()

    def _start_passt(self):
        self.socket = Path(self._folder.name, "passt.socket")
        log = Path(self._folder.name, "passt.log")
        with open(log, "wb") as output:
            self._passt = subprocess.Popen(
                [*self.prefix, "passt", "--foreground", "--ipv4-only", "--socket", str(self.socket)]
                + ["--tcp-ports", f"{PASST_SSH_PORT}:22"],
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + 10
        while not self.socket.exists():
            if self._passt.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"passt did not start: {log.read_text(errors='replace')}")
            time.sleep(0.05)

    def enter(self):
        """Moves the calling thread, and what it starts from now on, into the namespace."""
        enter_namespace(f"/run/netns/{self.name}")

    def run(self, command, timeout=120):
        """Runs a command in the namespace; returns its output, raises RuntimeError when it fails."""
        result = subprocess.run(
            [*self.prefix, *command], capture_output=True, text=True, check=False, timeout=timeout
        )
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {result.stdout}{result.stderr}")
        return result.stdout

    def private_copy(self, key):
        """A copy of a private key with the permissions that ssh insists on."""
        copy = Path(self._folder.name, key.name)
        copy.touch(mode=0o600)
        copy.write_bytes(key.read_bytes())
        return str(copy)

    def nets(self):
        """The guest's network cards: the first on the tap, the second on passt's socket."""
        return [Net("tap", "tap0", MACS["tap"]), Net("stream", str(self.socket), MACS["stream"])]


def enter_namespace(path):
    """Moves the calling thread, and what it starts from now on, into a network namespace."""
    with open(path, "rb") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")


def ip(*arguments):
    """Runs `ip`; raises RuntimeError when it fails."""
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=20)
    if result.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
