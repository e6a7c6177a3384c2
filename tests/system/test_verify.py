"""Bands rendered again on another node and compared: real daemons, POV-Ray and kills."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import differing_pixels, farm_of, needs_povray, plain_povray
from tests.system.test_farm import QUICK, SLOW, scene_in

pytestmark = needs_povray

NOISE = QUICK.replace("phong 0.8", "phong 0.8 crand 0.2").replace(
    "0.2 } }\ns", "0.2 crand 0.2 } }\ns"
)
"""Its noise is drawn in the order of rendering, of the ball and of the floor."""


def other_order(folder: Path) -> str:
    """A POV-Ray that renders its blocks in another order, as two threads may or may not do."""
    program = folder / "povray"
    program.write_text(f'#!/bin/sh\nexec "{shutil.which("povray")}" "$@" +RP3 +RS5\n')
    program.chmod(0o755)
    return str(program)


@pytest.mark.slow
def test_every_band_of_an_exact_scene_comes_out_the_same_on_another_node(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene")
    with farm_of(tmp_path / "farm", 1, 1, 2) as farm:
        farm.wait_until(["nodes"], lambda nodes: len(nodes) == 3, "three nodes join")
        size = ("--width", "96", "--height", "320")
        process = farm.submit(scene, *size, "--verify", "all", "--", "+A0.3", cwd=tmp_path)
        assert process.wait() == 0, process.err.seen
        shown = farm.ask("show", "1")
        text = farm.control("show", "1").stdout
    checks = shown["checks"]
    assert len(checks) > 2
    for check in checks:
        assert check["first"] != check["second"]
        assert (check["state"], check["differing"], check["reason"]) == ("compared", 0, "")
    picture = [band for band in shown["bands"] if band["stage"] == "final"]
    # A band that was cut meanwhile is checked in two.
    assert sorted(check["rect"] for check in checks) == sorted(band["rect"] for band in picture)
    verified = shown["job"]["verified"]
    assert (shown["job"]["verify"], verified["compared"]) == ("all", len(picture))
    assert (verified["pixels"], verified["differing"], verified["failed"]) == (96 * 320, 0, 0)
    line = f"verified: {len(checks)} bands rendered again on other nodes, 0 pixels differ"
    assert line in process.err.seen
    assert line in text
    plain = plain_povray(
        scene, tmp_path / "plain.png", "+Iroom.pov", "+W96", "+H320", "+A0.3", "+FN8"
    )
    assert differing_pixels(plain, tmp_path / "room.png") == 0


@pytest.mark.slow
def test_noise_is_told_and_is_no_failure(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", NOISE)
    (scene / "job.yaml").write_text("width: 160\nheight: 320\nverify: 2\n")
    with farm_of(tmp_path / "farm", 2) as farm:
        farm.start_node("n2", "--povray", other_order(tmp_path), threads=2)
        farm.wait_until(["nodes"], lambda nodes: len(nodes) == 2, "two nodes join")
        process = farm.submit(scene, cwd=tmp_path)
        assert process.wait() == 0, process.err.seen
        shown = farm.ask("show", "1")
    differing = [check for check in shown["checks"] if check["differing"]]
    assert len(shown["checks"]) == 2
    assert differing, "crand came out the same in another order"
    check = differing[0]
    assert {check["first"], check["second"]} == {"n1", "n2"}
    assert (set(check["largest"]), check["white"]) == ({"red", "green", "blue"}, 255)
    said = "\n".join(process.err.seen)
    assert re.search(r"verified: 2 bands .*, \d+ of \d+ pixels differ, by up to \d+ of 255", said)
    x0, y0, x1, y1 = check["rect"]
    assert (
        f"rows {y0} to {y1 - 1}: {check['differing']} of {(x1 - x0) * (y1 - y0)} pixels differ "
        f"between {check['first']} and {check['second']}, "
        f"by up to {max(check['largest'].values()):.0f} of 255"
    ) in said


def verifying(shown: dict[str, Any]) -> str:
    """The name of the node that renders a band again now, "" if none does."""
    for band in shown["bands"]:
        last = band["attempts"][-1] if band["attempts"] else {"state": "", "phase": ""}
        if band["stage"] == "verify" and last["phase"] == "rendering":
            return str(last["node"]) if band["state"] == "running" else ""
    return ""


@pytest.mark.slow
def test_a_node_that_is_killed_while_it_verifies_costs_an_attempt(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", SLOW)
    (scene / "job.yaml").write_text("width: 128\nheight: 192\nbands: 2\nverify: all\n")
    with farm_of(tmp_path / "farm", 1, 1, 1) as farm:
        farm.wait_until(["nodes"], lambda nodes: len(nodes) == 3, "three nodes join")
        process = farm.submit(scene, cwd=tmp_path)
        process.err.wait_for("is submitted")
        shown = farm.wait_until(["show", "1"], verifying, "a band is rendered again")
        assert shown["job"]["pixels_done"] == shown["job"]["pixels_total"], "the picture came first"
        killed = verifying(shown)
        farm.nodes[killed].kill()
        assert process.wait(120) == 0, process.err.seen
        after = farm.ask("show", "1")
    assert [check["differing"] for check in after["checks"]] == [0, 0]
    for check in after["checks"]:
        assert check["first"] != check["second"]
    attempts = [
        (attempt["node"], attempt["state"])
        for band in after["bands"]
        for attempt in band["attempts"]
        if band["stage"] == "verify"
    ]
    assert (killed, "lost") in attempts
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", "+W128", "+H192", "+FN8")
    assert differing_pixels(plain, tmp_path / "room.png") == 0
