"""State files of the real POV-Ray: what is in them, and what POV-Ray makes of what we write."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from clusterray.core.blocks import BlockGrid
from clusterray.core.model import Rect
from clusterray.povray.command import environment, prepare_home, render_argv
from clusterray.povray.scene import plan_job
from clusterray.povray.spec import RenderSpec
from clusterray.povray.state_file import (
    HEADER_BYTES,
    Block,
    BlockCanvas,
    NoStateFile,
    Origin,
    StateReader,
    finished_pixels,
    keep_blocks,
    move_blocks,
    read_blocks,
    read_origin,
)

pytestmark = pytest.mark.skipif(shutil.which("povray") is None, reason="POV-Ray is not installed")

SCENE = """\
#version 3.7;
global_settings { assumed_gamma 1.0 }
camera { location <0, 1, -4> look_at 0 angle 50 }
light_source { <4, 5, -5> rgb 1 }
plane { y, -1 pigment { checker rgb <1, 0.1, 0> rgb 1 scale 0.3 } }
sphere { 0, 1 pigment { rgb <0.1, 0.9, 0.2> } finish { phong 1 reflection 0.4 } }
"""
WIDTH, HEIGHT = 80, 72
WHOLE = Rect(0, 0, WIDTH, HEIGHT)
AM1 = ("+A0.1", "+AM1", "+R3")
AM2 = ("+A0.1", "+AM2", "+R2")
NONE = ("-A",)


@dataclass(frozen=True)
class Rendered:
    """What a run left: its picture, and a second name of its state file."""

    picture: Image.Image
    state: Path

    @property
    def blocks(self) -> list[Block]:
        return list(read_blocks(self.state))


class Bench:
    """A scene folder, and POV-Ray called on it as a node calls it."""

    def __init__(self, root: Path, words: tuple[str, ...], text: str = SCENE) -> None:
        self.root = root
        (root / "scene").mkdir()
        (root / "scene" / "room.pov").write_text(text)
        self.spec: RenderSpec = plan_job(
            root / "scene" / "room.pov",
            list(words),
            width=WIDTH,
            height=HEIGHT,
            region=None,
            home=Path("/nonexistent"),
        ).spec
        self._runs = 0

    def grid(self, rect: Rect = WHOLE) -> BlockGrid:
        return BlockGrid(rect, self.spec.block_size)

    def folder(self) -> Path:
        self._runs += 1
        folder = self.root / f"run {self._runs}"
        folder.mkdir()
        return folder

    def fresh(self, rect: Rect = WHOLE, *, threads: int = 1) -> Rendered:
        """Render from nothing."""
        folder = self.folder()
        # POV-Ray empties this file and writes into it, and takes only its own name away at the
        # end: so all records are there afterwards, without a race for them.
        (folder / "tile.pov-state").touch()
        return self._run(folder, rect, threads, resume=False)

    def resumed(
        self, state: Path, rect: Rect = WHOLE, *, threads: int = 1, picture: bytes = b""
    ) -> Rendered:
        """Render from a copy of ``state`` on, where ``picture`` is what lies there already."""
        folder = self.folder()
        shutil.copy(state, folder / "tile.pov-state")
        if picture:
            (folder / "tile.png").write_bytes(picture)
        return self._run(folder, rect, threads, resume=True)

    def _run(self, folder: Path, rect: Rect, threads: int, *, resume: bool) -> Rendered:
        output, second = folder / "tile.png", folder / "records"
        os.link(folder / "tile.pov-state", second)
        prepare_home(folder, self.spec)
        done = subprocess.run(
            render_argv(
                self.spec, rect, threads=threads, povray="povray", output=output, resume=resume
            ),
            cwd=self.root / "scene",
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        with Image.open(output) as picture:
            picture.load()
            return Rendered(picture, second)

    def write(self, blocks: list[Block], like: Rendered, *, torn: bytes = b"") -> Path:
        """Write a state file of just these records."""
        path = self.folder() / "made.pov-state"
        header = like.state.read_bytes()[:HEADER_BYTES]
        path.write_bytes(header + b"".join(block.record for block in blocks) + torn)
        return path


def same(ours: Image.Image, other: Image.Image, rect: Rect = WHOLE) -> bool:
    assert ours.mode == other.mode and ours.size == other.size
    box = rect.as_tuple()
    return ImageChops.difference(ours.crop(box), other.crop(box)).getbbox() is None


@pytest.fixture(scope="module")
def am1(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Rendered]:
    bench = Bench(tmp_path_factory.mktemp("am1"), AM1)
    return bench, bench.fresh()


# ---------------------------------------------------------------- what POV-Ray writes


@pytest.mark.parametrize(
    ("words", "rect"),
    [
        ((), WHOLE),
        (("+BS8",), Rect(8, 16, 77, 41)),
        (("+BS64",), Rect(3, 2, 50, 70)),
        pytest.param(("+BS5",), Rect(0, 5, 80, 6), marks=pytest.mark.slow),
        pytest.param((), Rect(40, 30, 41, 31), marks=pytest.mark.slow),
        pytest.param((), Rect(0, 0, 1, 72), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_serial_is_the_blocks_place_in_the_rectangle(
    tmp_path: Path, words: tuple[str, ...], rect: Rect
) -> None:
    bench = Bench(tmp_path, words)
    grid = bench.grid(rect)
    blocks = bench.fresh(rect).blocks
    assert {block.serial: block.rect for block in blocks} == {
        serial: grid.block(serial) for serial in range(grid.count)
    }
    assert [grid.serial(block.rect) for block in blocks] == [block.serial for block in blocks]
    assert all(len(block.record) == 244 + 20 * block.rect.area for block in blocks)


def test_a_full_block_takes_20724_bytes(am1: tuple[Bench, Rendered]) -> None:
    _bench, plain = am1
    assert len(plain.blocks[0].record) == 20_724
    size = plain.state.stat().st_size
    assert size == HEADER_BYTES + sum(len(block.record) for block in plain.blocks)


def test_how_many_pixels_are_finished_is_seen_from_the_size(
    am1: tuple[Bench, Rendered], tmp_path: Path
) -> None:
    bench, plain = am1
    size = bench.spec.block_size
    counted = finished_pixels(plain.state, size)
    assert WHOLE.area <= counted <= WHOLE.area + 13 * len(plain.blocks)
    whole = [block for block in plain.blocks if block.rect.area == size * size]
    assert finished_pixels(bench.write(whole, plain), size) == len(whole) * size * size
    assert finished_pixels(bench.write([], plain), size) == 0
    assert finished_pixels(tmp_path / "none", size) == 0


# ---------------------------------------------------------------- going on from blocks


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(AM1, id="AM1"),
        pytest.param(AM2, id="AM2", marks=pytest.mark.slow),
        pytest.param(NONE, id="none", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_render_equals_an_uninterrupted_one(
    tmp_path: Path, words: tuple[str, ...], threads: int
) -> None:
    bench = Bench(tmp_path, (*words, "+BS16"))
    plain = bench.fresh(threads=threads)
    some = [block for block in plain.blocks if block.serial % 3 != 1]
    made = bench.write(some[::-1], plain, torn=plain.blocks[1].record[:1000])
    assert keep_blocks([made], made, bench.grid()) == {block.serial for block in some}
    again = bench.resumed(made, threads=threads)
    assert same(again.picture, plain.picture)
    rendered = sorted(block.serial for block in again.blocks[len(some) :])
    assert rendered == [serial for serial in range(25) if serial % 3 == 1], "just the missing ones"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_band_cut_in_rows_and_columns_is_resumed(tmp_path: Path, threads: int) -> None:
    bench = Bench(tmp_path, (*AM1, "+BS16"))
    rect = Rect(16, 32, 64, 72)
    plain = bench.fresh(rect, threads=threads)
    made = bench.write([plain.blocks[7], plain.blocks[1]], plain)
    kept = keep_blocks([made], made, bench.grid(rect))
    assert kept == {plain.blocks[7].serial, plain.blocks[1].serial}
    again = bench.resumed(made, rect, threads=threads)
    assert same(again.picture, plain.picture)
    assert sorted(block.serial for block in again.blocks) == list(range(9))


def test_the_blocks_that_are_there_are_not_rendered_again(am1: tuple[Bench, Rendered]) -> None:
    """What is in a record is in the picture, as it is: here something that no scene has."""
    bench, plain = am1
    first = plain.blocks[0]
    white = b"\x3f\x80\0\0" * 3 + bytes(8)
    pixels = white * first.rect.area
    end = first.pixels_at + len(pixels)
    record = first.record[: first.pixels_at] + pixels + first.record[end:]
    made = bench.write([replace(first, record=record), *plain.blocks[1:]], plain)
    again = bench.resumed(made)
    assert again.picture.crop(first.rect.as_tuple()).getcolors() == [(1024, (255, 255, 255))]
    assert same(again.picture, plain.picture, Rect(32, 0, WIDTH, HEIGHT))
    assert len(again.blocks) == len(plain.blocks)


@pytest.mark.parametrize("row", [32, 64])
def test_the_blocks_above_a_cut_make_the_upper_tile(
    am1: tuple[Bench, Rendered], tmp_path: Path, row: int
) -> None:
    bench, plain = am1
    upper, _lower = WHOLE.split_at_row(row)
    kept = tmp_path / "upper.pov-state"
    assert keep_blocks([plain.state], kept, bench.grid(upper)) == set(range(row // 32 * 3))
    tile = bench.resumed(kept, upper)
    assert same(tile.picture, plain.picture, upper)
    assert len(tile.blocks) == bench.grid(upper).count, "nothing was rendered"


def test_a_cut_through_blocks_leaves_these_to_povray(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AM2)
    plain = bench.fresh()
    upper = Rect(0, 0, WIDTH, 50)
    kept = tmp_path / "upper.pov-state"
    assert keep_blocks([plain.state], kept, bench.grid(upper)) == {0, 1, 2}
    assert same(bench.resumed(kept, upper).picture, plain.picture, upper)


@pytest.mark.parametrize(
    "rect",
    [Rect(32, 0, 80, 64), Rect(0, 32, 64, 72), Rect(64, 64, 80, 72), Rect(0, 0, 32, 32)],
    ids=str,
)
def test_blocks_move_to_another_rectangle(
    am1: tuple[Bench, Rendered], tmp_path: Path, rect: Rect
) -> None:
    bench, plain = am1
    kept = tmp_path / "moved.pov-state"
    grid = bench.grid(rect)
    assert keep_blocks([plain.state], kept, grid) == set(range(grid.count))
    tile = bench.resumed(kept, rect)
    assert same(tile.picture, plain.picture, rect)
    assert len(tile.blocks) == grid.count


def test_blocks_are_moved_in_place_and_back(am1: tuple[Bench, Rendered], tmp_path: Path) -> None:
    _bench, plain = am1
    moved = tmp_path / "moved.pov-state"
    shutil.copy(plain.state, moved)
    move_blocks(moved, 5, 96)
    before = [(block.serial, block.rect) for block in plain.blocks]
    assert [(block.serial, block.rect) for block in read_blocks(moved)] == [
        (serial, Rect(rect.x0 + 5, rect.y0 + 96, rect.x1 + 5, rect.y1 + 96))
        for serial, rect in before
    ]
    move_blocks(moved, -5, -96)
    assert moved.read_bytes() == plain.state.read_bytes()


@pytest.mark.parametrize("end", [10, HEADER_BYTES + 5, HEADER_BYTES + 150, -5])
def test_what_is_not_all_whole_blocks_is_not_moved(
    am1: tuple[Bench, Rendered], tmp_path: Path, end: int
) -> None:
    _bench, plain = am1
    torn = tmp_path / "torn.pov-state"
    torn.write_bytes(plain.state.read_bytes()[:end])
    with pytest.raises(NoStateFile):
        move_blocks(torn, 32, 32)


@pytest.mark.parametrize(
    "words", [AM1, pytest.param((*AM2, "+BS9"), marks=pytest.mark.slow)], ids=str
)
@pytest.mark.slow
def test_bands_are_joined_by_povray_itself(tmp_path: Path, words: tuple[str, ...]) -> None:
    bench = Bench(tmp_path, words)
    size = bench.spec.block_size
    plain = bench.fresh()
    cuts = [0, size, 2 * size, HEIGHT]
    bands = [Rect(0, top, WIDTH, end) for top, end in pairwise(cuts)]
    states = [bench.fresh(band).state for band in bands]
    whole = tmp_path / "whole.pov-state"
    assert keep_blocks(states[::-1], whole, bench.grid()) == set(range(bench.grid().count))
    joined = bench.resumed(whole)
    assert same(joined.picture, plain.picture)
    assert len(joined.blocks) == bench.grid().count


@pytest.mark.parametrize("rect", [Rect(0, 0, 1, 1), Rect(79, 71, 80, 72), Rect(3, 5, 20, 30)])
def test_a_band_of_one_block(tmp_path: Path, rect: Rect) -> None:
    bench = Bench(tmp_path, AM2)
    plain = bench.fresh(rect)
    (block,) = plain.blocks
    assert block.rect == rect and block.serial == 0
    kept = tmp_path / "one.pov-state"
    assert keep_blocks([plain.state], kept, bench.grid(rect)) == {0}
    assert same(bench.resumed(kept, rect).picture, plain.picture)


# ---------------------------------------------------------------- the traps


def test_povray_leaves_a_hole_for_a_block_that_comes_twice(am1: tuple[Bench, Rendered]) -> None:
    bench, plain = am1
    blocks = plain.blocks
    made = bench.write([blocks[0], blocks[0], *blocks[2:]], plain)
    holed = bench.resumed(made).picture
    hole = blocks[1].rect
    assert holed.crop(hole.as_tuple()).getbbox() is None, "black"
    assert keep_blocks([made], made, bench.grid()) == {0, *range(2, len(blocks))}
    assert same(bench.resumed(made).picture, plain.picture)


@pytest.mark.parametrize("cut", [1, 20, 20_723])
def test_povray_goes_on_over_a_torn_record(am1: tuple[Bench, Rendered], cut: int) -> None:
    bench, plain = am1
    made = bench.write(plain.blocks[:3], plain, torn=plain.blocks[3].record[:cut])
    again = bench.resumed(made)
    assert same(again.picture, plain.picture)
    assert [block.serial for block in again.blocks] == list(range(bench.grid().count))


def test_without_blocks_all_is_rendered(am1: tuple[Bench, Rendered]) -> None:
    bench, plain = am1
    again = bench.resumed(bench.write([], plain))
    assert same(again.picture, plain.picture)
    assert len(again.blocks) == bench.grid().count


def test_povray_does_not_go_on_if_the_picture_is_there(am1: tuple[Bench, Rendered]) -> None:
    bench, plain = am1
    made = bench.write(plain.blocks[:3], plain)
    with pytest.raises(OSError, match="cannot identify"):
        bench.resumed(made, picture=b"half a picture")


def test_a_torn_record_is_left_out_wherever_it_is_torn(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ("+BS4",))
    plain = bench.fresh(Rect(0, 0, 8, 4))
    first, last = plain.blocks
    grid = bench.grid(Rect(0, 0, 8, 4))
    data = plain.state.read_bytes()
    whole = len(data) - len(last.record)
    path = tmp_path / "torn.pov-state"
    with path.open("wb", buffering=0) as file:
        file.write(data)
        for end in range(whole, len(data)):
            file.truncate(end)
            reader = StateReader(path)
            assert [block.serial for block in reader.new_blocks()] == [first.serial]
            assert keep_blocks([path], path, grid) == {first.serial}
            assert path.stat().st_size == whole
            file.seek(whole)
            file.write(data[whole:])
            # The same reader, now that the rest has come.
            assert [block.serial for block in reader.new_blocks()] == [last.serial]
        for end in range(HEADER_BYTES, 0, -1):
            file.truncate(end)
            assert list(read_blocks(path)) == []
    assert keep_blocks([path], path, grid) == frozenset()
    assert path.stat().st_size == HEADER_BYTES


def test_a_growing_file_is_read_as_it_grows(am1: tuple[Bench, Rendered], tmp_path: Path) -> None:
    _bench, plain = am1
    path = tmp_path / "growing.pov-state"
    reader = StateReader(path)
    assert list(reader.new_blocks()) == []
    data = plain.state.read_bytes()
    seen: list[int] = []
    with path.open("wb", buffering=0) as file:
        for at in range(0, len(data), 4096):
            file.write(data[at : at + 4096])
            seen += [block.serial for block in reader.new_blocks()]
    assert seen == [block.serial for block in plain.blocks]


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(1000),
        b"POV-Ray Render State File\0\0\0" + b"0002" + bytes(600),
        bytes(512),
    ],
)
def test_what_is_no_state_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.pov-state"
    path.write_bytes(data)
    with pytest.raises(NoStateFile, match=r"x\.pov-state"):
        list(read_blocks(path))
    with pytest.raises(NoStateFile):
        keep_blocks([path], tmp_path / "y.pov-state", BlockGrid(WHOLE, 32))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("at", [0, 9, 20, 31, 70, -6, -22, -90])
def test_a_damaged_record_ends_what_is_read(
    am1: tuple[Bench, Rendered], tmp_path: Path, at: int
) -> None:
    """Whatever it says, no block of a place that the grid does not have comes of it."""
    bench, plain = am1
    record = bytearray(plain.blocks[1].record)
    record[at] ^= 0x55
    damaged = replace(plain.blocks[1], record=bytes(record))
    made = bench.write([plain.blocks[0], damaged, plain.blocks[2]], plain)
    kept = keep_blocks([made], tmp_path / "kept.pov-state", bench.grid())
    assert 0 in kept and kept <= {0, 1, 2}
    for block in read_blocks(tmp_path / "kept.pov-state"):
        assert block.rect == bench.grid().block(block.serial)


# ---------------------------------------------------------------- drawing


@pytest.mark.parametrize(
    ("settings", "gamma"),
    [
        ("assumed_gamma 1.0", 1.0),
        pytest.param("", 1.0, marks=pytest.mark.slow),
        pytest.param("assumed_gamma 2.2", 2.2, marks=pytest.mark.slow),
        ("assumed_gamma srgb", None),
        pytest.param("no version", None, marks=pytest.mark.slow),
    ],
)
def test_blocks_are_drawn_as_the_picture_will_be(
    tmp_path: Path, settings: str, gamma: float | None
) -> None:
    text = SCENE.replace("assumed_gamma 1.0", settings)
    if settings == "no version":
        text = SCENE.replace("assumed_gamma 1.0", "").replace("#version 3.7;", "")
    bench = Bench(tmp_path, AM1, text)
    plain = bench.fresh()
    canvas = BlockCanvas(WHOLE, gamma)
    for block in plain.blocks[:5]:
        assert canvas.draw(block) == block.rect
    drawn = Image.frombytes("RGB", (WIDTH, HEIGHT), bytes(canvas.rgb))
    rows = Rect(0, 0, WIDTH, 32).as_tuple()
    difference = ImageChops.difference(drawn.crop(rows), plain.picture.crop(rows))
    assert difference.point(lambda level: level > 1).getbbox() is None
    assert drawn.crop((64, 32, WIDTH, HEIGHT)).getbbox() is None, "not finished: black"


def test_a_canvas_of_a_band_takes_what_lies_in_it(am1: tuple[Bench, Rendered]) -> None:
    _bench, plain = am1
    band = Rect(10, 20, 70, 50)
    canvas, whole = BlockCanvas(band), BlockCanvas(WHOLE)
    for block in plain.blocks:
        part = canvas.draw(block)
        assert part == band.intersection(block.rect)
        whole.draw(block)
    picture = Image.frombytes("RGB", (WIDTH, HEIGHT), bytes(whole.rgb)).crop(band.as_tuple())
    assert picture.tobytes() == bytes(canvas.rgb)


def test_which_rows_are_whole() -> None:
    grid = BlockGrid(Rect(5, 10, 25, 35), 10)
    assert (grid.columns, grid.count) == (2, 6)
    assert grid.whole_rows([]) == []
    assert grid.whole_rows([0, 1, 2, 4, 5]) == [(10, 20), (30, 35)]
    assert grid.whole_rows(range(6)) == [(10, 35)]
    with pytest.raises(ValueError, match="no block 6"):
        grid.block(6)
    assert grid.serial(Rect(5, 30, 15, 35)) == 4
    for none in (Rect(5, 30, 15, 34), Rect(6, 10, 16, 20), Rect(5, 30, 15, 40)):
        assert grid.serial(none) is None


# ---------------------------------------------------------------- whose they are


ORIGIN = Origin("s" * 64, "d" * 64, 0, ("3.7.0.10", "g++ 12 x86_64"), "", "boot", WHOLE)


def test_an_origin_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "origin.json"
    assert read_origin(path) is None
    ORIGIN.write(path)
    assert read_origin(path) == ORIGIN
    assert [each.name for each in tmp_path.iterdir()] == ["origin.json"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '"x"', '{"rect": 1}', "\ufffd"],
)
def test_a_file_that_is_no_origin_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "origin.json"
    path.write_text(text)
    assert read_origin(path) is None


@pytest.mark.parametrize("wrong", [('"frame": 0', '"frame": "0"'), ("72", "0"), ("boot", "bo\\")])
def test_an_origin_that_was_tampered_with_is_none(tmp_path: Path, wrong: tuple[str, str]) -> None:
    path = tmp_path / "origin.json"
    ORIGIN.write(path)
    path.write_text(path.read_text().replace(*wrong))
    assert read_origin(path) is None


def test_only_blocks_of_the_same_making_agree() -> None:
    assert ORIGIN.agrees(replace(ORIGIN, rect=Rect(0, 32, 80, 64)))
    for other in (
        replace(ORIGIN, scene="t" * 64),
        replace(ORIGIN, spec="e" * 64),
        replace(ORIGIN, frame=1),
        replace(ORIGIN, povray=("3.7.0.10", "clang 19 x86_64")),
        replace(ORIGIN, povray=("3.7.0.8", "g++ 12 x86_64")),
        replace(ORIGIN, light="c" * 64),
        replace(ORIGIN, boot="another"),
    ):
        assert not ORIGIN.agrees(other)
