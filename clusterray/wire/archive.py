"""A scene as a manifest and as a tar: packing, and the one reader that takes a stranger's tar.

The writer makes the same bytes for the same files. The reader knows regular files and folders and
nothing else: no link, device, sparse file or foreign extension gets past it, no name leaves the
folder, and limits stop it early. Runs in whichever thread calls it; keeps nothing between calls.
Knows nothing of sockets, of which files a scene needs, or of where scenes are kept.

``on_bytes`` is called, wherever it is taken, with the number of bytes just done (not a total).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

import msgspec

from clusterray.core.errors import ClusterRayError, LocalFault, SceneFault
from clusterray.wire.protocol import MANIFEST_PART_BYTES, Entry, ProtocolError

OnBytes: TypeAlias = Callable[[int], None]

_BLOCK: Final = tarfile.BLOCKSIZE
_CHUNK: Final = 1 << 18
_PAX_BYTES: Final = 1 << 16
"""Largest extended header accepted; ours hold a name and perhaps a size."""
_ENTRIES_PER_PART: Final = 20_000
"""Protocol limit of entries in one ``Manifest``."""
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


class ArchiveFault(SceneFault):
    """A tar that no submitter of ours makes, or one over the limits; it names the member."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much a tar may hold.

    ``max_bytes`` of content, ``max_files`` files and as many folders, names of ``max_name`` bytes
    that lie ``max_depth`` folders deep.
    """

    max_bytes: int
    max_files: int
    max_depth: int = 64
    max_name: int = 1024


@dataclass(frozen=True, slots=True)
class TarMember:
    """One regular file of a tar: ``offset`` is where its ``size`` bytes begin in the archive."""

    path: str
    mode: int
    offset: int
    size: int


# ---------------------------------------------------------------- names


def _name_fault(name: str, limits: ArchiveLimits) -> str | None:
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    parts = name.split("/")
    if not name:
        return "is empty"
    if "\0" in name:
        return "holds a zero byte"
    if name.startswith("/"):
        return "is absolute"
    if ".." in parts:
        return "leaves the folder"
    if "" in parts or "." in parts:
        return 'has an empty or "." part'
    if length > limits.max_name:
        return f"is longer than {limits.max_name} bytes"
    if any(len(part.encode()) > 255 for part in parts):
        return "has a part longer than 255 bytes"
    if len(parts) > limits.max_depth:
        return f"is more than {limits.max_depth} folders deep"
    return None


class _Names:
    """The names seen so far; refuses what could not stand beside them on a disk."""

    def __init__(self, limits: ArchiveLimits) -> None:
        self._limits = limits
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add_file(self, name: str) -> None:
        self._check(name)
        if name in self._files or name in self._folders:
            raise ArchiveFault(f"{name!r} is in the archive twice")
        self._add_parents(name)
        self._files.add(name)
        self._count(name)

    def add_folder(self, name: str) -> None:
        self._check(name)
        if name in self._files:
            raise ArchiveFault(f"{name!r} is both a file and a folder")
        self._add_parents(name)
        self._folders.add(name)
        self._count(name)

    def _check(self, name: str) -> None:
        fault = _name_fault(name, self._limits)
        if fault is not None:
            raise ArchiveFault(f"the name {name!r} {fault}")

    def _add_parents(self, name: str) -> None:
        folder = name
        while "/" in folder:
            folder = folder.rpartition("/")[0]
            if folder in self._folders:
                return
            if folder in self._files:
                raise ArchiveFault(f"{folder!r} is both a file and a folder")
            self._folders.add(folder)

    def _count(self, name: str) -> None:
        # Folders a name implies count on their own, or 64 of them would ride free on each file.
        if max(len(self._files), len(self._folders)) > self._limits.max_files:
            raise ArchiveFault(f"more than {self._limits.max_files} files, from {name!r} on")


_WRITER_LIMITS: Final = ArchiveLimits(max_bytes=1 << 62, max_files=1 << 40)


# ---------------------------------------------------------------- manifest


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
    checked = _Names(_WRITER_LIMITS)
    entries = []
    for name in sorted(names):
        checked.add_file(name)
        with _open_source(root, name, elsewhere) as file:
            mode = _plain_mode(os.fstat(file.fileno()).st_mode)
            size, digest = _hash_file(file, name, on_bytes)
        entries.append(Entry(path=name, mode=mode, size=size, sha256=digest))
    return entries


def _open_source(root: Path, name: str, elsewhere: Mapping[str, Path] | None) -> BinaryIO:
    path = root / name if elsewhere is None else elsewhere.get(name, root / name)
    try:
        # O_NONBLOCK: a named pipe without a writer would hold us for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise SceneFault("this is not a regular file; move it out of the scene", file=name)
    return os.fdopen(fd, "rb")


def _unreadable(name: str, error: Exception) -> SceneFault:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return SceneFault(f"this file of the scene cannot be read: {reason}", file=name)


def _hash_file(file: BinaryIO, name: str, on_bytes: OnBytes | None) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    try:
        while data := file.read(_CHUNK):
            size += len(data)
            digest.update(data)
            _tell(on_bytes, len(data))
    except OSError as error:
        raise _unreadable(name, error) from None
    return size, digest.hexdigest()


def _plain_mode(mode: int) -> int:
    return 0o755 if mode & 0o100 else 0o644


def _tell(on_bytes: OnBytes | None, count: int) -> None:
    if on_bytes is not None:
        on_bytes(count)


def canonical_manifest(entries: Sequence[Entry]) -> bytes:
    """Give the one spelling of a manifest: JSON rows [path, mode, size, sha256], sorted by path."""
    rows = [[e.path, e.mode, e.size, e.sha256] for e in sorted(entries, key=_path_of)]
    return msgspec.json.encode(rows)


def scene_id(entries: Sequence[Entry]) -> str:
    """Give the scene's id, the hex SHA-256 of its canonical manifest."""
    return hashlib.sha256(canonical_manifest(entries)).hexdigest()


