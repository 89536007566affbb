"""Lives of machines: started, looked at, rebooted, ended, found again by another daemon."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import libvirt
from console import SCALE
from daemon import Daemon, VirshConsole, define, domain_xml
from definitions import connect, contains, refused, validate
from report import Skip, expect_equal
from vm import Emulator

UP = "virtft: userland up"
SHELL = r"built-in shell"


def start(daemon, folder, name="vm", **options):
    """Defines and starts a machine; returns its number."""
    define(daemon, folder, name, **options)
    contains(daemon.virsh("start", name), "started")
    return daemon.virsh("domid", name)


@contextlib.contextmanager
def shell(daemon, log_name, name="vm"):
    """A shell of the guest, through virsh console."""
    with daemon.console(name, log_name) as console:
        console.expect(SHELL, 120)
        console.prepare_shell()
        yield console


def start_and_destroy(daemon, folder):
    expect_equal("id", start(daemon, folder), "1")
    expect_equal("state", daemon.virsh("domstate", "vm", "--reason"), "running (booted)")
    contains(daemon.virsh("list"), "1    vm     running")
    contains(daemon.virsh("start", "vm", status=1), "already")
    live = daemon.virsh("dumpxml", "vm")
    validate(live, "domain.rng")
    contains(live, "id='1'", "<source path='/dev/pts/", "<alias name='serial0'/>")
    contains(daemon.virsh("ttyconsole", "vm"), "/dev/pts/")
    contains(daemon.virsh("destroy", "vm"), "destroyed")
    expect_equal("state", daemon.virsh("domstate", "vm", "--reason"), "shut off (destroyed)")
    expect_equal("machines", daemon.machines(), [])
    contains(daemon.virsh("destroy", "vm", status=1), "is not running")
    expect_equal("the next id", daemon.virsh("start", "vm") and daemon.virsh("domid", "vm"), "2")


def bad_starts(daemon, folder):
    """What the emulator says is what the user reads."""
    define(daemon, folder, "vm", kernel="/nowhere/kernel")
    contains(daemon.virsh("start", "vm", status=1), "did not start", "/nowhere/kernel")
    expect_equal("state", daemon.virsh("domstate", "vm", "--reason"), "shut off (failed)")
    broken = "<emulator>/nowhere/emulator</emulator>"
    define(daemon, folder, "other", devices=broken)
    contains(daemon.virsh("start", "other", status=1), "/nowhere/emulator")
    bridge = "<interface type='bridge'><source bridge='virtft-none'/></interface>"
    define(daemon, folder, "bridged", devices=bridge)
    contains(daemon.virsh("start", "bridged", status=1), "no bridge 'virtft-none'")
    expect_equal("transient that failed", daemon.virsh("list", "--name"), "")


def console(daemon, folder):
    start(daemon, folder)
    with shell(daemon, "driver-console") as first:
        first.check("uname -r", 30, r"\d")
        first.check("seq 1 20000 | tail -n 1", 60, "20000")
        other = daemon.console("vm", "driver-console-refused")
        contains(other.wait(), "another client uses the console")
        with daemon.console("vm", "driver-console-forced", "--force") as second:
            first.expect("another client has taken the console", 30)
            second.run("true", 30)
            second.check("echo taken", 30, "taken")
    # The guest's end is the stream's end.
    last = daemon.console("vm", "driver-console-end")
    with last as third:
        third.send("poweroff -f\n")
        last.wait(60)
    daemon.wait_state("vm", "shut off (shutdown)")


def shutdown(daemon, folder):
    start(daemon, folder)
    with shell(daemon, "driver-shutdown"):
        contains(daemon.virsh("shutdown", "vm"), "being shutdown")
        daemon.wait_state("vm", "shut off (shutdown)")
    contains(daemon.virsh("shutdown", "vm", status=1), "not running")
    # A guest that does not listen: the button cannot be pressed twice, for the second signal ends the emulator.
    define(daemon, folder, "deaf", append="console=ttyS0 quiet virtft.cmd=bench")
    daemon.virsh("start", "deaf")
    daemon.virsh("shutdown", "deaf")
    contains(daemon.virsh("shutdown", "deaf", status=1), "pressed already")
    contains(daemon.virsh("shutdown", "deaf", "--mode", "agent", status=1), "power button")
    expect_equal("state", daemon.virsh("domstate", "deaf"), "in shutdown")
    daemon.virsh("destroy", "deaf")


def reboot(daemon, folder):
    """By the power button and a start, by a reset, and by the guest itself: always the same number."""
    start(daemon, folder)
    with shell(daemon, "driver-reboot-1"):
        before = daemon.machines()
        daemon.virsh("reboot", "vm")
        deadline = time.monotonic() + 60 * SCALE
        while daemon.machines() == before:
            expect_equal("in time", time.monotonic() < deadline, True)
            time.sleep(0.1)
    expect_equal("id", daemon.virsh("domid", "vm"), "1")
    with shell(daemon, "driver-reboot-2"):
        before = daemon.machines()
        daemon.virsh("reset", "vm")
        expect_equal("another process", before != daemon.machines(), True)
    daemon.wait_state("vm", "running (booted)")
    with shell(daemon, "driver-reboot-3") as guest:
        before = daemon.machines()
        guest.send("reboot -f\n")
        guest.expect(UP, 120)
        expect_equal("the same process", daemon.machines(), before)
    expect_equal("id", daemon.virsh("domid", "vm"), "1")
    daemon.virsh("destroy", "vm")
    expect_equal("state", daemon.virsh("domstate", "vm", "--reason"), "shut off (destroyed)")


def endings(daemon, folder):
    """What follows when a guest ends is as its definition says."""
    start(daemon, folder, "off", append="console=ttyS0 quiet virtft.cmd=poweroff")
    start(daemon, folder, "crash", append="console=ttyS0 quiet reboot=t virtft.cmd=reboot")
    again = "<on_poweroff>restart</on_poweroff><on_crash>restart</on_crash>"
    start(daemon, folder, "again", append="console=ttyS0 quiet virtft.cmd=poweroff", extra=again)
    daemon.wait_state("off", "shut off (shutdown)", 120)
    daemon.wait_state("crash", "shut off (crashed)", 120)
    first = daemon.machines()
    deadline = time.monotonic() + 120 * SCALE
    while daemon.machines() == first:
        expect_equal("started again in time", time.monotonic() < deadline, True)
        time.sleep(0.1)
    daemon.virsh("destroy", "again")
    expect_equal("state", daemon.virsh("domstate", "again", "--reason"), "shut off (destroyed)")
    # An emulator that somebody else kills.
    start(daemon, folder, "killed")
    os.kill(daemon.machines()[0], signal.SIGKILL)
    daemon.wait_state("killed", "shut off (failed)")


def saved(daemon, folder):
    """A domain's state is saved, by a daemon that may die after it, and the next start goes on from there; or not, as is wished."""
    start(daemon, folder)
    with shell(daemon, "driver-saved") as guest:
        guest.check("word=remembered; echo kept >/tmp/file", 30)
    contains(daemon.virsh("managedsave", "vm"), "saved")
    expect_equal("state", daemon.virsh("domstate", "vm", "--reason"), "shut off (saved)")
    contains(daemon.virsh("dominfo", "vm"), "Managed save:   yes")
    expect_equal("saved ones", daemon.virsh("list", "--all", "--with-managed-save", "--name"), "vm")
    contains(daemon.virsh("undefine", "vm", status=1), "managed save image")
    daemon.kill()
    daemon.start()
    contains(daemon.virsh("start", "vm"), "started")
    expect_equal("state", daemon.virsh("domstate", "vm", "--reason"), "running (restored)")
    contains(daemon.virsh("dominfo", "vm"), "Managed save:   no")
    with VirshConsole(["virsh", "-c", daemon.uri, "console", "vm"], "driver-restored") as guest:
        guest.check("echo $word; cat /tmp/file", 60, "(?s)remembered.*kept")
    # Paused before, paused when it cannot be saved; and a start that passes the saved state over.
    blocked = daemon.folder / "save"
    for path in blocked.iterdir():
        path.unlink()
    blocked.rmdir()
    blocked.write_text("in the way")
    contains(daemon.virsh("managedsave", "vm", status=1), "cannot make")
    expect_equal("it runs on", daemon.virsh("domstate", "vm"), "running")
    blocked.unlink()
    daemon.virsh("managedsave", "vm")
    contains(daemon.virsh("start", "vm", "--force-boot", "--paused"), "started")
    expect_equal("state", daemon.virsh("domstate", "vm", "--reason"), "paused (user)")
    expect_equal("steps of a machine that was started paused", steps(daemon), steps(daemon))
    daemon.virsh("resume", "vm")
    with shell(daemon, "driver-booted") as guest:
        guest.check("echo word=$word", 30, "(?m)^word=$")
    daemon.virsh("managedsave", "vm")
    contains(daemon.virsh("managedsave-remove", "vm"), "Removed")
    contains(daemon.virsh("dominfo", "vm"), "Managed save:   no")


