"""Two tiles held against each other, in every format; OpenImageIO and numpy as oracle."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from clusterray.core.model import FileFormat, Rect
from clusterray.images.compare import compare_tiles
from clusterray.images.formats import channel_names, pixel_bytes, write_tile
from clusterray.images.rows import Colour, TileFault
from tests.images import oracle
from tests.images.test_other_files import KINDS, rows_for

SIZE = (23, 17)
RECT = Rect(0, 32, 23, 49)
ALL = [
    *KINDS,
    (FileFormat(), ()),
    (FileFormat(alpha=True), ()),
    (FileFormat(grey=True, bits=16), ()),
    (FileFormat(grey=True, bits=16, alpha=True), ()),
    (FileFormat("J"), ()),
    (FileFormat("C"), ((b"alpha", b"\0"), (b"gamma", b"P8\x99\x19"))),
]
NAN = math.nan
WHITE = {8: 255, 12: 4095, 16: 65535}


def written(path: Path, kind: FileFormat, colour: Colour, rows: bytes) -> Path:
    size = (RECT.x1, RECT.y1) if kind.letter == "E" else SIZE
    if kind.letter == "E":
        # A tile of OpenEXR is the whole picture's size, its band where it belongs.
        rows = bytes(RECT.y0 * RECT.x1 * pixel_bytes(kind)) + rows
    write_tile(path, size, kind, colour, (rows,))
    return path


@pytest.mark.parametrize(("kind", "colour"), ALL, ids=str)
def test_every_value_counts_at_the_files_own_depth(
    tmp_path: Path, kind: FileFormat, colour: Colour
) -> None:
    rows = rows_for(kind, SIZE)
    if kind.bits == 12:
        rows = bytes(byte & 0x0F for byte in rows)
    first = written(tmp_path / f"1.{kind.tile.extension}", kind, colour, rows)
    again = written(tmp_path / f"2.{kind.tile.extension}", kind, colour, rows)
    alike = compare_tiles(first, again, RECT, kind)
    assert (alike.pixels, alike.differing, alike.most) == (23 * 17, 0, 0)

    step = pixel_bytes(kind)
    changed = bytearray(rows)
    for pixel in (0, 5, 390):
        changed[pixel * step] ^= 0x01
    other = written(tmp_path / f"3.{kind.tile.extension}", kind, colour, bytes(changed))
    found = compare_tiles(first, other, RECT, kind)
    assert (found.pixels, found.differing) == (23 * 17, 3)
    assert [name for name, _ in found.largest] == list(channel_names(kind))
    values, others = (oracle.values(path)[0].astype(np.float64) for path in (first, other))
    by_name = dict(zip(oracle_names(kind), np.abs(values - others).max(axis=(0, 1)), strict=True))
    scale = 1.0
    if kind.letter == "P" and kind.bits == 12:
        # OpenImageIO stretches 12 bits over 16.
        scale = 4095 / 65535
    for name, apart in found.largest:
        assert apart == pytest.approx(by_name[name] * scale, rel=0.01, abs=1e-12), name
    assert found.most > 0
    assert found.white == (1 if kind.letter in "EH" else WHITE[kind.bits])


def oracle_names(kind: FileFormat) -> tuple[str, ...]:
    """OpenImageIO gives Targa's and BMP's channels red first."""
    names = channel_names(kind)
    return (*names[2::-1], *names[3:]) if kind.letter in "TBC" else names


def test_sixteen_bits_are_not_looked_at_as_eight(tmp_path: Path) -> None:
    kind = FileFormat(bits=16)
    one, two = (struct.pack(">3H", 256, 0, 7) * 391, struct.pack(">3H", 255, 0, 7) * 391)
    first = written(tmp_path / "1.png", kind, (), one)
    second = written(tmp_path / "2.png", kind, (), two)
    found = compare_tiles(first, second, RECT, kind)
    assert dict(found.largest) == {"red": 1, "green": 0, "blue": 0}
    assert (found.differing, found.white) == (391, 65535)


def test_a_hdr_difference_is_light_and_not_a_mantissa(tmp_path: Path) -> None:
    kind = FileFormat("H")
    grey, twice = bytes((128, 128, 128, 129)), bytes((128, 64, 128, 130))
    first, second = (
        written(tmp_path / f"{number}.hdr", kind, (), pixel * 391)
        for number, pixel in enumerate((grey, twice))
    )
    found = compare_tiles(first, second, RECT, kind)
    assert found.largest == (("red", 1.0), ("green", 0.0), ("blue", 1.0))


def test_infinite_and_absent_halves_stay_numbers(tmp_path: Path) -> None:
    kind = FileFormat("E", 16)
    first, second = (
        written(tmp_path / f"{value}.exr", kind, (), struct.pack("=3e", value, NAN, -value) * 391)
        for value in (math.inf, 1.0)
    )
    assert compare_tiles(first, first, RECT, kind).differing == 0
    found = compare_tiles(first, second, RECT, kind)
    assert found.largest == (("red", 65535.0), ("green", 0.0), ("blue", 65535.0))


def test_only_the_bands_own_pixels_of_an_exr_count(tmp_path: Path) -> None:
    kind = FileFormat("E", 16)
    rows = rows_for(kind, (23, 49))
    first, second = tmp_path / "1.exr", tmp_path / "2.exr"
    write_tile(first, (23, 49), kind, (), (rows,))
    write_tile(second, (23, 49), kind, (), (b"\1" + rows[1:],))
    assert compare_tiles(first, second, RECT, kind).differing == 0


def test_a_large_noisy_tile_is_counted_in_pieces(tmp_path: Path) -> None:
    rect, kind = Rect(0, 0, 700, 300), FileFormat()
    noise = os.urandom(rect.area * 3)
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    write_tile(first, (700, 300), kind, (), (noise,))
    write_tile(second, (700, 300), kind, (), (bytes(value ^ 1 for value in noise),))
    found = compare_tiles(first, second, rect, kind)
    assert (found.differing, found.most) == (rect.area, 1)


@pytest.mark.parametrize("fault", ["gone", "short", "other colours"])
def test_what_cannot_be_compared_is_said_in_words(tmp_path: Path, fault: str) -> None:
    kind = FileFormat()
    rows = rows_for(kind, SIZE)
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    written(first, kind, (), rows)
    written(second, kind, ((b"sRGB", b"\0"),) if fault == "other colours" else (), rows)
    if fault == "gone":
        second.unlink()
    elif fault == "short":
        second.write_bytes(second.read_bytes()[:200])
    words = {
        "gone": "it cannot be read: No such file",
        "short": "it ends after 200 bytes",
        "other colours": "the two tiles say different things of their colours",
    }
    with pytest.raises(TileFault, match=words[fault]):
        compare_tiles(first, second, RECT, kind)
