"""Files that are not PNG: read and written value for value, and refused where they are damaged."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterray.core.errors import SceneFault
from clusterray.core.model import FileFormat, Rect
from clusterray.images import exr, formats, hdr, png_reader, rows
from clusterray.images.formats import check_supported, pixel_bytes, read_tile, write_tile
from clusterray.images.hdr import read_hdr, write_hdr
from clusterray.images.rows import Colour
from clusterray.images.stitch import FrameWriter
from clusterray.images.tile import TileFault, check_tile, crop_tile
from tests.images import oracle

TGA: Colour = ((b"alpha", b"\3"), (b"gamma", b"P8\x99\x19"))
KINDS: list[tuple[FileFormat, Colour]] = [
    (FileFormat("T"), TGA),
    (FileFormat("T", alpha=True), TGA),
    (FileFormat("B"), ()),
    (FileFormat("B", alpha=True), ()),
    (FileFormat("P"), ((b"magic", b"P6"), (b"maxval", b"255"))),
    (FileFormat("P", 12), ((b"magic", b"P6"), (b"maxval", b"4095"))),
    (FileFormat("P", 16, grey=True), ((b"magic", b"P5"), (b"maxval", b"65535"))),
    (FileFormat("H"), ()),
    (FileFormat("E", 16), ()),
    (FileFormat("E", 16, alpha=True), ()),
    (FileFormat("N", 16), ((b"gAMA", b"\x00\x00\xb1\x8f"),)),
    (FileFormat("N", 16, alpha=True), ()),
]
EACH = pytest.mark.parametrize(("kind", "colour"), KINDS, ids=str)


def rows_for(kind: FileFormat, size: tuple[int, int]) -> bytes:
    rows = os.urandom(size[0] * size[1] * pixel_bytes(kind))
    if kind.letter == "E":
        # No half is a NaN whose payload a library might tidy up.
        return bytes(byte & 0x3F for byte in rows)
    return rows


def tile(folder: Path, kind: FileFormat, colour: Colour, size: tuple[int, int]) -> Path:
    path = folder / f"tile.{kind.tile.extension}"
    write_tile(path, size, kind, colour, (rows_for(kind, size),))
    return path


@EACH
def test_rows_come_back_and_any_part_of_them(
    tmp_path: Path, kind: FileFormat, colour: Colour
) -> None:
    size = (23, 17)
    rows = rows_for(kind, size)
    path = tmp_path / f"x.{kind.extension}"
    write_tile(path, size, kind, colour, (rows,))
    found = read_tile(path, kind)
    assert (found.width, found.height, found.colour) == (*size, colour)
    assert found.rows(Rect(0, 0, 23, 17)) == rows
    step = pixel_bytes(kind)
    part = b"".join(rows[(y * 23 + 4) * step : (y * 23 + 9) * step] for y in range(3, 8))
    assert found.rows(Rect(4, 3, 9, 8)) == part


@pytest.mark.parametrize(("kind", "colour"), [*KINDS, (FileFormat(alpha=True), ())], ids=str)
def test_a_picture_is_read_and_joined_a_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: FileFormat, colour: Colour
) -> None:
    for module in (rows, hdr, png_reader):
        monkeypatch.setattr(module, "STRIP_BYTES", 400)
    size, step = (23, 40), pixel_bytes(kind)
    whole, region = Rect(0, 0, *size), Rect(2, 3, 21, 37)
    data = rows_for(kind, size)
    path = tmp_path / f"x.{kind.extension}"
    write_tile(path, size, kind, colour, (data,))
    strips = list(read_tile(path, kind).strips(region))
    due = b"".join(data[(y * 23 + 2) * step : (y * 23 + 21) * step] for y in range(3, 37))
    assert b"".join(strips) == due
    assert max(map(len, strips)) <= 400 + 23 * step
    check_tile(path, whole, kind)
    joined = tmp_path / f"joined.{kind.extension}"
    writer = FrameWriter(region, kind, tmp_path)
    writer.add(path, whole)
    written = writer.finish(joined)
    writer.close()
    assert read_tile(joined, kind).rows(Rect(0, 0, 19, 34)) == due
    content = joined.read_bytes()
    assert (written.size, written.sha256) == (len(content), hashlib.sha256(content).hexdigest())


@EACH
def test_a_file_that_breaks_off_is_refused(
    tmp_path: Path, kind: FileFormat, colour: Colour
) -> None:
    path = tile(tmp_path, kind, colour, (23, 17))
    whole = Rect(0, 0, 23, 17)
    check_tile(path, whole, kind)
    data = path.read_bytes()
    for kept in (0, 1, 10, 60, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:kept])
        with pytest.raises(TileFault):
            check_tile(path, whole, kind)


@EACH
def test_a_file_of_another_kind_or_size_is_refused(
    tmp_path: Path, kind: FileFormat, colour: Colour
) -> None:
    path = tile(tmp_path, kind, colour, (23, 17))
    with pytest.raises(TileFault, match="23x17 pixels"):
        check_tile(path, Rect(0, 0, 23, 18), kind)
    for other, _ in KINDS:
        if other != kind:
            with pytest.raises(TileFault):
                check_tile(path, Rect(0, 0, 23, 17), other)


@EACH
def test_a_header_that_promises_a_huge_picture_costs_nothing(
    tmp_path: Path, kind: FileFormat, colour: Colour
) -> None:
    path = tile(tmp_path, kind, colour, (23, 17))
    with pytest.raises(TileFault):
        check_tile(path, Rect(0, 0, 900_000, 900_000), kind)


def test_what_a_node_cannot_look_into_it_passes_on_but_not_nothing(tmp_path: Path) -> None:
    kind, target = FileFormat("E", 16), tmp_path / "tile.exr"
    with pytest.raises(TileFault, match="No such file"):
        crop_tile(tmp_path / "none.exr", Rect(0, 0, 1, 1), target, kind)
    (tmp_path / "empty.exr").touch()
    with pytest.raises(TileFault, match="empty"):
        crop_tile(tmp_path / "empty.exr", Rect(0, 0, 1, 1), target, kind)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    width=st.sampled_from([1, 7, 8, 9, 127, 128, 129, 300, 0x7FFF, 0x8000]),
    height=st.integers(1, 3),
    letters=st.integers(1, 4),
    data=st.data(),
)
def test_hdr_rows_of_any_runs_survive_packing(
    tmp_path: Path, width: int, height: int, letters: int, data: st.DataObject
) -> None:
    chunk = data.draw(st.binary(min_size=1, max_size=40))
    step = data.draw(st.integers(1, 200))
    rows = b"".join(
        bytes([chunk[(at // step) % len(chunk)] % (letters * 60)])
        for at in range(width * height * 4)
    )
    with (tmp_path / "x.hdr").open("wb") as file:
        write_hdr(file, (width, height), (rows,), "test")
    assert read_hdr(tmp_path / "x.hdr").rows(Rect(0, 0, width, height)) == rows
    pixels, _ = oracle.values(tmp_path / "x.hdr")
    assert pixels.shape == (height, width, 3)


def test_what_no_file_can_hold_is_refused() -> None:
    for kind, side in (("J", 65_501), ("T", 65_536), ("C", 65_536)):
        with pytest.raises(SceneFault, match="choose another format"):
            check_supported(FileFormat(kind), 10, side)
        check_supported(FileFormat(kind), 10, side - 1)
    with pytest.raises(SceneFault, match="BMP"):
        check_supported(FileFormat("B"), 40_000, 20_000)


def test_without_openimageio_openexr_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exr, "is_supported", lambda: False)
    with pytest.raises(SceneFault, match=r"pip install 'clusterray\[head\]'"):
        check_supported(FileFormat("E", 16), 10, 10)
    check_supported(FileFormat("H"), 10, 10)


@pytest.mark.parametrize("letter", ["H", "E"])
def test_a_large_picture_is_seen_by_fewer_pixels_in_the_same_places(letter: str) -> None:
    kind = FileFormat(letter, 16 if letter == "E" else 8)
    white = {"H": bytes((128, 128, 128, 129)), "E": b"\x00\x3c" * 3}[letter]
    black = bytes(pixel_bytes(kind))
    width, height = 1501, 1000
    rows = (white * 1000 + black * 501) * height
    seen = formats.as_seen(rows, width, kind, 3)
    assert seen.size == (501, 334)
    edge = seen.width * 1000 // width
    assert {seen.getpixel((x, seen.height - 1)) for x in range(edge - 2)} == {(255, 255, 255)}
    assert {seen.getpixel((x, 0)) for x in range(edge + 3, seen.width)} == {(0, 0, 0)}


@pytest.mark.parametrize(
    ("kind", "value", "seen"),
    [
        (FileFormat("P", 5), b"\x1f\x10\x00", (255, 128, 0)),
        (FileFormat("P", 12), b"\x0f\xff\x08\x00\x00\x0f", (255, 128, 0)),
        (FileFormat("P", 16, grey=True), b"\x80\x01", 128),
        (FileFormat("T"), b"\1\2\3", (3, 2, 1)),
        (FileFormat("H"), bytes((128, 64, 255, 129)), (255, 188, 255)),
        (FileFormat("N", 16), b"\1\xff\2\xff\3\xff", (1, 2, 3)),
        (
            FileFormat("E", 16, alpha=True),
            b"\x00\x34\x00\x38\x00\x40\x00\x38",
            (188, 255, 255, 128),
        ),
    ],
    ids=str,
)
def test_a_preview_shows_about_what_is_there(
    kind: FileFormat, value: bytes, seen: tuple[int, ...] | int
) -> None:
    found = formats.as_seen(value * 6, 2, kind)
    assert found.size == (2, 3)
    given_seen = found.getpixel((1, 2))
    pairs = zip(
        given_seen if isinstance(given_seen, tuple) else (given_seen,),
        seen if isinstance(seen, tuple) else (seen,),
        strict=True,
    )
    assert all(abs(one - other) <= 8 for one, other in pairs if one is not None)


def test_a_ppm_whose_space_never_ends_costs_no_time(tmp_path: Path) -> None:
    """Each reading of so much space as one piece or as two: with one more it took twice as long."""
    path = tmp_path / "tile.ppm"
    path.write_bytes(b"P6\n#\n" + b" " * 4000 + b"2 x")
    with pytest.raises(TileFault, match="not a PPM"):
        check_tile(path, Rect(0, 0, 2, 2), FileFormat("P"))
