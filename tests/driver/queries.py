"""Questions about host and hypervisor, and procedures that are not there."""

import os
import xml.etree.ElementTree as ElementTree

import libvirt
from daemon import define
from definitions import connect, contains, refused, validate
from report import expect_equal


def host(daemon, _folder):
    expect_equal("host name", daemon.virsh("hostname"), os.uname().nodename)
    expect_equal("uri", daemon.virsh("uri"), daemon.uri)
    contains(daemon.virsh("version"), "Running hypervisor: FT 0.")
    contains(daemon.virsh("nodeinfo"), "CPU model:           x86_64", f"CPU(s):              {os.cpu_count()}")
    contains(daemon.virsh("nodecpustats"), "idle:")
    contains(daemon.virsh("nodememstats"), "total  :")
    contains(daemon.virsh("nodecpumap"), f"CPUs present:   {os.cpu_count()}")
    contains(daemon.virsh("freecell"), "Total:")
    expect_equal("most processors", daemon.virsh("maxvcpus"), "8")


def capabilities(daemon, _folder):
    text = daemon.virsh("capabilities")
    validate(text, "capability.rng")
    root = ElementTree.fromstring(text)
    expect_equal("first machine", root.findtext("guest/arch/machine"), "virtft-1")
    expect_equal("domain type", root.find("guest/arch/domain").get("type"), "qemu")
    text = daemon.virsh("domcapabilities")
    validate(text, "domaincaps.rng")
    root = ElementTree.fromstring(text)
    expect_equal("disk bus", root.findtext("devices/disk/enum[@name='bus']/value"), "virtio")
    expect_equal("graphics", root.find("devices/graphics").get("supported"), "no")
    contains(daemon.virsh("domcapabilities", "--arch", "armv7l", status=1), "x86_64 is possible")


def names_of_the_hypervisor(daemon, _folder):
    """qemu:///system is taken too, for tools that insist; others are not."""
    for uri in (f"qemu:///system?socket={daemon.socket}", f"ft:///session?socket={daemon.socket}"):
        contains(daemon.virsh("list", "--all", uri=uri), "Name")
    contains(daemon.virsh("list", uri=f"test+unix:///default?socket={daemon.socket}", status=1), "no connection driver")


def what_is_not_there(daemon, folder):
    """Unknown procedures are answered so that clients go on with what there is."""
    define(daemon, folder, "vm")
    for command in ("net-list", "pool-list", "nodedev-list", "secret-list", "nwfilter-list", "iface-list"):
        contains(daemon.virsh(command, status=1), "not supported")
    connection = connect(daemon)
    domain = connection.lookupByName("vm")
    refused(libvirt.VIR_ERR_OPERATION_INVALID, domain.managedSave)
    refused(libvirt.VIR_ERR_OPERATION_INVALID, domain.injectNMI)
    refused(libvirt.VIR_ERR_NO_SUPPORT, domain.memoryParameters)
    expect_equal("snapshots", domain.listAllSnapshots(), [])
    expect_equal("saved", domain.hasManagedSaveImage(), 0)
    contains(daemon.virsh("dominfo", "vm"), "Persistent:     yes")


def filters(daemon, folder):
    """virsh list chooses by state and kind."""
    for name in ("a", "b"):
        define(daemon, folder, name)
    daemon.virsh("autostart", "a")
    expect_equal("autostart", daemon.virsh("list", "--all", "--autostart", "--name"), "a")
    expect_equal("no autostart", daemon.virsh("list", "--all", "--no-autostart", "--name"), "b")
    expect_equal("transient", daemon.virsh("list", "--all", "--transient", "--name"), "")
    expect_equal("off", daemon.virsh("list", "--state-shutoff", "--inactive", "--name").split(), ["a", "b"])
    expect_equal("with snapshot", daemon.virsh("list", "--all", "--with-snapshot", "--name"), "")
    contains(daemon.virsh("dominfo", "a"), "Autostart:      enable")
    daemon.virsh("autostart", "--disable", "a")
    expect_equal("autostart", daemon.virsh("list", "--all", "--autostart", "--name"), "")


CASES = {
    "host": host,
    "capabilities": capabilities,
    "names of the hypervisor": names_of_the_hypervisor,
    "what is not there": what_is_not_there,
    "filters": filters,
}
