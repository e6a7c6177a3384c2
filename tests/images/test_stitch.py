from __future__ import annotations

import io
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clusterray.core.errors import LocalFault
from clusterray.core.model import FileFormat, Rect
from clusterray.images.png import FORMATS, PixelFormat
from clusterray.images.preview import Layer
from clusterray.images.stitch import RESULT_KEYWORD, FrameWriter
from clusterray.images.tile import TileFault, check_tile, crop_tile
from tests.images import pngraw

SRGB = [(b"gAMA", b"\x00\x00\xb1\x8f"), (b"sRGB", b"\x00")]

RGB = FileFormat()


def kind_of(pixels: PixelFormat) -> FileFormat:
    return FileFormat(bits=pixels.depth, grey=pixels.grey, alpha=pixels.alpha)


def rows_of(width: int, height: int, pixels: PixelFormat) -> list[bytes]:
    step = pngraw.SAMPLES[pixels.colour_type] * pixels.depth // 8
    return [os.urandom(width * step) for _ in range(height)]


def tile_file(
    folder: Path,
    rows: list[bytes],
    rect: Rect,
    pixels: PixelFormat = FORMATS[0],
    extra: list[tuple[bytes, bytes]] = SRGB,
) -> Path:
    step = pngraw.SAMPLES[pixels.colour_type] * pixels.depth // 8
    cut = [row[rect.x0 * step : rect.x1 * step] for row in rows[rect.y0 : rect.y1]]
    path = folder / f"tile-{'-'.join(map(str, rect.as_tuple()))}.png"
    size = (rect.width, rect.height)
    return pngraw.write(path, size, pixels.depth, pixels.colour_type, cut, extra)


@st.composite
def cut_pictures(draw: st.DrawFn) -> tuple[int, int, Rect, list[Rect]]:
    width, height = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    region = Rect(x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))
    columns = sorted({0, width, *draw(st.lists(st.integers(0, width), max_size=2))})
    rows = sorted({0, height, *draw(st.lists(st.integers(0, height), max_size=4))})
    rects = [
        Rect(left, top, right, bottom)
        for left, right in itertools.pairwise(columns)
        for top, bottom in itertools.pairwise(rows)
    ]
    return width, height, region, draw(st.permutations(rects))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=cut_pictures(), pixels=st.sampled_from(FORMATS))
def test_tiles_in_any_order_make_the_region_byte_for_byte(
    tmp_path: Path, cut: tuple[int, int, Rect, list[Rect]], pixels: PixelFormat
) -> None:
    width, height, region, rects = cut
    rows = rows_of(width, height, pixels)
    writer = FrameWriter(region, kind_of(pixels))
    for rect in rects:
        if rect.intersection(region) is not None:
            writer.add(tile_file(tmp_path, rows, rect, pixels), rect)
    assert writer.covered == region.area

    writer.finish(tmp_path / "out.png")
    out = pngraw.read(tmp_path / "out.png")
    step = out.pixel_bytes
    assert out.rows == [
        row[region.x0 * step : region.x1 * step] for row in rows[region.y0 : region.y1]
    ]
    assert (out.depth, out.colour_type) == (pixels.depth, pixels.colour_type)
    assert {k: out.chunks[k] for k, _ in SRGB} == dict(SRGB)


def test_the_result_carries_our_marker_before_the_pixels(tmp_path: Path) -> None:
    rect = Rect(0, 0, 2, 2)
    writer = FrameWriter(rect, RGB)
    writer.add(tile_file(tmp_path, rows_of(2, 2, FORMATS[0]), rect), rect)
    writer.finish(tmp_path / "out.png")
    data = (tmp_path / "out.png").read_bytes()
    marker = data.index(b"tEXt" + RESULT_KEYWORD.encode() + b"\0")
    assert marker < data.index(b"IDAT")


