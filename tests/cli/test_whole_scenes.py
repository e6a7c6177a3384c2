"""A scene whose files lie all over the disk, from the command to the picture."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from clusterray.wire.trust import JoinToken, new_secret
from tests.cli.commands import SMALL, run

TOKEN = JoinToken("127.0.0.1", 1, "submit", "", new_secret()).encode()
ROOM = """\
#version 3.7;
global_settings { assumed_gamma 1 }
#declare Tex = concat("../../textures/", "wood", ".png");
camera { location <0, 1, -4> look_at 0 }
light_source { <3, 5, -4> rgb 1 }
plane { y, -1 pigment { image_map { png Tex } rotate x*90 } }
#include "ball.inc"
"""
BALL = 'sphere { 0, 1 pigment { image_map { png "dots" } } }\n#include "colors.inc"\n'

needs_povray = pytest.mark.skipif(
    shutil.which("povray") is None, reason="povray is not installed: apt install povray"
)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A scene that climbs to a texture and needs a library folder."""
    room = tmp_path / "scenes" / "my room"
    for folder in (room, tmp_path / "textures", tmp_path / "lib"):
        folder.mkdir(parents=True)
    (room / "room.pov").write_text(ROOM)
    (room / "unneeded.bin").write_bytes(bytes(9999))
    (tmp_path / "lib" / "ball.inc").write_text(BALL)
    noise = Image.effect_noise((16, 16), 90)
    noise.convert("RGB").save(tmp_path / "textures" / "wood.png")
    noise.rotate(90).save(tmp_path / "lib" / "dots.png")
    return room


@needs_povray
@pytest.mark.slow
def test_files_from_all_over_the_disk_make_povrays_own_picture(tmp_path: Path, room: Path) -> None:
    words = (*SMALL, "--only-needed", "-o", "ours.png", "--", "+L../../lib")
    ended = run("clusterray-submit", "scenes/my room", "--local", "2", *words, cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    for name in ("textures/wood.png (room.pov:6)", "lib/ball.inc (room.pov:7)"):
        assert name in ended.stderr
    plain = ["povray", "+Iroom.pov", "+W64", "+H48", "-D", "+FN8", "+L../../lib"]
    plain += ["Bounding_Threshold=3", f"+O{tmp_path}/plain.png"]
    subprocess.run(plain, cwd=room, capture_output=True, check=True)
    with Image.open(tmp_path / "ours.png") as ours, Image.open(tmp_path / "plain.png") as theirs:
        assert ours.tobytes() == theirs.tobytes()


@needs_povray
@pytest.mark.slow
def test_a_fault_is_named_where_the_person_has_it(tmp_path: Path, room: Path) -> None:
    (room / "room.pov").write_text(ROOM + "sphere { 0, nonsense }\n")
    words = (*SMALL, "--", "+L../../lib")
    ended = run("clusterray-submit", "scenes/my room", "--local", *words, cwd=tmp_path)
    assert ended.code == 4
    assert "scenes/my room/room.pov:8: " in ended.stderr


def test_a_missing_file_is_3_before_any_head_is_asked(tmp_path: Path, room: Path) -> None:
    ended = run("clusterray-submit", "scenes/my room", "--join", TOKEN, cwd=tmp_path)
    assert (ended.code, ended.stdout) == (3, "")
    assert "room.pov:7: includes ball.inc, which is nowhere in the folder" in ended.stderr
