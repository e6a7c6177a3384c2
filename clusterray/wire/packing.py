"""A file packed while it is sent, piece by piece, where that is faster than sending it as it is.

Packed is a row of zlib streams, each of one piece; one that is not worth the work is only wrapped.
Caller's thread. Knows nothing of sockets: it is told how fast they take what it gives.

How fast zlib is, at level 1 on one core of a machine of 2020: 130 to 190 MB of scene text a second,
of which a quarter to a half is left, and 320 to 360 to unpack it. So a line of 1 Gbit/s is faster
without, and one of 100 Mbit/s with it: the line's rate decides.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Final

from clusterray.core.errors import LocalFault
from clusterray.wire.scene_names import ArchiveFault

ZLIB: Final = "zlib"
"""The name of this packing in messages."""
PIECE_BYTES: Final = 1 << 20
SAMPLE_BYTES: Final = 1 << 16
SAMPLES: Final = 16
UNKNOWN_BYTES: Final = 4 << 20
"""So much is packed before the line's rate counts: a socket takes the first MB at once."""
_UNPACK_RATE: Final = 3e8
"""Bytes that the other side unpacks a second; believed, not measured."""
_OLD_PART: Final = 0.7
"""How much of a rate what came before the last piece makes out."""


def shrinks_to(files: Iterable[BinaryIO]) -> float:
    """Tell what part is left of a piece from the middle of each of up to SAMPLES files, packed."""
    before = after = 0
    for file, _ in zip(files, range(SAMPLES), strict=False):
        size = file.seek(0, 2)
        file.seek(max(0, (size - SAMPLE_BYTES) // 2))
        sample = file.read(SAMPLE_BYTES)
        before += len(sample)
        after += len(zlib.compress(sample, 1))
    return after / before if before else 1.0


class Packer:
    """Packs a file's pieces in order, and decides for each whether it is worth it; one thread's.

    ``size`` and ``sha256`` are those of what it has given so far. ``clock`` tells what packing
    takes: the CPU's seconds, for one slow piece on a machine that was busy must not decide for all.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._digest = hashlib.sha256()
        self.size = 0
        self._taken = 0
        self._line_rate = 0.0
        self._pack_rate = 0.0
        self._left = 0.5

    @property
    def sha256(self) -> str:
        """The hex SHA-256 of all that was given."""
        return self._digest.hexdigest()

    def pack(self, piece: bytes) -> bytes:
        """Give the next piece as it is to be sent."""
        begun_at = self._clock()
        worth_it = self._is_worth_it()
        packed = zlib.compress(piece, 1 if worth_it else 0)
        if worth_it:
            self._pack_rate = _mixed(self._pack_rate, len(piece), self._clock() - begun_at)
            self._left = _OLD_PART * self._left + (1 - _OLD_PART) * len(packed) / len(piece)
        self._taken += len(piece)
        self._digest.update(packed)
        self.size += len(packed)
        return packed

    def sent(self, count: int, seconds: float) -> None:
        """Hear that the line took so many bytes in that time."""
        self._line_rate = _mixed(self._line_rate, count, seconds)

    def _is_worth_it(self) -> bool:
        if self._taken < UNKNOWN_BYTES or not self._pack_rate:
            return True
        saved_s = (1 - self._left) / max(self._line_rate, 1.0)
        return saved_s > 1 / self._pack_rate + 1 / _UNPACK_RATE


def _mixed(rate: float, count: int, seconds: float) -> float:
    new = count / max(seconds, 1e-6)
    return new if not rate else 1 / (_OLD_PART / rate + (1 - _OLD_PART) / new)


def unpack(source: Path, target: Path, most_bytes: int, tick: Callable[[], None]) -> None:
    """Unpack what a Packer gave into the new file ``target``.

    ``tick`` is called between pieces, and what it raises ends the work. Raises ArchiveFault if it
    is no such file or gives more than ``most_bytes``, LocalFault if the disk fails; what was
    written until then stays for the caller to remove.
    """
    try:
        with source.open("rb") as packed, target.open("xb", buffering=0) as plain:
            for piece in _pieces(packed, most_bytes):
                view = memoryview(piece)
                while view:
                    view = view[plain.write(view) :]
                tick()
    except OSError as error:
        raise LocalFault(f"cannot unpack {source}: {error.strerror}") from error


def _pieces(packed: BinaryIO, most_bytes: int) -> Iterable[bytes]:
    left, data = most_bytes, b""
    stream = zlib.decompressobj()
    begun = False
    while data or (data := packed.read(PIECE_BYTES)):
        try:
            piece = stream.decompress(data, PIECE_BYTES)
        except zlib.error:
            raise ArchiveFault("what arrived is not packed as it was said to be") from None
        left -= len(piece)
        if left < 0:
            raise ArchiveFault(f"what arrived unpacks to more than {most_bytes} bytes")
        yield piece
        begun, data = True, stream.unconsumed_tail
        if stream.eof:
            data, stream, begun = stream.unused_data, zlib.decompressobj(), False
    if begun:
        raise ArchiveFault("what arrived ends in the middle of a packed piece")
