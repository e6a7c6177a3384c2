"""--local: the same three programs on this machine, for one job, and gone with it."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from clusterray.client.local import divide_threads
from tests.cli.commands import SMALL, Running, environment, family, run, running, scene_folder

GONE_WITHIN_S = 3.0
ENDLESS = "#version 3.7;\n#while (1) #end\n"

needs_povray = pytest.mark.skipif(
    shutil.which("povray") is None, reason="povray is not installed: apt install povray"
)


@pytest.mark.parametrize(
    ("cores", "nodes", "threads"),
    [(8, 1, [8]), (8, 3, [3, 3, 2]), (2, 4, [1, 1, 1, 1]), (1, 1, [1])],
)
def test_nodes_divide_the_cores(cores: int, nodes: int, threads: list[int]) -> None:
    assert divide_threads(cores, nodes) == threads


def local_environment(here: Path, **more: str) -> Mapping[str, str]:
    """Temporary files where the test can see that none is left."""
    (here / "tmp").mkdir()
    return environment(here, TMPDIR=str(here / "tmp"), **more)


def left_in(here: Path) -> list[str]:
    return [entry.name for entry in (here / "tmp").iterdir()]


@needs_povray
def test_two_nodes_here_make_the_picture_and_leave_nothing(tmp_path: Path) -> None:
    scene_folder(tmp_path)
    (tmp_path / "yaml.py").write_text("raise SystemExit('a file of the person was imported')")
    env = local_environment(tmp_path, CLUSTERRAY_LISTEN="0.0.0.0", CLUSTERRAY_THREADS="x")
    ended = run("clusterray-submit", "--local", "2", "scene", *SMALL, cwd=tmp_path, env=env)
    assert (ended.code, ended.stdout) == (0, "room.png\n"), ended.stderr
    # The job is made when both are there, so that neither begins alone.
    assert "waiting for a node" not in ended.stderr
    assert left_in(tmp_path) == []


@needs_povray
def test_a_lone_node_here_can_only_be_held_against_itself(tmp_path: Path) -> None:
    scene_folder(tmp_path)
    env = local_environment(tmp_path)
    words = ("--local", "1", "--verify", "scene")
    ended = run("clusterray-submit", *words, *SMALL, cwd=tmp_path, env=env)
    assert (ended.code, ended.stdout) == (0, "room.png\n"), ended.stderr
    assert "again by the same node (there was no other), 0 pixels differ" in ended.stderr


def is_rendering(process: psutil.Process) -> bool:
    try:
        return process.name() == "povray" and "+I" in " ".join(process.cmdline())
    except psutil.Error:
        # A `povray --version` of the node that has just ended.
        return False


def endless_job(submit: Running) -> list[psutil.Process]:
    """Wait until POV-Ray is at work; give the submitter and all processes below it."""
    submit.wait_for("job j1")
    give_up_at = time.monotonic() + 30
    while time.monotonic() < give_up_at:
        found = family(submit.process.pid)
        if any(map(is_rendering, found)):
            return found
        time.sleep(0.02)
    raise AssertionError(f"POV-Ray never started: {submit.stderr}")


@needs_povray
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_however_the_submitter_ends_nothing_of_it_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    scene_folder(tmp_path, room=ENDLESS)
    env = local_environment(tmp_path)
    words = ("scene", "--local", *SMALL)
    with running("clusterray-submit", *words, cwd=tmp_path, env=env) as submit:
        processes = endless_job(submit)
        assert len(processes) >= 5
        submit.process.send_signal(number)
        sent_at = time.monotonic()
        ended = submit.ended(GONE_WITHIN_S)
        left_s = max(0.0, sent_at + GONE_WITHIN_S - time.monotonic())
        assert psutil.wait_procs(processes, timeout=left_s)[1] == []
    expected = {signal.SIGINT: 130, signal.SIGTERM: 130}.get(number, -number)
    assert (ended.code, ended.stdout) == (expected, ""), ended.stderr
    assert left_in(tmp_path) == []
    assert {entry.name for entry in tmp_path.iterdir()} == {"scene", "tmp"}


@needs_povray
def test_a_fault_of_the_scene_is_4(tmp_path: Path) -> None:
    scene_folder(tmp_path, room="sphere {")
    env = local_environment(tmp_path)
    ended = run("clusterray-submit", "scene", "--local", cwd=tmp_path, env=env)
    assert (ended.code, ended.stdout) == (4, "")
    assert "scene/room.pov:1: " in ended.stderr
    assert left_in(tmp_path) == []


def test_a_node_that_cannot_start_is_1_in_its_own_words(tmp_path: Path) -> None:
    scene_folder(tmp_path)
    env = local_environment(tmp_path, CLUSTERRAY_POVRAY="/nowhere/povray")
    ended = run("clusterray-submit", "scene", "--local", cwd=tmp_path, env=env)
    assert (ended.code, ended.stdout) == (1, "")
    assert "/nowhere/povray" in ended.stderr.splitlines()[-1]
    assert left_in(tmp_path) == []


def test_the_wall_is_chosen_by_the_environment(tmp_path: Path) -> None:
    scene_folder(tmp_path)
    env = local_environment(tmp_path, CLUSTERRAY_SANDBOX="paper")
    ended = run("clusterray-submit", "scene", "--local", cwd=tmp_path, env=env)
    assert (ended.code, ended.stdout) == (1, "")
    assert "'paper' is not one of auto, landlock, bubblewrap" in ended.stderr.splitlines()[-1]


def test_a_fault_of_the_folder_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    env = local_environment(tmp_path)
    assert run("clusterray-submit", "empty", "--local", cwd=tmp_path, env=env).code == 3
    assert left_in(tmp_path) == []
