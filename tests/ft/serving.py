"""A Debian guest that serves clients, and everything that can happen to its hosts while it does.

One guest, three clients that never stop: numbered records both ways over one TCP connection, a database whose commits are acknowledged over
another, and redis-benchmark over many. After each fault the survivor is protected again by the host that was lost, whose copy of the
disk is brought up to date.
"""

import json
import os
import signal
import socket
import subprocess
import threading
import time

import login
from hosts import CLIENT, GUEST
from image import FileSystem, overlay
from image import run as run_tool
from pairs import ELSEWHERE, LIMIT, Node, Pair
from report import expect_equal
from vm import LOGS
from world import MACS

RECORDS, COMMITS, REDIS = 6001, 6002, 6379
REDIS_REQUESTS = 200


class Client:
    """A client on a thread of its own; `turn` does one thing and raises when it went wrong."""

    def __init__(self, name, turn):
        self.name, self.turn, self.done, self.wrong, self.longest = name, turn, 0, None, 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while not self.over.is_set():
                start = time.monotonic()
                self.turn(self.done + 1)
                self.longest = max(self.longest, time.monotonic() - start)
                self.done += 1
        except (OSError, AssertionError, subprocess.SubprocessError) as error:
            self.wrong = error

    def more(self, count):
        """Waits until it has done so much more."""
        wanted, deadline = self.done + count, time.monotonic() + LIMIT
        while self.done < wanted and not self.wrong and time.monotonic() < deadline:
            time.sleep(0.01)
        if self.wrong or self.done < wanted:
            raise AssertionError(f"{self.name}: stuck after {self.done}: {self.wrong}")

    def end(self):
        """Stops it."""
        self.over.set()
        self.thread.join(LIMIT)
        expect_equal(f"{self.name} went wrong", self.wrong, None)


def connect(world, port):
    """A connection of the client's host to the guest."""
    with world.at("client"):
        stream = socket.create_connection((GUEST, port), LIMIT)
    stream.settimeout(LIMIT)
    return stream


class Clients:
    """All three."""

    def __init__(self, world):
        records, commits = connect(world, RECORDS), connect(world, COMMITS)
        heard, answers = records.makefile("rb"), commits.makefile("rb")

        def record(number):
            records.sendall(b"client %d\n" % number)
            expect_equal("record", heard.readline(), b"server %d\n" % number)

        def commit(number):
            commits.sendall(b"%d\n" % number)
            expect_equal("acknowledged commit", answers.readline(), b"%d\n" % number)

        def benchmark(_number):
            # Ended also when this process is: one whose guest is gone would spin for ever.
            command = ["timeout", "-k", "1", str(LIMIT), "redis-benchmark", "-h", GUEST, "-p", str(REDIS), "-t", "set,get,incr", "-n", str(REDIS_REQUESTS), "-c", "4", "--csv"]
            result = subprocess.run([*world["client"].prefix, *command], capture_output=True, text=True, check=False, timeout=LIMIT)
            if result.returncode != 0 or "error" in (result.stdout + result.stderr).lower():
                raise AssertionError(f"redis-benchmark ended with {result.returncode}: {result.stdout[-500:]}{result.stderr[-500:]}")

        self.records, self.commits = Client("records", record), Client("commits", commit)
        self.all = [self.records, self.commits, Client("redis", benchmark)]

    def more(self):
        """All of them get on."""
        self.records.more(50)
        self.commits.more(10)
        self.all[2].more(1)

    def end(self):
        """Stops them all; says how far they came."""
        for client in self.all:
            client.end()
        print("    " + ", ".join(f"{client.done} {client.name}" for client in self.all))


class Serving:
    """The guest on its present host, and its backup on the next."""

    def __init__(self, world, pair):
        self.world, self.pair = world, pair
        saved = login.login()
        self.data = saved.data
        self.images = {"a": overlay(saved.image, LOGS / "ft-serving-a.qcow2")}
        self.size = json.loads(run_tool("qemu-img", "info", "--output=json", self.images["a"]))["virtual-size"]
        for host in "bc":
            self.images[host] = LOGS / f"ft-serving-{host}.qcow2"
            self.images[host].unlink(missing_ok=True)
            run_tool("qemu-img", "create", "-q", "-f", "qcow2", self.images[host], self.size)
        for host in "abc":
            self.images[host].with_name(self.images[host].name + ".virtft").unlink(missing_ok=True)
        self.primary = self.node("a", "run", "--snapshot", saved.snapshot, "--memory", "1G")
        console = self.primary.console
        login.enter(console)
        unit = f"[Match]\\nMACAddress={MACS['tap']}\\n[Network]\\nAddress={GUEST}/24\\n"
        console.check(f"printf '{unit}' >/run/systemd/network/10-tap.network; networkctl reload", 60)
        console.check(f"until ip -4 addr | grep -q {GUEST}; do sleep 0.1; done; ping -c 1 -W 10 {CLIENT}", 120)
        console.check("mkdir -p tests && tar x -f /dev/vdb -C tests", 60)
        console.check(f"(redis-server --port {REDIS} --save '' --protected-mode no --daemonize yes) >/dev/null", 60)
        console.check(f"until redis-cli -p {REDIS} ping | grep -q PONG; do :; done", 60)
        console.send("python3 tests/serve.py &\n")
        console.expect("serving", 120)
        self.at, self.number = "a", 0
        self.backup = None
        self.protect("b")

    def node(self, host, *command):
        """An emulator on a host."""
        disks = ["--disk", f"file={self.images[host]},id=root,format=qcow2", "--disk", f"file={self.data},id=tests,format=raw,readonly=on"]
        nets = ["--net", f"tap=tap0,mac={MACS['tap']}", "--net", f"none,like=stream,mac={MACS['stream']}"]
        ft = f"arbiter=dir:{self.world.arbiter},pki={self.world.pki}"
        options = [*disks, *nets, "--serial", "stdio", "--name", "serving", "--ft", ft]
        node = self.pair.nodes[f"{host}{len(self.pair.nodes)}"] = Node(self.world, host, [*command, *options], "serving")
        return node

    def protect(self, host, *more):
        """A backup on this host, whose copy of an earlier life is used."""
        self.spare = host
        self.backup = self.node(host, "backup", "--listen", self.world[host].url, *more)
        self.backup.until(state="waiting for a primary")
        self.primary.ask("protect", "--peer", self.world[host].url)
        self.backup.until(state="protecting")

    def took_over(self):
        """The backup runs the guest now; the lost host becomes its backup."""
        self.backup.until(role="unprotected", failovers=1)
        self.primary, lost, self.at = self.backup, self.at, self.spare
        return lost


