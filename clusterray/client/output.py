"""Where the finished picture goes: the rules of ``-o``, and a file that is whole or not there.

Caller's thread; touches only the folder of the picture. Knows nothing of heads or networks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clusterray.client.text import plain
from clusterray.core.errors import LocalFault, UsageFault

_PROBE_BYTES = 4096
_PARTIAL = ".partial"
_OTHER_NAMES = {"jpeg": "jpg", "pgm": "ppm"}
"""Extensions that mean a format whose pictures we name otherwise."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A picture's place; ``shown`` is the path as the person would write it."""

    path: Path
    shown: str

    def partial(self) -> OutputFile:
        """Give the place beside this one for a picture that has holes: ``<stem>.partial.<ext>``."""
        # By the name that was given: where that is a link, the partial picture lies beside it.
        return _place(_partial_name(Path(self.shown)))

    def check_writable(self) -> None:
        """Find out now whether the picture could be written; leaves nothing behind.

        Raises LocalFault naming the path and the reason.
        """
        folder = self.path.parent
        if not folder.is_dir():
            raise LocalFault(f"cannot write {self.shown}: {folder} is no folder")
        if self.path.exists() and not self.path.is_file():
            raise LocalFault(f"cannot write {self.shown}: it is there and is no regular file")
        if self.path.exists() and not os.access(self.path, os.W_OK):
            raise LocalFault(f"cannot write {self.shown}: it is there and is write-protected")
        with self.replacing() as temporary:
            # A disk without a free block lets files be made, but not filled.
            temporary.write_bytes(b"\0" * _PROBE_BYTES)
            _sync(temporary)

    @contextlib.contextmanager
    def replacing(self) -> Iterator[Path]:
        """Give an unused name beside the picture's place; a file there is deleted in the end.

        Raises LocalFault naming the picture's place where its writing failed.
        """
        temporary = self.path.with_name(f".clusterray-{uuid.uuid4().hex[:12]}.part")
        try:
            yield temporary
        except OSError as error:
            raise self._fault(error.strerror or str(error)) from None
        except LocalFault as fault:
            raise self._fault(fault.message.rpartition(": ")[2]) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def write_by(self, fill: Callable[[Path], object]) -> None:
        """Let ``fill`` write a temporary file, then put it in place by rename, safe on the disk."""
        with self.replacing() as temporary:
            fill(temporary)
            _sync(temporary)
            temporary.rename(self.path)
            _sync(self.path.parent)

    def _fault(self, reason: str) -> LocalFault:
        return LocalFault(f"cannot write {self.shown}: {reason}")


def output_file(out: str | None, name: str, extension: str) -> OutputFile:
    """Settle where the picture goes.

    ``out`` is the person's ``-o``, a file or a folder; ``name`` the picture's own name, used in a
    folder; ``extension`` (without dot) is that of its format. Raises UsageFault where the name the
    person gave belongs to another format.
    """
    own_name = safe_name(name, extension)
    if out is None:
        return _place(Path(own_name))
    if not out or "\0" in out:
        raise UsageFault("-o needs the name of a file or of a folder")
    if out == "-":
        raise UsageFault("-o - : stdout carries the picture's path, not the picture; name a file")
    path = Path(out)
    if path.is_dir() or out.endswith("/"):
        return _place(path / own_name)
    suffix = path.suffix.lower().lstrip(".")
    if suffix and _OTHER_NAMES.get(suffix, suffix) != _OTHER_NAMES.get(extension, extension):
        raise UsageFault(
            f"-o {plain(out)}: the picture is a .{extension}, not a .{suffix}; "
            f"name it {plain(path.stem)}.{extension}"
        )
    return _place(path)


def wished_extension(out: str | None) -> str | None:
    """Give the extension of the file that ``-o`` names, lower case; None for a folder or none."""
    if out is None or out.endswith("/") or Path(out).is_dir():
        return None
    return Path(out).suffix.lower().lstrip(".") or None


def safe_name(name: str, extension: str) -> str:
    """Turn a picture's name from elsewhere into a plain file name, never hidden, without folder."""
    base = plain(name.replace("\\", "/").rsplit("/", 1)[-1]).lstrip(".")
    return base or f"picture.{extension}"


def _partial_name(path: Path) -> Path:
    if path.stem.endswith(_PARTIAL):
        return path
    return path.with_name(f"{path.stem}{_PARTIAL}{path.suffix}")


def _place(path: Path) -> OutputFile:
    # A link stays a link: the picture goes where it points to.
    return OutputFile(Path(os.path.realpath(path)), str(path))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a folder; the rename itself has happened.
        if error.errno not in {errno.EINVAL, errno.EBADF, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)
