"""The workloads that a Debian guest must get right, and the host-side look at its disk afterwards."""

import hashlib
import re

from image import FileSystem
from report import expect_equal

SUMS = {
    "sha256sum": "5af7b95208fdcff454bab3f5eddf567a688a3796c703d4fef91072e38645c062",
    "openssl dgst -sha3-256 -r": "130b9a214402b48914590ac4553de92f569fc192bdcd466aaa80770997dc068e",
    "openssl dgst -sha512 -r": "b5fd978b41dd6da3ce93ced1d2805ffd0f7e238fc75d06397972a475697adc24"
    "ef919f56e1101c99a1e3dcefffa6816a90cb724b7f8f46ecf4f75116ef2ca7e3",
    "openssl enc -aes-256-cbc -K $KEY -iv $IV | sha256sum": (
        "f353f1ea410234f1bdcd406658f9d9db4397544dd28dfc3018304b8e6773e78b"
    ),
    "openssl enc -chacha20 -K $KEY -iv $IV | sha256sum": (
        "2b3307c0690836672e24dc34ef3be891fd185dc298ea6e90be397c389316becb"
    ),
}
SQL = ["wal", "rows|20000|19998377", "owner|699|1000", "join|4887|232075", "groups|109", "0|0|0", "ok"]
COMPILED = ["primes 78498", "median 2135620263", "ackermann 603", "pi 3.1415926536", "pow 19.647397338796"]
SIGNATURE = "58a2c132112cdbd6c891bdb2c8cfad728d950cbdfe9f7d113963786d39dbeebb"
FSYNC_LIST = "944c309f81c7f434ca21f389eea2af2b4ba392dd4999bf5cc59161ab8cb09608"


def digests(console):
    """sha256sum and openssl: hashes and ciphers of a known text, a deterministic signature."""
    console.check("KEY=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", 10)
    console.check("IV=000102030405060708090a0b0c0d0e0f", 10)
    for command, want in SUMS.items():
        console.check(f"seq 1 200000 | {command}", 60, f"(?m)^{want} ")
    console.check("seq 1 20000 >/tmp/signed", 10)
    console.check(
        "openssl pkeyutl -sign -rawin -inkey /root/tests/ed25519.pem -in /tmp/signed | sha256sum", 60, SIGNATURE
    )


def python(console):
    """A Python program with known answers."""
    console.check("python3 /root/tests/py_check.py", 240, r"python: \d+ checks ok")


def sqlite(console):
    """Tables, an index, transactions and a rollback."""
    output = console.check("rm -f /root/check.db; sqlite3 /root/check.db </root/tests/sql_check.sql", 240)
    expect_equal("sqlite3's answers", output.splitlines(), SQL)


def compiler(console):
    """Compiling and running a C program."""
    console.check("gcc -O2 -o /root/compiled /root/tests/compiled.c -lm", 240)
    expect_equal("the program's answers", console.check("/root/compiled", 120).splitlines(), COMPILED)


def package(console):
    """apt-get install from the archive inside the guest."""
    console.check("apt-get -q update", 240)
    console.check("apt-get -q -y install hello", 300)
    console.check("hello", 20, "Hello, world!")
    console.check("dpkg --audit && dpkg -s hello", 60, "Status: install ok installed")


def static_i386(console):
    """A static 32-bit program."""
    console.check("hello32", 30, "32-bit code ok")


def selftest(console):
    """Instructions, floating point, debugging, memory, time: known answers of a real processor."""
    console.check("virtft-guest selftest", 300, "selftest total: \\d+ passed, 0 failed")


def durable_writes(console):
    """Writes with fsync after each."""
    console.check("python3 /root/tests/fsync_check.py /root/durable", 300, FSYNC_LIST)


def power_off(console, vm):
    """A clean power-off ends the process with 0."""
    console.send("systemctl poweroff\n")
    expect_equal("exit status", vm.wait(180), 0)


CASES = {
    "digests and signatures": digests,
    "python3": python,
    "sqlite3": sqlite,
    "C compiler": compiler,
    "apt-get install": package,
    "static i386 program": static_i386,
    "durable writes": durable_writes,
}


def run(report, console, launcher):
    """Runs every workload in a logged-in shell."""
    console.check("mkdir -p /root/tests && tar x -f /dev/vdb -C /root/tests", 30)
    for name, case in CASES.items():
        report.case(name, case, console)
    # QEMU's TCG does not give a real processor's floating-point flags, so it is not asked.
    if not launcher.name.startswith("qemu"):
        report.case("processor self-checks", selftest, console)


def host_side(image):
    """After the power-off: the file system is clean, and holds what the guest said it wrote."""
    with FileSystem(image) as files:
        files.check()
        sums = files.read("/root/durable/sums")
        expect_equal("list of durable files", hashlib.sha256(sums).hexdigest(), FSYNC_LIST)
        for line in sums.decode().splitlines():
            want, name = line.split()
            got = hashlib.sha256(files.read(f"/root/durable/{name}")).hexdigest()
            expect_equal(f"content of {name}", got, want)
        expect_equal("database header", files.read("/root/check.db")[:16], b"SQLite format 3\0")
        status = files.read("/var/lib/dpkg/status").decode()
        expect_equal("hello in dpkg's status", bool(re.search(r"(?m)^Package: hello$", status)), True)
        expect_equal("installed program", files.read("/usr/bin/hello")[:4], b"\x7fELF")
