"""A scene as a tar: the same bytes for the same files, each checked while it is packed.

Runs in whichever thread calls it. Knows nothing of sockets or of where scenes are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from clusterray.core.errors import LocalFault, SceneFault
from clusterray.wire.manifest import CHUNK, OnBytes, open_source, path_of, tell, unreadable
from clusterray.wire.protocol import Entry

BLOCK: Final = tarfile.BLOCKSIZE
END_OF_TAR: Final = bytes(2 * BLOCK)
_PLAIN_NAME, _PLAIN_SIZE = 100, 1 << 33
"""A shorter name in ASCII and a smaller file have a header of one block."""


class TarWriter:
    """Writes one plain tar, file by file, each checked against its entry; one thread owns it.

    A context manager: leaving it through an error removes the file. The bytes depend on nothing
    but the entries and their content.
    """

    def __init__(self, target: Path) -> None:
        """Make ``target``; raises LocalFault if it exists or cannot be made."""
        self._target = target
        self._digest = hashlib.sha256()
        self._size = 0
        try:
            self._file = target.open("xb")
        except OSError as error:
            raise self._unwritable(error) from None

    def __enter__(self) -> TarWriter:
        """Give the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file; remove it if an error came through."""
        # On a full disk closing fails again, over what was still buffered.
        with contextlib.suppress(OSError):
            self._file.close()
        if kind is not None:
            with contextlib.suppress(OSError):
                self._target.unlink()

    def add(self, entry: Entry, source: BinaryIO, on_bytes: OnBytes | None = None) -> None:
        """Append ``entry`` with the next ``entry.size`` bytes of ``source``.

        Raises SceneFault if their number or hash is not the entry's, LocalFault on a full disk.
        """
        self._write(_header(entry))
        digest, left = hashlib.sha256(), entry.size
        while left:
            data = _read_source(source, min(CHUNK, left), entry.path)
            if not data:
                raise _changed(entry)
            left -= len(data)
            digest.update(data)
            self._write(data)
            tell(on_bytes, len(data))
        if digest.hexdigest() != entry.sha256:
            raise _changed(entry)
        self._write(bytes(-entry.size % BLOCK))

    def finish(self) -> tuple[int, str]:
        """Write the end marker and give the archive's size in bytes and hex SHA-256."""
        self._write(END_OF_TAR)
        try:
            self._file.close()
        except OSError as error:
            raise self._unwritable(error) from None
        return self._size, self._digest.hexdigest()

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._unwritable(error) from None
        self._digest.update(data)
        self._size += len(data)

    def _unwritable(self, error: OSError) -> LocalFault:
        return LocalFault(f"cannot write {self._target}: {error.strerror}")


def _header(entry: Entry) -> bytes:
    info = tarfile.TarInfo(entry.path)
    info.size, info.mode = entry.size, entry.mode
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def tar_layout(entries: Sequence[Entry]) -> tuple[list[tuple[int, int]], int]:
    """Give where in the tar of these entries, sorted by path, each member begins and ends.

    Half-open, in bytes, header and padding included; and the size of the whole tar.
    """
    places = []
    at = 0
    for entry in entries:
        plain = len(entry.path) <= _PLAIN_NAME and entry.size < _PLAIN_SIZE and entry.path.isascii()
        header = BLOCK if plain else len(_header(entry))
        end = at + header + entry.size + -entry.size % BLOCK
        places.append((at, end))
        at = end
    return places, at + len(END_OF_TAR)


def _read_source(source: BinaryIO, count: int, name: str) -> bytes:
    try:
        return source.read(count)
    except OSError as error:
        raise unreadable(name, error) from None


def _changed(entry: Entry) -> SceneFault:
    return SceneFault("changed while it was packed; submit again once it is whole", file=entry.path)


def write_tar(
    root: Path,
    entries: Sequence[Entry],
    target: Path,
    on_bytes: OnBytes | None = None,
    *,
    elsewhere: Mapping[str, Path] | None = None,
) -> tuple[int, str]:
    """Pack the files of ``entries`` below ``root``, or ``elsewhere``, into the new file ``target``.

    Gives the archive's size in bytes and hex SHA-256. Raises SceneFault naming a file that changed
    since its entry was made, LocalFault if ``target`` cannot be written; it is then removed.
    """
    with TarWriter(target) as tar:
        for entry in sorted(entries, key=path_of):
            with open_source(root, entry.path, elsewhere) as file:
                tar.add(entry, file, on_bytes)
                if _read_source(file, 1, entry.path):
                    raise _changed(entry)
        return tar.finish()
