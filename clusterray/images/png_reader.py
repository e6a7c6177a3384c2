"""Reads PNGs strictly: POV-Ray's own pictures, and tiles.

Chunks are walked and their checksums compared here, and Pillow sees only pixel data, so that no
metadata of a stranger's file reaches it. But for a small one a file is never in memory as a whole,
packed or not. Runs in whichever thread calls it; keeps nothing. Knows nothing of bands, frames or
nodes.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from clusterray.core.model import Rect
from clusterray.images.filters import ALONE, LAST_FILTER, unfilter_rows
from clusterray.images.png import FORMATS, HEADER, SIGNATURE, PixelFormat
from clusterray.images.rows import STRIP_BYTES, Colour, TileFault, broken_off, check_size
from clusterray.images.segments import CLOSING_BYTES, EMPTY_FINAL, PREAMBLE, Segment, is_open

if TYPE_CHECKING:
    from zlib import _Decompress

_COLOUR_CHUNKS: Final = {b"cHRM": 32, b"gAMA": 4, b"sBIT": 4, b"sRGB": 1}
"""Chunks that say what the values mean, and the largest size of each."""
_BY_HEADER: Final = {(each.depth, each.colour_type): each for each in FORMATS}
_FRAME: Final = struct.Struct(">I4s")
_FRAME_BYTES: Final = _FRAME.size + 4
"""What a chunk has besides its body: length, kind and checksum."""
_SMALL_BYTES: Final = 64
"""So much of a chunk's body is kept as it is walked over."""
_PIECE_BYTES: Final = 1 << 18
SMALL_FILE_BYTES: Final = 1 << 18
"""A file of so many bytes is read at once."""
_FEW_CHUNKS, _CHUNK_BYTES = 64, 512
"""A file with more chunks than a few has that many bytes for each; POV-Ray's have 8192."""


class _Chunk(NamedTuple):
    """A whole chunk that begins at byte ``at``; ``begin`` is what its body begins with."""

    kind: bytes
    at: int
    size: int
    begin: bytes

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.at + _FRAME_BYTES + self.size


@dataclass(frozen=True, slots=True)
class _Packed:
    """The chunks with pixels, which follow each other: the first of them and the last."""

    first: _Chunk
    last: _Chunk

    @property
    def like_segment(self) -> bool:
        """Tell whether they lie as those of a tile with a segment do."""
        return (
            self.first.size == len(PREAMBLE)
            and self.first.end < self.last.at
            and self.last.size == CLOSING_BYTES
            and self.last.begin.startswith(EMPTY_FINAL)
        )


@dataclass(frozen=True, slots=True)
class Proof:
    """All filtered rows of a PNG that has been checked, and its segment, if it has one."""

    stored: bytes
    segment: Segment | None


@dataclass(frozen=True, slots=True)
class PngFile:
    """A PNG whose chunks are whole: its size, format, colour chunks and where its pixels lie."""

    path: Path
    width: int
    height: int
    format: PixelFormat
    colour: Colour
    packed: _Packed
    content: bytes | None = field(default=None, repr=False)
    """All of the file, where that is little."""
    proof: Proof | None = field(default=None, repr=False)
    """What a check has found, where that is little."""

    @property
    def row_bytes(self) -> int:
        """The bytes of a row, without its filter's number."""
        return self.width * self.format.pixel_bytes

    def rows(self, rect: Rect) -> bytes:
        """Decode the rows of ``rect``, every byte.

        Raises TileFault if the pixel data is damaged or not just as much as the header promises.
        """
        return b"".join(self.strips(rect))

    def strips(self, rect: Rect) -> Iterator[bytes]:
        """Decode the rows of ``rect``, some at a time; raises as ``rows``, at the end at latest."""
        return Reading(self).strips(rect)

    def check(self, rect: Rect) -> PngFile:
        """Unpack all that there is; raises as ``rows``: rows with valid filters can be decoded."""
        small = self.content is not None and self.height * self.row_bytes < SMALL_FILE_BYTES
        reading = Reading(self, segment=small)
        if not small:
            for _stored in reading.stored():
                pass
            return self
        return self._known_as(self.path, None, Proof(b"".join(reading.stored()), reading.segment))

    def moved_to(self, path: Path) -> PngFile:
        """Give the same, when its file has been moved."""
        return self._known_as(path, self.content, self.proof)

    def _known_as(self, path: Path, content: bytes | None, proof: Proof | None) -> PngFile:
        # dataclasses.replace would take four times as long, for each small tile.
        size = (self.width, self.height)
        return PngFile(path, *size, self.format, self.colour, self.packed, content, proof)


