"""Every format, depth and alpha: bands of POV-Ray's, cut, checked and joined, are its own file.

Values are compared as OpenImageIO reads them, so neither side is judged by the code that made it.
"""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest

from clusterray.core.model import Rect
from clusterray.images.stitch import FrameWriter
from clusterray.images.tile import check_tile, crop_tile
from clusterray.povray.command import environment, prepare_home, render_argv
from clusterray.povray.scene import plan_job
from clusterray.povray.spec import RenderSpec
from tests.images import oracle
from tests.system.harness import needs_povray

WIDTH, HEIGHT = 70, 75
SCENE = """#version 3.7;
global_settings { assumed_gamma 1.0 }
camera { location <0, 1, -4> look_at 0 }
light_source { <5, 5, -5> 3 }
sphere { 0, 1 pigment { color rgbt <1, 0.3, 0.1, 0.4> } finish { phong 1 } }
cone { <-1, -1, 1>, 0.7, <-1, 1, 1>, 0 pigment { bozo scale 0.2 } }
"""
"""Brighter than white, partly transparent, with nothing behind."""
AA = ("+A0.3", "+AM1", "+R2")
GREY = "Grayscale_Output=on"
MATRIX: list[tuple[str, ...]] = [
    ("+FN8",),
    ("+FN8", "+UA"),
    ("+FN16",),
    ("+FN16", "+UA"),
    ("+FN5",),
    ("+FN7", "+UA"),
    ("+FN9",),
    ("+FN12",),
    ("+FN15", "+UA"),
    ("+FNg",),
    ("+FNg", "+UA"),
    ("+FN16", "+UA", "File_Gamma=1.8"),
    ("+FN16", "+THB2"),
    ("+FP8",),
    ("+FP8", "+UA"),
    ("+FP5",),
    ("+FP12",),
    ("+FP16",),
    ("+FP16", GREY),
    ("+FP12", GREY),
    ("+FT",),
    ("+FT", "+UA"),
    ("+FT16", "+UA", "File_Gamma=2.5"),
    ("+FC",),
    ("+FC", "+UA"),
    ("+FB",),
    ("+FB", "+UA"),
    ("+FJ",),
    ("+FJ", "+UA", "+THB2", "Compression=30"),
    ("+FJ", "Compression=100"),
    ("+FE",),
    ("+FE", "+UA"),
    ("+FH",),
    ("+FH", "+UA", "+THB3"),
]
QUICK = [("+FN16", "+UA"), ("+FP16", GREY), ("+FC", "+UA"), ("+FJ",), ("+FE", "+UA"), ("+FH",)]


class Bench:
    """A scene, and POV-Ray called as a person does and as a node does."""

    def __init__(self, root: Path) -> None:
        self.scene, self.private, self.out = root / "scene", root / "private", root / "out"
        for folder in (self.scene, self.private, self.out):
            folder.mkdir()
        (self.scene / "scene.pov").write_text(SCENE)

    def spec(self, *options: str) -> RenderSpec:
        return plan_job(
            self.scene,
            options,
            width=WIDTH,
            height=HEIGHT,
            region=None,
            home=Path("/nonexistent"),
        ).spec

    def plain(self, *options: str) -> Path:
        command = ["povray", "-D", "-GA", "+WT1", "+Iscene.pov", f"+O{self.out}/plain"]
        self._run([*command, f"+W{WIDTH}", f"+H{HEIGHT}", *options])
        (made,) = self.out.glob("plain.*")
        return made

    def tile(self, spec: RenderSpec, rect: Rect) -> Path:
        """Make a tile as a node does, and look at it as the head does."""
        extension = spec.file_format.tile.extension
        picture = self.out / f"picture.{extension}"
        tile = self.out / f"tile-{rect.x0}-{rect.y0}.{extension}"
        prepare_home(self.private, spec)
        self._run(render_argv(spec, rect, threads=1, povray="povray", output=picture))
        crop_tile(picture, rect, tile, spec.file_format)
        check_tile(tile, rect, spec.file_format)
        return tile

    def join(self, spec: RenderSpec, rects: list[Rect], region: Rect) -> Path:
        writer = FrameWriter(region, spec.file_format, self.out)
        for rect in rects:
            writer.add(self.tile(spec, rect), rect)
            assert writer.preview(64).startswith(b"\x89PNG")
        joined = self.out / f"joined.{spec.extension}"
        writer.finish(joined)
        assert not list(self.out.glob("*.part"))
        return joined

    def _run(self, argv: list[str]) -> None:
        done = subprocess.run(
            argv, cwd=self.scene, env=environment(self.private), capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def combinations() -> list[object]:
    return [
        pytest.param(words, marks=() if words in QUICK else pytest.mark.slow, id=" ".join(words))
        for words in MATRIX
    ]


@pytest.mark.slow
@needs_povray
@pytest.mark.parametrize("words", combinations())
def test_three_bands_are_povrays_own_file(bench: Bench, words: tuple[str, ...]) -> None:
    spec = bench.spec(*words, *AA)
    whole = bench.plain(*words, *AA)
    rows = [0, 32, 64, HEIGHT]
    bands = [Rect(0, top, WIDTH, bottom) for top, bottom in itertools.pairwise(rows)]
    joined = bench.join(spec, bands[::-1], Rect(0, 0, WIDTH, HEIGHT))

    assert joined.suffix == whole.suffix
    assert oracle.same(joined, whole)
    assert len(set(oracle.values(whole)[0].flat)) > 10
    assert oracle.said_of_colour(joined) == oracle.said_of_colour(whole)


@needs_povray
@pytest.mark.slow
@pytest.mark.parametrize("words", [words for words in MATRIX if words in QUICK], ids=" ".join)
def test_a_region_cut_anywhere_has_the_whole_pictures_values(
    bench: Bench, words: tuple[str, ...]
) -> None:
    spec = bench.spec(*words, "-A")
    columns, rows = (0, 33, WIDTH), (5, 7, 50)
    rects = [
        Rect(left, top, right, bottom)
        for left, right in itertools.pairwise(columns)
        for top, bottom in itertools.pairwise(rows)
    ]
    region = Rect(11, 6, 60, 50)
    joined = bench.join(spec, rects, region)
    if spec.file_type == "J":
        # A cut JPEG has other blocks; what it was made of is the same.
        assert oracle.values(joined)[0].shape == (region.height, region.width, 3)
        return
    pixels, _ = oracle.values(joined)
    whole, _ = oracle.values(bench.plain(*words, "-A"))
    part = whole[region.y0 : region.y1, region.x0 : region.x1]
    assert pixels.tobytes() == part.tobytes()
