"""Nodes that render otherwise never share a picture: real daemons, a wrapper as the odd one out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import Farm, differing_pixels, farm_of, needs_povray, plain_povray
from tests.system.test_farm import QUICK, SLOW, rendering, scene_in

pytestmark = needs_povray


def odd_povray(folder: Path) -> Path:
    """A POV-Ray that says it is another version, and whose pictures could be told from afar."""
    program = folder / "odd-povray"
    real = shutil.which("povray")
    program.write_text(
        "#!/bin/sh\n"
        'case "$1" in --version)\n'
        f'  "{real}" --version 2>&1 | sed "s/^POV-Ray 3[^ ]*/POV-Ray 3.7.0.8/"; exit 0;;\n'
        "esac\n"
        f'exec "{real}" "$@" +Q3\n'
    )
    program.chmod(0o755)
    return program


def renderers(farm: Farm, job: str) -> set[str]:
    """The nodes of all attempts of a job."""
    bands = farm.ask("show", job)["bands"]
    return {attempt["node"] for band in bands for attempt in band["attempts"]}


def all_there(nodes: Any) -> bool:
    return len(nodes) == 3


@pytest.mark.slow
def test_bands_of_an_odd_node_never_mix_into_the_others_picture(tmp_path: Path) -> None:
    large = scene_in(tmp_path / "large", SLOW)
    small = scene_in(tmp_path / "small", QUICK, "small.pov")
    size, small_size = ("+W160", "+H480"), ("+W64", "+H96")
    with farm_of(tmp_path / "farm", 1, 1) as farm:
        farm.start_node("odd", "--povray", str(odd_povray(tmp_path)))
        nodes = farm.wait_until(["nodes"], all_there, "three nodes join")
        differs = {node["name"]: node["differs"] for node in nodes}
        assert differs["n1"] == differs["n2"] == ""
        assert differs["odd"].startswith(
            "differs from most: other POV-Ray 3.7.0.8, canary differs by up to "
        )
        assert "other POV-Ray 3.7.0.8" in farm.control("nodes").stdout
        first = farm.submit(large, "-o", "large.png", "--", *size, cwd=tmp_path)
        rendering(farm, first)
        second = farm.submit(small, "-o", "small.png", "--", *small_size, cwd=tmp_path)
        assert second.wait() == 0, second.err.seen
        assert renderers(farm, "j2") == {"odd"}, "it does not idle while another job waits"
        assert first.wait(120) == 0, first.err.seen
        assert renderers(farm, "j1") == {"n1", "n2"}
    plain = plain_povray(large, tmp_path / "plain.png", "+Iroom.pov", *size, "+FN8")
    assert differing_pixels(plain, tmp_path / "large.png") == 0
    coarse = plain_povray(small, tmp_path / "coarse.png", "+Ismall.pov", *small_size, "+Q3")
    assert differing_pixels(coarse, tmp_path / "small.png") == 0


@pytest.mark.slow
def test_a_job_that_lets_them_mix_is_told_that_they_did(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", SLOW)
    (scene / "job.yaml").write_text("width: 160\nheight: 320\nmix: any\n")
    with farm_of(tmp_path / "farm", 1) as farm:
        farm.start_node("odd", "--povray", str(odd_povray(tmp_path)))
        farm.wait_until(["nodes"], lambda nodes: len(nodes) == 2, "two nodes join")
        process = farm.submit(scene, "-o", "out.png", cwd=tmp_path)
        assert process.wait(120) == 0, process.err.seen
        assert renderers(farm, "j1") == {"n1", "odd"}
        says = "mixed: tiles of 2 kinds of POV-Ray are in the picture"
        assert any(says in line for line in process.err.seen)
        assert says in farm.control("show", "1").stdout
