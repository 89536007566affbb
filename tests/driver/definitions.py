"""Domains as XML: defining, showing, refusing, renaming, metadata, what is on disk."""

import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import libvirt
from daemon import ROOT, define, domain_xml
from report import Skip, expect_equal

SCHEMAS = Path("/usr/share/libvirt/schemas")
EXAMPLES = Path(__file__).resolve().parents[2] / "driver/domain/tests/domains"


def validate(text, schema):
    """libvirt's own schema accepts the text."""
    path = SCHEMAS / schema
    if not path.exists():
        raise Skip(f"{path} is missing")
    command = ["xmllint", "--noout", "--relaxng", str(path), "-"]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    expect_equal(f"{schema} ({result.stderr[-500:]})", result.returncode, 0)


def silence(_context, _error):
    """Errors are looked at, not printed."""


def connect(daemon):
    """A connection of python3-libvirt."""
    libvirt.registerErrorHandler(silence, None)
    return libvirt.open(daemon.uri)


def refused(code, function, *arguments):
    """The call fails with libvirt's code; returns the message."""
    try:
        function(*arguments)
    except libvirt.libvirtError as error:
        expect_equal(f"code of '{error}'", error.get_error_code(), code)
        return str(error)
    raise AssertionError(f"{function} did not fail")


def contains(text, *words):
    for word in words:
        if word not in text:
            raise AssertionError(f"'{word}' is not in:\n{text}")


def define_and_undefine(daemon, folder):
    contains(daemon.virsh("list", "--all"), "Id   Name   State")
    contains(define(daemon, folder, "vm"), "Domain 'vm' defined")
    contains(daemon.virsh("list", "--all"), "vm", "shut off")
    expect_equal("running", daemon.virsh("list", "--name"), "")
    text = daemon.virsh("dumpxml", "vm")
    validate(text, "domain.rng")
    again = folder / "again.xml"
    again.write_text(text)
    daemon.virsh("define", again)
    expect_equal("the same again", daemon.virsh("dumpxml", "vm"), text)
    expect_equal("file", (daemon.config / "vm.xml").read_text().strip(), text)
    uuid = daemon.virsh("domuuid", "vm")
    expect_equal("name by uuid", daemon.virsh("domname", uuid), "vm")
    contains(daemon.virsh("undefine", "vm"), "undefined")
    contains(daemon.virsh("dominfo", "vm", status=1), "failed to get domain 'vm'")
    contains(refused(libvirt.VIR_ERR_NO_DOMAIN, connect(daemon).lookupByName, "vm"), "no domain has the name 'vm'")
    expect_equal("files", list(daemon.config.glob("*.xml")), [])


def all_that_there_is(daemon, _folder):
    """The example with every element is taken, fits libvirt's schema, and survives another daemon."""
    text = (EXAMPLES / "everything.xml").read_text()
    validate(text, "domain.rng")
    # One that virsh itself checks first.
    path = EXAMPLES / "everything.xml"
    daemon.virsh("define", path, "--validate")
    shown = daemon.virsh("dumpxml", "every & thing")
    validate(shown, "domain.rng")
    contains(shown, "<ft:peer uri=\"ft+tls://hostb/system\"/>", "<!-- kept -->", "All &lt;at once&gt;", "'quotes'")
    daemon.kill()
    daemon.start()
    expect_equal("after a restart", daemon.virsh("dumpxml", "every & thing"), shown)
    expect_equal("inactive", daemon.virsh("dumpxml", "--inactive", "--security-info", "every & thing"), shown)


def names_and_uuids(daemon, folder):
    """Who may be called what, as with libvirt's own drivers."""
    connection = connect(daemon)
    first = connection.defineXML(domain_xml("a"))
    uuid = first.UUIDString()
    with_uuid = domain_xml("a", extra=f"<uuid>{uuid}</uuid>")
    expect_equal("defined again", connection.defineXML(with_uuid).UUIDString(), uuid)
    expect_equal("updated", first.isUpdated(), 1)
    refused(libvirt.VIR_ERR_OPERATION_FAILED, connection.defineXML, domain_xml("a"))
    refused(libvirt.VIR_ERR_OPERATION_FAILED, connection.defineXML, domain_xml("b", extra=f"<uuid>{uuid}</uuid>"))
    refused(libvirt.VIR_ERR_OPERATION_FAILED, connection.createXML, domain_xml("a"))
    refused(libvirt.VIR_ERR_NO_DOMAIN, connection.lookupByName, "none")
    refused(libvirt.VIR_ERR_NO_DOMAIN, connection.lookupByID, 1)
    daemon.virsh("domrename", "a", "b")
    expect_equal("names", [domain.name() for domain in connection.listAllDomains()], ["b"])
    expect_equal("files", [path.name for path in daemon.config.glob("*.xml")], ["b.xml"])
    define(daemon, folder, "c")
    contains(daemon.virsh("domrename", "b", "c", status=1), "exists already")
    contains(daemon.virsh("domrename", "b", "x/y", status=1), "without '/'")


