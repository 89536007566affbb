"""Hosts for pairs: network namespaces on one switch, each with a bridge, a tap for its guest and a certificate.

    virtft-PID-switch   br0  ------+--------------+--------------+-------------+
                                   |              |              |             |
    virtft-PID-a  br0 10.77.0.11, tap0   -b .12        -c .13        -client 10.77.0.1

The guest is 10.77.0.2, whichever host it runs on. Needs root. Everything is removed at the end, also after a failure.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from world import enter_namespace, ip

GUEST = "10.77.0.2"
CLIENT = "10.77.0.1"
MAC = "52:54:00:00:00:01"
PORT = 7788
ADDRESSES = {"a": "10.77.0.11", "b": "10.77.0.12", "c": "10.77.0.13", "client": CLIENT}


class Host:
    """One namespace."""

    def __init__(self, name, namespace):
        self.name, self.namespace, self.address = name, namespace, ADDRESSES[name]
        self.prefix = ["ip", "netns", "exec", namespace]

    @property
    def url(self):
        """Where a backup on this host listens."""
        return f"tls://{self.address}:{PORT}"

    def plug(self, plugged):
        """Plugs the host's cable in or out."""
        ip("-n", self.namespace, "link", "set", "uplink", "up" if plugged else "down")


class Hosts:
    """The hosts, as a context manager."""

    def __init__(self):
        self.word = f"virtft-{os.getpid()}"
        self.hosts = {}

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="virtft-ft-"))
        self.arbiter = self.folder / "arbiter"
        self.arbiter.mkdir()
        self.pki = self.folder / "pki"
        try:
            self._build()
            self._certify()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in ["switch", *ADDRESSES]:
            subprocess.run(["ip", "netns", "del", f"{self.word}-{name}"], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __getitem__(self, name):
        return self.hosts[name]

    @contextlib.contextmanager
    def at(self, name):
        """The calling thread is on this host for a while."""
        with open("/proc/self/ns/net", "rb") as before:
            enter_namespace(f"/run/netns/{self.word}-{name}")
            try:
                yield
            finally:
                enter_namespace(f"/proc/self/fd/{before.fileno()}")

    def _build(self):
        switch = f"{self.word}-switch"
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for name, address in ADDRESSES.items():
            namespace = f"{self.word}-{name}"
            ip("netns", "add", namespace)
            inside = ["-n", namespace]
            ip(*inside, "link", "set", "lo", "up")
            ip(*inside, "link", "add", "uplink", "type", "veth", "peer", "name", name, "netns", switch)
            ip("-n", switch, "link", "set", "dev", name, "master", "br0", "up")
            ip(*inside, "link", "add", "br0", "type", "bridge")
            ip(*inside, "link", "set", "uplink", "master", "br0", "up")
            ip(*inside, "addr", "add", f"{address}/24", "dev", "br0")
            ip(*inside, "link", "set", "br0", "up")
            if name != "client":
                ip(*inside, "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr")
                ip(*inside, "link", "set", "tap0", "master", "br0", "up")
            self.hosts[name] = Host(name, namespace)

    def _certify(self):
        """A certificate authority, and one certificate that is good for every host, on both sides of a connection."""
        self.pki.mkdir()
        addresses = ",".join(f"IP:{address}" for address in ADDRESSES.values())
        extensions = self.pki / "extensions"
        extensions.write_text(f"subjectAltName={addresses},IP:127.0.0.1\n", encoding="ascii")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        self._openssl("req", "-x509", *key, "-keyout", "cakey.pem", "-out", "cacert.pem", "-subj", "/CN=test authority", "-days", "2")
        self._openssl("req", "-new", *key, "-keyout", "serverkey.pem", "-out", "request.pem", "-subj", "/CN=host")
        sign = ["-CA", "cacert.pem", "-CAkey", "cakey.pem", "-CAcreateserial", "-days", "2", "-extfile", "extensions"]
        self._openssl("x509", "-req", "-in", "request.pem", "-out", "servercert.pem", *sign)
        shutil.copy(self.pki / "serverkey.pem", self.pki / "clientkey.pem")
        shutil.copy(self.pki / "servercert.pem", self.pki / "clientcert.pem")

    def _openssl(self, *arguments):
        result = subprocess.run(["openssl", *arguments], cwd=self.pki, capture_output=True, text=True, check=False, timeout=30)
        if result.returncode != 0:
            raise RuntimeError(f"openssl {' '.join(arguments)}: {result.stderr}")