class Reading:
    """One pass over the pixels of a PNG, from the first row to the last.

    Without ``segment`` it does not look whether there is one.
    """

    def __init__(self, png: PngFile, *, segment: bool = True) -> None:
        self._png = png
        self._seeks_segment = segment and png.packed.like_segment
        self._stride = 1 + png.row_bytes
        self._due = png.height * self._stride
        self._first_filter: int | None = None
        self._open = False
        self._whole = False

    @property
    def segment(self) -> Segment | None:
        """Give, behind the pass, the file's segment; None if it has none that could be copied.

        It is proven then that it unpacks, without what comes before it, to just the rows that are
        due, with this Adler-32; that its first row does not look above itself; and that whatever
        comes behind it is read as if it came first.
        """
        packed, proof = self._png.packed, self._png.proof
        if proof is not None:
            return proof.segment
        if not (self._first_filter in ALONE and self._open and self._whole):
            return None
        adler = int.from_bytes(packed.last.begin[len(EMPTY_FINAL) :], "big")
        return Segment(self._png.height, self._due, adler, packed.first.end, packed.last.at)

    def strips(self, rect: Rect) -> Iterator[bytes]:
        """Decode the rows of ``rect``, some at a time; raises TileFault as ``PngFile.rows``."""
        png, top = self._png, 0
        black = above = bytes(png.row_bytes)
        for stored in self.stored():
            bottom = top + len(stored) // self._stride
            # POV-Ray leaves black, as it is, around what it has rendered.
            skipped = bottom <= rect.y0 and above == black and stored == bytes(len(stored))
            if top < rect.y1 and not skipped:
                rows = unfilter_rows(above, stored, png.width, png.format)
                above = rows[-png.row_bytes :]
                piece = rect.intersection(Rect(0, top, png.width, bottom))
                if piece is not None:
                    yield self._cut(rows, top, piece)
            top = bottom

    def _cut(self, rows: bytes, top: int, piece: Rect) -> bytes:
        """Give ``piece`` of whole rows the first of which is ``top``."""
        size, step = self._png.row_bytes, self._png.format.pixel_bytes
        starts = range((piece.y0 - top) * size, (piece.y1 - top) * size, size)
        if piece.width == self._png.width:
            return rows[starts.start : starts.stop]
        left, right = piece.x0 * step, piece.x1 * step
        return b"".join(rows[at + left : at + right] for at in starts)

    def stored(self) -> Iterator[bytes]:
        """Unpack the filtered rows, some at a time; raises TileFault as ``PngFile.rows``."""
        if self._png.proof is not None:
            yield self._png.proof.stored
            return
        step = max(1, STRIP_BYTES // self._stride) * self._stride
        held = bytearray()
        for part in self._unpacked():
            held += part
            while len(held) >= step:
                yield self._with_filters(bytes(held[:step]))
                del held[:step]
        if held:
            yield self._with_filters(bytes(held))
        self._whole = True

    def _with_filters(self, stored: bytes) -> bytes:
        filters = stored[:: self._stride]
        if max(filters) > LAST_FILTER:
            raise TileFault(f"one of its rows has filter {max(filters)}, which does not exist")
        if self._first_filter is None:
            self._first_filter = filters[0]
        return stored

    def _unpacked(self) -> Iterator[bytes]:
        inflater, found, packed = zlib.decompressobj(), 0, self._png.packed
        for at, piece in self._pieces():
            if inflater.eof:
                raise TileFault("there is more behind its pixels")
            if self._seeks_segment and at == packed.last.at:
                self._open = is_open(inflater)
            for part in _inflated(inflater, piece):
                found += len(part)
                if found > self._due:
                    raise self._wrong_amount(found)
                yield part
        if found != self._due or not inflater.eof:
            raise self._wrong_amount(found)
        if inflater.unused_data:
            raise TileFault("there is more behind its pixels")

    def _wrong_amount(self, found: int) -> TileFault:
        return TileFault(f"it holds {found} bytes of pixels, and {self._due} are due")

    def _pieces(self) -> Iterator[tuple[int, bytes]]:
        """Give the packed bytes, some at a time, and where in the file their chunk begins."""
        packed = self._png.packed
        if self._png.content is not None and packed.last.end - packed.first.at <= _PIECE_BYTES:
            yield from self._pieces_of(self._png.content)
            return
        with _opened(self._png.path, self._png.content) as file:
            at = packed.first.at
            while at < packed.last.end:
                file.seek(at)
                size, _kind = _FRAME.unpack(file.read(_FRAME.size))
                for piece in _body(file, size):
                    yield at, piece
                at += _FRAME_BYTES + size

    def _pieces_of(self, content: bytes) -> Iterator[tuple[int, bytes]]:
        """Give the packed bytes of a small file, in one piece but for what closes a segment."""
        packed, at, bodies = self._png.packed, self._png.packed.first.at, []
        end = packed.last.at if packed.like_segment else packed.last.end
        while at < end:
            size, _kind = _FRAME.unpack_from(content, at)
            bodies.append(content[at + _FRAME.size : at + _FRAME.size + size])
            at += _FRAME_BYTES + size
        yield packed.first.at, b"".join(bodies)
        if packed.like_segment:
            start = packed.last.at + _FRAME.size
            yield packed.last.at, content[start : start + packed.last.size]


def _inflated(inflater: _Decompress, piece: bytes) -> Iterator[bytes]:
    try:
        while True:
            part = inflater.decompress(piece, _PIECE_BYTES)
            yield part
            piece = inflater.unconsumed_tail
            if not piece and len(part) < _PIECE_BYTES:
                return
    except zlib.error as error:
        raise TileFault(f"its pixels cannot be unpacked: {error}") from None


def content_of(path: Path) -> bytes | None:
    """Give all of a small file, None of one that is not; raises OSError.

    A file object would take twice as many system calls, each of which has the thread wait for the
    interpreter's lock once more.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(fd, SMALL_FILE_BYTES + 1)
    finally:
        os.close(fd)
    return content if len(content) <= SMALL_FILE_BYTES else None


def _opened(path: Path, content: bytes | None) -> BinaryIO:
    return path.open("rb") if content is None else io.BytesIO(content)


def read_png(path: Path, content: bytes | None = None) -> PngFile:
    """Read and check a PNG's chunks, not yet its pixels; ``content`` is all of the file, if given.

    Raises TileFault in words if it is no PNG that POV-Ray could have written or not all of one.
    """
    if content is not None:
        return _read_chunks(path, content, _chunks_of(content))
    with path.open("rb") as file:
        return _read_chunks(path, None, _chunks(file, path.stat().st_size))


def _read_chunks(path: Path, content: bytes | None, chunks: Iterator[_Chunk]) -> PngFile:
    header = next(chunks, None)
    if header is None or (header.kind, header.size) != (b"IHDR", HEADER.size):
        raise TileFault("it does not begin with a PNG header")
    width, height, pixels = _parse_header(header.begin)
    colour: dict[bytes, bytes] = {}
    packed: _Packed | None = None
    for each in chunks:
        if each.kind == b"IDAT":
            packed = _with_next(packed, each)
        elif packed is None and each.size <= _COLOUR_CHUNKS.get(each.kind, -1):
            colour[each.kind] = each.begin
    if packed is None:
        raise TileFault("it holds no pixels")
    return PngFile(path, width, height, pixels, tuple(sorted(colour.items())), packed, content)


def _with_next(packed: _Packed | None, chunk: _Chunk) -> _Packed:
    if packed is None:
        return _Packed(chunk, chunk)
    if packed.last.end != chunk.at:
        raise TileFault("its pixels do not lie in one place")
    return _Packed(packed.first, chunk)


def _chunks(file: BinaryIO, size: int) -> Iterator[_Chunk]:
    """Give each chunk up to IEND; raises TileFault where the ``size`` bytes break off."""
    _check_signature(file.read(len(SIGNATURE)))
    at = len(SIGNATURE)
    for _ in range(_most_chunks(size)):
        if at + _FRAME_BYTES > size:
            raise broken_off(size)
        length, kind = _FRAME.unpack(file.read(_FRAME.size))
        end = at + _FRAME_BYTES + length
        if end > size:
            raise broken_off(size)
        checksum, begin = zlib.crc32(kind), b""
        for piece in _body(file, length):
            checksum = zlib.crc32(piece, checksum)
            begin = begin or piece[:_SMALL_BYTES]
        if checksum != int.from_bytes(file.read(4), "big"):
            raise _damaged(at, end)
        if kind == b"IEND":
            return
        yield _Chunk(kind, at, length, begin)
        at = end
    raise _too_many()


def _chunks_of(content: bytes) -> Iterator[_Chunk]:
    """Do as ``_chunks`` with all of a small file, at half the cost."""
    _check_signature(content[: len(SIGNATURE)])
    at, size, view = len(SIGNATURE), len(content), memoryview(content)
    for _ in range(_most_chunks(size)):
        if at + _FRAME_BYTES > size:
            raise broken_off(size)
        length, kind = _FRAME.unpack_from(content, at)
        end = at + _FRAME_BYTES + length
        if end > size:
            raise broken_off(size)
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise _damaged(at, end)
        if kind == b"IEND":
            return
        start = at + _FRAME.size
        yield _Chunk(kind, at, length, content[start : start + min(length, _SMALL_BYTES)])
        at = end
    raise _too_many()


def _check_signature(begin: bytes) -> None:
    if begin != SIGNATURE:
        raise TileFault("it is not a PNG file")


def _most_chunks(size: int) -> int:
    return _FEW_CHUNKS + size // _CHUNK_BYTES


def _damaged(start: int, end: int) -> TileFault:
    return TileFault(f"its bytes {start} to {end} are damaged")


def _too_many() -> TileFault:
    return TileFault("it is cut into too many small pieces")


def _body(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Read the next ``size`` bytes, some at a time; raises TileFault if they are not there."""
    while size:
        piece = file.read(min(size, _PIECE_BYTES))
        if not piece:
            raise broken_off(file.tell())
        yield piece
        size -= len(piece)


def _parse_header(body: bytes) -> tuple[int, int, PixelFormat]:
    width, height, depth, colour_type, packing, filtering, interlace = HEADER.unpack(body)
    check_size(width, height)
    pixels = _BY_HEADER.get((depth, colour_type))
    if pixels is None or (packing, filtering, interlace) != (0, 0, 0):
        raise TileFault(f"its pixel format ({depth} bits, colour type {colour_type}) is not ours")
    return width, height, pixels
