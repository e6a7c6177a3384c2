"""Packing on the way: what comes out is what went in, bounded, and only where it is faster."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterray.core.errors import LocalFault
from clusterray.wire.packing import PIECE_BYTES, UNKNOWN_BYTES, Packer, shrinks_to, unpack
from clusterray.wire.scene_names import ArchiveFault

TEXT = b"sphere { <0, 1, 2>, 3 pigment { rgb 1 } }\n" * (PIECE_BYTES // 42)


class Line:
    """A line of a rate, and a clock that goes on as bytes are packed or sent."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.now = 0.0

    def clock(self) -> float:
        # Packing a piece looks at the clock twice: 10 ms, as a core does.
        self.now += 0.005
        return self.now

    def sizes(self, pieces: int) -> list[int]:
        packer = Packer(self.clock)
        sizes = []
        for _ in range(pieces):
            packed = packer.pack(TEXT)
            packer.sent(len(packed), len(packed) / self.bytes_per_s)
            sizes.append(len(packed))
        return sizes


def nothing() -> None:
    """A tick of somebody who has nothing else to do."""


def packed_file(folder: Path, data: bytes) -> Path:
    path = folder / "packed"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 3 * PIECE_BYTES + 5])
def test_what_is_packed_is_what_is_unpacked(tmp_path: Path, size: int) -> None:
    content = (os.urandom(PIECE_BYTES // 2) + bytes(size))[:size]
    packer = Packer()
    pieces = [content[at : at + PIECE_BYTES] for at in range(0, size, PIECE_BYTES)]
    source = packed_file(tmp_path, b"".join(packer.pack(piece) for piece in pieces))
    unpack(source, tmp_path / "plain", size, nothing)
    assert (tmp_path / "plain").read_bytes() == content
    assert source.stat().st_size == packer.size


def test_a_slow_line_gets_packed_pieces_and_a_fast_one_does_not() -> None:
    slow, fast = Line(1e6).sizes(60), Line(1e9).sizes(60)
    assert max(slow) < len(TEXT) / 10
    packed_first = sum(size < len(TEXT) / 10 for size in fast)
    assert (packed_first - 1) * len(TEXT) <= UNKNOWN_BYTES
    assert min(fast[packed_first:], default=len(TEXT)) >= len(TEXT)


def test_a_line_that_turns_out_to_be_slow_gets_packed_pieces_again() -> None:
    line = Line(1e9)
    packer = Packer(line.clock)
    for bytes_per_s in (1e9, 1e6):
        packed = b""
        # A piece of noise between them keeps the unknown beginning short.
        for _ in range(20):
            for piece in (os.urandom(PIECE_BYTES), TEXT):
                packed = packer.pack(piece)
                packer.sent(len(packed), len(packed) / bytes_per_s)
        assert (len(packed) < len(TEXT) / 10) == (bytes_per_s == 1e6)


def test_a_sample_tells_text_from_noise() -> None:
    assert shrinks_to([io.BytesIO(TEXT)]) < 0.2
    assert shrinks_to([io.BytesIO(os.urandom(200_000))]) > 0.9
    assert 0.4 < shrinks_to([io.BytesIO(TEXT), io.BytesIO(os.urandom(200_000))]) < 0.7
    assert shrinks_to([]) == shrinks_to([io.BytesIO()]) == 1.0


def test_a_bomb_is_stopped_at_the_size_that_was_announced(tmp_path: Path) -> None:
    source = packed_file(tmp_path, zlib.compress(bytes(500 << 20), 9))
    with pytest.raises(ArchiveFault, match="more than 3000000 bytes"):
        unpack(source, tmp_path / "plain", 3_000_000, nothing)
    assert (tmp_path / "plain").stat().st_size <= 3_000_000


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"x",
        lambda data: b"no zlib at all",
        lambda data: data[:40] + b"?" + data[41:],
    ],
)
def test_what_is_damaged_is_refused(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    source = packed_file(tmp_path, harm(zlib.compress(os.urandom(5000)) * 3))
    with pytest.raises(ArchiveFault, match="what arrived"):
        unpack(source, tmp_path / "plain", 1 << 20, nothing)


def test_a_file_in_the_way_is_not_written_over(tmp_path: Path) -> None:
    source = packed_file(tmp_path, zlib.compress(b"x"))
    (tmp_path / "plain").write_bytes(b"precious")
    with pytest.raises(LocalFault, match="cannot unpack"):
        unpack(source, tmp_path / "plain", 10, nothing)
    assert (tmp_path / "plain").read_bytes() == b"precious"
