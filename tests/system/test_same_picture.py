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