def test_a_hole_is_never_written(tmp_path: Path) -> None:
    rows = rows_of(4, 4, FORMATS[0])
    writer = FrameWriter(Rect(0, 0, 4, 4), RGB)
    with pytest.raises(TileFault, match="16 of 16 pixels are missing"):
        writer.finish(tmp_path / "out.png")
    top = Rect(0, 0, 4, 3)
    writer.add(tile_file(tmp_path, rows, top), top)
    with pytest.raises(TileFault, match="4 of 16 pixels are missing"):
        writer.finish(tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_overlaps_strangers_and_outsiders_are_refused_and_change_nothing(tmp_path: Path) -> None:
    rows = rows_of(4, 9, FORMATS[0])
    writer = FrameWriter(Rect(0, 0, 4, 8), RGB)
    top = Rect(0, 0, 4, 4)
    writer.add(tile_file(tmp_path, rows, top), top)

    again = Rect(0, 3, 4, 8)
    with pytest.raises(TileFault, match="overlaps"):
        writer.add(tile_file(tmp_path, rows, again), again)
    outside = Rect(0, 8, 4, 9)
    with pytest.raises(TileFault, match="outside"):
        writer.add(tile_file(tmp_path, rows, outside), outside)
    rest = Rect(0, 4, 4, 8)
    with pytest.raises(TileFault, match="colour chunks"):
        writer.add(tile_file(tmp_path, rows, rest, extra=SRGB[:1]), rest)
    with pytest.raises(TileFault, match="are due"):
        writer.add(tile_file(tmp_path, rows, Rect(0, 4, 4, 7)), rest)

    assert writer.covered == top.area
    writer.add(tile_file(tmp_path, rows, rest), rest)
    writer.finish(tmp_path / "out.png")
    assert pngraw.read(tmp_path / "out.png").rows == rows[:8]


def test_a_target_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    rect = Rect(0, 0, 2, 2)
    writer = FrameWriter(rect, RGB)
    writer.add(tile_file(tmp_path, rows_of(2, 2, FORMATS[0]), rect), rect)
    (tmp_path / "folder").mkdir()
    with pytest.raises(LocalFault, match="folder"):
        writer.finish(tmp_path / "folder")
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("pixels", FORMATS, ids=lambda each: each.name)
def test_a_preview_shows_what_is_there_and_hatches_the_rest(
    tmp_path: Path, pixels: PixelFormat
) -> None:
    writer = FrameWriter(Rect(0, 0, 64, 64), kind_of(pixels))
    empty = Image.open(io.BytesIO(writer.preview(64))).convert("RGB")
    assert len(set(empty.get_flattened_data())) > 1

    step = pngraw.SAMPLES[pixels.colour_type] * pixels.depth // 8
    top = Rect(0, 0, 64, 32)
    writer.add(tile_file(tmp_path, [b"\xff" * (64 * step)] * 64, top, pixels), top)
    seen = Image.open(io.BytesIO(writer.preview(64)))
    assert seen.size == (64, 64)
    shown = seen.convert("RGB")
    assert set(shown.crop((0, 0, 64, 32)).get_flattened_data()) == {(255, 255, 255)}
    below = (0, 32, 64, 64)
    assert shown.crop(below).tobytes() == empty.crop(below).tobytes()
    assert seen.info["gamma"] == pytest.approx(0.45455)


def test_a_sketch_is_shown_where_there_is_nothing_better(tmp_path: Path) -> None:
    region = Rect(10, 10, 50, 42)
    writer = FrameWriter(region, RGB)

    def seen(x: int, y: int) -> object:
        return Image.open(io.BytesIO(writer.preview(64))).convert("RGB").getpixel((x, y))

    hatch = seen(20, 20)
    scout, finer = (Image.new("RGB", (5, 4), colour) for colour in ("#00c800", "#c8c800"))
    writer.sketch(scout, None, Layer.SCOUT)
    assert {seen(0, 0), seen(39, 31)} == {(0, 200, 0)}
    blocks = Image.new("RGBA", (4, 4), (0, 0, 200, 255))
    blocks.paste((9, 9, 9, 0), (0, 0, 2, 4))
    writer.sketch(blocks, Rect(2, 10, 34, 42), Layer.BLOCKS)
    assert (seen(7, 20), seen(12, 20)) == ((0, 200, 0), (0, 0, 200)), "holes hide nothing"
    writer.sketch(finer, None, Layer.SCOUT)
    assert (seen(7, 20), seen(12, 20)) == ((200, 200, 0), (0, 0, 200))
    rect = Rect(10, 10, 50, 20)
    writer.add(tile_file(tmp_path, [bytes([200, 0, 0] * 50)] * 42, rect), rect)
    for layer in (Layer.SCOUT, Layer.BLOCKS):
        writer.sketch(scout, None, layer)
    assert (seen(12, 5), seen(12, 20)) == ((200, 0, 0), (0, 200, 0))
    assert hatch not in ((200, 0, 0), (0, 200, 0))


@pytest.mark.parametrize(
    ("size", "max_side", "seen"),
    [
        ((1, 1), 256, (1, 1)),
        ((1, 1), 0, (1, 1)),
        ((300, 3), 100, (100, 1)),
        ((3000, 2), 4000, (1024, 1)),
        ((2, 3000), 100, (1, 100)),
    ],
)
def test_a_preview_fits_and_is_never_empty(
    tmp_path: Path, size: tuple[int, int], max_side: int, seen: tuple[int, int]
) -> None:
    whole = Rect(0, 0, *size)
    writer = FrameWriter(whole, RGB)
    writer.add(tile_file(tmp_path, [b"\x10\x20\x30" * size[0]] * size[1], whole), whole)
    preview = Image.open(io.BytesIO(writer.preview(max_side)))
    assert preview.size == seen
    assert set(preview.get_flattened_data()) == {(16, 32, 48)}


@pytest.mark.filterwarnings("error")
def test_pillows_global_limit_on_size_does_not_concern_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    rows = rows_of(40, 30, FORMATS[0])
    whole, band = Rect(0, 0, 40, 30), Rect(0, 10, 40, 30)
    crop_tile(tile_file(tmp_path, rows, whole), band, tmp_path / "tile.png", RGB)
    check_tile(tmp_path / "tile.png", band, RGB)
    writer = FrameWriter(Rect(3, 12, 39, 30), RGB)
    writer.add(tmp_path / "tile.png", band)
    writer.finish(tmp_path / "out.png")
    assert writer.preview(5).startswith(b"\x89PNG")
    assert pngraw.read(tmp_path / "out.png").rows == [row[9:117] for row in rows[12:]]
