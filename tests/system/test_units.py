"""Head and node as their systemd units confine them: FTP and POV-Ray, behind each wall."""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.conftest import built
from tests.system import unit_filter
from tests.system.harness import (
    Farm,
    differing_pixels,
    needs_povray,
    plain_povray,
)
from tests.system.test_farm import scene_in

UNITS = Path(__file__).resolve().parents[2] / "systemd"
HEAD = UNITS / "clusterray-server.service"
NODE = UNITS / "clusterray-node.service"
DROP_IN = UNITS / "clusterray-node-bubblewrap.conf"
SIZE = ("--width", "96", "--height", "96")


def _has_libseccomp() -> bool:
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return False
    return shutil.which("systemd-analyze") is not None


pytestmark = [
    needs_povray,
    pytest.mark.slow,
    pytest.mark.skipif(
        not _has_libseccomp(), reason="needs systemd-analyze and libseccomp (package systemd)"
    ),
]


def confined(*units: Path) -> list[str]:
    return [sys.executable, "-P", unit_filter.__file__, *map(str, units), "--"]


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    farm = Farm(tmp_path)
    yield farm
    farm.stop()


@pytest.mark.parametrize(
    ("wall", "units"), [("landlock", (NODE,)), ("bubblewrap", (NODE, DROP_IN))]
)
def test_a_picture_is_made_within_the_units(
    farm: Farm, tmp_path: Path, wall: str, units: tuple[Path, ...]
) -> None:
    built(wall)
    farm.start_head(prefix=confined(HEAD))
    node = farm.start_node("n1", "--sandbox", wall, prefix=confined(*units))
    node.err.wait_for("POV-Ray runs behind")
    scene = scene_in(tmp_path / "scene")
    picture = tmp_path / "picture.png"
    submit = farm.submit(scene, *SIZE, "-o", str(picture), cwd=tmp_path)
    assert submit.wait() == 0, submit.err.seen
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", "+W96", "+H96")
    assert differing_pixels(picture, plain) == 0


@pytest.mark.parametrize(
    ("wall", "units"), [("landlock", (HEAD,)), ("bubblewrap", (NODE,))], ids=["landlock", "bwrap"]
)
def test_without_what_the_units_open_for_it_no_wall_stands(
    farm: Farm, wall: str, units: tuple[Path, ...]
) -> None:
    """So that the filter is known to hold."""
    built(wall)
    farm.start_head()
    node = farm.start_node("n1", "--sandbox", wall, prefix=confined(*units))
    assert node.wait() == 1
    assert any("there is no wall here" in line for line in node.err.seen), node.err.seen
