"""What is libvirt's own: pools, volumes and networks of a stock libvirtd, through virtftd."""

import contextlib
import os
import subprocess
import time

from console import SCALE
from daemon import ASSETS, COMMAND_TIMEOUT_S, LOGS, CommandError, Daemon, define
from definitions import connect, contains
from lives import need_root_and, shell
from report import expect_equal

# Its files are on file systems of its own, so that a libvirtd of the host's is not disturbed.
PRIVATE = "/run/libvirt /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt"
SCRIPT = f"""
for folder in {PRIVATE}; do mkdir -p $folder && mount -t tmpfs tmpfs $folder; done
mkdir -p /var/lib/libvirt/dnsmasq /var/lib/libvirt/network
# Its QEMU driver, which is not used, does not start without a user that only another package makes.
for file in passwd group; do cp /etc/$file "$3/$file" && mount --bind "$3/$file" /etc/$file; done
grep -q ^libvirt-qemu: /etc/passwd || echo "libvirt-qemu:x:64055:64055::/:/bin/false" >>/etc/passwd
grep -q ^libvirt-qemu: /etc/group || echo "libvirt-qemu:x:64055:" >>/etc/group
exec libvirtd --config "$1" --pid-file "$2"
"""


@contextlib.contextmanager
def stock_libvirtd(folder, namespace):
    """A libvirtd in the network namespace, on sockets in a folder of its own."""
    sockets = folder / "stock"
    sockets.mkdir()
    log = LOGS / "driver-libvirtd.log"
    config = folder / "libvirtd.conf"
    config.write_text(
        f'unix_sock_dir = "{sockets}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\nlog_outputs = "2:file:{log}"\n'
    )
    command = ["ip", "netns", "exec", namespace, "unshare", "--mount", "sh", "-ec", SCRIPT, "sh", config, folder / "pid", folder]
    process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30 * SCALE
        while not (sockets / "libvirt-sock").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise CommandError(f"libvirtd did not start, see {log}")
            time.sleep(0.05)
        yield sockets
    finally:
        process.terminate()
        process.wait(COMMAND_TIMEOUT_S)


@contextlib.contextmanager
def beside_libvirtd(folder, name):
    """A virtftd and a libvirtd in a network namespace of the test's own."""
    need_root_and("ip", "libvirtd", "dnsmasq")
    namespace = f"virtftd-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "up"], check=True)
        with stock_libvirtd(folder, namespace) as sockets:
            inside = folder / "inside"
            inside.mkdir()
            prefix = ["ip", "netns", "exec", namespace]
            with Daemon(inside, f"driver-{name}-inside", prefix, ["--libvirt-dir", sockets]) as daemon:
                yield daemon
            # dnsmasq of a network that is left behind.
            subprocess.run(["virsh", "-c", f"network:///system?socket={sockets}/libvirt-sock", "net-destroy", "test"], capture_output=True, check=False)
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=True)


def storage(_daemon, folder):
    with beside_libvirtd(folder, "storage") as daemon:
        pool = folder / "pool"
        pool.mkdir()
        contains(daemon.virsh("pool-list", "--all"), "Name")
        daemon.virsh("pool-define-as", "images", "dir", "--target", pool)
        daemon.virsh("pool-start", "images")
        daemon.virsh("vol-create-as", "images", "disk.qcow2", "64M", "--format", "qcow2")
        contains(daemon.virsh("vol-list", "images"), str(pool / "disk.qcow2"))
        # A stream through both daemons, up and down.
        data = folder / "data"
        data.write_bytes(os.urandom(3 << 20))
        daemon.virsh("vol-create-as", "images", "raw.img", "3M", "--format", "raw")
        daemon.virsh("vol-upload", "raw.img", data, "--pool", "images")
        back = folder / "back"
        daemon.virsh("vol-download", "raw.img", back, "--pool", "images")
        expect_equal("what came back is what went up", back.read_bytes() == data.read_bytes(), True)
        contains(daemon.virsh("vol-info", "nothing", "--pool", "images", status=1), "no storage vol with matching")
        contains(daemon.virsh("pool-list", uri=daemon.uri_read_only), "images")
        contains(daemon.virsh("nodedev-list"), "computer")
        # Our own domains are beside that on the same connection.
        connection = connect(daemon)
        define(daemon, folder, "vm")
        expect_equal("both", (connection.listAllStoragePools()[0].name(), connection.listAllDomains()[0].name()), ("images", "vm"))
        connection.close()


