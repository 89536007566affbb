"""Pairs whose disks are shared: one image that both hosts reach, fences, locks, late writes."""

import os
import signal
import time

from pairs import ELSEWHERE, LIMIT, REFUSED, Pair, Talk
from report import expect_equal
from vm import LOGS

SIZE = 16 << 20
BLOCK = 64 << 10
# A fence agent for tests: it ends the process that is named in its options, as one that cuts a host's power does; without the file
# `may` it fails.
AGENT = """#!/bin/sh
folder=$(dirname "$0")
cat >"$folder/told"
test -e "$folder/may" || { echo "the power switch does not answer" >&2; exit 1; }
. "$folder/told"
kill -9 "$port"
while kill -0 "$port" 2>/dev/null && ! grep -q "^State:.*Z" "/proc/$port/status"; do :; done
"""


def image(name):
    """A fresh raw image."""
    path = LOGS / f"ft-{name}.raw"
    path.write_bytes(bytes(SIZE))
    return path


def pattern(number):
    """Shell words that make one block of text: its lines say which it is."""
    return f"yes 'this is block {number}' | head -c {BLOCK}"


def expect_block(path, at, number):
    """What the host finds in one block of the image."""
    with open(path, "rb") as file:
        file.seek(at * BLOCK)
        found = file.read(BLOCK)
    line = b"this is block %d\n" % number
    expect_equal(f"block {at}", found == (line * (BLOCK // len(line) + 1))[:BLOCK], True)


def handed_on(world):
    """One image, used by whoever runs: a killed primary, a spare, a planned switch; the images' lock is all the fence there is."""
    path = image("shared")
    with Pair(world, "shared", disk=path, more="disks=shared,fence=none") as pair:
        primary, backup = pair.start()
        talk = Talk(world)
        talk.more()
        # A count that is on the medium before it is shown: whoever takes over shows no smaller one.
        count = "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); printf '%08d\\n' $i | dd of=/dev/vda bs=64k seek=9 conv=fsync 2>/dev/null; echo count:$i; done &\n"
        primary.console.check(f"{pattern(1)} | dd of=/dev/vda bs=64k seek=1 conv=fsync 2>/dev/null", 60)
        primary.console.send(count)
        for _ in range(20):
            shown = int(primary.console.expect(r"count:(\d+)\r?\n", LIMIT).group(1))
        primary.kill()
        backup.until(role="unprotected", state="running", failovers=1)
        talk.more()
        written = int(path.read_bytes()[9 * BLOCK : 9 * BLOCK + 8])
        expect_equal(f"count on the disk ({written}) is not below the one that was shown ({shown})", written >= shown, True)
        third = pair.backup("c")
        backup.ask("protect", "--peer", world["c"].url)
        third.until(state="protecting")
        talk.more()
        backup.ask("failover")
        expect_equal("status of the old primary", backup.wait(), 0)
        third.until(role="unprotected", state="running", failovers=1)
        talk.more()
        third.console.send("\n")
        third.console.check("touch /tmp/stop; wait %2; echo 3 >/proc/sys/vm/drop_caches", 60)
        third.console.check(f"dd if=/dev/vda bs=64k skip=1 count=1 2>/dev/null | cmp - /dev/fd/3 3<<-EOF\n$({pattern(1)})\n\nEOF\n true", 60)
        third.console.check(f"{pattern(2)} | dd of=/dev/vda bs=64k seek=2 conv=fsync 2>/dev/null", 60)
        talk.end()
        third.console.send("poweroff -f\n")
        expect_equal("exit status", third.wait(), 0)
    expect_block(path, 1, 1)
    expect_block(path, 2, 2)


def fenced(world):
    """A primary that stands still with writes on their way is fenced before the winner writes; what it had to write never comes."""
    path = image("fenced")
    folder = world.folder / "fence"
    folder.mkdir()
    agent = folder / "agent"
    agent.write_text(AGENT, encoding="ascii")
    agent.chmod(0o755)
    options = folder / "options"
    options.write_text("port=0\n", encoding="ascii")
    with Pair(world, "fenced", disk=path, more=f"disks=shared,fence=exec:{agent},fence-options={options}") as pair:
        # Each side fences the other: the backup's options name the primary, which therefore starts first.
        primary = pair.primary("a", "")
        options.write_text(f"port={primary.emulator_pid()}\n", encoding="ascii")
        backup = pair.backup("b")
        primary.ask("protect", "--peer", world["b"].url)
        backup.until(state="protecting")
        talk = Talk(world)
        talk.more()
        writer = "while [ ! -e /tmp/stop ]; do for at in 1 2 3 4; do dd if=/tmp/old of=/dev/vda bs=64k seek=$at conv=fsync 2>/dev/null; done; done & true"
        primary.console.check(f"{pattern(7)} >/tmp/old; {writer}", 60)
        talk.more()
        old = primary.emulator_pid()
        os.kill(old, signal.SIGSTOP)
        deadline = time.monotonic() + LIMIT
        while not (status := backup.status())["state"].startswith("fencing: "):
            if time.monotonic() > deadline:
                raise AssertionError(f"it does not say that it fences: {status}")
            time.sleep(0.02)
        expect_equal(f"{status['state']!r} says why", "power switch" in status["state"], True)
        heard = talk.heard
        expect_equal("the agent was told", f"port={old}\naction=off\n", (folder / "told").read_text())
        expect_equal("lines meanwhile", talk.heard - heard <= 1, True)
        (folder / "may").touch()
        backup.until(role="unprotected", state="running", failovers=1)
        expect_equal("status of the old primary", primary.wait(), -signal.SIGKILL)
        talk.more()
        backup.console.send("\n")
        backup.console.check("touch /tmp/stop; wait %2", 60)
        backup.console.check(f"for at in 1 2 3 4; do {pattern(8)} | dd of=/dev/vda bs=64k seek=$at conv=fsync 2>/dev/null; done", 60)
        talk.end()
        backup.console.send("poweroff -f\n")
        expect_equal("exit status", backup.wait(), 0)
    for at in range(1, 5):
        expect_block(path, at, 8)


def locked(world):
    """Without a fence agent the winner waits for the lock that a frozen primary holds, and says so."""
    path = image("locked")
    with Pair(world, "locked", disk=path, more="disks=shared,fence=none") as pair:
        primary, backup = pair.start()
        talk = Talk(world)
        talk.more()
        os.kill(primary.emulator_pid(), signal.SIGSTOP)
        deadline = time.monotonic() + LIMIT
        while not (status := backup.status())["state"].startswith("waiting for the old primary"):
            if time.monotonic() > deadline:
                raise AssertionError(f"it does not say what it waits for: {status}")
            time.sleep(0.02)
        expect_equal("it names the image", str(path) in status["state"], True)
        os.kill(primary.emulator_pid(), signal.SIGCONT)
        expect_equal("status of the old primary", primary.wait(), ELSEWHERE)
        backup.until(role="unprotected", state="running", failovers=1)
        talk.more()
        talk.end()


def policies(world):
    """Two sides that do not agree on where the disks are form no pair, and the VM goes on."""
    path = image("policies")
    with Pair(world, "policies", disk=path, more="disks=shared,fence=none") as pair:
        primary = pair.primary("a", "")
        pair.disk, pair.more = True, ""
        backup = pair.backup("b")
        said = primary.ask("protect", "--peer", world["b"].url, status=REFUSED)
        expect_equal(f"{said!r} says why", "disks=shared" in said and "disks=replicated" in said, True)
        backup.wait()
        expect_equal("the VM runs on", "42" in primary.console.check("echo $((6 * 7))", 30), True)


CASES = {
    "shared disks": handed_on,
    "shared disks, a fence": fenced,
    "shared disks, a lock": locked,
    "shared disks on one side": policies,
}
