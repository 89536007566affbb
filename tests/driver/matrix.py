"""Every virsh command about domains and the host: what docs/virsh.md says of it is what happens.

A domain `vm` runs, `off` is defined. A command that works is run with arguments that make it work, and what it printed, or
what it did, is looked at; one that does not must fail with a reason, and leave the domain as it was.
"""

import re
import subprocess
from pathlib import Path

from daemon import define, domain_xml
from definitions import contains
from report import expect_equal

DOC = Path(__file__).resolve().parents[2] / "docs/virsh.md"
GROUPS = ("domain", "monitor", "events", "host", "checkpoint", "snapshot", "backup")

# Commands that work: arguments, and what is then to be read. "{file}" is a file with a whole domain in it, "{disk}" and
# "{card}" one with a device, "{image}" an image.
WORKS = {
    "attach-device": ("off {card} --config", "attached successfully"),
    "attach-disk": ("off {image} vdb --config --subdriver raw", "attached successfully"),
    "attach-interface": ("off bridge br0 --config --model virtio", "attached successfully"),
    "autostart": ("off", "marked as autostarted"),
    "cpu-stats": ("vm --total", "cpu_time"),
    "create": ("{file}", "created from"),
    "define": ("{file}", "defined from"),
    "desc": ("off --config words", "updated successfully"),
    "detach-device": ("off {card} --config", "detached successfully"),
    "detach-disk": ("off vdb --config", "detached successfully"),
    "detach-interface": ("off bridge --config", "detached successfully"),
    "domid": ("vm", r"\d"),
    "domname": ("{uuid}", "vm"),
    "domuuid": ("vm", "{uuid}"),
    "domjobinfo": ("vm", "None"),
    "domrename": ("off renamed", "successfully renamed"),
    "domxml-to-native": ("virtft-argv {file}", "--kernel="),
    "dumpxml": ("vm", "<name>vm</name>"),
    "emulatorpin": ("vm", "0"),
    "iothreadinfo": ("vm", "No IOThreads"),
    "managedsave-remove": ("vm", "no manage save image"),
    "metadata": ("vm --uri urn:x --key x --set <a/> --live", "modified"),
    "setmaxmem": ("off 300M --config", ""),
    "setmem": ("off 300M --config", ""),
    "setvcpus": ("off 2 --config", ""),
    "suspend": ("vm", "suspended"),
    "resume": ("vm", "resumed"),
    "reset": ("vm", "was reset"),
    "ttyconsole": ("vm", "/dev/pts/"),
    "undefine": ("off", "has been undefined"),
    "update-device": ("off {disk} --config", "updated successfully"),
    "vcpucount": ("vm", "maximum      live           1"),
    "vcpuinfo": ("vm", "VCPU:           0"),
    "vcpupin": ("vm", "VCPU"),
    "domblkerror": ("vm", "No errors found"),
    "domblkinfo": ("vm vda", "Capacity:       1048576"),
    "domblklist": ("vm", "vda"),
    "domcontrol": ("vm", "ok"),
    "domif-getlink": ("off {mac} --config", "up"),
    "domifaddr": ("vm --source arp", "Name"),
    "domiflist": ("off", "user"),
    "dominfo": ("vm", "State:          running"),
    "dommemstat": ("vm", "rss"),
    "domstate": ("vm", "running"),
    "domstats": ("vm", "cpu.time"),
    "list": ("--all", "running"),
    "event": ("--list", "lifecycle"),
    "capabilities": ("", "<capabilities>"),
    "cpu-models": ("x86_64", "virtft-v2"),
    "domcapabilities": ("", "<domainCapabilities>"),
    "freecell": ("", "Total:"),
    "hostname": ("", "."),
    "maxvcpus": ("", "8"),
    "nodecpumap": ("", "CPUs present"),
    "nodecpustats": ("", "idle"),
    "nodeinfo": ("", "Memory size"),
    "nodememstats": ("", "total"),
    "uri": ("", "ft:///system"),
    "version": ("", "Running hypervisor: FT"),
    "checkpoint-list": ("vm", "Name"),
    "snapshot-list": ("vm", "Name"),
    # Shown at length in other cases.
    "console": None,
    "destroy": None,
    "edit": None,
    "reboot": None,
    "shutdown": None,
    "start": None,
    "domifstat": None,
    "domblkstat": None,
    "inject-nmi": None,
    "migrate": None,
    "managedsave": None,
}