NETWORK = """<network><name>test</name><bridge name='virbr-t'/>
<ip address='10.78.0.1' netmask='255.255.255.0'><dhcp><range start='10.78.0.10' end='10.78.0.20'/></dhcp></ip></network>"""


def networks(_daemon, folder):
    with beside_libvirtd(folder, "networks") as daemon:
        path = folder / "network.xml"
        path.write_text(NETWORK)
        devices = "<console type='pty'/><interface type='network'><source network='test'/></interface>"
        define(daemon, folder, "vm", devices=devices)
        contains(daemon.virsh("start", "vm", status=1), "no network with matching name 'test'")
        daemon.virsh("net-define", path)
        contains(daemon.virsh("net-list", "--all"), "test", "inactive")
        daemon.virsh("net-start", "test")
        daemon.virsh("start", "vm")
        contains(daemon.virsh("domiflist", "vm"), "network", "test", "virtio")
        with shell(daemon, "driver-libvirts-network") as guest:
            guest.check("ip link set eth0 up && udhcpc -n -q -t 10 -i eth0 -s /bin/true", 90, "10.78.0.1")
            guest.check("ip addr add 10.78.0.9/24 dev eth0 && ping -c 2 10.78.0.1", 60, " 0% packet loss")
        contains(daemon.virsh("net-dhcp-leases", "test"), "MAC address")
        daemon.virsh("destroy", "vm")


def nobody(daemon, folder):
    """Without libvirt's daemons their procedures are unknown, and what needs them says so."""
    daemon.kill()
    daemon.arguments = ["--libvirt-dir", folder]
    # libvirt's socket may be a link to ours.
    (folder / "libvirt-sock").symlink_to(daemon.socket)
    daemon.start()
    contains(daemon.virsh("net-list", status=1), "not supported")
    contains(daemon.virsh("list", "--all", uri=f"ft:///system?socket={folder}/libvirt-sock"), "Name")
    define(daemon, folder, "vm", devices="<interface type='network'><source network='default'/></interface>")
    contains(daemon.virsh("start", "vm", status=1), "network daemon is not there")


def tool(daemon, *words):
    """One of virtinst's programs, which must succeed."""
    result = subprocess.run([words[0], "--connect", daemon.uri, *map(str, words[1:])], capture_output=True, text=True, check=False, timeout=120)
    expect_equal(f"{words[0]} said {(result.stdout + result.stderr).strip()}; status", result.returncode, 0)


def virtinst(_daemon, folder):
    """virt-install imports a disk, virt-xml changes the domain, virt-clone copies both."""
    need_root_and("virt-install", "virt-xml", "virt-clone")
    with beside_libvirtd(folder, "virtinst") as daemon:
        pool = folder / "pool"
        pool.mkdir()
        image = pool / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
        boot = f"kernel={ASSETS / 'vmlinuz'},initrd={ASSETS / 'busybox.cpio'},kernel_args=console=ttyS0 quiet"
        tool(
            daemon, "virt-install", "--name", "vm", "--memory", "256", "--vcpus", "2", "--import", "--osinfo", "require=off",
            "--disk", f"{image},bus=virtio", "--network", "none", "--graphics", "none", "--noautoconsole", "--boot", boot,
        )  # fmt: skip
        contains(daemon.virsh("dominfo", "vm"), "running", "Persistent:     yes")
        contains(daemon.virsh("dumpxml", "vm"), "type='qcow2'", str(image))
        with shell(daemon, "driver-virtinst") as guest:
            guest.check("cat /sys/block/vda/size", 30, "131072")
        daemon.virsh("destroy", "vm")
        tool(daemon, "virt-xml", "vm", "--edit", "--memory", "512")
        contains(daemon.virsh("dominfo", "vm"), "524288 KiB")
        tool(daemon, "virt-xml", "vm", "--add-device", "--network", "user,model=virtio")
        contains(daemon.virsh("domiflist", "vm"), "user")
        tool(daemon, "virt-clone", "--original", "vm", "--name", "copy", "--file", pool / "copy.qcow2")
        contains(daemon.virsh("domblklist", "copy"), str(pool / "copy.qcow2"))
        # passt would look for a way out of the namespace.
        tool(daemon, "virt-xml", "copy", "--remove-device", "--network", "1")
        contains(daemon.virsh("start", "copy"), "started")


CASES = {
    "virtinst": virtinst,
    "storage of libvirt": storage,
    "networks of libvirt": networks,
    "nobody to ask": nobody,
}
