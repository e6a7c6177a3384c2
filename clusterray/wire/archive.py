"""The one reader that takes a stranger's tar.

It knows regular files and folders and nothing else: no link, device, sparse file or foreign
extension gets past it, no name leaves the folder, and limits stop it early. Runs in whichever
thread calls it; keeps nothing between calls. Knows nothing of sockets or of where scenes are kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from clusterray.core.errors import ClusterRayError, LocalFault
from clusterray.wire.manifest import CHUNK, OnBytes, path_of, plain_mode, tell
from clusterray.wire.protocol import Entry
from clusterray.wire.scene_names import ArchiveFault, ArchiveLimits, Names
from clusterray.wire.tar_writer import BLOCK

_PAX_BYTES: Final = 1 << 16
"""Largest extended header accepted; ours hold a name and perhaps a size."""
_FORBIDDEN: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"7": "a contiguous file",
    b"g": "a global header",
    b"K": "a GNU long link",
    b"L": "a GNU long name",
    b"S": "a sparse file",
}
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*\Z")
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ")


@dataclass(frozen=True, slots=True)
class TarMember:
    """One regular file of a tar: ``offset`` is where its ``size`` bytes begin in the archive."""

    path: str
    mode: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Header:
    """One member as its header tells it; ``offset`` is where its data begins."""

    path: str
    folder: bool
    mode: int
    offset: int
    size: int


def index_tar(source: Path, limits: ArchiveLimits) -> list[TarMember]:
    """Give the regular files of a tar in their order, without reading their content.

    Raises ArchiveFault for whatever ``unpack_tar`` would refuse, LocalFault if it cannot be read.
    """
    with _opened(source) as file:
        return [
            TarMember(header.path, header.mode, header.offset, header.size)
            for header in _headers(file, limits)
            if not header.folder
        ]


def unpack_tar(
    source: Path, target_dir: Path, limits: ArchiveLimits, on_bytes: OnBytes | None = None
) -> list[Entry]:
    """Unpack a stranger's tar into the folder ``target_dir``; gives its files, sorted by path.

    Every file is made anew below a handle of that folder, part by part, never through a link and
    never over a file that is there. Modes become 0o755 or 0o644. Raises ArchiveFault naming the
    member, or LocalFault for this machine's own trouble; what was unpacked until then stays for the
    caller to remove.
    """
    entries: list[Entry] = []
    with _opened(source) as file, _folder_handle(target_dir) as root:
        for header in _headers(file, limits):
            if header.folder:
                _make_folders(root, header.path.split("/"))
            else:
                entries.append(_unpack_file(file, root, header, on_bytes))
    return sorted(entries, key=path_of)


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    # Only the opening is guarded: an OSError out of the caller's callback is not the archive's.
    try:
        file = source.open("rb")
    except OSError as error:
        raise LocalFault(f"cannot read {source}: {error.strerror}") from None
    with file:
        yield file


def _read(file: BinaryIO, count: int) -> bytes:
    try:
        return file.read(count)
    except OSError as error:
        raise LocalFault(f"cannot read the archive: {error.strerror}") from None


@contextlib.contextmanager
def _folder_handle(folder: Path) -> Iterator[int]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder, _FOLDER_FLAGS)
    except OSError as error:
        raise LocalFault(f"cannot use the folder {folder}: {error.strerror}") from None
    try:
        yield fd
    finally:
        os.close(fd)


_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _unpack_file(file: BinaryIO, root: int, header: _Header, on_bytes: OnBytes | None) -> Entry:
    *folders, name = header.path.split("/")
    mode = plain_mode(header.mode)
    folder = _make_folders(root, folders, keep=True)
    try:
        fd = os.open(name, _FILE_FLAGS, mode, dir_fd=folder)
    except OSError as error:
        raise _cannot_make(header.path, error) from None
    finally:
        os.close(folder)
    with os.fdopen(fd, "wb", buffering=0) as target:
        os.fchmod(fd, mode)
        file.seek(header.offset)
        digest = _copy(file, target, header, on_bytes)
    return Entry(path=header.path, mode=mode, size=header.size, sha256=digest)


def _copy(file: BinaryIO, target: BinaryIO, header: _Header, on_bytes: OnBytes | None) -> str:
    digest, left = hashlib.sha256(), header.size
    while left:
        data = _read(file, min(CHUNK, left))
        if not data:
            raise ArchiveFault(f"the archive ends in the middle of {header.path!r}")
        left -= len(data)
        digest.update(data)
        try:
            _write_all(target, data)
        except OSError as error:
            raise LocalFault(f"cannot write {header.path!r}: {error.strerror}") from None
        tell(on_bytes, len(data))
    return digest.hexdigest()


def _write_all(target: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[target.write(view) :]


def _make_folders(root: int, parts: Sequence[str], *, keep: bool = False) -> int:
    """Make the folders of ``parts`` one below the other; with ``keep`` give the last's handle."""
    fd = os.dup(root)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
            below = os.open(part, _FOLDER_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = below
    except OSError as error:
        os.close(fd)
        raise _cannot_make("/".join(parts), error) from None
    if keep:
        return fd
    os.close(fd)
    return -1


def _cannot_make(path: str, error: OSError) -> ClusterRayError:
    # Something stands in the way: the archive's fault. Anything else is this machine's.
    if isinstance(error, FileExistsError | NotADirectoryError) or error.errno == errno.ELOOP:
        return ArchiveFault(f"{path!r} cannot be made: something stands in its way")
    return LocalFault(f"cannot write {path!r}: {error.strerror}")


def _headers(file: BinaryIO, limits: ArchiveLimits) -> Iterator[_Header]:
    """Give the members of a tar, every one checked; the caller may move the file's position."""
    names, bytes_left = Names(limits), limits.max_bytes
    end_of_file = file.seek(0, os.SEEK_END)
    position, extended = 0, _NOTHING_EXTENDED
    while True:
        file.seek(position)
        block = _read(file, BLOCK)
        if len(block) < BLOCK:
            raise ArchiveFault("the archive has no end; it was cut off on the way")
        if not block.strip(b"\0"):
            if extended is not _NOTHING_EXTENDED:
                raise ArchiveFault("the archive ends after an extended header")
            return
        header, kind = _parse_block(block, position + BLOCK, extended)
        after = header.offset + -(-header.size // BLOCK) * BLOCK
        if after > end_of_file:
            raise ArchiveFault(f"the archive ends in the middle of {header.path!r}")
        position = after
        if kind == b"x":
            if extended is not _NOTHING_EXTENDED:
                raise ArchiveFault("two extended headers follow each other")
            extended = _parse_extended(file, header)
            continue
        extended = _NOTHING_EXTENDED
        if header.folder:
            names.add_folder(header.path)
        else:
            names.add_file(header.path)
            bytes_left -= header.size
        if bytes_left < 0:
            raise ArchiveFault(f"more than {limits.max_bytes} bytes, from {header.path!r} on")
        yield header


@dataclass(frozen=True, slots=True)
class _Extended:
    """What a pax header says of the next member."""

    path: str | None = None
    size: int | None = None


_NOTHING_EXTENDED: Final = _Extended()


def _parse_block(block: bytes, offset: int, extended: _Extended) -> tuple[_Header, bytes]:
    name = _block_name(block) if extended.path is None else extended.path
    _check_sum(block, name)
    kind = block[156:157]
    if kind in _FORBIDDEN or kind not in (b"0", b"\0", b"5", b"x"):
        what = _FORBIDDEN.get(kind, f"a member of unknown kind {kind!r}")
        raise ArchiveFault(f"{name!r} is {what}; only files and folders are taken")
    size = _number(block[124:136], name) if extended.size is None else extended.size
    mode = _number(block[100:108], name)
    folder = kind == b"5"
    if folder:
        if size:
            raise ArchiveFault(f"the folder {name!r} has content")
        name = name.removesuffix("/")
    return _Header(name, folder, mode, offset, size), kind


def _block_name(block: bytes) -> str:
    name = block[0:100].split(b"\0", 1)[0]
    # Only a ustar header has a prefix; the old GNU magic keeps other things there.
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return _text(name)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ArchiveFault(f"the name {raw!r} is not UTF-8") from None


def _check_sum(block: bytes, name: str) -> None:
    # The sum is taken with its own field as spaces.
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _number(block[148:156], name) != total:
        raise ArchiveFault(f"the header of {name!r} is damaged")


def _number(raw: bytes, name: str) -> int:
    match = _OCTAL.match(raw)
    if match is None:
        raise ArchiveFault(f"the header of {name!r} holds a number that is none")
    return int(match[1] or b"0", 8)


def _parse_extended(file: BinaryIO, header: _Header) -> _Extended:
    if header.size > _PAX_BYTES:
        raise ArchiveFault(f"the extended header {header.path!r} is over {_PAX_BYTES} bytes")
    file.seek(header.offset)
    data = _read(file, header.size)
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        keyword, value, at = _next_record(data, at, header.path)
        if keyword.startswith("GNU.sparse"):
            raise ArchiveFault(f"{header.path!r} describes a sparse file; only files are taken")
        if keyword in found:
            raise ArchiveFault(f"{header.path!r} gives {keyword!r} twice")
        found[keyword] = value
    path, size = found.get("path"), found.get("size")
    if size is not None and not re.fullmatch(rb"[0-9]{1,18}", size):
        raise ArchiveFault(f"{header.path!r} holds a size that is none")
    # Not _NOTHING_EXTENDED even if empty: it must still be followed by a member.
    return _Extended(
        path=None if path is None else _text(path), size=None if size is None else int(size)
    )


def _next_record(data: bytes, at: int, place: str) -> tuple[str, bytes, int]:
    """Give the keyword and value of the record at ``at``, and where the next one begins."""
    match = _PAX_RECORD.match(data, at)
    end = at + int(match[1]) if match else at
    record = data[match.end() : end] if match else b""
    keyword, equals, value = record.partition(b"=")
    if end > len(data) or not equals or not value.endswith(b"\n"):
        raise ArchiveFault(f"the extended header {place!r} is damaged")
    return _text(keyword), value[:-1], end
