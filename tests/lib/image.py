"""Disk images from the host's side: overlays, checking the file system inside, reading files out of it.

Nothing is mounted and no root is needed: e2fsprogs reads the partition at its offset.
"""

import subprocess
import tarfile
from pathlib import Path

PARTITION_OFFSET = 1 << 20
SECTOR = 512


def run(*command):
    """Runs a host command; returns its output, raises RuntimeError with it when it fails."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=300)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {result.stdout}{result.stderr}")
    return result.stdout


def overlay(base, path):
    """A new qcow2 at `path` over `base`, which stays as it is."""
    path.unlink(missing_ok=True)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base.resolve(), path)
    return path


def folder_disk(folder, path):
    """A raw disk that is a tar archive of the folder's files: `tar x -f /dev/vdb` in the guest."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for entry in sorted(Path(folder).iterdir()):
            archive.add(entry, arcname=entry.name)
    with open(path, "ab") as disk:
        disk.write(b"\0" * (-disk.tell() % SECTOR))
    return path


class FileSystem:
    """The ext4 file system of an image's first partition, read-only, from a raw copy beside it."""

    def __init__(self, image):
        run("qemu-img", "check", "-q", image)
        self._raw = Path(f"{image}.raw")
        run("qemu-img", "convert", "-O", "raw", image, self._raw)
        self._device = f"{self._raw}?offset={PARTITION_OFFSET}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._raw.unlink()

    def check(self):
        """A full e2fsck without changes; raises when it finds anything."""
        run("/sbin/e2fsck", "-fn", self._device)

    def read(self, path):
        """The bytes of one file."""
        command = ["/sbin/debugfs", "-R", f"cat {path}", self._device]
        result = subprocess.run(command, capture_output=True, check=False, timeout=60)
        errors = result.stderr.decode(errors="replace").splitlines()[1:]
        if errors:
            raise RuntimeError(f"{path}: {errors[0]}")
        return result.stdout