def asked(daemon, folder):
    """What the emulator is asked for: figures of a disk, an NMI, memory given back; seen from inside the guest."""
    image = folder / "disk.img"
    image.write_bytes(bytes(4 << 20))
    disk = f"<disk type='file'><driver name='qemu' type='raw'/><source file='{image}'/><target dev='vda'/></disk>"
    start(daemon, folder, devices="<console type='pty'/>" + disk)
    with shell(daemon, "driver-asked") as guest:
        before = figures(daemon)
        guest.check("dd if=/dev/vda of=/dev/null bs=1M count=2; dd if=/dev/zero of=/dev/vda bs=1M count=3 conv=fsync", 30)
        after = figures(daemon)
        for what, least in (("rd_bytes", 2 << 20), ("wr_bytes", 3 << 20)):
            expect_equal(f"{what} at least", after[what] - before[what] >= least, True)
        contains(daemon.virsh("domstats", "--block", "vm"), f"block.0.wr.bytes={after['wr_bytes']}")
        contains(daemon.virsh("domblkstat", "vm", "vdz", status=1), "vdz")
        daemon.virsh("inject-nmi", "vm")
        guest.check("while ! dmesg | grep -q 'NMI received'; do usleep 1000; done", 30)
        daemon.virsh("setmem", "vm", "200M", "--live")
        wanted, deadline = f"virtio-balloon.actual_pages {(256 - 200) * 256}", time.monotonic() + 30 * SCALE
        while not any(" ".join(line.split()).endswith(wanted) for line in counted(daemon)):
            expect_equal("the guest gives memory back in time", time.monotonic() < deadline, True)
            time.sleep(0.05)
        contains(daemon.virsh("dominfo", "vm"), "Used memory:    204800 KiB")
        contains(daemon.virsh("setmem", "vm", "1G", "--live", status=1), "higher than max memory")
    daemon.virsh("destroy", "vm")
    contains(daemon.virsh("inject-nmi", "vm", status=1), "not running")


