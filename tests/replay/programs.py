"""What is recorded: machines with something that happens to them while they run."""

import random
import re
import subprocess

import login
from console import SCALE
from recorded import HostLoad
from recording import recorded
from report import expect_equal
from vm import ASSETS, LOGS, Machine
from world import TAP_GUEST, TAP_HOST

UP = "virtft: userland up"


def busybox(name, vcpus=1, options=()):
    """Boot and the guest programs' self-tests: instructions, floating point, debugging, memory, signals."""
    machine = Machine(append="console=ttyS0 virtft.cmd=info,selftest,poweroff", vcpus=vcpus)
    with recorded(machine, name, options) as (vm, recording):
        expect_equal("exit status", vm.wait(300), 0)
        vm.console.finish()
    expect_equal("the self-test", "virtft: selftest ok" in vm.console.text(), True)
    return recording


def shell(name, vcpus=4, options=(), seed=1):
    """Typing in a shell, nonsense too, a guest reset, typing again, the power button."""
    choose = random.Random(seed)
    with recorded(Machine(append="console=ttyS0 quiet", vcpus=vcpus), name, options) as (vm, recording):
        vm.console.expect("virtft: shell", 120)
        vm.console.prepare_shell()
        vm.console.check("for i in 1 2 3 4; do (seq 1 2000 | md5sum) & done; wait", 60)
        # Bytes that a terminal does not interpret, in bursts that overrun the UART's FIFO.
        for _ in range(30):
            vm.console.send("".join(chr(choose.randrange(33, 127)) for _ in range(choose.randrange(1, 60))))
        vm.console.send("\x15\x03\n")
        vm.console.check("true", 30)
        vm.console.send("reboot -f\n")
        vm.console.expect("virtft: shell", 120)
        vm.console.prepare_shell()
        vm.console.check("cat /proc/interrupts >/dev/null; dd if=/dev/hwrng bs=64 count=8 2>/dev/null | md5sum", 60)
        vm.terminate()
        expect_equal("exit status", vm.wait(60), 0)
        vm.console.finish()
    return recording


def hostile(name, vcpus=2, options=(), seed=1):
    """A guest that writes junk to ports, device memory and queues; how it ends is its own affair."""
    machine = Machine(append=f"console=ttyS0 quiet virtft.cmd=hostile:{seed},poweroff", vcpus=vcpus)
    with recorded(machine, name, options) as (vm, recording):
        vm.wait(300)
        vm.console.finish()
    return recording


def idle_for_an_hour(name, options=()):
    """An hour of a guest that sleeps, under the virtual clock."""
    machine = Machine(append="console=ttyS0 quiet", extra=["--clock", "virtual"])
    script = LOGS / f"{name}.script"
    script.write_text('expect "/ # "\nsend "sleep 3600; poweroff -f\\n"\n', encoding="ascii")
    machine.extra += ["--inputs", str(script)]
    with recorded(machine, name, options) as (vm, recording):
        expect_equal("exit status", vm.wait(300), 0)
        vm.console.finish()
    return recording


# Work inside Debian: name, shell command, what it must print.
WORK = {
    "compile": ("gcc -O2 -o compiled tests/compiled.c -lm && ./compiled", "primes 78498"),
    "sqlite": ("rm -f check.db; sqlite3 check.db <tests/sql_check.sql", "join"),
    "fsync": ("python3 tests/fsync_check.py durable", ""),
    "python": ("python3 tests/py_check.py", "checks ok"),
    "compress": (
        "head -c 50000000 /dev/zero | openssl enc -chacha20 -K 00 -iv 00 2>/dev/null >big; sha256sum <big; gzip -1 <big | gzip -d | cmp - big && echo equal",
        "equal",
    ),
    "debugger": (
        "gdb -batch -nx -ex 'break main' -ex run -ex 'stepi 300' -ex 'info registers rip' ./compiled 2>&1 | tail -2",
        "rip",
    ),
    "idle": ("sleep 5", ""),
}


def debian(name, world, work=tuple(WORK), traffic=True, options=(), load=False, vcpus=1):
    """From the login prompt: work, and traffic over a tap at full speed; records under load if asked for."""
    machine = login.login(vcpus).machine(name, world.nets())
    with recorded(machine, name, options, world.prefix) as (vm, recording):
        login.enter(vm.console)
        vm.console.check("mkdir -p tests && tar x -f /dev/vdb -C tests", 60)
        with HostLoad() if load else _nothing():
            for item in work:
                command, wanted = WORK[item]
                vm.console.check(command, 600, wanted)
            if traffic:
                _traffic(vm.console, world)
        vm.console.send("systemctl poweroff\n")
        expect_equal("exit status", vm.wait(240), 0)
        vm.console.finish()
    return recording


def _traffic(console, world):
    """An ssh session with typing, iperf3 each way, a ping flood."""
    unit = f"[Match]\\nMACAddress={world.nets()[0].mac}\\n[Network]\\nAddress={TAP_GUEST}/24\\n"
    console.check(f"mkdir -p /run/systemd/network && printf '{unit}' >/run/systemd/network/10-tap.network", 20)
    console.check("networkctl reload", 60)
    console.check(f"for i in $(seq 60); do ip -4 addr | grep -q {TAP_GUEST} && break; sleep 0.5; done", 60)
    console.check(f"ping -c 2 -W 10 {TAP_HOST}", 60, "2 received")
    typed = "".join(f"echo line {number} | md5sum\n" for number in range(40)) + "exit\n"
    key = world.private_copy(ASSETS / "ssh-key")
    ssh = ["ssh", "-tt", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    session = subprocess.run(
        [*world.prefix, *ssh, "-o", "LogLevel=ERROR", f"root@{TAP_GUEST}"],
        input=typed, capture_output=True, text=True, check=False, timeout=180 * SCALE,
    )  # fmt: skip
    expect_equal("sums that the ssh session printed", len(re.findall(r"(?m)^[0-9a-f]{32} ", session.stdout)), 40)
    console.check("iperf3 --server --daemon --one-off; sleep 0.2", 30)
    world.run(["iperf3", "--client", TAP_GUEST, "--time", "2"], timeout=120 * SCALE)
    console.check("iperf3 --server --daemon --one-off; sleep 0.2", 30)
    world.run(["iperf3", "--client", TAP_GUEST, "--time", "2", "--reverse"], timeout=120 * SCALE)
    world.run(["ping", "-f", "-q", "-c", "2000", "-w", "30", TAP_GUEST], timeout=120 * SCALE)


class _nothing:
    """A context that does nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass
