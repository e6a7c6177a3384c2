"""The files behind FTP transfers: what a session opens, and an upload that is whole or gone.

On the thread ``ftp``. Knows no commands and no connections.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from pyftpdlib.filesystems import AbstractedFS, FilesystemError

from clusterray.head.grants import FileGrant


class OneFile(AbstractedFS):  # type: ignore[misc]  # pyftpdlib has no types
    """The file system of a session: the one file of its grant."""

    def open(self, filename: str, mode: str) -> Upload | BinaryIO:
        grant: FileGrant | None = self.cmd_channel.grant
        if grant is None or filename != str(grant.real):
            raise FilesystemError("Not your file")
        if mode == "wb":
            try:
                return Upload(grant)
            except OSError as error:
                self.cmd_channel.room.unwritable(grant, error)
                raise
        return _open_to_read(grant.real)


def _open_to_read(real: Path) -> BinaryIO:
    # Non-blocking: a pipe put in the file's place must not stop the loop.
    fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FilesystemError("Not a regular file")
    return os.fdopen(fd, "rb", buffering=0)


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