def primary_killed(serving):
    """kill -9 of the primary."""
    serving.primary.kill()
    return serving.took_over()


def backup_killed(serving):
    """kill -9 of the backup."""
    serving.backup.kill()
    serving.primary.until(role="unprotected")
    return serving.spare


def primary_stopped(serving):
    """SIGSTOP of the primary, and SIGCONT when the other has taken over."""
    old, pid = serving.primary, serving.primary.emulator_pid()
    os.kill(pid, signal.SIGSTOP)
    lost = serving.took_over()
    os.kill(pid, signal.SIGCONT)
    expect_equal("status of the old primary", old.wait(), ELSEWHERE)
    return lost


def between(serving, cut, joined):
    """While the pair is cut apart exactly one side goes on; returns the host of the other."""
    primary, backup = serving.primary, serving.backup
    cut()
    ended, deadline = None, time.monotonic() + LIMIT
    while ended is None and time.monotonic() < deadline:
        ended = next((node for node in (primary, backup) if node.process.poll() is not None), None)
        time.sleep(0.02)
    joined()
    expect_equal("status of the side that lost", ended and ended.wait(), ELSEWHERE)
    if ended is primary:
        return serving.took_over()
    primary.until(role="unprotected")
    return serving.spare


def channel_cut(serving):
    """The hosts do not reach each other; the guest and its clients do."""
    world, peer = serving.world, f"{serving.world[serving.spare].address}/32"
    namespace = world[serving.at].namespace
    return between(
        serving,
        lambda: subprocess.run(["ip", "-n", namespace, "route", "add", "blackhole", peer], check=True, timeout=LIMIT),
        lambda: subprocess.run(["ip", "-n", namespace, "route", "del", "blackhole", peer], check=True, timeout=LIMIT),
    )


def host_cut(serving):
    """The primary's host loses its cable."""
    host = serving.world[serving.at]
    return between(serving, lambda: host.plug(False), lambda: host.plug(True))


def arbiter_away(serving):
    """The primary dies while the arbiter is away: the guest waits for it."""
    world = serving.world
    away = world.arbiter.with_name("away")
    world.arbiter.rename(away)
    serving.primary.kill()
    serving.backup.until(state="waiting for the arbiter")
    away.rename(world.arbiter)
    return serving.took_over()


def host_vanishes(serving):
    """The primary's host is gone with all that ran on it, network and all; a third one helps."""
    world, old = serving.world, serving.at
    subprocess.run(["ip", "-n", f"{world.word}-switch", "link", "del", "dev", old], check=True, timeout=LIMIT)
    serving.primary.kill()
    subprocess.run(["ip", "netns", "del", world[old].namespace], check=True, timeout=LIMIT)
    serving.took_over()
    return "c"


FAULTS = [primary_killed, backup_killed, primary_stopped, channel_cut, host_cut, arbiter_away, host_vanishes]


def serving(world):
    """Every fault in turn; nothing that a client was told is lost."""
    with Pair(world, "serving") as pair:
        guest = Serving(world, pair)
        clients = Clients(world)
        clients.more()
        for fault in FAULTS:
            for client in clients.all:
                client.longest = 0.0
            lost = fault(guest)
            clients.more()
            waits = ", ".join(f"{client.name} {client.longest * 1000:.0f} ms" for client in clients.all[:2])
            guest.protect(lost)
            clients.more()
            status = guest.primary.status()
            print(
                f"    {fault.__name__}: longest wait of {waits}; protected again: {status['transfer_pause_ms']} ms of pause, "
                f"{(status['disk_bytes_kept']) >> 20} of {guest.size >> 20} MiB of disk known",
                flush=True,
            )
        clients.end()
        console = guest.primary.console
        console.send("\n")
        console.prepare_shell()
        said = console.check("sqlite3 commits.db 'select count(*), max(number) from done; pragma integrity_check'", 60).split()
        expect_equal("commits that are there", said[-2:], [f"{clients.commits.done}|{clients.commits.done}", "ok"])
        console.send("systemctl poweroff\n")
        expect_equal("exit status", guest.primary.wait(), 0)
        expect_equal("exit status of the backup", guest.backup.wait(), 0)
        for host in (guest.at, guest.spare):
            with FileSystem(guest.images[host]) as system:
                system.check()


CASES = {"Debian serving clients, every fault in turn": serving}
