"""Running bands are cut between real nodes, and the picture is the one that POV-Ray makes."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.images import oracle
from tests.system.harness import (
    Farm,
    Process,
    differing_pixels,
    farm_of,
    needs_povray,
    plain_povray,
)
from tests.system.test_farm import SLOW, rendering, scene_in

pytestmark = [needs_povray, pytest.mark.slow]

SIZE = ("+W160", "+H640")
"""Some 20 s on one idle core, in 20 rows of blocks: a node that joins finds much of it to do."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    scene = scene_in(folder / "scene", SLOW)
    return plain_povray(scene, folder / "plain.png", "+Iroom.pov", *SIZE, "+FN8")


def one_node_at_work(farm: Farm, tmp_path: Path) -> Process:
    """Have a node render all of a picture."""
    scene = scene_in(tmp_path / "scene", SLOW)
    submit = farm.submit(scene, "-o", "out.png", "--", *SIZE, cwd=tmp_path)
    shown = rendering(farm, submit)
    assert isinstance(shown["bands"], list) and len(shown["bands"]) == 1
    return submit


def cut_rows(node: Process) -> tuple[int, int]:
    """Wait until a node has agreed to a cut; gives the size of what it keeps."""
    line = node.err.wait_for("of it are left here")
    found = re.search(r"(\d+)x(\d+) of it", line)
    assert found
    return int(found[1]), int(found[2])


def test_a_node_that_comes_later_gets_the_lower_part(tmp_path: Path, plain: Path) -> None:
    with farm_of(tmp_path / "farm", 1) as farm:
        (first,) = farm.nodes.values()
        submit = one_node_at_work(farm, tmp_path)
        farm.start_node("late")
        width, height = cut_rows(first)
        assert width == 160 and height % 32 == 0 and height < 640
        assert submit.wait() == 0, submit.err.seen
        shown = farm.ask("show", "j1")
        assert {attempt["node"] for band in shown["bands"] for attempt in band["attempts"]} == {
            *farm.nodes
        }
        tries = [len(band["attempts"]) for band in shown["bands"]]
        assert max(tries) == 1, "nothing was thrown away"
    assert differing_pixels(plain, tmp_path / "out.png") == 0


def test_what_is_kept_becomes_a_tile_without_another_parse(tmp_path: Path) -> None:
    """In a scene of before #version 3.7, whose colours POV-Ray leaves alone, in 16 bits."""
    text = SLOW.replace("#version 3.7;", '#version 3.6; #include "colors.inc"')
    text = text.replace("global_settings { assumed_gamma 1 }", "")
    assert "assumed_gamma" not in text
    scene, picture = scene_in(tmp_path / "scene", text), ("+Iroom.pov", *SIZE, "+FN16")
    plain = plain_povray(scene, tmp_path / "plain.png", *picture)
    with farm_of(tmp_path / "farm", 1) as farm:
        (first,) = farm.nodes.values()
        submit = farm.submit(scene, "-o", "out.png", "--", *SIZE, "+FN16", cwd=tmp_path)
        rendering(farm, submit)
        farm.start_node("late")
        cut_rows(first)
        first.err.wait_for("its tile took no parse")
        assert submit.wait() == 0, submit.err.seen
    assert oracle.same(tmp_path / "out.png", plain)


@pytest.mark.parametrize("who", ["owner", "helper", "head"])
def test_whoever_is_killed_after_a_cut_the_picture_is_whole(
    tmp_path: Path, plain: Path, who: str
) -> None:
    with farm_of(tmp_path / "farm", 1) as farm:
        (owner,) = farm.nodes.values()
        submit = one_node_at_work(farm, tmp_path)
        helper = farm.start_node("late")
        cut_rows(owner)
        assert farm.head is not None
        victim = {"owner": owner, "helper": helper, "head": farm.head}[who]
        victim.signal(signal.SIGKILL)
        victim.wait()
        if who == "head":
            farm.start_head()
        elif who == "owner":
            farm.start_node("third")
        assert submit.wait() == 0, submit.err.seen
    assert differing_pixels(plain, tmp_path / "out.png") == 0