def refusals(daemon, _folder):
    """What the machine lacks is named, with libvirt's codes."""
    connection = connect(daemon)
    unsupported = [
        (domain_xml("vm", devices="<graphics type='vnc'/>"), "<graphics> in <devices>"),
        (domain_xml("vm", devices="<hostdev/>"), "<hostdev>"),
        (domain_xml("vm", extra="<cputune/>"), "<cputune>"),
        (domain_xml("vm").replace("'qemu'", "'kvm'"), "deterministic"),
        (domain_xml("vm", devices="<disk type='file'><source file='/d'/><target dev='sda'/></disk>"), "virtio"),
    ]
    for text, words in unsupported:
        contains(refused(libvirt.VIR_ERR_CONFIG_UNSUPPORTED, connection.defineXML, text), words, "line")
    malformed = "<domain type='qemu'>\n  <name>x</nam>\n</domain>"
    contains(refused(libvirt.VIR_ERR_XML_ERROR, connection.defineXML, malformed), "line 2, column")
    refused(libvirt.VIR_ERR_XML_ERROR, connection.defineXML, "")
    refused(libvirt.VIR_ERR_XML_ERROR, connection.defineXML, domain_xml(""))
    refused(libvirt.VIR_ERR_XML_ERROR, connection.defineXML, "<a>" * 50000)
    expect_equal("domains", connection.listAllDomains(), [])


def format_is_probed_once(daemon, folder):
    """An image without a format is looked at when the domain is defined, and never again."""
    image = folder / "disk.img"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    disk = f"<disk type='file'><source file='{image}'/><target dev='vda'/></disk>"
    define(daemon, folder, "vm", devices=disk)
    contains(daemon.virsh("dumpxml", "vm"), "<driver type='qcow2'/>")
    info = daemon.virsh("domblkinfo", "vm", "vda")
    expect_equal("capacity", info.split()[1], str(64 << 20))
    contains(daemon.virsh("domblklist", "vm"), "vda", str(image))
    image.write_bytes(bytes(1 << 20))
    daemon.kill()
    daemon.start()
    contains(daemon.virsh("dumpxml", "vm"), "<driver type='qcow2'/>")
    other = f"<disk type='file'><source file='{image}'/><target dev='vda'/></disk>"
    define(daemon, folder, "raw", devices=other)
    contains(daemon.virsh("dumpxml", "raw"), "<driver type='raw'/>")


def metadata(daemon, folder):
    define(daemon, folder, "vm")
    uri = "urn:virtft:domain:1.0"
    options = ["--uri", uri, "--key", "ft"]
    contains(daemon.virsh("metadata", "vm", "--uri", uri, status=1), "metadata not found")
    element = "<fault-tolerance><peer uri='ft+tls://b/system'/><arbiter type='dir' path='/x'/></fault-tolerance>"
    daemon.virsh("metadata", "vm", *options, "--set", element, "--config")
    contains(daemon.virsh("dumpxml", "vm"), f"<ft:fault-tolerance xmlns:ft='{uri}'><ft:peer uri=")
    shown = ElementTree.fromstring(daemon.virsh("metadata", "vm", "--uri", uri))
    expect_equal("element", (shown.tag, shown[0].tag), ("fault-tolerance", "peer"))
    contains(daemon.virsh("metadata", "vm", *options, "--set", "<a><b></a>", status=1), "XML error")
    daemon.virsh("metadata", "vm", "--uri", uri, "--remove")
    contains(daemon.virsh("metadata", "vm", "--uri", uri, status=1), "metadata not found")
    expect_equal("no description", daemon.virsh("desc", "vm"), "No description for domain: vm")
    daemon.virsh("desc", "vm", "--config", "--title", "A & B")
    daemon.virsh("desc", "vm", "--config", "two\nlines")
    expect_equal("title", daemon.virsh("desc", "vm", "--title"), "A & B")
    expect_equal("description", daemon.virsh("desc", "vm"), "two\nlines")
    contains(daemon.virsh("list", "--all", "--title"), "A & B")
    daemon.virsh("desc", "vm", "--config", "--title", "")
    contains(daemon.virsh("desc", "vm", "--title"), "No title")


