"""Pixels of a PNG packed as *segments*: pieces that are joined into one picture by copying.

A segment is rows of a picture, the whole width of it, filtered and deflated so that they unpack
without what comes before them: the first row does not look above itself, no block is the last one,
and the last ends on a byte (zlib's flush). A tile holds one in the IDAT chunks between the two that
are its own: zlib's two bytes, and an empty last block with the Adler-32. So it is a PNG like any
other, and a picture is the chunks of its segments between two such chunks (RFC 1950, RFC 1951).

Runs in whichever thread calls it. Knows nothing of tiles, bands or files.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from clusterray.images.filters import filter_rows, sub_rows
from clusterray.images.rows import Strips

if TYPE_CHECKING:
    from zlib import _Decompress

PREAMBLE: Final = b"\x78\x9c"
"""What zlib begins with: deflate, a window of 32 KiB, no dictionary."""
EMPTY_FINAL: Final = b"\x03\x00"
"""The last block, with nothing in it."""
CLOSING_BYTES: Final = len(EMPTY_FINAL) + 4

_ADLER_BASE: Final = 65_521
_THOROUGH: Final = (5, zlib.DEFLATED, -15, 9, zlib.Z_FILTERED)
"""zlib's, for files as small as POV-Ray's own; level 6 saves 0.5 to 1.5 % of rendered pictures, 6 %
of an empty one, for a third more time."""
_QUICK: Final = (1, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
"""For somebody who waits, its rows less their left neighbours: 5 to 8 % larger, in a seventh of the
time."""
_WINDOW: Final = 1 << 15
BLOCK_BYTES: Final = 1 << 19
"""So many bytes of rows are one thread's work at a time."""
_CHUNK_BYTES: Final = 1 << 16
_SECRET_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of ``height`` rows: whole IDAT chunks, the bytes ``start`` to ``end`` of a file.

    They unpack to ``stored_bytes`` bytes with the Adler-32 ``adler``.
    """

    height: int
    stored_bytes: int
    adler: int
    start: int
    end: int


def chunk(kind: bytes, body: bytes) -> bytes:
    """Give a chunk of a PNG."""
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return b"".join((len(body).to_bytes(4, "big"), kind, body, checksum.to_bytes(4, "big")))


def closing(adler: int) -> bytes:
    """Give what closes zlib's data behind segments whose rows have this Adler-32 in all."""
    return EMPTY_FINAL + adler.to_bytes(4, "big")


def adler32_combine(first: int, second: int, second_bytes: int) -> int:
    """Give the Adler-32 of two pieces of data behind each other, the second of so many bytes.

    An Adler-32 is a + 65536 b, where a is 1 plus the sum of the bytes, and b the sum of all values
    that a has had, both modulo 65521 (RFC 1950): behind the first piece each a is larger by the
    first one's a - 1.
    """
    more = (first & 0xFFFF) - 1
    low = ((second & 0xFFFF) + more) % _ADLER_BASE
    high = ((first >> 16) + (second >> 16) + second_bytes * more) % _ADLER_BASE
    return high << 16 | low


def is_open(inflater: _Decompress) -> bool:
    """Tell whether what has been unpacked ends where any block may follow, on a byte.

    Bytes that nobody could foresee are put behind it, once in a stored block, once in one behind an
    empty block. The two begin with other bits, so an inflater in the midst of something, which
    would take the first of these for its end, is not at one with both.
    """
    secret = os.urandom(_SECRET_BYTES)
    size = len(secret)
    body = size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little") + secret
    try:
        found = [inflater.copy().decompress(begin + body) for begin in (b"\x00", b"\x02\x00")]
    except zlib.error:
        return False
    return found == [secret, secret]


class Packing:
    """Rows of ``row_bytes`` bytes on their way into one segment, by so many ``threads``.

    ``quick``: somebody waits, so it may be larger. ``adler`` and ``stored_bytes`` are those of the
    rows packed so far.
    """

    def __init__(
        self, row_bytes: int, pixel_bytes: int, threads: int = 1, *, quick: bool = False
    ) -> None:
        self._row_bytes = row_bytes
        self._pixel_bytes = pixel_bytes
        self._threads = threads
        self._quick = quick
        self._settings = _QUICK if quick else _THOROUGH
        self.adler = 1
        self.stored_bytes = 0

    def chunks(self, strips: Strips) -> Iterator[bytes]:
        """Give the IDAT chunks of these rows, which are all the segment has."""
        held = bytearray()
        for packed in self._packed(strips):
            held += packed
            if len(held) >= _CHUNK_BYTES:
                yield chunk(b"IDAT", bytes(held))
                held.clear()
        if held:
            yield chunk(b"IDAT", bytes(held))

    def _packed(self, strips: Strips) -> Iterator[bytes]:
        if self._threads == 1:
            for stored, before in self._blocks(strips):
                yield self._deflated(stored, before)
            return
        waiting: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="pack") as pool:
            for stored, before in self._blocks(strips):
                waiting.append(pool.submit(self._deflated, stored, before))
                if len(waiting) > self._threads:
                    yield waiting.popleft().result()
            for future in waiting:
                yield future.result()

    def _blocks(self, strips: Strips) -> Iterator[tuple[bytes, bytes]]:
        """Give filtered rows, some at a time, and what of those before them may be referred to."""
        above: bytes | None = None
        before = b""
        step = max(1, BLOCK_BYTES // self._row_bytes) * self._row_bytes
        for strip in strips:
            for at in range(0, len(strip), step):
                rows = strip[at : at + step]
                stored = self._filtered(above, rows)
                self.adler = zlib.adler32(stored, self.adler)
                self.stored_bytes += len(stored)
                yield stored, before
                above = rows[-self._row_bytes :]
                before = (before + stored[-_WINDOW:])[-_WINDOW:]

    def _filtered(self, above: bytes | None, rows: bytes) -> bytes:
        if self._quick:
            return sub_rows(rows, self._row_bytes, self._pixel_bytes)
        return filter_rows(above, rows, self._row_bytes, self._pixel_bytes)

    def _deflated(self, stored: bytes, before: bytes) -> bytes:
        settings = self._settings
        squeeze = zlib.compressobj(*settings, before) if before else zlib.compressobj(*settings)
        # Each ends on a byte, so what threads have made apart stands behind each other.
        return squeeze.compress(stored) + squeeze.flush(zlib.Z_FULL_FLUSH)
