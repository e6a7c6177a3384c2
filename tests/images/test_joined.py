"""Pictures joined of segments by copying; zlib and slow code of the tests' own as oracle."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clusterray.core.model import FileFormat, Rect
from clusterray.images.filters import filter_rows, sub_rows, unfilter_rows
from clusterray.images.formats import write_tile
from clusterray.images.png import FORMATS, PixelFormat
from clusterray.images.png_reader import Reading, read_png
from clusterray.images.rows import TileGone
from clusterray.images.segments import Packing, adler32_combine, is_open
from clusterray.images.stitch import FrameWriter
from clusterray.images.tile import TileFault, check_tile
from tests.images import oracle, pngraw
from tests.images.test_stitch import SRGB, cut_pictures, kind_of, rows_of

GREY = FORMATS[2]
RGB = FileFormat()
SAME_FOLDER = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def smooth_rows(width: int, height: int, pixels: PixelFormat) -> list[bytes]:
    """Rows that pack well, for which either filter is the better one here and there."""
    step = pixels.pixel_bytes
    return [
        bytes(
            (x * (y // 8 % 2) * 3 + y * 5 + channel * 40 + x * y % 3) % 256
            for x in range(width)
            for channel in range(step)
        )
        for y in range(height)
    ]


def segment_tile(
    path: Path, rows: Sequence[bytes], rect: Rect, pixels: PixelFormat = FORMATS[0]
) -> Path:
    step = pixels.pixel_bytes
    cut = [row[rect.x0 * step : rect.x1 * step] for row in rows[rect.y0 : rect.y1]]
    write_tile(path, (rect.width, rect.height), kind_of(pixels), tuple(SRGB), cut)
    return path


def plain_tile(
    path: Path, rows: Sequence[bytes], rect: Rect, pixels: PixelFormat = FORMATS[0]
) -> Path:
    """A tile as an older node makes it."""
    step = pixels.pixel_bytes
    cut = [row[rect.x0 * step : rect.x1 * step] for row in rows[rect.y0 : rect.y1]]
    size = (rect.width, rect.height)
    return pngraw.write(path, size, pixels.depth, pixels.colour_type, cut, SRGB)


def join(folder: Path, region: Rect, kind: FileFormat, tiles: list[tuple[Path, Rect]]) -> Path:
    writer = FrameWriter(region, kind, folder)
    for path, rect in tiles:
        check_tile(path, rect, kind)
        writer.add(path, rect)
    target = folder / "joined.png"
    written = writer.finish(target)
    writer.close()
    assert written.size == target.stat().st_size
    return target


# ---------------------------------------------------------------- checksums


@given(st.binary(), st.binary(), st.integers(0, 3))
def test_adler32_of_two_pieces_is_zlibs(first: bytes, second: bytes, more: int) -> None:
    # Long runs of the highest byte take both sums beyond their modulus.
    first += b"\xff" * (more * 100_000)
    whole = adler32_combine(zlib.adler32(first), zlib.adler32(second), len(second))
    assert whole == zlib.adler32(first + second)


@given(st.lists(st.binary(max_size=50)))
def test_adler32_of_many_pieces_is_zlibs(pieces: list[bytes]) -> None:
    whole = 1
    for piece in pieces:
        whole = adler32_combine(whole, zlib.adler32(piece), len(piece))
    assert whole == zlib.adler32(b"".join(pieces))


def test_adler32_of_more_than_4_gigabytes() -> None:
    """Of zeros it can be told: the second sum grows by the first for each of them."""
    count = (5 << 30) + 7
    zeros = (count % 65_521) << 16 | 1
    first = zlib.adler32(b"cluster")
    low, high = first & 0xFFFF, first >> 16
    assert adler32_combine(first, zeros, count) == ((high + count * low) % 65_521) << 16 | low


# ---------------------------------------------------------------- filters


@pytest.mark.parametrize("pixels", FORMATS, ids=lambda each: each.name)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 1), (13, 40)], ids=str)
@pytest.mark.parametrize("first", [True, False])
def test_filtered_rows_are_what_a_png_reader_turns_back(
    pixels: PixelFormat, size: tuple[int, int], first: bool
) -> None:
    rows = smooth_rows(*size, pixels)
    row_bytes = len(rows[0])
    above = None if first else bytes(range(256)) * (1 + row_bytes // 256)
    above = above and above[:row_bytes]
    stored = filter_rows(above, b"".join(rows), row_bytes, pixels.pixel_bytes)
    filters = stored[:: 1 + row_bytes]
    if above is None:
        assert filters[0] in (0, 1)
    whole = b"\0" + (above or bytes(row_bytes)) + stored
    assert pngraw.unfilter(whole, row_bytes, pixels.pixel_bytes)[1:] == rows
    begin = above or bytes(row_bytes)
    assert unfilter_rows(begin, stored, size[0], pixels) == b"".join(rows)


@pytest.mark.parametrize("pixels", FORMATS, ids=lambda each: each.name)
def test_rows_less_their_left_neighbours_are_turned_back(pixels: PixelFormat) -> None:
    rows = smooth_rows(7, 5, pixels)
    stored = sub_rows(b"".join(rows), len(rows[0]), pixels.pixel_bytes)
    begin = bytes(len(rows[0]))
    assert unfilter_rows(begin, stored, 7, pixels) == b"".join(rows)


def test_both_filters_are_used_where_they_serve() -> None:
    sideways = bytes(x % 256 for x in range(900))
    rows = [bytes([y]) + sideways[1:] for y in range(8)] + [os.urandom(900)] * 3
    filters = filter_rows(None, b"".join(rows), 900, 3)[::901]
    assert set(filters) == {1, 2}
    assert list(filters[-2:]) == [2, 2], "of a row that repeats the one above nothing is left"


@pytest.mark.parametrize("pixels", FORMATS, ids=lambda each: each.name)
def test_all_five_filters_are_read(tmp_path: Path, pixels: PixelFormat) -> None:
    rng = random.Random(5)
    stride = 1 + 7 * pixels.pixel_bytes
    stored = b"".join(
        bytes([number % 5]) + rng.randbytes(stride - 1) for number in (0, 1, 2, 3, 4, 4, 3, 2, 1)
    )
    path = file_of(tmp_path, (7, 9), [zlib.compress(stored)], pixels)
    wanted = pngraw.unfilter(stored, stride - 1, pixels.pixel_bytes)
    assert read_png(path).rows(Rect(0, 0, 7, 9)) == b"".join(wanted)
    assert pngraw.read(path).cut(2, 3, 6, 8) == cut_up(
        read_png(path).rows(Rect(2, 3, 6, 8)), 4 * pixels.pixel_bytes
    )


def cut_up(rows: bytes, size: int) -> list[bytes]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]


# ---------------------------------------------------------------- pictures


@SAME_FOLDER
@given(
    cut=cut_pictures(),
    pixels=st.sampled_from(FORMATS),
    smooth=st.booleans(),
    older=st.lists(st.booleans(), min_size=15, max_size=15),
)
def test_tiles_of_new_and_old_nodes_in_any_order_make_the_region(
    tmp_path: Path,
    cut: tuple[int, int, Rect, list[Rect]],
    pixels: PixelFormat,
    smooth: bool,
    older: list[bool],
) -> None:
    width, height, region, rects = cut
    rows = (smooth_rows if smooth else rows_of)(width, height, pixels)
    tiles = []
    for number, (rect, old) in enumerate(zip(rects, older, strict=False)):
        if rect.intersection(region) is not None:
            make = plain_tile if old else segment_tile
            tiles.append((make(tmp_path / f"{number}.png", rows, rect, pixels), rect))
    joined = pngraw.read(join(tmp_path, region, kind_of(pixels), tiles))
    step = pixels.pixel_bytes
    assert joined.rows == [
        row[region.x0 * step : region.x1 * step] for row in rows[region.y0 : region.y1]
    ]
    assert {kind: joined.chunks[kind] for kind, _ in SRGB} == dict(SRGB)


@pytest.mark.parametrize("pixels", FORMATS, ids=lambda each: each.name)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (37, 1), (101, 67)], ids=str)
def test_other_readers_agree(tmp_path: Path, pixels: PixelFormat, size: tuple[int, int]) -> None:
    rows = smooth_rows(*size, pixels)
    whole = Rect(0, 0, *size)
    cuts = sorted({0, size[1] // 3, size[1]})
    rects = [Rect(0, top, size[0], bottom) for top, bottom in itertools.pairwise(cuts)]
    tiles = [
        (segment_tile(tmp_path / f"{rect.y0}.png", rows, rect, pixels), rect) for rect in rects
    ]
    joined = join(tmp_path, whole, kind_of(pixels), tiles[::-1])
    values, _ = oracle.values(joined)
    assert values.astype(f">u{pixels.depth // 8}").tobytes() == b"".join(rows)
    image = Image.open(joined)
    image.load()
    assert image.size == size
    if pixels.depth == 8:
        assert image.tobytes() == b"".join(rows)
    for path in (joined, *(path for path, _ in tiles)):
        run_pngcheck(path)


def run_pngcheck(path: Path) -> None:
    program = shutil.which("pngcheck")
    if program is not None:
        done = subprocess.run([program, "-q", path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")


def idat_chunks(path: Path) -> list[bytes]:
    data, position, found = path.read_bytes(), 8, []
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"IDAT":
            found.append(data[position:end])
        position = end
    return found


def test_tiles_of_full_width_are_copied_and_only_narrow_rows_are_packed(tmp_path: Path) -> None:
    rows = rows_of(40, 40, FORMATS[0])
    full = [Rect(0, 0, 40, 10), Rect(0, 14, 40, 30), Rect(0, 30, 40, 40)]
    narrow = [Rect(25, 10, 40, 14), Rect(0, 10, 25, 14)]
    tiles = [
        (segment_tile(tmp_path / f"{number}.png", rows, rect), rect)
        for number, rect in enumerate([*full, *narrow])
    ]
    joined = join(tmp_path, Rect(0, 0, 40, 40), RGB, tiles)
    assert pngraw.read(joined).rows == rows
    chunks = idat_chunks(joined)
    for path, _ in tiles[:3]:
        (segment,) = idat_chunks(path)[1:-1]
        assert chunks.count(segment) == 1
    assert len(chunks) == 3 + 1 + 2, "the narrow rows, and the two around"


def test_rows_of_narrow_tiles_are_packed_as_soon_as_they_are_there(tmp_path: Path) -> None:
    """Whatever is the last tile, only copying is left."""
    rows = rows_of(30, 64, GREY)
    rects = [Rect(0, 0, 10, 64), Rect(10, 0, 30, 20), Rect(10, 32, 30, 64), Rect(10, 20, 30, 32)]
    tiles = [
        (segment_tile(tmp_path / f"{number}.png", rows, rect, GREY), rect)
        for number, rect in enumerate(rects)
    ]
    joined = join(tmp_path, Rect(0, 0, 30, 64), kind_of(GREY), tiles)
    assert pngraw.read(joined).rows == rows
    assert len(idat_chunks(joined)) == 3 + 2


def test_a_large_tile_packed_by_threads_is_the_same_file(tmp_path: Path) -> None:
    """Several blocks, which refer to what other threads have packed."""
    size, pixels = (1200, 700), FORMATS[0]
    row = bytes(x * x // 50 % 256 for x in range(3 * size[0]))
    rows = [row[y:] + row[:y] for y in range(size[1])]
    for threads in (1, 3):
        path = tmp_path / f"{threads}.png"
        write_tile(path, size, RGB, (), (b"".join(rows),), threads=threads)
    one, other = (tmp_path / f"{threads}.png" for threads in (1, 3))
    assert one.read_bytes() == other.read_bytes()
    whole = Rect(0, 0, *size)
    assert read_png(one).rows(whole) == b"".join(rows)
    assert segment_of(one) is not None
    packing = Packing(3 * size[0], pixels.pixel_bytes)
    apart = sum(len(b"".join(packing.chunks([strip]))) for strip in cut_up(b"".join(rows), 400_000))
    assert one.stat().st_size < apart


def test_rows_in_strips_of_any_size_make_the_same_pixels(tmp_path: Path) -> None:
    rows = smooth_rows(50, 60, FORMATS[1])
    kind = kind_of(FORMATS[1])
    for number, strips in enumerate((rows, [b"".join(rows)], [rows[0], b"".join(rows[1:])])):
        path = tmp_path / f"{number}.png"
        write_tile(path, (50, 60), kind, (), strips)
        assert read_png(path).rows(Rect(0, 0, 50, 60)) == b"".join(rows)


def test_a_tile_that_is_gone_when_the_picture_is_written_is_said_so(tmp_path: Path) -> None:
    rows, whole = rows_of(4, 4, FORMATS[0]), Rect(0, 0, 4, 4)
    tile = segment_tile(tmp_path / "tile.png", rows, whole)
    writer = FrameWriter(whole, RGB, tmp_path)
    writer.add(tile, whole)
    tile.unlink()
    with pytest.raises(TileGone, match=r"the tile tile\.png is not there any more"):
        writer.finish(tmp_path / "out.png")
    writer.close()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- hostile tiles

SIZE = (20, 12)
WHOLE = Rect(0, 0, *SIZE)
STRIDE = 1 + 3 * SIZE[0]


def file_of(
    folder: Path,
    size: tuple[int, int],
    idats: Sequence[bytes],
    pixels: PixelFormat = FORMATS[0],
    name: str = "hostile.png",
) -> Path:
    """A PNG with these IDAT chunks, whatever they are."""
    header = b"".join(side.to_bytes(4, "big") for side in size)
    header += bytes((pixels.depth, pixels.colour_type, 0, 0, 0))
    chunks = [pngraw.chunk(b"IHDR", header), *(pngraw.chunk(*each) for each in SRGB)]
    chunks += [pngraw.chunk(b"IDAT", body) for body in idats]
    path = folder / name
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, pngraw.chunk(b"IEND", b"")]))
    return path


def stored_rows(first_filter: int = 1) -> bytes:
    rng = random.Random(7)
    rows = [bytes([2 if y else first_filter]) + rng.randbytes(STRIDE - 1) for y in range(SIZE[1])]
    return b"".join(rows)


def packed(stored: bytes, flush: int = zlib.Z_FULL_FLUSH, before: bytes = b"") -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=before)
    return squeeze.compress(stored) + squeeze.flush(flush)


def closed(stored: bytes) -> bytes:
    return b"\x03\x00" + zlib.adler32(stored).to_bytes(4, "big")


def segment_of(path: Path) -> object:
    png = read_png(path)
    reading = Reading(png)
    for _ in reading.stored():
        pass
    return reading.segment


def joined_below_another(folder: Path, hostile: Path) -> tuple[list[bytes], list[bytes]]:
    """The rows of a picture of a good tile, the hostile one, and a good one; and the due ones."""
    width, height = SIZE
    stored = zlib.decompress(b"".join(chunk[8:-4] for chunk in idat_chunks(hostile)))
    middle = pngraw.unfilter(stored, STRIDE - 1, 3)
    good = rows_of(width, height, FORMATS[0])
    tiles = [(hostile, Rect(0, height, width, 2 * height))]
    for number in (0, 2):
        path = segment_tile(folder / f"good-{number}.png", good, WHOLE)
        tiles.append((path, Rect(0, number * height, width, (number + 1) * height)))
    joined = join(folder, Rect(0, 0, width, 3 * height), RGB, tiles)
    run_pngcheck(joined)
    return pngraw.read(joined).rows, [*good, *middle, *good]


def test_the_files_made_here_would_be_copied_were_they_not_hostile(tmp_path: Path) -> None:
    stored = stored_rows()
    path = file_of(tmp_path, SIZE, [b"\x78\x9c", packed(stored), closed(stored)])
    assert segment_of(path) is not None
    found, wanted = joined_below_another(tmp_path, path)
    assert found == wanted


def no_segments() -> Iterator[tuple[str, list[bytes]]]:
    stored = stored_rows()
    for number in (2, 3, 4):
        looks_up = stored_rows(first_filter=number)
        pieces = [b"\x78\x9c", packed(looks_up), closed(looks_up)]
        yield f"first row has filter {number}", pieces
    yield "ends within a block", _within_a_block()
    checksum = zlib.adler32(stored).to_bytes(4, "big")
    yield "last block with the pixels", [b"\x78\x9c", packed(stored, zlib.Z_FINISH), checksum]
    yield "one chunk", [zlib.compress(stored)]
    yield "header with the pixels", [b"\x78\x9c" + packed(stored), closed(stored)]


def _within_a_block() -> list[bytes]:
    """The two bytes that should be the closing block are pixels: of a last block, stored."""
    stored = stored_rows()[:-2] + b"\x03\x00"
    size = len(stored).to_bytes(2, "little")
    head = b"\x01" + size + bytes(255 - byte for byte in size)
    return [b"\x78\x9c", head + stored[:-2], closed(stored)]


@pytest.mark.parametrize(
    ("data", "open_there"),
    [
        (b"", True),
        (packed(stored_rows()), True),
        (packed(stored_rows())[:-1], False),
        (packed(stored_rows())[:-9], False),
        (packed(stored_rows(), zlib.Z_PARTIAL_FLUSH), False),
        (packed(stored_rows(), zlib.Z_FINISH), False),
        # Two bits short of its end, as zlib leaves a partial flush; any other bit short of it.
        *((packed(b"", zlib.Z_PARTIAL_FLUSH) + bits, False) for bits in (b"", b"\x04", b"\x10")),
        (b"\x00\x05\x00\xfa\xff", False),
        (b"\x00\x05\x00\xfa\xff12345", True),
        (b"\x03\x00", False),
    ],
)
def test_only_between_two_blocks_and_two_bytes_may_another_block_follow(
    data: bytes, open_there: bool
) -> None:
    inflater = zlib.decompressobj(-15)
    inflater.decompress(data)
    assert is_open(inflater) is open_there


@pytest.mark.parametrize(
    ("what", "idats"), list(no_segments()), ids=[each[0] for each in no_segments()]
)
def test_what_is_a_png_and_no_segment_is_packed_anew(
    tmp_path: Path, what: str, idats: list[bytes]
) -> None:
    path = file_of(tmp_path, SIZE, idats)
    check_tile(path, WHOLE, RGB)
    assert segment_of(path) is None, what
    found, wanted = joined_below_another(tmp_path, path)
    assert found == wanted


def faults() -> Iterator[tuple[str, list[bytes], str]]:
    stored = stored_rows()
    good = [b"\x78\x9c", packed(stored), closed(stored)]
    before = stored[: STRIDE * 4]
    yield (
        "refers to before its begin",
        [good[0], packed(stored, before=before), good[2]],
        "unpacked",
    )
    yield "wrong Adler-32", [*good[:2], closed(stored[1:])], "unpacked"
    yield (
        "a block more after the last",
        [good[0], packed(stored, zlib.Z_FINISH), good[2]],
        "unpacked",
    )
    yield "bytes behind", [*good[:2], good[2] + b"\0"], "more behind"
    yield "a chunk behind", [*good, b"more"], "more behind"
    yield "no last block", [*good[:2], packed(b"")], "bytes of pixels"
    yield (
        "a row too few",
        [good[0], packed(stored[STRIDE:]), closed(stored[STRIDE:])],
        "and 732 are due",
    )
    yield "a row too many", [good[0], packed(stored + stored[:STRIDE]), good[2]], "and 732 are due"
    yield "a bomb", [good[0], packed(bytes(1 << 26)), good[2]], "and 732 are due"
    wrong = stored[:STRIDE] + b"\5" + stored[STRIDE + 1 :]
    yield "no such filter", [good[0], packed(wrong), closed(wrong)], "filter 5"
    yield "a dictionary", [b"\x78\xbb", *good[1:]], "unpacked"
    yield "many small chunks", [good[0], *[b""] * 500, *good[1:]], "too many small pieces"
    yield "no pixels", [], "no pixels"


@pytest.mark.parametrize(
    ("what", "idats", "words"), list(faults()), ids=[each[0] for each in faults()]
)
def test_what_is_no_png_of_the_tile_is_refused(
    tmp_path: Path, what: str, idats: list[bytes], words: str
) -> None:
    path = file_of(tmp_path, SIZE, idats)
    with pytest.raises(TileFault, match=words):
        check_tile(path, WHOLE, RGB)
    writer = FrameWriter(WHOLE, RGB, tmp_path)
    with pytest.raises(TileFault, match=words):
        writer.add(path, WHOLE)
    assert writer.covered == 0
    good = segment_tile(tmp_path / "good.png", rows_of(*SIZE, FORMATS[0]), WHOLE)
    writer.add(good, WHOLE)
    writer.finish(tmp_path / "out.png")
    writer.close()
    assert pngraw.read(tmp_path / "out.png").rows == pngraw.read(good).rows


def test_pixels_that_are_interrupted_are_refused(tmp_path: Path) -> None:
    stored = stored_rows()
    path = file_of(tmp_path, SIZE, [b"\x78\x9c", packed(stored), closed(stored)])
    last = idat_chunks(path)[-1]
    data = path.read_bytes()
    path.write_bytes(data.replace(last, pngraw.chunk(b"tIME", bytes(7)) + last))
    with pytest.raises(TileFault, match="do not lie in one place"):
        check_tile(path, WHOLE, RGB)
