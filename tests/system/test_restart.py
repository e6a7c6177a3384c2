"""The head is killed at every point where it could hurt, and started again: nothing is lost."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.system.dying_head import POINTS
from tests.system.harness import Farm, Process, differing_pixels, needs_povray, plain_povray
from tests.system.test_farm import SLOW, rendering, scene_in

pytestmark = [needs_povray, pytest.mark.slow]

SIZE = ("+W64", "+H128", "+A0.3")
GLOW = """\
#version 3.7;
global_settings { assumed_gamma 1 radiosity { count 20 error_bound 0.8 recursion_limit 1 } }
camera { location <0, 1.5, -4> look_at 0 }
plane { y, -1 pigment { rgb 0.8 } finish { ambient 0 diffuse 0.8 } }
sphere { 0, 1 pigment { rgb <1, 0.5, 0.2> } finish { ambient 0 diffuse 0.8 emission 0.4 } }
"""


def tries(shown: Any) -> dict[str, list[str]]:
    """What became of each attempt, by band."""
    return {b["id"]: [attempt["state"] for attempt in b["attempts"]] for b in shown["bands"]}


def rendered(node: Process) -> list[str]:
    """What a node says of the bands that it has rendered."""
    return [line for line in node.err.seen if re.search(r": rendered \d+x\d+ in ", line)]


@pytest.mark.parametrize("point", [point for point in POINTS if "light" not in point])
def test_a_head_killed_at_a_named_point_goes_on_where_it_was(tmp_path: Path, point: str) -> None:
    scene = scene_in(tmp_path / "scene")
    (scene / "job.yaml").write_text("bands: 4\nverify: 2\n")
    farm = Farm(tmp_path / "farm")
    try:
        dying = farm.start_head(dies=point)
        for name in ("one", "two"):
            farm.start_node(name).err.wait_for("joined the farm")
        process = farm.submit(scene, "-o", "out.png", "--", *SIZE, cwd=tmp_path)
        assert dying.wait() == -signal.SIGKILL
        farm.start_head()
        assert process.wait() == 0, process.err.seen
        (job,) = farm.ask("jobs")
        assert (job["id"], job["state"]) == ("j1", "done")
        shown = farm.ask("show", "j1")
        assert [states[-1] for states in tries(shown).values()] == ["accepted"] * 6
        # A lease that its node never heard of is all that may have come to nothing.
        lines = [line for node in farm.nodes.values() for line in rendered(node)]
        assert len(lines) == 6, lines
    finally:
        farm.stop()
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", *SIZE, "+FN8")
    assert differing_pixels(plain, tmp_path / "out.png") == 0
    kept = sorted(path.name for path in (farm.state / "results" / "j1").iterdir())
    assert kept == ["room.png", "room.png.fidelity.json"]
    left = [path for folder in ("incoming", "tiles") for path in (farm.state / folder).iterdir()]
    assert left == []


def test_a_head_killed_as_light_is_joined_joins_it_again(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", GLOW)
    (scene / "job.yaml").write_text("bands: 2\n")
    farm = Farm(tmp_path / "farm")
    try:
        dying = farm.start_head(dies="after light is joined and before its commit")
        farm.start_node("one").err.wait_for("joined the farm")
        process = farm.submit(scene, "-o", "out.png", "--", "+W64", "+H64", cwd=tmp_path)
        assert dying.wait() == -signal.SIGKILL
        farm.start_head()
        assert process.wait() == 0, process.err.seen
        shown = farm.ask("show", "j1")
        assert shown["light"] != ""
        assert all(states == ["accepted"] for states in tries(shown).values())
    finally:
        farm.stop()


def test_bands_go_on_rendering_while_the_head_is_away_and_count(tmp_path: Path) -> None:
    """Killed in the middle of a render, twice; what the nodes had in work is not begun again."""
    scene = scene_in(tmp_path / "scene", SLOW)
    (scene / "job.yaml").write_text("bands: 2\n")
    farm = Farm(tmp_path / "farm")
    try:
        farm.start_head()
        nodes = [farm.start_node(name) for name in ("one", "two")]
        process = farm.submit(scene, "-o", "out.png", "--", "+W96", "+H192", cwd=tmp_path)
        before = tries(rendering(farm, process))
        for _ in range(2):
            assert farm.head is not None
            farm.head.kill()
            farm.start_head()
            for node in nodes:
                node.err.wait_for("joined the farm")
        assert process.wait(180) == 0, process.err.seen
        assert any("reconnect" in line for line in process.err.seen), process.err.seen
        shown = farm.ask("show", "j1")
        assert tries(shown).keys() == before.keys()
        assert all(states == ["accepted"] for states in tries(shown).values())
    finally:
        farm.stop()
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", "+W96", "+H192", "+FN8")
    assert differing_pixels(plain, tmp_path / "out.png") == 0


def test_what_is_known_of_jobs_and_nodes_outlives_the_head(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene")
    farm = Farm(tmp_path / "farm")
    try:
        farm.start_head()
        node = farm.start_node("one")
        done = farm.submit(scene, "-o", "out.png", "--", *SIZE, cwd=tmp_path)
        assert done.wait() == 0, done.err.seen
        node.stop()
        waiting = farm.submit(scene, "--detach", "--", *SIZE, cwd=tmp_path)
        assert waiting.wait() == 0, waiting.err.seen
        assert farm.control("priority", "j2", "7").returncode == 0
        assert farm.control("pause", "j2").returncode == 0
        gone = farm.submit(scene, "--detach", "--", *SIZE, cwd=tmp_path)
        assert gone.wait() == 0
        assert farm.control("delete", "--force", "j3").returncode == 0
        before = {words: farm.ask(*words) for words in (("show", "j1"), ("jobs",))}
        assert farm.head is not None
        farm.head.kill()
        farm.start_head()
        after = {words: farm.ask(*words) for words in before}
        assert _lasting(after[("show", "j1")]) == _lasting(before[("show", "j1")])
        assert [_lasting(job) for job in after[("jobs",)]] == [
            _lasting(job) for job in before[("jobs",)]
        ]
        (seen,) = farm.ask("nodes")
        assert (seen["name"], seen["state"], seen["bands_done"] > 0) == ("one", "away", True)
        fetched = farm.control("fetch", "j1", "-o", str(tmp_path / "again.png"))
        assert fetched.returncode == 0, fetched.stderr
        assert differing_pixels(tmp_path / "out.png", tmp_path / "again.png") == 0
        assert "deleted" in farm.control("show", "j3").stderr
        assert farm.control("resume", "j2").returncode == 0
        farm.start_node("one")
        farm.wait_until(["jobs"], lambda jobs: jobs[0]["state"] == "done", "j2 is done")
        assert farm.submit(scene, "--detach", "--", *SIZE, cwd=tmp_path).wait() == 0
        assert farm.ask("jobs")[0]["id"] == "j4"
    finally:
        farm.stop()


def _lasting(shown: Any) -> Any:
    """Leave out what goes with time alone; moments are stored as wall time, to microseconds."""
    if isinstance(shown, dict):
        passing = ("elapsed_s", "pixels_per_s", "note", "created", "phase")
        return {key: _lasting(value) for key, value in shown.items() if key not in passing}
    if isinstance(shown, list):
        return [_lasting(value) for value in shown]
    return round(shown, 3) if isinstance(shown, float) else shown


def test_a_tile_that_is_gone_or_changed_is_rendered_again(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene")
    (scene / "job.yaml").write_text("bands: 4\n")
    farm = Farm(tmp_path / "farm")
    try:
        dying = farm.start_head(dies="while stitching")
        farm.start_node("one").err.wait_for("joined the farm")
        process = farm.submit(scene, "-o", "out.png", "--", *SIZE, cwd=tmp_path)
        assert dying.wait() == -signal.SIGKILL
        lost, changed, *_ = sorted((farm.state / "tiles").iterdir())
        lost.unlink()
        data = bytearray(changed.read_bytes())
        data[len(data) // 2] ^= 1
        changed.write_bytes(data)
        farm.start_head()
        assert process.wait() == 0, process.err.seen
        states = sorted(tries(farm.ask("show", "j1")).values())
        assert states == [["accepted"], ["accepted"], ["accepted"] * 2, ["accepted"] * 2]
    finally:
        farm.stop()
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", *SIZE, "+FN8")
    assert differing_pixels(plain, tmp_path / "out.png") == 0
