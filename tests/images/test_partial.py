"""Partial pictures: exact where there are pixels, hatched elsewhere, in every kind of file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterray.core.bands import are_disjoint, holes
from clusterray.core.model import FileFormat, Rect
from clusterray.images.formats import as_seen, colour_of_none, pixel_bytes, write_tile
from clusterray.images.hatch import DARK, LIGHT, hatch_rows
from clusterray.images.stitch import FrameWriter
from tests.images import oracle

WIDTH, HEIGHT = 30, 150
REGION = Rect(3, 5, 27, 145)
THERE = [Rect(0, 0, 30, 20), Rect(0, 84, 11, 150), Rect(20, 96, 30, 150)]
"""The two lower ones leave columns between them, and rows above."""
KINDS = [
    FileFormat("N"),
    FileFormat("N", bits=8, alpha=True),
    FileFormat("N", bits=16),
    FileFormat("N", bits=16, alpha=True),
    FileFormat("N", bits=16, grey=True),
    FileFormat("N", bits=16, grey=True, alpha=True),
    FileFormat("P"),
    FileFormat("P", bits=5),
    FileFormat("P", bits=12),
    FileFormat("P", bits=16, grey=True),
    FileFormat("T"),
    FileFormat("T", alpha=True),
    FileFormat("C"),
    FileFormat("C", alpha=True),
    FileFormat("B"),
    FileFormat("E", bits=16),
    FileFormat("E", bits=16, alpha=True),
    FileFormat("H"),
]


def tile_of(folder: Path, kind: FileFormat, rect: Rect) -> Path:
    """A tile of values that any format has; an EXR's is as large as the picture."""
    width, height = (WIDTH, HEIGHT) if kind.letter == "E" else (rect.width, rect.height)
    rng = random.Random(repr(rect))
    rows = bytes(rng.randrange(8, 24) for _ in range(width * height * pixel_bytes(kind)))
    path = folder / f"{rect.y0}-{rect.x0}.tile"
    write_tile(path, (width, height), kind, colour_of_none(kind), (rows,))
    return path


def stitched(folder: Path, kind: FileFormat, rects: list[Rect]) -> FrameWriter:
    writer = FrameWriter(REGION, kind, folder)
    for rect in rects:
        writer.add(tile_of(folder, kind, rect), rect)
    return writer


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_partial_picture_is_exact_where_it_is_there_and_hatched_where_not(
    tmp_path: Path, kind: FileFormat
) -> None:
    ticks: list[None] = []
    partial = tmp_path / f"partial.{kind.extension}"
    writer = stitched(tmp_path, kind, THERE)
    writer.write_partial(partial, lambda: ticks.append(None))
    assert writer.covered == sum(part.area for part in map(REGION.intersection, THERE) if part)
    for hole in holes(Rect(0, 0, WIDTH, HEIGHT), THERE):
        writer.add(tile_of(tmp_path, kind, hole), hole)
    whole = tmp_path / f"whole.{kind.extension}"
    writer.finish(whole)
    writer.close()
    assert ticks
    (found, names), (wanted, _) = oracle.values(partial), oracle.values(whole)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    hatch = {bytes(found[y - 5, 15 - 3].tobytes()) for y in range(30, 60)}
    assert len(hatch) == 2, "two greys"
    for y in range(REGION.y0, REGION.y1):
        for x in range(REGION.x0, REGION.x1):
            pixel = found[y - 5, x - 3].tobytes()
            if any(rect.contains(Rect(x, y, x + 1, y + 1)) for rect in THERE):
                assert pixel == wanted[y - 5, x - 3].tobytes()
            else:
                assert pixel in hatch
    if "A" in names:
        assert len({found[y, 12, names.index("A")] for y in range(30, 60)}) == 1, "and opaque"


@pytest.mark.parametrize("kind", [*KINDS, FileFormat("J")], ids=str)
def test_a_picture_of_which_nothing_is_there_is_all_hatch(tmp_path: Path, kind: FileFormat) -> None:
    writer = FrameWriter(REGION, kind, tmp_path)
    path = tmp_path / f"none.{kind.extension}"
    writer.write_partial(path, lambda: None)
    writer.close()
    pixels, _ = oracle.values(path)
    assert pixels.shape[:2] == (REGION.height, REGION.width)
    assert len({pixel.tobytes() for row in pixels for pixel in row}) > 1


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_greys_look_alike_in_all_formats(kind: FileFormat) -> None:
    seen = as_seen(hatch_rows(Rect(0, 0, 24, 24), kind), 24, kind).convert("RGB").tobytes()
    colours = sorted({seen[at : at + 3] for at in range(0, len(seen), 3)})
    assert len(colours) == 2
    for colour, wanted in zip(colours, (DARK, LIGHT), strict=True):
        assert all(abs(a - b) <= 9 for a, b in zip(colour, wanted, strict=True)), colour


def test_stripes_go_on_from_one_hole_to_the_next() -> None:
    kind = FileFormat()
    whole = hatch_rows(Rect(0, 0, 40, 30), kind)
    parts = hatch_rows(Rect(0, 0, 40, 13), kind) + hatch_rows(Rect(0, 13, 40, 30), kind)
    assert whole == parts
    right = hatch_rows(Rect(17, 0, 40, 1), kind)
    assert whole[17 * 3 : 40 * 3] == right


@st.composite
def scattered(draw: st.DrawFn) -> list[Rect]:
    found: list[Rect] = []
    for _ in range(draw(st.integers(0, 8))):
        x0, y0 = draw(st.integers(0, 19)), draw(st.integers(0, 19))
        rect = Rect(x0, y0, draw(st.integers(x0 + 1, 22)), draw(st.integers(y0 + 1, 22)))
        if are_disjoint([*found, rect]):
            found.append(rect)
    return found


@given(scattered())
def test_holes_are_all_that_is_left_and_no_more(rects: list[Rect]) -> None:
    area = Rect(2, 3, 20, 20)
    left = holes(area, rects)
    inside = [part for part in map(area.intersection, rects) if part is not None]
    assert are_disjoint([*left, *inside])
    assert sum(rect.area for rect in [*left, *inside]) == area.area
    assert all(area.contains(rect) for rect in left)


def test_a_missing_band_of_whole_rows_is_one_hole() -> None:
    area = Rect(0, 0, 10, 90)
    assert holes(area, [Rect(0, 0, 10, 30), Rect(0, 60, 10, 90)]) == [Rect(0, 30, 10, 60)]
    assert holes(area, []) == [area]
