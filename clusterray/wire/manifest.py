"""A scene as a manifest: its files hashed, its id, and the parts in which it crosses the wire.

Runs in whichever thread calls it; keeps nothing between calls. Knows nothing of sockets, of which
files a scene needs, or of where scenes are kept.

``on_bytes`` is called, wherever it is taken, with the number of bytes just done (not a total).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

import msgspec

from clusterray.core.errors import SceneFault
from clusterray.wire.protocol import MANIFEST_PART_BYTES, Entry, ProtocolError
from clusterray.wire.scene_names import WRITER_LIMITS, Names

OnBytes: TypeAlias = Callable[[int], None]

CHUNK: Final = 1 << 18
_ENTRIES_PER_PART: Final = 20_000
"""Protocol limit of entries in one ``Manifest``."""


def build_manifest(
    root: Path,
    names: Sequence[str],
    on_bytes: OnBytes | None = None,
    *,
    elsewhere: Mapping[str, Path] | None = None,
) -> list[Entry]:
    """Read and hash the files ``names`` (POSIX, relative to ``root``); sorted by path.

    ``elsewhere`` gives the place of those that are not at their name below ``root``.

    A symbolic link gives the content of its target; whether it may lead outside ``root`` is the
    caller's matter. Modes are 0o755 for what its owner may execute and 0o644 for the rest. Raises
    SceneFault naming a file that cannot be read, is not a regular file, or has an impossible name.
    """
    checked = Names(WRITER_LIMITS)
    entries = []
    for name in sorted(names):
        checked.add_file(name)
        with open_source(root, name, elsewhere) as file:
            mode = plain_mode(os.fstat(file.fileno()).st_mode)
            size, digest = _hash_file(file, name, on_bytes)
        entries.append(Entry(path=name, mode=mode, size=size, sha256=digest))
    return entries


def open_source(root: Path, name: str, elsewhere: Mapping[str, Path] | None) -> BinaryIO:
    """Open a file of the scene; raises SceneFault if it cannot be read or is no regular file."""
    path = root / name if elsewhere is None else elsewhere.get(name, root / name)
    try:
        # O_NONBLOCK: a named pipe without a writer would hold us for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise SceneFault("this is not a regular file; move it out of the scene", file=name)
    return os.fdopen(fd, "rb")


def unreadable(name: str, error: Exception) -> SceneFault:
    """Make the fault of a scene's file that cannot be read."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return SceneFault(f"this file of the scene cannot be read: {reason}", file=name)


def _hash_file(file: BinaryIO, name: str, on_bytes: OnBytes | None) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    try:
        while data := file.read(CHUNK):
            size += len(data)
            digest.update(data)
            tell(on_bytes, len(data))
    except OSError as error:
        raise unreadable(name, error) from None
    return size, digest.hexdigest()


def plain_mode(mode: int) -> int:
    """Give the one of the two modes of a scene's files that ``mode`` comes down to."""
    return 0o755 if mode & 0o100 else 0o644


def tell(on_bytes: OnBytes | None, count: int) -> None:
    """Call ``on_bytes`` if there is one."""
    if on_bytes is not None:
        on_bytes(count)


def canonical_manifest(entries: Sequence[Entry]) -> bytes:
    """Give the one spelling of a manifest: JSON rows [path, mode, size, sha256], sorted by path."""
    rows = [[e.path, e.mode, e.size, e.sha256] for e in sorted(entries, key=path_of)]
    return msgspec.json.encode(rows)


def decode_manifest(data: bytes) -> list[Entry]:
    """Read what ``canonical_manifest`` gives; raises msgspec.MsgspecError for anything else."""
    rows = msgspec.json.decode(data, type=list[tuple[str, int, int, str]])
    return [
        Entry(path=path, mode=mode, size=size, sha256=sha256) for path, mode, size, sha256 in rows
    ]


def scene_id(entries: Sequence[Entry]) -> str:
    """Give the scene's id, the hex SHA-256 of its canonical manifest."""
    return hashlib.sha256(canonical_manifest(entries)).hexdigest()


def path_of(entry: Entry) -> str:
    """Give what entries are sorted by."""
    return entry.path


def manifest_parts(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Cut a manifest into parts that each encode to less than MANIFEST_PART_BYTES; at least one."""
    part: list[Entry] = []
    filled = 0
    for entry in entries:
        size = len(msgspec.json.encode(entry)) + 1
        if part and (filled + size >= MANIFEST_PART_BYTES or len(part) == _ENTRIES_PER_PART):
            yield part
            part, filled = [], 0
        part.append(entry)
        filled += size
    yield part


def missing_ranges(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Fold indices into ascending half-open ranges."""
    ranges: list[tuple[int, int]] = []
    for index in sorted(set(indices)):
        if ranges and ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], index + 1)
        else:
            ranges.append((index, index + 1))
    return ranges


def expand_ranges(ranges: Sequence[tuple[int, int]], count: int) -> list[int]:
    """Give the indices of half-open ranges into ``count`` entries.

    Raises ProtocolError for ranges that are empty, out of order, overlap or pass ``count``.
    """
    indices: list[int] = []
    last = 0
    for start, end in ranges:
        if not last <= start < end <= count:
            raise ProtocolError(f"the range {start}..{end} does not fit {count} entries")
        indices.extend(range(start, end))
        last = end
    return indices
