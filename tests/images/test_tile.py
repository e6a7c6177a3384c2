from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest

from clusterray.core.errors import LocalFault
from clusterray.core.model import FileFormat, Rect
from clusterray.images.png import FORMATS, PixelFormat
from clusterray.images.png_reader import read_png
from clusterray.images.tile import TileFault, check_tile, crop_tile
from tests.images import pngraw

COLOUR = [(b"gAMA", b"\x00\x00\xb1\x8f"), (b"sRGB", b"\x00")]

RGB, RGBA = FileFormat(), FileFormat(alpha=True)


def kind_of(pixels: PixelFormat) -> FileFormat:
    return FileFormat(bits=pixels.depth, grey=pixels.grey, alpha=pixels.alpha)


def picture(path: Path, size: tuple[int, int], pixels: PixelFormat) -> Path:
    step = pngraw.SAMPLES[pixels.colour_type] * pixels.depth // 8
    rows = [os.urandom(size[0] * step) for _ in range(size[1])]
    extra = [*COLOUR, (b"tIME", bytes(7)), (b"oFFs", bytes(9)), (b"tEXt", b"Software\0POV-Ray")]
    return pngraw.write(path, size, pixels.depth, pixels.colour_type, rows, extra)


@pytest.mark.parametrize("pixels", FORMATS, ids=lambda each: each.name)
@pytest.mark.parametrize(
    "rect",
    [Rect(0, 0, 23, 17), Rect(0, 5, 23, 6), Rect(7, 3, 8, 4), Rect(22, 16, 23, 17)],
    ids=lambda rect: str(rect.as_tuple()),
)
def test_a_crop_keeps_every_byte_and_the_colour_chunks(
    tmp_path: Path, pixels: PixelFormat, rect: Rect
) -> None:
    source = picture(tmp_path / "whole.png", (23, 17), pixels)
    crop_tile(source, rect, tmp_path / "tile.png", kind_of(pixels))

    whole, tile = pngraw.read(source), pngraw.read(tmp_path / "tile.png")
    assert tile.rows == whole.cut(*rect.as_tuple())
    assert (tile.depth, tile.colour_type) == (pixels.depth, pixels.colour_type)
    assert {k: v for k, v in tile.chunks.items() if k not in (b"IHDR", b"IDAT", b"IEND")} == dict(
        COLOUR
    )
    check_tile(tmp_path / "tile.png", rect, kind_of(pixels))
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("kept", [0, 7, 20, 60, -1, -12, -13, -40])
def test_a_truncated_source_is_refused(tmp_path: Path, kept: int) -> None:
    source = picture(tmp_path / "whole.png", (23, 17), FORMATS[0])
    source.write_bytes(source.read_bytes()[:kept])
    with pytest.raises(TileFault, match=r"ends after|empty|not a PNG"):
        crop_tile(source, Rect(0, 0, 23, 3), tmp_path / "tile.png", RGB)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("rows", [0, 5, 8, 10, 4000])
def test_a_source_with_the_wrong_number_of_rows_of_data_is_refused(
    tmp_path: Path, rows: int
) -> None:
    source = pngraw.write(tmp_path / "short.png", (400, 9), 8, 2, [bytes(1200)] * rows)
    with pytest.raises(TileFault, match="bytes of pixels, and 10809 are due"):
        crop_tile(source, Rect(0, 0, 4, 3), tmp_path / "tile.png", RGB)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    source = picture(tmp_path / "whole.png", (23, 17), FORMATS[1])
    data = bytearray(source.read_bytes())
    data[-200] ^= 1
    source.write_bytes(data)
    with pytest.raises(TileFault, match="damaged"):
        check_tile(source, Rect(0, 0, 23, 17), RGBA)


