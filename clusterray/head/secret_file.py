"""Writes a small file that holds a secret: whole or not at all, for its owner's eyes only."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from clusterray.head.durable import sync


def write_secret(path: Path, content: bytes) -> None:
    """Put ``content`` into ``path``, mode 0600, on the disk when this returns; raises OSError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
