"""Clients that misbehave, and clients that may only look: none of them harms the others."""

import os
import socket
import struct
import subprocess
import threading
import time

import libvirt
from console import SCALE
from daemon import binary, define, domain_xml, frame, receive
from definitions import connect, contains, refused
from report import Skip, expect_equal
from vm import Emulator

AUTH_LIST, OPEN, LIST_ALL, FEATURE = 66, 1, 273, 60
KEEPALIVE = 0x6B656570
NO_NAME = struct.pack(">II", 0, 0)
# Errors carry code, domain, and a message.
REPLY, ERROR = 1, 1


def client(daemon):
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(30 * SCALE)
    one.connect(str(daemon.socket))
    return one


def call(one, procedure, payload=b"", serial=0, **more):
    one.sendall(frame(procedure, payload, serial, **more))
    return receive(one)


def is_gone(one):
    """The daemon ends the connection."""
    while (answer := receive(one)) is not None:
        expect_equal("only replies", answer[0][3] in (REPLY, 2), True)


def code_of(answer):
    header, payload = answer
    expect_equal("status", header[5], ERROR)
    return struct.unpack(">i", payload[:4])[0]


def frames(daemon, _folder):
    """Lengths and headers that cannot be end the connection; arguments that cannot be end the call."""
    for junk in (b"\0\0\0\0", b"\xff\xff\xff\xff", struct.pack(">I", 27), struct.pack(">I", (32 << 20) + 5), b"GET / HTTP/1.1\r\n\r\n"):
        with client(daemon) as one:
            one.sendall(junk)
            is_gone(one)
    for more in ({"kind": 9}, {"status": 7}, {"kind": 1}, {"kind": 4}):
        with client(daemon) as one:
            one.sendall(frame(AUTH_LIST, **more))
            is_gone(one)
    with client(daemon) as one:
        expect_equal("before opening", code_of(call(one, LIST_ALL, NO_NAME)), libvirt.VIR_ERR_RPC)
        expect_equal("nonsense", code_of(call(one, OPEN, b"abc")), libvirt.VIR_ERR_RPC)
        expect_equal("too much", code_of(call(one, OPEN, NO_NAME + bytes(4))), libvirt.VIR_ERR_RPC)
        expect_equal("long string", code_of(call(one, OPEN, struct.pack(">II", 1, 1 << 30))), libvirt.VIR_ERR_RPC)
        expect_equal("unknown", code_of(call(one, 9999)), libvirt.VIR_ERR_RPC)
        expect_equal("negative", code_of(call(one, -1)), libvirt.VIR_ERR_RPC)
        expect_equal("program", code_of(call(one, 1, program=0x20008087)), libvirt.VIR_ERR_RPC)
        header, _ = call(one, OPEN, NO_NAME, serial=7)
        expect_equal("opened after all", (header[2], header[3], header[4], header[5]), (OPEN, REPLY, 7, 0))
        expect_equal("twice", code_of(call(one, OPEN, NO_NAME)), libvirt.VIR_ERR_OPERATION_INVALID)
        # Frames of streams that never were, and messages that mean nothing, are ignored.
        one.sendall(frame(201, b"typed", serial=99, kind=3, status=2) + frame(7, kind=2, program=KEEPALIVE))
        expect_equal("next answer", call(one, AUTH_LIST, serial=8)[0][4], 8)


def flags_of_go_libvirt(daemon, _folder):
    """Its flag for "there is a name" is 01 00 00 00."""
    name = b"ft:///system"
    with client(daemon) as one:
        header, _ = call(one, OPEN, b"\x01\0\0\0" + struct.pack(">I", len(name)) + name + struct.pack(">I", 0))
        expect_equal("status", header[5], 0)


