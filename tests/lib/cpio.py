"""Writes an initramfs (cpio, "newc") from a list of entries, the same bytes for the same input.

    python3 tests/lib/cpio.py LIST OUT

LIST has the lines of the kernel's usr/gen_init_cpio, without owners (all is root's):

    dir PATH MODE
    file PATH SOURCE MODE
    slink PATH TARGET
    nod PATH MODE TYPE MAJOR MINOR

Owners, times and inode numbers do not depend on the machine that builds, and no root is needed.
"""

import stat
import sys

HEADER_FIELDS = 13
TRAILER = "TRAILER!!!"


def entry(inode, path, mode, data=b"", device=(0, 0)):
    """One archive member: header, name and content, each padded to four bytes."""
    name = path.lstrip("/").encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, device[0], device[1], len(name), 0)
    assert len(fields) == HEADER_FIELDS
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return pad(head) + pad(data)


def pad(data):
    return data + b"\0" * (-len(data) % 4)


def parse(line):
    """The member that one line of the list describes, as arguments for entry()."""
    words = line.split()
    kind, path = words[0], words[1]
    if kind == "dir":
        return path, stat.S_IFDIR | int(words[2], 8), b"", (0, 0)
    if kind == "file":
        with open(words[2], "rb") as source:
            return path, stat.S_IFREG | int(words[3], 8), source.read(), (0, 0)
    if kind == "slink":
        return path, stat.S_IFLNK | 0o777, words[2].encode(), (0, 0)
    if kind == "nod":
        node = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}[words[3]]
        return path, node | int(words[2], 8), b"", (int(words[4]), int(words[5]))
    raise ValueError(f"unknown entry: {line}")


def build(lines):
    """The whole archive for the lines of a list."""
    members = [parse(line) for line in lines if line.strip() and not line.startswith("#")]
    archive = [entry(number, *member) for number, member in enumerate(members, start=1)]
    archive.append(entry(0, TRAILER, 0))
    data = b"".join(archive)
    return data + b"\0" * (-len(data) % 512)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: cpio.py LIST OUT")
    with open(sys.argv[1], encoding="utf-8") as listing:
        data = build(listing.read().splitlines())
    with open(sys.argv[2], "wb") as out:
        out.write(data)


if __name__ == "__main__":
    main()
