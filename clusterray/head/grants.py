"""What an FTP login may do: the files of one purpose, to read or to write, and nothing else.

Pure values; the ftp thread enforces them (``ftp_server``), any thread may make them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class FileGrant:
    """A short-lived FTP login for one purpose.

    ``path`` is the only name the session can RETR (mode ``read``) or STOR (mode ``write``), a
    plain virtual name such as ``tile.png``; ``real`` is the file behind it. ``beside`` are names
    and files that it can RETR besides, of the same purpose. An upload is cut off after
    ``max_bytes`` bytes; None sets no limit and is meant for mode ``read``.
    """

    user: str
    password: str = field(repr=False)
    path: str
    real: Path
    mode: Literal["read", "write"]
    max_bytes: int | None = None
    beside: tuple[tuple[str, Path], ...] = ()

    def file_of(self, name: str) -> Path | None:
        """Give the file behind a name, with or without a slash before it; None if not granted."""
        wanted = name.removeprefix("/")
        return next(
            (real for path, real in ((self.path, self.real), *self.beside) if path == wanted), None
        )
