"""What a check has found of a small tile saves the stitcher its reading, and changes no pixel."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from clusterray.core.model import FileFormat, Rect
from clusterray.head import checked_tiles
from clusterray.head.checked_tiles import CheckedTiles
from clusterray.images.png_reader import PngFile, content_of
from clusterray.images.stitch import FrameWriter
from clusterray.images.tile import check_tile, crop_tile

KIND = FileFormat()
WHOLE = Rect(0, 0, 24, 16)
UPPER, LOWER = WHOLE.split_at_row(8)


def made(folder: Path, rect: Rect, *, segment: bool) -> tuple[Path, PngFile]:
    """Make a tile with or without a segment; gives its file, and what its check has found."""
    picture = folder / "picture.png"
    pixels = bytes(x * y % 251 for y in range(WHOLE.height) for x in range(3 * WHOLE.width))
    Image.frombytes("RGB", (WHOLE.width, WHOLE.height), pixels).save(picture)
    path = folder / f"{rect.y0}-{segment}.png"
    if segment:
        crop_tile(picture, rect, path, KIND)
    else:
        Image.open(picture).crop(rect.as_tuple()).save(path)
    found = check_tile(path, rect, KIND, content=content_of(path))
    assert isinstance(found, PngFile)
    return path, found


def stitched(folder: Path, tiles: dict[Rect, Path], checked: CheckedTiles) -> bytes:
    writer = FrameWriter(WHOLE, KIND, folder)
    for rect, path in tiles.items():
        writer.add(path, rect, checked.take(path))
    target = folder / "result.png"
    writer.finish(target)
    preview = writer.preview(24)
    writer.close()
    return target.read_bytes() + preview


def test_the_picture_is_the_same_whether_a_tile_is_read_again_or_not(tmp_path: Path) -> None:
    for segment in (True, False):
        found = {rect: made(tmp_path, rect, segment=segment) for rect in (UPPER, LOWER)}
        tiles = {rect: path for rect, (path, _) in found.items()}
        checked = CheckedTiles()
        read = stitched(tmp_path, tiles, checked)
        for path, tile in found.values():
            checked.put(path, tile)
        assert stitched(tmp_path, tiles, checked) == read
        assert checked.take(tiles[UPPER]) is None, "it is given once"


def test_what_nobody_takes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tile = made(tmp_path, UPPER, segment=True)
    assert tile.proof is not None
    monkeypatch.setattr(checked_tiles, "MOST_BYTES", 3 * len(tile.proof.stored))
    checked = CheckedTiles()
    for number in range(9):
        checked.put(path.with_name(f"{number}.png"), tile)
    kept = [n for n in range(9) if checked.take(path.with_name(f"{n}.png"))]
    assert kept == [6, 7, 8]
