"""The files behind FTP transfers: what a session opens, and an upload that is whole or gone.

On the thread ``ftp``. Knows no commands and no connections.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from pyftpdlib.filesystems import AbstractedFS, FilesystemError

from clusterray.head.grants import FileGrant

_RANGE = re.compile(r"([0-9]{1,15})-([0-9]{1,15})", re.ASCII)


class OneFile(AbstractedFS):  # type: ignore[misc]  # pyftpdlib has no types
    """The file system of a session: the files of its grant."""

    def open(self, filename: str, mode: str) -> Upload | Slices | BinaryIO:
        grant: FileGrant | None = self.cmd_channel.grant
        real = Path(filename)
        if grant is None or real not in (grant.real, *(beside for _, beside in grant.beside)):
            raise FilesystemError("Not your file")
        if mode == "wb":
            try:
                return Upload(grant)
            except OSError as error:
                self.cmd_channel.room.unwritable(grant, error)
                raise
        file = _open_to_read(real)
        ranges = self.cmd_channel.take_ranges()
        return Slices(file, ranges) if ranges else file


def _open_to_read(real: Path) -> BinaryIO:
    # Non-blocking: a pipe put in the file's place must not stop the loop.
    fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FilesystemError("Not a regular file")
    return os.fdopen(fd, "rb", buffering=0)


def parse_ranges(words: str) -> list[tuple[int, int]]:
    """Read half-open ranges of bytes, "0-512,2048-4096"; raises ValueError."""
    ranges = []
    for word in words.split(","):
        match = _RANGE.fullmatch(word)
        if match is None or not int(match[1]) < int(match[2]):
            raise ValueError(f"{word!r:.40} is no range of bytes")
        ranges.append((int(match[1]), int(match[2])))
    return ranges


class Slices:
    """Ranges of a file as if they were a file, one after the other; it ends at the file's end.

    Without a ``fileno``, or pyftpdlib would send the file itself.
    """

    def __init__(self, file: BinaryIO, ranges: Sequence[tuple[int, int]]) -> None:
        self.name = file.name
        self._file = file
        self._ranges = deque(ranges)

    @property
    def closed(self) -> bool:
        """Tell whether it has been closed."""
        return self._file.closed

    def read(self, count: int) -> bytes:
        """Give up to ``count`` bytes, none at the end."""
        pieces = []
        while count and self._ranges:
            start, end = self._ranges.popleft()
            piece = os.pread(self._file.fileno(), min(count, end - start), start)
            if piece and start + len(piece) < end:
                self._ranges.appendleft((start + len(piece), end))
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Upload:
    """The file of one STOR, always new; gone again on close unless ``whole`` was set.

    A new file each time, not a truncated one: when a node that was cut off stores its tile again,
    the end of its dead first session must not delete what the second one stored. Unbuffered, so
    that a full disk shows in ``write`` and never in ``close``.
    """

    def __init__(self, grant: FileGrant) -> None:
        self.name = str(grant.real)
        self.grant = grant
        self.closed = False
        self.whole = False
        self._real = grant.real
        with contextlib.suppress(FileNotFoundError):
            self._real.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._real, flags, 0o600)

    def write(self, data: bytes) -> None:
        """Write all of it; raises OSError."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        """Close, and delete what is not whole."""
        if self.closed:
            return
        self.closed = True
        try:
            if not self.whole:
                self._remove()
        finally:
            os.close(self._fd)

    def _remove(self) -> None:
        # Compared while our file is open, so its inode number cannot have been given away.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(self._real), os.fstat(self._fd)):
                self._real.unlink()
