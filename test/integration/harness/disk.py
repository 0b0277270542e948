"""A small disk of one's own, which others fill and free."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.processes import Child
from harness.wait import wait_until


_FILLER = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
block = bytes(1 << 20)
while True:
    try:
        os.write(fd, block)
    except OSError:
        time.sleep(0.005)
"""


class SmallDisk:
    """A tmpfs. Mounting it takes root."""

    def __init__(self, directory: Path, size: int, *, read_only: bool = False) -> None:
        """size: bytes."""
        directory.mkdir()
        self.directory = directory
        self.size = size
        self._filler: Child | None = None
        self._output = directory.parent / f"{directory.name}.out"
        options = f"size={size},mode=0755{',ro' if read_only else ''}"
        self._run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory))

    def _run(self, *argv: str) -> None:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (
            f"{' '.join(argv)}: {done.stderr.strip()}; this test mounts a small disk: run it as root"
        )

    def remount(self, option: str) -> None:
        """ro, rw or another size."""
        self._run("mount", "-o", f"remount,{option}", str(self.directory))

    @property
    def free(self) -> int:
        """Bytes."""
        stat = os.statvfs(self.directory)
        return stat.f_bavail * stat.f_frsize

    def fill(self) -> None:
        """Another process takes all the space, and what becomes free later, until release()."""
        assert self._filler is None
        self._filler = Child("filler", [sys.executable, "-I", "-S", "-c", _FILLER, str(self._file)], self._output)
        wait_until(lambda: self.free == 0, 10, "the disk is full", interval=0.002)

    def release(self) -> None:
        """Its space is free when this returns."""
        assert self._filler is not None
        self._filler.kill()
        self._filler = None
        self._file.unlink()

    @property
    def _file(self) -> Path:
        return self.directory / "filler"

    def close(self) -> None:
        if self._filler is not None:
            self._filler.kill()
            self._filler = None
        # Lazily: a process that is being killed may still have a file open.
        self._run("umount", "--lazy", str(self.directory))
