"""What a farm takes of its machine: memory, threads, descriptors, processes, files by kind.

Responsible for counting, and for saying which files are too many. Any thread; reads /proc and the
farm's folders, and may be called while all of it changes.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of one process: resident bytes, threads, open descriptors."""

    rss: int
    threads: int
    descriptors: int

    @property
    def exact(self) -> tuple[int, int]:
        """What must come back to the same number: threads and descriptors."""
        return self.threads, self.descriptors


def footprint_of(pid: int) -> Footprint | None:
    """Measure a process; None if it is gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return Footprint(process.memory_info().rss, process.num_threads(), process.num_fds())
    except psutil.NoSuchProcess:
        return None


def footprints_of(pids: Mapping[str, int]) -> dict[str, Footprint]:
    """Measure those of the named processes that are there."""
    found = {name: footprint_of(pid) for name, pid in pids.items()}
    return {name: each for name, each in found.items() if each is not None}


def processes_within(folder: Path) -> list[psutil.Process]:
    """Give every process of this machine that names ``folder`` in a word, or works below it.

    This process and those that it was started by are left out.
    """
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    others = (process for process in psutil.process_iter() if process.pid not in ours)
    return [process for process in others if _is_within(process, folder)]


def povrays_below(pid: int) -> list[psutil.Process]:
    """Give the POV-Ray processes that a daemon has started, the oldest first."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if _name_of(child) == "povray"]


HEAD_KINDS: Mapping[str, str] = {
    "lock": "the head's own",
    "farm-id": "the head's own",
    "ports.json": "the head's own",
    "head.pem": "the head's own",
    "node.token": "the head's own",
    "submit.token": "the head's own",
    "admin.token": "the head's own",
    "tokens.json": "the head's own",
    "farm.db": "the store",
    "farm.db-wal": "the store",
    "farm.db-shm": "the store",
    "scenes": "scenes",
    "incoming": "uploads",
    "tiles": "tiles",
    "results": "pictures",
    "logs": "logs",
    "partials": "pictures with holes",
}
"""What lies in the state folder, by the first name of a file's path below it."""
NODE_KINDS: Mapping[str, str] = {
    "lock": "the node's own",
    "uuid": "the node's own",
    "canary.json": "the node's own",
    "canary": "canaries",
    "scenes": "cached scenes",
    "light": "cached light",
    "probes": "probes",
    "scouts": "scouts",
    "attempts": "attempts",
    "blocks": "kept blocks",
}
"""Likewise in a work folder."""


def files_by_kind(folder: Path, kinds: Mapping[str, str]) -> Counter[str]:
    """Count the files and links below a folder, and below ``attempts`` and its like the folders.

    What no kind fits is "unknown".
    """
    count: Counter[str] = Counter()
    for path in _walk(folder):
        names = path.relative_to(folder).parts
        count[kinds.get(names[0], "unknown")] += 1
    return count


def file_faults(files: Mapping[str, int], most: Mapping[str, int]) -> list[str]:
    """Say of which kind there are more files than are kept; of an unlisted kind none is."""
    return [
        f"{count} files of the kind {kind!r} are left, at most {most.get(kind, 0)} are kept"
        for kind, count in sorted(files.items())
        if count > most.get(kind, 0)
    ]


def _walk(folder: Path) -> Iterator[Path]:
    """Give what is no folder, and folders that are empty but for the first ones."""
    for path in _children(folder):
        if path.is_dir() and not path.is_symlink():
            yield from _deeper(path)
        else:
            yield path


def _deeper(folder: Path) -> Iterator[Path]:
    for path in _children(folder):
        if path.is_dir() and not path.is_symlink() and _children(path):
            yield from _deeper(path)
        else:
            yield path


def _children(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return list(folder.iterdir())
    return []


def _is_within(process: psutil.Process, folder: Path) -> bool:
    try:
        words: Iterable[str] = [*process.cmdline(), process.cwd()]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return any(str(folder) in word for word in words)


def _name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""
