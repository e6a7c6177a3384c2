"""The names that the files of a scene may have, and how much a tar of them may hold.

Pure. The writer checks its own names by the same rules that the reader holds a stranger's to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clusterray.core.errors import SceneFault


class ArchiveFault(SceneFault):
    """A tar that no submitter of ours makes, or one over the limits; it names the member."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much a tar may hold.

    ``max_bytes`` of content, ``max_files`` files and as many folders, names of ``max_name`` bytes
    that lie ``max_depth`` folders deep.
    """

    max_bytes: int
    max_files: int
    max_depth: int = 64
    max_name: int = 1024


def _name_fault(name: str, limits: ArchiveLimits) -> str | None:
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    parts = name.split("/")
    if not name:
        return "is empty"
    if "\0" in name:
        return "holds a zero byte"
    if name.startswith("/"):
        return "is absolute"
    if ".." in parts:
        return "leaves the folder"
    if "" in parts or "." in parts:
        return 'has an empty or "." part'
    if length > limits.max_name:
        return f"is longer than {limits.max_name} bytes"
    if any(len(part.encode()) > 255 for part in parts):
        return "has a part longer than 255 bytes"
    if len(parts) > limits.max_depth:
        return f"is more than {limits.max_depth} folders deep"
    return None


class Names:
    """The names seen so far; refuses what could not stand beside them on a disk."""

    def __init__(self, limits: ArchiveLimits) -> None:
        self._limits = limits
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add_file(self, name: str) -> None:
        """Take in the name of a file; raises ArchiveFault."""
        self._check(name)
        if name in self._files or name in self._folders:
            raise ArchiveFault(f"{name!r} is in the archive twice")
        self._add_parents(name)
        self._files.add(name)
        self._count(name)

    def add_folder(self, name: str) -> None:
        """Take in the name of a folder, which may come again; raises ArchiveFault."""
        self._check(name)
        if name in self._files:
            raise ArchiveFault(f"{name!r} is both a file and a folder")
        self._add_parents(name)
        self._folders.add(name)
        self._count(name)

    def _check(self, name: str) -> None:
        fault = _name_fault(name, self._limits)
        if fault is not None:
            raise ArchiveFault(f"the name {name!r} {fault}")

    def _add_parents(self, name: str) -> None:
        folder = name
        while "/" in folder:
            folder = folder.rpartition("/")[0]
            if folder in self._folders:
                return
            if folder in self._files:
                raise ArchiveFault(f"{folder!r} is both a file and a folder")
            self._folders.add(folder)

    def _count(self, name: str) -> None:
        # Folders a name implies count on their own, or 64 of them would ride free on each file.
        if max(len(self._files), len(self._folders)) > self._limits.max_files:
            raise ArchiveFault(f"more than {self._limits.max_files} files, from {name!r} on")


WRITER_LIMITS: Final = ArchiveLimits(max_bytes=1 << 62, max_files=1 << 40)