def _path_of(entry: Entry) -> str:
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


# ---------------------------------------------------------------- writing


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
            data = _read_source(source, min(_CHUNK, left), entry.path)
            if not data:
                raise _changed(entry)
            left -= len(data)
            digest.update(data)
            self._write(data)
            _tell(on_bytes, len(data))
        if digest.hexdigest() != entry.sha256:
            raise _changed(entry)
        self._write(bytes(-entry.size % _BLOCK))

    def finish(self) -> tuple[int, str]:
        """Write the end marker and give the archive's size in bytes and hex SHA-256."""
        self._write(bytes(2 * _BLOCK))
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


def _read_source(source: BinaryIO, count: int, name: str) -> bytes:
    try:
        return source.read(count)
    except OSError as error:
        raise _unreadable(name, error) from None


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
        for entry in sorted(entries, key=_path_of):
            with _open_source(root, entry.path, elsewhere) as file:
                tar.add(entry, file, on_bytes)
                if _read_source(file, 1, entry.path):
                    raise _changed(entry)
        return tar.finish()


# ---------------------------------------------------------------- reading


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
    return sorted(entries, key=_path_of)


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
    mode = _plain_mode(header.mode)
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
        data = _read(file, min(_CHUNK, left))
        if not data:
            raise ArchiveFault(f"the archive ends in the middle of {header.path!r}")
        left -= len(data)
        digest.update(data)
        try:
            _write_all(target, data)
        except OSError as error:
            raise LocalFault(f"cannot write {header.path!r}: {error.strerror}") from None
        _tell(on_bytes, len(data))
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
    names, bytes_left = _Names(limits), limits.max_bytes
    end_of_file = file.seek(0, os.SEEK_END)
    position, extended = 0, _NOTHING_EXTENDED
    while True:
        file.seek(position)
        block = _read(file, _BLOCK)
        if len(block) < _BLOCK:
            raise ArchiveFault("the archive has no end; it was cut off on the way")
        if not block.strip(b"\0"):
            if extended is not _NOTHING_EXTENDED:
                raise ArchiveFault("the archive ends after an extended header")
            return
        header, kind = _parse_block(block, position + _BLOCK, extended)
        after = header.offset + -(-header.size // _BLOCK) * _BLOCK
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