def edit(daemon, folder):
    """virsh edit, with an editor that changes one value."""
    define(daemon, folder, "vm")
    editor = folder / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/262144/131072/' \"$1\"\n")
    editor.chmod(0o755)
    command = ["env", f"VISUAL={editor}", "virsh", "-c", daemon.uri, "edit", "vm"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    expect_equal(f"status ({result.stdout}{result.stderr})", result.returncode, 0)
    contains(daemon.virsh("dominfo", "vm"), "131072 KiB")


def damaged_files(daemon, folder):
    """One bad file is named; the other domains are there."""
    define(daemon, folder, "good")
    define(daemon, folder, "bad")
    daemon.kill()
    path = daemon.config / "bad.xml"
    path.write_text(path.read_text()[:100])
    daemon.start()
    expect_equal("names", daemon.virsh("list", "--all", "--name"), "good")
    contains(daemon.log_path.read_text(), f"{path} cannot be used: XML error at line")


def full_disk(daemon, folder):
    """A definition that cannot be written leaves the old one as it was."""
    define(daemon, folder, "vm")
    before = daemon.virsh("dumpxml", "vm")
    uuid = daemon.virsh("domuuid", "vm")
    # What is written first is in the way.
    (daemon.config / "vm.xml.new").mkdir()
    changed = folder / "changed.xml"
    changed.write_text(domain_xml("vm", memory_mib=512, extra=f"<uuid>{uuid}</uuid>"))
    contains(daemon.virsh("define", changed, status=1), "cannot write")
    expect_equal("shown", daemon.virsh("dumpxml", "vm"), before)
    daemon.kill()
    daemon.start()
    expect_equal("after a restart", daemon.virsh("dumpxml", "vm"), before)


def schema(daemon, folder):
    """The schema of the ft element takes its examples and what the daemon takes, and a domain with it is valid for libvirt's own schema."""
    schemas = ROOT / "xml-schemas"
    examples = sorted((schemas / "examples").glob("*.xml"))
    expect_equal("examples", len(examples) >= 2, True)
    validate = ["xmllint", "--noout", "--relaxng", schemas / "fault-tolerance.rng"]
    for example in examples:
        subprocess.run([*validate, example], check=True, capture_output=True, timeout=30)
        element = example.read_text()
        path = folder / f"{example.stem}.xml"
        path.write_text(domain_xml(example.stem, extra=f"<metadata>{element}</metadata>"))
        subprocess.run(["virt-xml-validate", path, "domain"], check=True, capture_output=True, timeout=30)
        daemon.virsh("define", path)
        contains(daemon.virsh("dumpxml", example.stem), element.splitlines()[1].strip())
        # Neither takes an element that nobody knows, or one without its arbiter.
        for bad in (element.replace("<ft:arbiter", "<ft:oracle").replace("</ft:arbiter", "</ft:oracle"), element.replace("ft+tls:", "qemu+tls:")):
            wrong = folder / "wrong.xml"
            wrong.write_text(bad)
            said = subprocess.run([*validate, wrong], capture_output=True, check=False, timeout=30)
            expect_equal(f"the schema on {bad}", said.returncode != 0, True)
            path.write_text(domain_xml(example.stem, extra=f"<metadata>{bad}</metadata>"))
            daemon.virsh("define", path, status=1)


CASES = {
    "define and undefine": define_and_undefine,
    "all that there is": all_that_there_is,
    "names and uuids": names_and_uuids,
    "refusals": refusals,
    "format is probed once": format_is_probed_once,
    "metadata": metadata,
    "the schema of fault tolerance": schema,
    "edit": edit,
    "damaged files": damaged_files,
    "full disk": full_disk,
}