def test_pixels_that_do_not_unpack_are_refused(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    bad = pngraw.chunk(b"IHDR", header) + pngraw.chunk(b"IDAT", b"no zlib at all")
    path = tmp_path / "bad.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bad + pngraw.chunk(b"IEND", b""))
    with pytest.raises(TileFault, match="cannot be unpacked"):
        check_tile(path, Rect(0, 0, 4, 4), RGB)


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    source = picture(tmp_path / "tile.png", (23, 17), FORMATS[0])
    with pytest.raises(TileFault, match="23x17 pixels, and 23x16 are due"):
        check_tile(source, Rect(0, 0, 23, 16), RGB)
    with pytest.raises(TileFault, match="23x17 pixels, too few for columns 0 to 23 and rows 8 to"):
        crop_tile(source, Rect(0, 8, 23, 18), tmp_path / "cut.png", RGB)


@pytest.mark.parametrize(("depth", "colour_type"), [(8, 0), (8, 3), (8, 4), (4, 0)])
def test_a_pixel_format_that_povray_does_not_write_is_refused(
    tmp_path: Path, depth: int, colour_type: int
) -> None:
    path = pngraw.write(tmp_path / "tile.png", (2, 2), depth, colour_type, [bytes(16)] * 2)
    with pytest.raises(TileFault, match=f"{depth} bits, colour type {colour_type}"):
        check_tile(path, Rect(0, 0, 2, 2), RGB)


def test_grey_where_colour_is_due_is_refused(tmp_path: Path) -> None:
    source = picture(tmp_path / "tile.png", (3, 3), FORMATS[2])
    with pytest.raises(TileFault, match="grey, 16 bits, and RGB and alpha, 8 bits are due"):
        check_tile(source, Rect(0, 0, 3, 3), RGBA)


def test_a_header_that_promises_a_huge_picture_costs_nothing(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 900_000, 900_000, 8, 6, 0, 0, 0)
    parts = pngraw.chunk(b"IHDR", header) + pngraw.chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts + pngraw.chunk(b"IEND", b""))
    with pytest.raises(TileFault, match="900000x900000 pixels, and 10x10 are due"):
        check_tile(path, Rect(0, 0, 10, 10), RGBA)


def test_a_file_that_is_gone_or_no_png_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(TileFault, match="No such file"):
        check_tile(tmp_path / "none.png", Rect(0, 0, 1, 1), RGB)
    (tmp_path / "p.ppm").write_bytes(b"P6 1 1 255 abc")
    with pytest.raises(TileFault, match="not a PNG"):
        check_tile(tmp_path / "p.ppm", Rect(0, 0, 1, 1), RGB)


def test_a_target_that_cannot_be_written_is_this_machines_fault(tmp_path: Path) -> None:
    source = picture(tmp_path / "whole.png", (3, 3), FORMATS[0])
    with pytest.raises(LocalFault, match=r"gone/tile\.png: No such file"):
        crop_tile(source, Rect(0, 0, 3, 3), tmp_path / "gone" / "tile.png", RGB)


def found_in(path: Path, content: bytes | None) -> object:
    """What a reader says of a PNG: where everything lies in it, or what is wrong."""
    try:
        png = read_png(path, content)
    except TileFault as fault:
        return str(fault)
    return png.width, png.height, png.format, png.colour, png.packed


def test_a_small_file_is_read_in_memory_as_a_large_one_is_from_the_disk(tmp_path: Path) -> None:
    source = picture(tmp_path / "whole.png", (9, 7), FORMATS[1])
    crop_tile(source, Rect(0, 0, 9, 5), tmp_path / "tile.png", RGBA)
    whole, damaged = (tmp_path / "tile.png").read_bytes(), tmp_path / "damaged.png"
    cut = [whole[:kept] for kept in range(len(whole) + 1)]
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    kinds = set()
    for content in (*cut, *flipped, whole + b"more"):
        damaged.write_bytes(content)
        found = found_in(damaged, content)
        assert found == found_in(damaged, None)
        kinds.add(type(found))
    assert kinds == {str, tuple}
