"""What POV-Ray itself writes, cropped and stitched, must be what POV-Ray writes in one go."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from clusterray.core.model import FileFormat, Rect
from clusterray.images.stitch import FrameWriter
from clusterray.images.tile import crop_tile
from tests.images import pngraw

WIDTH, HEIGHT, CUT = 70, 75, 32
SCENE = """#version 3.7;
global_settings { assumed_gamma 1.0 }
camera { location <0, 1, -4> look_at 0 }
light_source { <5, 5, -5> 1 }
sphere { 0, 1 pigment { color rgbt <1, 0.3, 0.1, 0.4> } finish { phong 1 } }
cone { <-1, -1, 1>, 0.7, <-1, 1, 1>, 0 pigment { bozo scale 0.2 } }
"""


def render(folder: Path, out: Path, *options: str) -> Path:
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    command = ["povray", "-D", "-GA", "-A", "+WT1", "+Iscene.pov", f"+O{out}"]
    size = [f"+W{WIDTH}", f"+H{HEIGHT}"]
    subprocess.run(
        [*command, *size, *options], cwd=folder, env=environ, check=True, capture_output=True
    )
    return out


@pytest.mark.parametrize(
    ("grey", "alpha", "options", "header"),
    [
        (False, False, ["+FN8"], (8, 2)),
        (True, False, ["+FN8", "Grayscale_Output=on", "File_Gamma=2.2"], (16, 0)),
        (False, True, ["+FN8", "+UA", "File_Gamma=1.0"], (8, 6)),
        (True, True, ["+FNg", "+UA"], (16, 4)),
    ],
    ids=["rgb", "grey", "rgb-alpha", "grey-alpha"],
)
def test_bands_make_povrays_own_picture(
    tmp_path: Path, grey: bool, alpha: bool, options: list[str], header: tuple[int, int]
) -> None:
    (tmp_path / "scene.pov").write_text(SCENE)
    whole = pngraw.read(render(tmp_path, tmp_path / "whole.png", *options))
    assert (whole.depth, whole.colour_type) == header

    kind = FileFormat(bits=header[0], grey=grey, alpha=alpha)
    writer = FrameWriter(Rect(0, 0, WIDTH, HEIGHT), kind)
    for y0, y1 in ((CUT, HEIGHT), (0, CUT)):
        band = render(tmp_path, tmp_path / "band.png", *options, f"+SR{y0 + 1}", f"+ER{y1}")
        rect = Rect(0, y0, WIDTH, y1)
        tile = tmp_path / f"tile-{y0}.png"
        crop_tile(band, rect, tile, kind)
        writer.add(tile, rect)
    writer.finish(tmp_path / "out.png")

    out = pngraw.read(tmp_path / "out.png")
    assert out.rows == whole.rows
    assert (out.depth, out.colour_type) == header
    for chunk in (b"gAMA", b"sRGB", b"sBIT", b"cHRM", b"iCCP"):
        assert out.chunks.get(chunk) == whole.chunks.get(chunk)
