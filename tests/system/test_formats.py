"""Pictures of other kinds through a whole farm: value for value what plain POV-Ray writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.images import oracle
from tests.system.harness import farm_of, needs_povray, plain_povray

SCENE = """#version 3.7;
global_settings { assumed_gamma 1.0 }
camera { location <0, 1, -4> look_at 0 }
light_source { <5, 5, -5> 3 }
sphere { 0, 1 pigment { color rgbt <1, 0.3, 0.1, 0.4> } finish { phong 1 } }
cone { <-1, -1, 1>, 0.7, <-1, 1, 1>, 0 pigment { bozo scale 0.2 } }
"""
AA = ("+W96", "+H150", "+A0.3", "+AM1", "+R2")
JOBS: list[tuple[str, list[str], list[str]]] = [
    # The name given with -o, the options, what plain POV-Ray needs besides.
    ("deep.png", ["+FN16", "+UA"], []),
    ("by-name.exr", ["+UA"], ["+FE"]),
    ("by-name.hdr", [], ["+FH"]),
    ("packed.tga", ["+FC", "+UA"], []),
    ("by-name.jpeg", ["Compression=93"], ["+FJ"]),
    ("grey.pgm", ["Bits_Per_Color=16"], ["+FP", "Grayscale_Output=on"]),
    ("plain.bmp", ["+FB"], []),
    ("few.png", ["+FN5", "+THB3"], []),
]
DIFFUSED: list[tuple[str, list[str], list[str]]] = [
    ("diffused.png", ["+FN5", "+TH"], []),
    ("diffused.ppm", ["+FP", "+THD2"], []),
]
"""Each pixel's rounding goes on to the next, so these come in one piece."""


@needs_povray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_kind_of_picture_comes_out_of_the_farm_as_povray_writes_it(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    scene.mkdir()
    (scene / "scene.pov").write_text(SCENE)
    with farm_of(tmp_path / "farm", 1, 1) as farm:
        farm.wait_until(["nodes"], lambda nodes: len(nodes) == 2, "both nodes are there")
        for name, options, besides in JOBS + DIFFUSED:
            # One after the other, so that both nodes have a part of each.
            out = str(tmp_path / name)
            submit = farm.submit(scene, "-o", out, "--", *AA, *options, cwd=tmp_path)
            assert submit.wait(300) == 0, (name, submit.err.seen[-20:])
            folder = tmp_path / f"plain-{name}"
            folder.mkdir()
            # POV-Ray itself chooses the extension.
            plain_povray(scene, folder / "plain", "+Iscene.pov", *AA, *options, *besides)
            (plain,) = folder.iterdir()
            assert oracle.same(tmp_path / name, plain), name
            assert oracle.said_of_colour(tmp_path / name) == oracle.said_of_colour(plain), name
        for view in farm.ask("jobs"):
            shown = farm.ask("show", view["id"])
            assert (len(shown["bands"]) == 1) is ("error diffusion" in shown["note"]), view
        crop = tmp_path / "crop.png"
        words = ("--region", "10,40,50,90", "-o", str(crop), "--", *AA, *DIFFUSED[0][1])
        submit = farm.submit(scene, *words, cwd=tmp_path)
        assert submit.wait(300) == 0, submit.err.seen[-20:]
    with Image.open(tmp_path / "diffused.png") as whole, Image.open(crop) as part:
        assert part.tobytes() == whole.crop((10, 40, 50, 90)).tobytes()