# Commands that do not: arguments with which they would.
UNSUPPORTED = {
    "blkdeviotune": "vm vda",
    "blkiotune": "vm",
    "blockcommit": "vm vda",
    "blockcopy": "vm vda /nowhere",
    "blockjob": "vm vda",
    "blockpull": "vm vda",
    "blockresize": "vm vda 2M",
    "change-media": "vm vda --eject",
    "detach-device-alias": "vm ua-x",
    "domdisplay": "vm",
    "domfsfreeze": "vm",
    "domfsthaw": "vm",
    "domfsinfo": "vm",
    "domfstrim": "vm",
    "domhostname": "vm --source agent",
    "domif-setlink": "off {mac} down --config",
    "domiftune": "vm {mac}",
    "domjobabort": "vm",
    "domlaunchsecinfo": "vm",
    "domsetlaunchsecstate": "vm --secrethdr {file} --secret {file}",
    "dompmsuspend": "vm mem",
    "dompmwakeup": "vm",
    "domxml-from-native": "virtft-argv {file}",
    "dump": "vm /nowhere",
    "get-user-sshkeys": "vm root",
    "iothreadpin": "vm 1 0",
    "iothreadadd": "vm 1",
    "iothreadset": "vm 1 --poll-max-ns 1",
    "iothreaddel": "vm 1",
    "send-key": "vm KEY_A",
    "send-process-signal": "vm 1 1",
    "lxc-enter-namespace": "vm /bin/true",
    "managedsave-edit": "vm",
    "managedsave-dumpxml": "vm",
    "managedsave-define": "vm {file}",
    "memtune": "vm",
    "perf": "vm",
    "migrate-setmaxdowntime": "vm 1",
    "migrate-getmaxdowntime": "vm",
    "migrate-compcache": "vm",
    "migrate-setspeed": "vm 1",
    "migrate-getspeed": "vm",
    "migrate-postcopy": "vm",
    "numatune": "vm",
    "qemu-attach": "1",
    "qemu-monitor-command": "vm --hmp info",
    "qemu-monitor-event": "vm --timeout 1",
    "qemu-agent-command": "vm x",
    "guest-agent-timeout": "vm 1",
    "restore": "/nowhere",
    "save": "vm /nowhere",
    "save-image-define": "/nowhere {file}",
    "save-image-dumpxml": "/nowhere",
    "save-image-edit": "/nowhere",
    "schedinfo": "vm",
    "screenshot": "vm",
    "set-lifecycle-action": "vm poweroff restart",
    "set-user-sshkeys": "vm root {file}",
    "set-user-password": "vm root x",
    "update-memory-device": "vm --requested-size 1M",
    "vncdisplay": "vm",
    "guestvcpus": "vm",
    "setvcpu": "vm 0 --enable",
    "domblkthreshold": "vm vda 1",
    "guestinfo": "vm",
    "domdirtyrate-calc": "vm",
    "dom-fd-associate": "vm x 0",
    "domtime": "vm",
    "allocpages": "2M 1",
    "cpu-baseline": "{file}",
    "cpu-compare": "{file}",
    "freepages": "--all",
    "hypervisor-cpu-baseline": "{file}",
    "hypervisor-cpu-compare": "{file}",
    "node-memory-tune": "",
    "nodesevinfo": "",
    "nodesuspend": "mem 60",
    "sysinfo": "",
    "checkpoint-create": "vm",
    "checkpoint-create-as": "vm x",
    "checkpoint-delete": "vm x",
    "checkpoint-dumpxml": "vm x",
    "checkpoint-edit": "vm x",
    "checkpoint-info": "vm x",
    "checkpoint-parent": "vm x",
    "snapshot-create": "vm",
    "snapshot-create-as": "vm x",
    "snapshot-current": "vm",
    "snapshot-delete": "vm x",
    "snapshot-dumpxml": "vm x",
    "snapshot-edit": "vm x",
    "snapshot-info": "vm x",
    "snapshot-parent": "vm x",
    "snapshot-revert": "vm x",
    "backup-begin": "vm",
    "backup-dumpxml": "vm",
}