def pings(daemon, folder):
    """A ping is answered while a call waits, and clients that asked for pings get them."""
    define(daemon, folder, "vm")
    with client(daemon) as one:
        call(one, OPEN, NO_NAME)
        call(one, FEATURE, struct.pack(">i", 10))
        # Starting takes a while; its reply may come before or after the pong.
        connection = connect(daemon)
        uuid = connection.lookupByName("vm").UUID()
        dom = struct.pack(">I", 2) + b"vm\0\0" + uuid + struct.pack(">i", -1)
        one.sendall(frame(9, dom, serial=5) + frame(1, program=KEEPALIVE, kind=2))
        answers = [receive(one)[0] for _ in range(2)]
        expect_equal("programs", sorted(answer[0] for answer in answers), [0x20008086, KEEPALIVE])
        expect_equal("pong", [answer[2] for answer in answers if answer[0] == KEEPALIVE], [2])
        header, _ = receive(one)
        expect_equal("ping of the daemon", (header[0], header[2], header[3]), (KEEPALIVE, 1, 2))
    connection.close()


def many_calls(daemon, _folder):
    """Calls without waiting for answers: some are fine, a flood ends the connection."""
    with client(daemon) as one:
        call(one, OPEN, NO_NAME)
        one.sendall(b"".join(frame(LIST_ALL, NO_NAME, serial) for serial in range(100)))
        serials = sorted(receive(one)[0][4] for _ in range(100))
        expect_equal("all answered", serials, list(range(100)))
    with client(daemon) as one:
        call(one, OPEN, NO_NAME)
        try:
            one.sendall(b"".join(frame(LIST_ALL, NO_NAME, serial) for serial in range(50_000)))
        except (BrokenPipeError, ConnectionResetError):
            pass
        is_gone(one)
    contains(daemon.virsh("list", "--all"), "Name")


def slow_readers(daemon, folder):
    """A client that reads nothing loses its connection; nobody waits for it."""
    for number in range(20):
        define(daemon, folder, f"vm{number}", extra=f"<description>{'x' * 200_000}</description>")
    connection = connect(daemon)
    uuids = [domain.UUID() for domain in connection.listAllDomains()]
    with client(daemon) as one:
        call(one, OPEN, NO_NAME)

        def ask():
            try:
                for number in range(3000):
                    dom = struct.pack(">I", 2) + b"vm\0\0" + uuids[number % len(uuids)] + struct.pack(">iI", -1, 0)
                    one.sendall(frame(14, dom, serial=number))
            except OSError:
                pass

        thread = threading.Thread(target=ask)
        thread.start()
        slowest = 0
        for _ in range(20):
            start = time.monotonic()
            connection.listAllDomains()
            slowest = max(slowest, time.monotonic() - start)
        thread.join(60 * SCALE)
        expect_equal("the flood has ended", thread.is_alive(), False)
        expect_equal(f"others are served: {slowest:.2f} s", slowest < 5 * SCALE, True)
    connection.close()
    contains(daemon.virsh("list", "--all"), "vm19")


def many_clients(daemon, folder):
    """Two hundred at once, and five hundred domains."""
    for number in range(5):
        define(daemon, folder, f"first{number}")
    connection = connect(daemon)
    for number in range(500):
        connection.defineXML(domain_xml(f"vm{number}"))
    others = [client(daemon) for _ in range(200)]
    for one in others:
        call(one, OPEN, NO_NAME)
    for one in others:
        header, payload = call(one, LIST_ALL, struct.pack(">iI", 1, 0))
        expect_equal("domains", struct.unpack(">I", payload[:4])[0], 505)
    start = time.monotonic()
    expect_equal("lines", len(daemon.virsh("list", "--all", "--name").split()), 505)
    print(f"         virsh list --all of 505 domains, 200 clients: {time.monotonic() - start:.2f} s")
    for one in others:
        one.close()
    connection.close()


def admitted(daemon):
    """A client that is served: as soon as the daemon has noticed that an earlier one has gone."""
    deadline = time.monotonic() + 30
    while True:
        one = client(daemon)
        try:
            if call(one, AUTH_LIST)[0][5] == 0:
                return one
        except (OSError, TypeError):
            # Turned away: the connection is closed before or instead of an answer.
            one.close()
        if time.monotonic() > deadline:
            raise AssertionError("nobody is served")
        time.sleep(0.01)