def figures(daemon):
    """domblkstat as numbers."""
    words = [line.split() for line in daemon.virsh("domblkstat", "vm", "vda").splitlines()]
    return {word[1]: int(word[2]) for word in words if len(word) == 3}


def counted(daemon):
    """What the emulator of the one machine counts, a line each."""
    (control,) = daemon.run.glob("*.control")
    command = [str(Emulator().binary), "control", str(control), "statistics"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()


def steps(daemon):
    """What it has executed."""
    return next(line for line in counted(daemon) if line.startswith("count"))


def suspend(daemon, folder):
    start(daemon, folder)
    with shell(daemon, "driver-suspend") as guest:
        contains(daemon.virsh("suspend", "vm"), "suspended")
        expect_equal("state", daemon.virsh("domstate", "vm", "--reason"), "paused (user)")
        expect_equal("steps while it is paused", steps(daemon), steps(daemon))
        contains(daemon.virsh("shutdown", "vm", status=1), "paused")
        expect_equal("paused ones", daemon.virsh("list", "--state-paused", "--name"), "vm")
        contains(daemon.virsh("resume", "vm"), "resumed")
        expect_equal("state", daemon.virsh("domstate", "vm", "--reason"), "running (unpaused)")
        guest.check("echo goes on", 60, "goes on")
    contains(daemon.virsh("resume", "vm", status=1), "not paused")
    daemon.virsh("suspend", "vm")
    daemon.virsh("destroy", "vm")
    expect_equal("state", daemon.virsh("domstate", "vm", "--reason"), "shut off (destroyed)")


def transient(daemon, folder):
    path = folder / "vm.xml"
    path.write_text(domain_xml("vm"))
    contains(daemon.virsh("create", path), "created")
    contains(daemon.virsh("dominfo", "vm"), "Persistent:     no")
    contains(daemon.virsh("autostart", "vm", status=1), "transient")
    contains(daemon.virsh("undefine", "vm", status=1), "transient")
    # Defined while it runs, it stays; undefined while it runs, it goes with its machine.
    persistent = folder / "persistent.xml"
    persistent.write_text(daemon.virsh("dumpxml", "vm"))
    daemon.virsh("define", persistent)
    contains(daemon.virsh("dominfo", "vm"), "Persistent:     yes")
    daemon.virsh("undefine", "vm")
    contains(daemon.virsh("dominfo", "vm"), "Persistent:     no")
    daemon.virsh("destroy", "vm")
    contains(daemon.virsh("dominfo", "vm", status=1), "failed to get domain")
    # Ends with its client.
    connection = connect(daemon)
    connection.createXML(domain_xml("short"), libvirt.VIR_DOMAIN_START_AUTODESTROY)
    expect_equal("running", daemon.virsh("list", "--name"), "short")
    connection.close()
    deadline = time.monotonic() + 30 * SCALE
    while daemon.virsh("list", "--name"):
        expect_equal("ended in time", time.monotonic() < deadline, True)
        time.sleep(0.1)


def another_daemon(daemon, folder):
    """The daemon is killed: machines go on, are found again, and can be used and ended."""
    start(daemon, folder)
    transient_path = folder / "transient.xml"
    transient_path.write_text(domain_xml("transient"))
    daemon.virsh("create", transient_path)
    with shell(daemon, "driver-another-1") as guest:
        guest.check("echo kept >/tmp/file", 30)
    machines = daemon.machines()
    daemon.kill()
    daemon.start()
    expect_equal("machines", daemon.machines(), machines)
    expect_equal("states", [daemon.virsh("domstate", name) for name in ("vm", "transient")], ["running"] * 2)
    expect_equal("id", daemon.virsh("domid", "vm"), "1")
    with daemon.console("vm", "driver-another-2") as guest:
        guest.check("cat /tmp/file", 30, "kept")
    # One ends while there is no daemon; its number is not given away.
    daemon.kill(signal.SIGTERM)
    os.kill(machines[1], signal.SIGKILL)
    daemon.start()
    expect_equal("transient", daemon.virsh("list", "--all", "--name"), "vm")
    daemon.virsh("shutdown", "vm")
    daemon.wait_state("vm", "shut off (unknown)")
    daemon.virsh("start", "vm")
    expect_equal("next id", int(daemon.virsh("domid", "vm")) > 1, True)


def autostart(daemon, folder):
    """Marked domains start with the daemon, once in each boot of the host."""
    define(daemon, folder, "vm")
    define(daemon, folder, "other")
    daemon.virsh("autostart", "vm")
    daemon.kill()
    # As after a boot.
    (daemon.run / "autostarted").unlink()
    daemon.start()
    daemon.wait_state("vm", "running (booted)")
    expect_equal("running", daemon.virsh("list", "--name"), "vm")
    daemon.virsh("destroy", "vm")
    daemon.kill()
    daemon.start()
    time.sleep(0.5)
    expect_equal("running", daemon.virsh("list", "--name"), "")


def statistics(daemon, folder):
    image = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    disk = f"<disk type='file'><source file='{image}'/><target dev='vda'/><serial>data</serial></disk>"
    start(daemon, folder, devices=disk + "<console type='pty'/>", extra="<vcpu>2</vcpu>")
    with shell(daemon, "driver-statistics") as guest:
        guest.check("cat /sys/block/vda/serial", 30, "data")
        guest.check("grep -c ^processor /proc/cpuinfo", 30, "2")
    figures = daemon.virsh("domstats", "vm")
    contains(figures, "state.state=1", "cpu.time=", "balloon.current=262144", "vcpu.current=2")
    contains(figures, "block.0.name=vda", f"block.0.path={image}", f"block.0.capacity={64 << 20}")
    card = folder / "card.xml"
    card.write_text("<interface type='user'/>")
    contains(daemon.virsh("attach-device", "vm", card, status=1), "running machine cannot be changed")
    contains(daemon.virsh("dommemstat", "vm"), "actual 262144", "rss ")
    contains(daemon.virsh("vcpuinfo", "vm"), "VCPU:           1")
    contains(daemon.virsh("vcpucount", "vm"), "current      live")
    contains(daemon.virsh("cpu-stats", "vm", "--total"), "cpu_time")
    contains(daemon.virsh("domcontrol", "vm"), "ok")
    contains(daemon.virsh("domjobinfo", "vm"), "None")
    time_line = next(line for line in daemon.virsh("dominfo", "vm").splitlines() if "CPU time" in line)
    expect_equal(f"some time was used: {time_line}", float(time_line.split()[-1].rstrip("s")) > 0, True)


def events(daemon, folder):
    """An event loop of python3-libvirt sees each change, in order, with libvirt's numbers."""
    libvirt.virEventRegisterDefaultImpl()
    ends = threading.Event()

    def loop():
        while not ends.is_set():
            libvirt.virEventRunDefaultImpl()

    seen = []

    def lifecycle(_connection, domain, event, detail, _opaque):
        seen.append((domain.name(), event, detail))

    def rebooted(_connection, domain, _opaque):
        seen.append((domain.name(), "reboot"))

    def changed(_connection, domain, kind, uri, _opaque):
        seen.append((domain.name(), "metadata", kind, uri))

    # So that the loop never waits for long.
    timer = libvirt.virEventAddTimeout(100, lambda *_: None, None)
    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    connection = connect(daemon)
    connection.setKeepAlive(1, 5)
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, rebooted, None)
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, changed, None)
    refused(libvirt.VIR_ERR_NO_SUPPORT, connection.domainEventRegisterAny, None, libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR, changed, None)

    define(daemon, folder, "vm")
    daemon.virsh("desc", "vm", "--title", "--config", "t")
    daemon.virsh("start", "vm")
    daemon.virsh("suspend", "vm")
    daemon.virsh("resume", "vm")
    daemon.virsh("reset", "vm")
    with shell(daemon, "driver-events"):
        daemon.virsh("shutdown", "vm")
        daemon.wait_state("vm", "shut off (shutdown)")
    daemon.virsh("start", "vm")
    daemon.virsh("destroy", "vm")
    daemon.virsh("undefine", "vm")
    expected = [
        (0, 0), ("metadata", 1, None), (2, 0), (3, 0), (4, 0), ("reboot",), (6, 1), (5, 0), (2, 0), (6, 2), (5, 1), (1, 0),
    ]  # fmt: skip
    expected = [("vm", *one) for one in expected]
    deadline = time.monotonic() + 20 * SCALE
    while len(seen) < len(expected) and time.monotonic() < deadline:
        time.sleep(0.05)
    expect_equal("alive after more than a keepalive", connection.isAlive(), 1)
    ends.set()
    thread.join(10)
    libvirt.virEventRemoveTimeout(timer)
    connection.close()
    expect_equal("events", seen, expected)