# What changes the domains, in the order in which it must be done.
LAST = ("suspend", "resume", "attach-interface", "attach-device", "attach-disk", "update-device", "detach-disk", "detach-device", "detach-interface")
VERY_LAST = ("reset", "domrename", "undefine")


def documented():
    """Commands and what is said of them: rows `| command | works | ... |`."""
    rows = re.findall(r"^\| `([\w-]+)` \| (works|no) \|", DOC.read_text(), re.MULTILINE)
    return {command: verdict == "works" for command, verdict in rows}


def all_commands():
    """What this virsh has."""
    names = set()
    for group in GROUPS:
        said = subprocess.run(["virsh", "help", group], capture_output=True, text=True, check=False).stdout
        names |= set(re.findall(r"^    ([a-z][\w-]+)\s", said, re.MULTILINE))
    # Help of these groups is the help of the command of the same name.
    return (names | {"event", "domstats"}) - {"nodedev-event", "net-event", "pool-event", "secret-event"}


def the_document(_daemon, _folder):
    """Every command is in it, with the verdict that is tested."""
    known = documented()
    expect_equal("virsh has many commands", len(all_commands()) > 140, True)
    missing = sorted(all_commands() - set(known))
    expect_equal("commands that docs/virsh.md does not have", missing, [])
    tested = {**dict.fromkeys(WORKS, True), **dict.fromkeys(UNSUPPORTED, False)}
    expect_equal("verdicts that differ", {name for name in known if known[name] != tested.get(name)}, set())


def every_command(daemon, folder):
    image = folder / "disk.img"
    image.write_bytes(bytes(1 << 20))
    disk = f"<disk type='file'><driver name='qemu' type='raw'/><source file='{image}'/><target dev='vda'/></disk>"
    card = "<interface type='user'><mac address='52:54:00:00:00:02'/></interface>"
    plain = "<interface type='user'><mac address='52:54:00:00:00:01'/></interface>"
    files = {"file": domain_xml("file"), "disk": disk.replace(str(image), "/nowhere"), "card": card}
    for name, text in files.items():
        (folder / f"{name}.xml").write_text(text)
    define(daemon, folder, "vm", devices="<console type='pty'/>" + disk)
    define(daemon, folder, "off", devices="<console type='pty'/>" + disk + plain)
    daemon.virsh("start", "vm")
    words = {name: folder / f"{name}.xml" for name in files}
    words |= {"uuid": daemon.virsh("domuuid", "vm"), "image": image, "mac": "52:54:00:00:00:01", "uri": daemon.uri}

    def run(command, arguments, status):
        return daemon.virsh(command, *(word.format(**words) for word in arguments.split()), status=status)

    commands = [name for name in WORKS if WORKS[name] and name not in LAST + VERY_LAST]
    for command in commands:
        arguments, expected = WORKS[command]
        said = run(command, arguments, 0)
        if not re.search(expected.format(**words), said):
            raise AssertionError(f"virsh {command} {arguments}: {said!r} is not like {expected!r}")
        if command == "create":
            daemon.virsh("destroy", "file")
    for command, arguments in UNSUPPORTED.items():
        contains(run(command, arguments, 1), "error:")
    expect_equal("after all that", daemon.virsh("domstate", "vm", "--reason"), "running (booted)")
    for command in LAST + VERY_LAST:
        arguments, expected = WORKS[command]
        if command == "undefine":
            arguments = "renamed"
        contains(run(command, arguments, 0), expected)
        if command == "detach-disk":
            contains(daemon.virsh("domblklist", "off"), "/nowhere")
        if command == "detach-interface":
            expect_equal("cards", daemon.virsh("domiflist", "off").count("52:54"), 1)
    contains((daemon.config / "vm.xml").read_text(), "<name>vm</name>")


CASES = {
    "the document": the_document,
    "every command": every_command,
}
