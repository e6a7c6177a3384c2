"""Machines that are short of something: small disks, little memory, no leave to write."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_CGROUPS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "tasks"),
    (Path("/sys/fs/cgroup"), "memory.max", "cgroup.procs"),
)
"""The hierarchy of version 1, and the one of version 2."""


class SmallDisk:
    """A file system of its own, mounted at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, leave_bytes: int = 0) -> Path:
        """Take all room but ``leave_bytes``; give the file that takes it.

        Somebody else may take some of it meanwhile.
        """
        hog = self.path / "hog"
        with hog.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while (room := self._room() - leave_bytes) > 0:
                file.write(bytes(min(room, 65_536)))
        return hog

    def _room(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    @contextlib.contextmanager
    def read_only(self, folder: Path) -> Iterator[None]:
        """Let nothing be written in ``folder``, as where a kernel has found a disk broken."""
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
            yield
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a file system of ``size``; skips the test where that is not permitted."""
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "clusterray-test", str(path)]
    if os.geteuid() != 0 or subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("a file system of its own needs root, and leave to mount")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@contextlib.contextmanager
def little_memory(limit_bytes: int) -> Iterator[str]:
    """Give shell words that put a process under a limit of memory; skips where there is none."""
    for root, limit, members in _CGROUPS:
        group = root / f"clusterray-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            try:
                (group / limit).write_text(str(limit_bytes))
            except OSError:
                continue
            yield f'echo $$ > "{group / members}"'
            return
        finally:
            group.rmdir()
    pytest.skip("a limit on memory needs root, and the kernel's memory cgroup")


def without_roots_privilege() -> list[str]:
    """Give what to put before a command so that permissions hold for it, root or not."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("taking root's privilege away needs setpriv")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
