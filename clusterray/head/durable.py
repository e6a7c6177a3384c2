"""What has to outlive a power cut; docs/files.md says which files, and when."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

_FEW: Final = 3
"""So many files are synced one by one: what else waits for the disk need not be waited for then."""


def sync(path: Path) -> None:
    """Have a file's bytes, or the names in a folder, on the disk; raises OSError."""
    _with_open(path, os.fsync)


def sync_all(paths: Sequence[Path]) -> None:
    """Have the bytes of files in one folder on the disk; raises OSError if one may not be.

    Of many the whole file system is synced at once, which takes the disk about as long as one.
    """
    if len(paths) > _FEW and _syncfs is not None:
        _with_open(paths[0], _sync_file_system)
        return
    for path in paths:
        sync(path)


def _with_open(path: Path, step: Callable[[int], None]) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        step(fd)
    finally:
        os.close(fd)


def _find_syncfs() -> Any:
    """Give Linux's call, which Python's library lacks; None where there is none."""
    return getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)


_syncfs: Final = _find_syncfs()


def _sync_file_system(fd: int) -> None:
    # Tells of bytes that could not be written since Linux 5.8.
    if _syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
