"""The promise: the stitched picture is, pixel for pixel, the one that plain POV-Ray makes.

Scenes of Debian's povray-examples with includes, image maps, height fields and fonts, in sizes that
do not divide, with every kind of antialiasing, all queued at once on one farm of unlike nodes. The
scenes are such that POV-Ray itself makes the same picture with one thread and with two.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.harness import (
    Process,
    differing_pixels,
    farm_of,
    needs_povray,
    plain_povray,
)
from tests.system.pairwise import pairwise

EXAMPLES = Path("/usr/share/doc/povray/examples")
SCENES = [
    "textures/pigments/mapper.pov",
    "textures/pigments/cantelop.pov",
    "textures/normals/bumpmap.pov",
    "textures/patterns/slopemt_37.pov",
    "objectmods/no_image.pov",
    "advanced/woodbox.pov",
    "advanced/crater/crater.pov",
    "advanced/biscuit.pov",
    "objects/ttf1.pov",
    "objects/csg/hfclip.pov",
    "incdemo/screen.pov",
    "incdemo/woods/teak_37.pov",
]
SIZES = [(1, 1), (33, 65), (320, 31), (641, 479)]
ANTIALIASING = [("-A",), ("+A0.3", "+AM1"), ("+A0.2", "+AM2", "+R2")]
OUTPUT = [(), ("+UA",)]
COMBINATIONS = pairwise([SCENES, SIZES, ANTIALIASING, OUTPUT])


def test_the_combinations_are_enough() -> None:
    assert len(COMBINATIONS) >= 36
    assert len({scene for scene, *_ in COMBINATIONS}) >= 12


@needs_povray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_combination_equals_plain_povray(tmp_path: Path) -> None:
    if not EXAMPLES.is_dir():
        pytest.skip("povray-examples is not installed: apt install povray-examples")
    with farm_of(tmp_path / "farm", 1, 2, 3) as farm:
        submits: list[tuple[str, list[str], Path, Process]] = []
        for number, (scene, (width, height), aa, output) in enumerate(COMBINATIONS):
            options = [f"+W{width}", f"+H{height}", *aa, *output]
            out = tmp_path / f"farm-{number}.png"
            process = farm.submit(EXAMPLES / scene, "-o", str(out), "--", *options, cwd=tmp_path)
            submits.append((scene, options, out, process))
            if number % 6 == 5:
                _check(submits, tmp_path)
        _check(submits, tmp_path)


def _check(submits: list[tuple[str, list[str], Path, Process]], folder: Path) -> None:
    """Wait for what was submitted and compare it; the batch bounds the processes at once."""
    while submits:
        scene, options, out, process = submits.pop(0)
        assert process.wait(300) == 0, (scene, options, process.err.seen[-20:])
        plain = plain_povray(
            (EXAMPLES / scene).parent,
            folder / f"plain-{out.name}",
            f"+I{Path(scene).name}",
            "+FN8",
            *options,
        )
        assert differing_pixels(plain, out) == 0, (scene, options)
        plain.unlink()
        out.unlink()


LARGE = """
#version 3.7;
global_settings { assumed_gamma 1 }
camera { location <0, 1, -4> look_at 0 right x * image_width / image_height }
light_source { <3, 5, -6> rgb 1 }
background { rgbt <0.1, 0.2, 0.3, 0.5> }
plane { y, -1 pigment { checker rgb 1 rgb <1, 0.2, 0> } finish { reflection 0.2 } }
sphere { 0, 1 pigment { rgbft <0.2, 0.9, 0.3, 0.2, 0.3> } finish { phong 1 } }
"""


@needs_povray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_picture_whose_tiles_are_all_made_of_blocks_equals_plain_povray(tmp_path: Path) -> None:
    (tmp_path / "large.pov").write_text(LARGE)
    options = ["+W2401", "+H2567", "+FN16", "+UA"]
    out = tmp_path / "farm.png"
    with farm_of(tmp_path / "farm", 1, 2) as farm:
        words = ["-o", str(out), "--", *options]
        submit = farm.submit(tmp_path / "large.pov", *words, cwd=tmp_path)
        assert submit.wait(240) == 0, submit.err.seen[-20:]
        said = "\n".join(line for node in farm.nodes.values() for line in node.err.seen)
    assert "its tile took no parse" in said
    plain = plain_povray(tmp_path, tmp_path / "plain.png", "+Ilarge.pov", *options)
    assert differing_pixels(plain, out) == 0
