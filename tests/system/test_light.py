"""The promise: bands that share radiosity meet without seams, and no farther from plain POV-Ray.

Three unlike nodes, real POV-Ray. What is random in a radiosity picture is so in a single run with
several threads too, so the measure is plain runs among each other (docs/light.md).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from tests.system.harness import (
    differing_pixels,
    farm_of,
    needs_povray,
    plain_povray,
)
from tests.system.light_figures import EXAMPLES, RADIOSITY, measure
from tests.system.seams import seam

TOLERANCE = 1.5
MENTIONS = """
#version 3.7;
#declare Fine = 0;
global_settings { assumed_gamma 1 #if (Fine) radiosity { count 100 } #end }
camera { location <0, 1, -4> look_at 0 }
light_source { <3, 5, -6> rgb 1 }
plane { y, -1 pigment { checker rgb 1, rgb <1, 0, 0> } }
sphere { 0, 1 pigment { rgb 1 } finish { ambient 0.3 reflection 0.2 } }
"""


@needs_povray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bands_that_share_light_meet_without_seams(tmp_path: Path) -> None:
    if not EXAMPLES.is_dir():
        pytest.skip("povray-examples is not installed: apt install povray-examples")
    with farm_of(tmp_path / "farm", 1, 2, 3) as farm:
        for sample in (RADIOSITY[0], RADIOSITY[-1]):
            folder = tmp_path / Path(sample.path).stem
            folder.mkdir()
            figures = measure(farm, sample, folder)
            limit = TOLERANCE * max(figures.plain_seams)
            assert figures.samples > 100, figures
            assert figures.seam <= limit, figures
            assert figures.naive_seam > limit, figures
            assert figures.mean <= TOLERANCE * max(figures.plain_means), figures
            # What the bands had to add is all that can tell them from one run with the same light.
            assert figures.gathers or not figures.against_same_light, figures


@pytest.mark.slow
@needs_povray
def test_a_scene_that_only_mentions_radiosity_is_plain_povrays(tmp_path: Path) -> None:
    """The footer would turn radiosity on."""
    (tmp_path / "a.pov").write_text(MENTIONS)
    options = ["+W64", "+H96", "+A0.3"]
    with farm_of(tmp_path / "farm", 1, 2) as farm:
        out = tmp_path / "farm.png"
        submit = farm.submit(tmp_path / "a.pov", "-o", str(out), "--", *options, cwd=tmp_path)
        assert submit.wait(120) == 0, submit.err.seen[-20:]
        assert farm.ask("show", "j1")["light"] == "no radiosity in use"
    plain = plain_povray(tmp_path, tmp_path / "plain.png", "+Ia.pov", "+FN8", *options)
    assert differing_pixels(plain, out) == 0
    assert seam(plain, out) == 0


ROOM = """
#version 3.7;
#include "../parts/ball.inc"
global_settings { assumed_gamma 1 radiosity { pretrace_start 0.08 pretrace_end 0.02 count 20 } }
camera { location <0, 1, -4> look_at <0, 1, 0> }
light_source { <3, 5, -6> rgb 0.7 }
plane { y, -1 pigment { rgb <1, 0.4, 0.3> } }
object { Ball }
"""


@pytest.mark.slow
@needs_povray
def test_light_is_shared_in_a_scene_that_climbs_and_in_another_format(tmp_path: Path) -> None:
    scene, parts = tmp_path / "scene", tmp_path / "parts"
    scene.mkdir()
    parts.mkdir()
    (scene / "a.pov").write_text(ROOM)
    (parts / "ball.inc").write_text("#declare Ball = sphere { 0, 1 pigment { rgb 1 } }\n")
    options = ["+W64", "+H96", "+FP"]
    with farm_of(tmp_path / "farm", 1, 2) as farm:
        out = tmp_path / "farm.ppm"
        submit = farm.submit(scene / "a.pov", "-o", str(out), "--", *options, cwd=tmp_path)
        assert submit.wait(120) == 0, submit.err.seen[-20:]
        shown = farm.ask("show", "j1")
        assert "samples" in shown["light"], shown["light"]
        assert {band["stage"] for band in shown["bands"]} == {"light", "final"}
    plain = plain_povray(scene, tmp_path / "plain.ppm", "+Ia.pov", *options)
    with Image.open(plain) as ours, Image.open(out) as theirs:
        assert ours.size == theirs.size
        apart = ImageStat.Stat(ImageChops.difference(ours.convert("RGB"), theirs.convert("RGB")))
        assert max(apart.mean) < 4
