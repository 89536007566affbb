"""Runs in the guest: many small durable writes, as databases and mail servers make them.

    python3 fsync_check.py DIRECTORY

Leaves files whose content follows from their number, and a list of their checksums.
"""

import hashlib
import os
import sys

directory = sys.argv[1]
os.makedirs(directory, exist_ok=True)


def content(number):
    return hashlib.sha256(b"%d" % number).digest() * (1 + number % 200)


def durable_file(number):
    """Write to a temporary name, fsync, rename, fsync the directory."""
    path = f"{directory}/file-{number:03}"
    with open(path + ".new", "wb") as out:
        out.write(content(number))
        out.flush()
        os.fsync(out.fileno())
    os.rename(path + ".new", path)
    folder = os.open(directory, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def journal():
    """Appends with a sync after each, then rewrites in place through O_DSYNC."""
    path = f"{directory}/journal"
    with open(path, "wb") as out:
        for number in range(100):
            out.write(content(number)[:512])
            out.flush()
            os.fdatasync(out.fileno())
    descriptor = os.open(path, os.O_WRONLY | os.O_DSYNC)
    for number in range(0, 100, 7):
        os.pwrite(descriptor, b"%-511d\n" % number, number * 512)
    os.close(descriptor)


for number in range(60):
    durable_file(number)
journal()
names = sorted(name for name in os.listdir(directory) if name != "sums")
with open(f"{directory}/sums", "w") as sums:
    for name in names:
        with open(f"{directory}/{name}", "rb") as data:
            sums.write(f"{hashlib.sha256(data.read()).hexdigest()}  {name}\n")
    sums.flush()
    os.fsync(sums.fileno())
print(f"fsync: {len(names)} files, list {hashlib.sha256(open(f'{directory}/sums', 'rb').read()).hexdigest()}")
