"""Network over a tap device and over passt: ping, ssh login, large transfers each way with a checksum."""

import re
import subprocess
import sys
from pathlib import Path

from console import SCALE
from report import expect_equal
from vm import ASSETS
from world import MACS, PASST_HOST, PASST_SSH_PORT, TAP_GUEST, TAP_HOST

TRANSFER = Path(__file__).parent / "transfer.py"
MEBIBYTES = 100
PORT = 5001
TRANSFER_TIMEOUT = 600


def configure(console):
    """A fixed address on the tap; the card on passt has asked by DHCP since boot."""
    unit = f"[Match]\\nMACAddress={MACS['tap']}\\n[Network]\\nAddress={TAP_GUEST}/24\\n"
    console.check(f"mkdir -p /run/systemd/network && printf '{unit}' >/run/systemd/network/10-tap.network", 20)
    console.check("networkctl reload", 60)
    console.check(f"for i in $(seq 60); do ip -4 addr | grep -q {TAP_GUEST} && break; sleep 0.5; done", 60)
    console.check("for i in $(seq 120); do ip -4 addr | grep -q 192.0.2.2 && break; sleep 0.5; done", 90)
    console.check("ip -4 addr", 20, r"192\.0\.2\.2")


def ping_both_ways(console, world):
    """Over the tap the host can ping the guest too."""
    console.check(f"ping -c 3 -W 10 {TAP_HOST}", 60, "3 received")
    output = world.run(["ping", "-c", "3", "-W", "10", TAP_GUEST], timeout=60 * SCALE)
    expect_equal("host's pings answered", "3 received" in output, True)


def ping_out(console):
    """Through passt the guest pings its gateway."""
    console.check(f"ping -c 3 -W 10 {PASST_HOST}", 60, "3 received")


def ssh_login(world, host, port):
    """A login with the key that the image knows; the answer comes from a program in the guest."""
    key = world.private_copy(ASSETS / "ssh-key")
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=60"]
    command = ["ssh", "-i", key, "-p", str(port), "-o", "BatchMode=yes"]
    for option in options:
        command += ["-o", option]
    output = world.run([*command, f"root@{host}", "hostname; seq 1 100000 | md5sum"], timeout=180 * SCALE)
    expect_equal("ssh's output", output.split(), ["virtft", "dea9193b768319cbb4ff1a137ac03113", "-"])


def transfers(console, world, address, reached_as):
    """The guest fetches and sends; both sides must have seen the same bytes."""
    command = [*world.prefix, sys.executable, str(TRANSFER), "serve", address, str(PORT), str(MEBIBYTES)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        expect_equal("server", server.stdout.readline(), "listening\n")
        sums = []
        for what in ("fetch", "send"):
            guest = console.check(
                f"python3 /tmp/transfer.py {what} {reached_as} {PORT} {MEBIBYTES}", TRANSFER_TIMEOUT, r"\d+ [0-9a-f]{64}"
            )
            host = server.stdout.readline()
            size, digest = re.search(r"(\d+) ([0-9a-f]{64})", guest).groups()
            expect_equal(f"{what}: bytes", int(size), MEBIBYTES << 20)
            expect_equal(f"{what}: host saw {host.strip()!r}", host.split()[1:], [size, digest])
            sums.append(digest)
        expect_equal("both directions' checksums", sums[0], sums[1])
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def upload_script(console):
    """Types the transfer program into the guest's shell: the network is not to be trusted yet."""
    text = TRANSFER.read_text(encoding="utf-8")
    console.send("cat >/tmp/transfer.py <<'END-OF-SCRIPT'\n" + text + "END-OF-SCRIPT\n")
    console.check("python3 -m py_compile /tmp/transfer.py", 60)


def run(report, console, world):
    """Every case, over both kinds of network."""
    report.case("network: script and addresses", lambda: (upload_script(console), configure(console)))
    report.case("tap: ping both ways", ping_both_ways, console, world)
    report.case("tap: ssh login", ssh_login, world, TAP_GUEST, 22)
    report.case(f"tap: {MEBIBYTES} MiB each way", transfers, console, world, TAP_HOST, TAP_HOST)
    report.case("passt: ping", ping_out, console)
    report.case("passt: ssh login", ssh_login, world, "127.0.0.1", PASST_SSH_PORT)
    report.case(f"passt: {MEBIBYTES} MiB each way", transfers, console, world, "127.0.0.1", PASST_HOST)