def need_root_and(*programs):
    if os.geteuid() != 0:
        raise Skip("needs root")
    for program in programs:
        if subprocess.run(["which", program], capture_output=True, check=False).returncode != 0:
            raise Skip(f"needs {program}")


def networks(daemon, folder):
    """A bridge and passt, in a network namespace of the test's own."""
    need_root_and("ip", "passt")
    name = f"virtftd-{os.getpid()}"

    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True)

    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "add", "br0", "type", "bridge")
        ip("-n", name, "addr", "add", "10.77.0.1/24", "dev", "br0")
        ip("-n", name, "link", "set", "br0", "up")
        # passt looks for an interface with a default route.
        ip("-n", name, "route", "add", "default", "via", "10.77.0.254", "dev", "br0")
        inside = folder / "inside"
        inside.mkdir()
        with Daemon(inside, "driver-networks-inside", ["ip", "netns", "exec", name]) as daemon:
            devices = "<console type='pty'/><interface type='bridge'><source bridge='br0'/></interface>"
            start(daemon, folder, devices=devices + "<interface type='user'/>")
            contains(daemon.virsh("domiflist", "vm"), "vnet0", "br0", "virtio")
            with shell(daemon, "driver-networks") as guest:
                guest.check("ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up", 30)
                guest.check("ping -c 3 10.77.0.1", 60, " 0% packet loss")
                guest.check("ip link show eth1", 30)
            statistics_of = daemon.virsh("domifstat", "vm", "vnet0")
            contains(statistics_of, "vnet0 rx_bytes ", "vnet0 tx_packets ")
            contains(daemon.virsh("domstats", "vm", "--interface"), "net.0.name=vnet0")
            daemon.virsh("destroy", "vm")
            left = subprocess.run(["ip", "-n", name, "link", "show", "vnet0"], capture_output=True, check=False)
            expect_equal("interface is gone", left.returncode != 0, True)
    finally:
        ip("netns", "del", name)


CASES = {
    "start and destroy": start_and_destroy,
    "bad starts": bad_starts,
    "console": console,
    "shutdown": shutdown,
    "reboot": reboot,
    "endings": endings,
    "suspend": suspend,
    "what the emulator is asked": asked,
    "managed save": saved,
    "transient": transient,
    "another daemon": another_daemon,
    "autostart": autostart,
    "statistics": statistics,
    "events": events,
    "networks": networks,
}
