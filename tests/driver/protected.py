"""Domains that two daemons protect together, all through stock virsh."""

import contextlib
import re
import subprocess
import time

from daemon import CommandError, VirshConsole
from hosts import Hosts
from pairs import LIMIT, NAMESPACE, UUID, HostDaemon, define, element, serve
from report import expect_equal


def talk(world):
    """A client's TCP connection to the guest."""
    import importlib.util
    from pathlib import Path

    # The folder of the emulator's pairs has a module of the same name.
    path = Path(__file__).resolve().parents[1] / "ft/pairs.py"
    spec = importlib.util.spec_from_file_location("emulator_pairs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Talk(world)


class Events:
    """What `virsh event` prints about one daemon's domains."""

    def __init__(self, daemon):
        command = ["virsh", "-c", daemon.uri, "event", "--all", "--loop", "--timeout", "600"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1)

    def end(self):
        """All that was printed."""
        self.process.terminate()
        return self.process.communicate(timeout=LIMIT)[0]


@contextlib.contextmanager
def daemons(world, label, names="abc"):
    """A running daemon on each host."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(HostDaemon(world, name, label)) for name in names]


def failovers(world):
    """Hosts die one after the other; the domain, its definition and its client's connection go on, and it is protected again by itself."""
    with daemons(world, "failovers") as (a, b, c):
        define(a, "web", element(world))
        a.virsh("autostart", "web")
        a.virsh("start", "web")
        serve(a, "web")
        figures = a.until("web", ft_state="protected", ft_role="primary", ft_peer=b.peer_uri, ft_issue_count=0)
        print(f"    protected; the transfer's pause was {figures['ft.transfer.pause.ms']} ms")
        client = talk(world)
        client.more()
        refusals(b)
        # What is changed after the pair was made goes along.
        a.virsh("desc", "web", "--live", "--config", "--new-desc", "words that came later")
        a.virsh("setmaxmem", "web", "160M", "--config")
        deadline = time.monotonic() + LIMIT
        while b.virsh("desc", "web", "--live") != "words that came later":
            expect_equal("the other host hears of it in time", time.monotonic() < deadline, True)
            time.sleep(0.05)
        events = Events(b)
        a.dies()
        b.until("web", ft_role="primary", ft_state="protected", ft_peer=c.peer_uri, ft_failovers=1)
        client.more()
        expect_equal("state", b.virsh("domstate", "web", "--reason"), "running (migrated)")
        info = b.virsh("dominfo", "web")
        for what in ("Persistent:     yes", "Autostart:      enable", f"UUID:           {UUID}"):
            expect_equal(f"{what!r} in {info}", what in info, True)
        expect_equal("description", b.virsh("desc", "web", "--config"), "words that came later")
        expect_equal("the next start's memory", "<memory unit='KiB'>163840<" in b.virsh("dumpxml", "web", "--inactive"), True)
        said = events.end()
        expect_equal(f"events tell of it: {said}", bool(re.search(r"'lifecycle' for domain '?web'?: Started Migrated", said)), True)
        console_has_a_past(b)
        # The first host comes back. Its old definition is no domain to be started.
        a.host.plug(True)
        a.start()
        said = a.virsh("start", "web", status=1)
        expect_equal(f"{said!r} says where it runs", b.peer_uri in said, True)
        b.kill_machines()
        c.until("web", ft_role="primary", ft_state="protected", ft_failovers=1)
        client.more()
        c.virsh("destroy", "web")
        client.over.set()
        for daemon in (a, b):
            deadline = time.monotonic() + LIMIT
            while "paused" in daemon.virsh("list", "--all") and time.monotonic() < deadline:
                time.sleep(0.05)
        expect_equal("backups that are left", "paused" in a.virsh("list") + b.virsh("list"), False)


def refusals(daemon):
    """What users may not do to a backup."""
    expect_equal("state of the backup", daemon.virsh("domstate", "web", "--reason"), "paused (migrating)")
    expect_equal("uuid", daemon.virsh("domuuid", "web"), UUID)
    for command in ("destroy", "resume", "suspend", "shutdown", "reset", "undefine", "autostart"):
        said = daemon.virsh(command, "web", status=1)
        expect_equal(f"{command}: {said!r} says why", "runs on another host" in said or "transient" in said, True)
    said = daemon.virsh("start", "web", status=1)
    expect_equal(f"{said!r} says why", "already" in said, True)


def console_has_a_past(daemon):
    """The survivor's console shows what it showed elsewhere."""
    with VirshConsole(["virsh", "-c", daemon.uri, "console", "web"], "pair-past") as console:
        console.expect("virtft-done-", 30)


def live(world):
    """Protection is switched on and off while the domain runs, and daemons are killed at every stage of it."""
    with daemons(world, "live", "ab") as (a, b):
        define(a, "web")
        a.virsh("start", "web")
        serve(a, "web")
        client = talk(world)
        client.more()
        wanted = element(world, "b")
        switch(a, wanted)
        a.until("web", ft_state="protected")
        client.more()
        for daemon in (a, b, a):
            daemon.kill()
            client.more(5)
            daemon.start()
            a.until("web", ft_state="protected")
            b.until("web", ft_state="protecting")
        switch(a, None)
        expect_equal("ft figures of a domain without it", [key for key in a.figures("web") if key.startswith("ft.")], [])
        gone(b, "web")
        # The other daemon is away when protection is wanted, and comes.
        b.kill()
        switch(a, wanted)
        figures = a.until("web", ft_state="unprotected", **{"ft_issue_0_name": "peer-unreachable"})
        expect_equal(f"it says whom: {figures}", b.peer_uri in figures["ft.issue.0.text"], True)
        expect_equal("messages", "peer-unreachable" in a.virsh("dominfo", "web"), True)
        b.start()
        a.until("web", ft_state="protected")
        # The daemons are killed while the pair is being made, again and again.
        for number in range(4):
            switch(a, None)
            gone(b, "web")
            switch(a, wanted)
            time.sleep(0.1 * number)
            (a, b)[number % 2].kill()
            (a, b)[number % 2].start()
            a.until("web", ft_state="protected")
            client.more(5)
        a.virsh("suspend", "web")
        a.until("web", ft_state="protected", state_state=3)
        a.virsh("resume", "web")
        client.more()
        a.kill()
        a.kill_machines()
        b.until("web", ft_role="primary", ft_failovers=1)
        client.more()
        client.end()


def switch(daemon, wanted):
    """virsh metadata --live."""
    what = ["--set", wanted, "--key", "ft"] if wanted else ["--remove"]
    daemon.virsh("metadata", "web", "--uri", NAMESPACE, "--live", "--config", *what)


def gone(daemon, name):
    """Waits until a daemon does not know the domain any more."""
    deadline = time.monotonic() + LIMIT
    while name in daemon.virsh("list", "--all", "--name").split():
        if time.monotonic() > deadline:
            raise CommandError(f"{name} is still known on {daemon.name}")
        time.sleep(0.05)


def planned(world):
    """A planned switch by virsh migrate: no client notices, the domain moves with its definition, and back."""
    with daemons(world, "planned", "abc") as (a, b, c):
        define(a, "web", element(world, "ba"))
        a.virsh("start", "web")
        serve(a, "web")
        said = a.virsh("migrate", "--live", "--p2p", "web", c.peer_uri, status=1)
        expect_equal(f"{said!r} says why", "protected" in said or "backup" in said, True)
        a.until("web", ft_state="protected")
        client = talk(world)
        client.more()
        said = a.virsh("migrate", "--live", "--p2p", "web", c.peer_uri, status=1)
        expect_equal(f"{said!r} says where", b.peer_uri in said, True)
        for source, target in ((a, b), (b, a)):
            source.until("web", ft_state="protected")
            client.more()
            client.longest = 0.0
            source.virsh("migrate", "--live", "--p2p", "web", target.peer_uri)
            target.until("web", ft_role="primary", ft_failovers=1)
            client.more()
            print(f"    a planned switch: the client's longest wait was {client.longest * 1000:.0f} ms")
            expect_equal("state", target.virsh("domstate", "web", "--reason"), "running (migrated)")
            expect_equal("it is defined there", "Persistent:     yes" in target.virsh("dominfo", "web"), True)
            # The old host has the next backup, and nothing else of it.
            target.until("web", ft_state="protected")
            expect_equal("on the old host", source.virsh("domstate", "web", "--reason"), "paused (migrating)")
        client.end()


def disagreements(world):
    """What cannot become a pair is refused by name, and the domain runs on."""
    with daemons(world, "disagree", "ab") as (a, b):
        for bad, word in (
            ("<fault-tolerance/>", "peer"),
            (element(world, "b", "<colour/>"), "<colour>"),
            (element(world, "b", "<detection timeout='1'/>"), "100 to 60000"),
        ):
            define(a, "web")
            said = a.virsh("metadata", "web", "--uri", NAMESPACE, "--key", "ft", "--set", bad, "--config", status=1)
            expect_equal(f"{said!r} has {word!r}", word in said, True)
        # The same uuid is a domain of its own over there.
        define(b, "web")
        define(a, "web", element(world, "b"))
        a.virsh("start", "web")
        figures = a.until("web", **{"ft_issue_0_name": "peer-refused"})
        expect_equal(f"{figures} says why", "without fault tolerance" in figures["ft.issue.0.text"], True)
        b.virsh("undefine", "web")
        a.until("web", ft_state="protected")
        strangers(world, a)


def strangers(world, daemon):
    """Who has no certificate, or one of another authority, is not served."""
    other = world.folder / "other-pki"
    uri = f"{daemon.peer_uri}?pkipath={world.pki}"
    command = [*world["client"].prefix, "virsh", "-c", uri, "list", "--name"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    expect_equal(f"stock virsh under TLS: {said.stdout}{said.stderr}", (said.returncode, said.stdout.split()), (0, ["web"]))
    other.mkdir()
    for file in ("cacert.pem", "clientcert.pem", "clientkey.pem"):
        (other / file).write_bytes((world.pki / file).read_bytes())
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = ["-subj", "/CN=stranger", "-days", "2", "-keyout", "clientkey.pem", "-out", "clientcert.pem"]
    subprocess.run(["openssl", "req", "-x509", *key, *subject], cwd=other, check=True, capture_output=True, timeout=LIMIT)
    # Stock clients look at their own certificate first; others may not.
    address = f"{daemon.host.address}:16514"
    for more in ([], ["-cert", "clientcert.pem", "-key", "clientkey.pem"]):
        command = [*world["client"].prefix, "openssl", "s_client", "-connect", address, "-CAfile", "cacert.pem", *more]
        subprocess.run(command, cwd=other, input="", capture_output=True, text=True, check=False, timeout=LIMIT)
    deadline = time.monotonic() + LIMIT
    while (said := daemon.log_path.read_text(errors="replace")).count("is refused") < 2:
        if time.monotonic() > deadline:
            raise AssertionError(f"the daemon does not say that it refuses strangers: {said[-1000:]}")
        time.sleep(0.05)


CASES = {
    "a protected domain whose hosts die": failovers,
    "protection switched on and off, daemons killed": live,
    "a planned switch": planned,
    "hosts that do not agree": disagreements,
}


def run_all(report, only):
    """Runs the cases, each on hosts of its own."""
    for name, case in CASES.items():
        if not only or only in name:
            with Hosts() as world:
                report.case(name, case, world)
