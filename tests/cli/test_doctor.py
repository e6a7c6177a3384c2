"""``clusterray doctor`` as a person and a script ask it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from clusterray.node.doctor import Findings
from tests.cli.commands import environment, run
from tests.system.harness import needs_povray

DOCS = Path(__file__).resolve().parents[2] / "docs" / "commands.md"


@needs_povray
@pytest.mark.parametrize("wall", ["landlock", "bubblewrap", "none"])
def test_it_tells_which_wall_stands(tmp_path: Path, wall: str) -> None:
    choice = "none-i-trust-every-scene" if wall == "none" else wall
    ended = run(
        "clusterray", "doctor", cwd=tmp_path, env=environment(tmp_path, CLUSTERRAY_SANDBOX=choice)
    )
    if "there is no wall here" in ended.stderr:
        assert ended.code == 1
        pytest.skip(ended.stderr)
    assert ended.code == 0, ended.stderr
    facts = dict(line.split(":", 1) for line in ended.stdout.splitlines())
    assert facts["wall"].split(":")[0].strip() == wall
    where = "without a wall" if wall == "none" else "behind the wall"
    assert f"renders the test picture {where}" in facts["povray"]
    assert "256 open files" in facts["limits"]
    assert "free in" in facts["disk"]


@needs_povray
def test_json_has_every_field_that_the_page_describes(tmp_path: Path) -> None:
    env = environment(tmp_path, CLUSTERRAY_WALL_LIMIT_S="1h", CLUSTERRAY_MEMORY_LIMIT_BYTES="1GiB")
    ended = run("clusterray", "doctor", "--json", cwd=tmp_path, env=env)
    found = json.loads(ended.stdout)
    fields = [field.name for field in dataclasses.fields(Findings)]
    assert list(found) == fields
    assert not [name for name in fields if f"`{name}`" not in DOCS.read_text("utf-8")]
    assert (found["wall_limit_s"], found["memory_limit_bytes"]) == (3600, 1 << 30)
    assert found["cpu_limit_s"] == 3600 * found["threads"]
    assert found["faults"] == []
    assert found["povray_version"].startswith("3.7")


def test_what_keeps_a_node_from_working_is_said_with_1(tmp_path: Path) -> None:
    env = environment(
        tmp_path,
        CLUSTERRAY_POVRAY="/nowhere/povray",
        CLUSTERRAY_LEAST_FREE_BYTES="1000TiB",
        CLUSTERRAY_SANDBOX="none-i-trust-every-scene",
    )
    ended = run("clusterray", "doctor", cwd=tmp_path, env=env)
    assert ended.code == 1
    assert "machine:" in ended.stdout
    assert "/nowhere/povray is not a program" in ended.stderr
    assert "(least_free_bytes)" in ended.stderr
