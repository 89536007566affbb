"""Pairs and what happens to one side alone: a disk that is full on one host, a machine that an operator made stand still."""

import subprocess

from pairs import DISK_BYTES, ELSEWHERE, LIMIT, Pair, Talk
from report import expect_equal
from vm import LOGS, Emulator


def full_disk(world):
    """The file system under the primary's image is full: the backup, which has room, takes over, and the guest sees no error."""
    small = world.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", small], check=True, timeout=LIMIT)
    try:
        with Pair(world, "full", disk=True) as pair:
            pair.disks = {"a": small / "a.raw", "b": LOGS / "ft-full-b.raw"}
            for path in pair.disks.values():
                with open(path, "wb") as file:
                    file.truncate(DISK_BYTES)
            primary, backup = pair.start()
            talk = Talk(world)
            talk.more()
            primary.console.send("dd if=/dev/urandom of=/dev/vda bs=64k count=256 conv=fsync 2>/dev/null; echo written:$?\n")
            expect_equal("status of the old primary", primary.wait(), ELSEWHERE)
            expect_equal(f"it says why: {primary.said()[-600:]}", "disk 0 failed on this host" in primary.said(), True)
            backup.until(role="unprotected", failovers=1)
            backup.console.expect("written:0", LIMIT)
            talk.more()
            backup.console.send("\n")
            errors = backup.console.check("dmesg | grep -c 'I/O error'; true", 30)
            expect_equal("errors that the guest saw", errors.strip(), "0")
            # Nobody is left to take over: from now on the guest sees what its disk does.
            talk.end()
    finally:
        subprocess.run(["umount", "-l", small], check=True, timeout=LIMIT)


def no_room_anywhere(world):
    """Without a backup the guest is told that its disk is full, and goes on."""
    small = world.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", small], check=True, timeout=LIMIT)
    try:
        with Pair(world, "room", disk=True) as pair:
            pair.disks = {"a": small / "a.raw", "b": LOGS / "ft-room-b.raw"}
            for path in pair.disks.values():
                with open(path, "wb") as file:
                    file.truncate(DISK_BYTES)
            primary, backup = pair.start()
            backup.kill()
            primary.until(role="unprotected", epoch=2)
            status, _ = primary.console.run("dd if=/dev/urandom of=/dev/vda bs=64k count=256 conv=fsync 2>/dev/null", 60)
            expect_equal("dd fails", status != 0, True)
            primary.console.check("echo $((6 * 7))", 30, "^42$")
    finally:
        subprocess.run(["umount", "-l", small], check=True, timeout=LIMIT)


def standing(world):
    """A machine that an operator made stand still does so on whichever host, until it is let go on."""
    with Pair(world, "standing") as pair:
        primary, backup = pair.start()
        talk = Talk(world)
        talk.more()
        control(primary, "pause")
        primary.until(paused=True, state="protected")
        heard = talk.heard
        primary.kill()
        status = backup.until(role="unprotected", failovers=1)
        expect_equal("it stands still there, too", status["paused"], True)
        third = pair.backup("c")
        # A machine that stands still can be given a backup, and be switched to it.
        backup.ask("protect", "--peer", world["c"].url)
        third.until(state="protecting")
        backup.ask("failover")
        third.until(role="unprotected", failovers=1, paused=True)
        expect_equal("lines meanwhile", talk.heard - heard <= 1, True)
        control(third, "resume")
        talk.more()
        talk.end()


def control(node, operation):
    """`control`, which must succeed."""
    command = [str(Emulator().binary), "control", str(node.control), operation]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    expect_equal(f"status of {operation}: {result.stderr}", result.returncode, 0)


CASES = {
    "a full disk on the primary's host": full_disk,
    "a full disk and no backup": no_room_anywhere,
    "a VM that stands still": standing,
}