def too_many_clients(daemon, _folder):
    """Who comes when there are enough is turned away, until somebody goes."""
    daemon.kill()
    daemon.arguments = ["--max-clients", "3"]
    daemon.start()
    held = [admitted(daemon) for _ in range(3)]
    with client(daemon) as one:
        expect_equal("turned away", receive(one), None)
    for one in held:
        one.close()
    admitted(daemon).close()


def only_looking(daemon, folder):
    """The daemon itself refuses changes, by socket and by flag."""
    define(daemon, folder, "vm")
    contains(daemon.virsh("list", "--all", uri=daemon.uri_read_only), "vm")
    contains(daemon.virsh("dumpxml", "vm", uri=daemon.uri_read_only), "<name>vm</name>")
    for words in (["start", "vm"], ["undefine", "vm"], ["autostart", "vm"], ["dumpxml", "--security-info", "vm"]):
        contains(daemon.virsh(*words, uri=daemon.uri_read_only, status=1), "read-only connection")
    connection = libvirt.open(daemon.uri_read_only)
    refused(libvirt.VIR_ERR_OPERATION_DENIED, connection.defineXML, domain_xml("x"))
    connection.close()
    with client(daemon) as one:
        call(one, OPEN, struct.pack(">II", 0, 1))
        expect_equal("by flag", code_of(call(one, 11, struct.pack(">I", 0))), libvirt.VIR_ERR_OPERATION_DENIED)
    contains(daemon.virsh("-r", "list", "--all"), "vm")


def two_daemons(daemon, folder):
    """A second daemon with the same directories or socket does not start, and does no harm."""
    define(daemon, folder, "vm")
    command = [binary(), "--socket", daemon.socket, "--config-dir", daemon.config, "--log-dir", daemon.log]
    for more, words in ((["--run-dir", daemon.run], "another virtftd"), (["--run-dir", folder / "other"], "listens")):
        result = subprocess.run([*map(str, command), *map(str, more)], capture_output=True, text=True, check=False, timeout=30)
        expect_equal("status", result.returncode, 1)
        contains(result.stderr, words)
    contains(daemon.virsh("list", "--all"), "vm")


def session(_daemon, folder):
    """A user's own daemon at ft:///session, found by the paths that clients look at."""
    if os.geteuid() != 0:
        raise Skip("needs root, to be somebody else")
    programs = (binary(), Emulator().binary)
    folder.chmod(0o755)
    home = folder / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), "LC_ALL": "C"}
    user = {"user": 65534, "group": 65534, "extra_groups": [], "env": environment, "text": True}
    readable = subprocess.run(["test", "-x", programs[0], "-a", "-x", programs[1]], check=False, **user).returncode == 0
    if not readable:
        raise Skip("another user cannot run the programs where they are")
    (home / "run").mkdir()
    os.chown(home / "run", 65534, 65534)
    log = open(folder / "session.log", "wb")
    process = subprocess.Popen([programs[0], "--emulator", programs[1], "--timeout", "2"], stdin=subprocess.DEVNULL, stderr=log, **user)
    try:
        deadline = time.monotonic() + 20 * SCALE
        while not (home / "run/libvirt/virtftd-sock").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        path = folder / "vm.xml"
        path.write_text(domain_xml("mine"))
        for words in (["define", path], ["list", "--all"], ["dumpxml", "mine"], ["undefine", "mine"]):
            command = ["virsh", "-c", "ft:///session", *map(str, words)]
            result = subprocess.run(command, capture_output=True, check=False, timeout=60, **user)
            expect_equal(f"{words}: {result.stdout}{result.stderr}", result.returncode, 0)
        expect_equal("definitions", (home / ".config/libvirt/ft").is_dir(), True)
        # Nobody is connected, so it ends.
        expect_equal("status", process.wait(30 * SCALE), 0)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        log.close()


CASES = {
    "session": session,
    "frames": frames,
    "flags of go-libvirt": flags_of_go_libvirt,
    "pings": pings,
    "many calls": many_calls,
    "slow readers": slow_readers,
    "many clients": many_clients,
    "too many clients": too_many_clients,
    "only looking": only_looking,
    "two daemons": two_daemons,
}
