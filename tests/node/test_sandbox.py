"""Which wall is chosen, and what is said where there is none."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterray.core.errors import LocalFault
from clusterray.node import landlock, sandbox
from clusterray.node.sandbox import (
    NO_WALL,
    Limits,
    Wall,
    Walls,
    choose_sandbox,
    look_for_walls,
    memory_for_povray,
)
from tests.node.doubles import SPHERES, HeadDouble, make_scene
from tests.node.test_daemon import TOP, StartNode, finish_band, start_node

__all__ = ["start_node"]

LIMITS = Limits(1 << 30)
BOTH = Walls(7, "", ("/usr/bin/bwrap", "--unshare-user"), "")
LANDLOCK = Walls(7, "", (), "bwrap is not installed")
BUBBLEWRAP = Walls(0, "the kernel is built without it", ("/usr/bin/bwrap",), "")
NEITHER = Walls(0, "the kernel is built without it", (), "bwrap is not installed")


@pytest.mark.parametrize(
    ("choice", "walls", "wall"),
    [
        ("auto", BOTH, Wall.LANDLOCK),
        ("auto", LANDLOCK, Wall.LANDLOCK),
        ("auto", BUBBLEWRAP, Wall.BUBBLEWRAP),
        ("landlock", BOTH, Wall.LANDLOCK),
        ("bubblewrap", BOTH, Wall.BUBBLEWRAP),
        (NO_WALL, BOTH, Wall.NONE),
        (NO_WALL, NEITHER, Wall.NONE),
    ],
)
def test_the_first_wall_that_works_is_taken(choice: str, walls: Walls, wall: Wall) -> None:
    assert choose_sandbox(choice, walls, LIMITS, ()).wall is wall


@pytest.mark.parametrize(
    ("choice", "walls", "reasons"),
    [
        ("auto", NEITHER, ["built without it", "bwrap is not installed"]),
        ("landlock", BUBBLEWRAP, ["built without it"]),
        ("bubblewrap", LANDLOCK, ["bwrap is not installed"]),
    ],
)
def test_without_a_wall_the_reasons_and_the_ways_out_are_said(
    choice: str, walls: Walls, reasons: list[str]
) -> None:
    with pytest.raises(LocalFault) as caught:
        choose_sandbox(choice, walls, LIMITS, ())
    for words in (*reasons, "apt install bubblewrap", f"sandbox: {NO_WALL}"):
        assert words in str(caught.value)


@pytest.fixture
def no_walls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def none() -> int:
        raise landlock.NoLandlock("the kernel is built without it")

    monkeypatch.setattr(landlock, "abi", none)
    monkeypatch.setattr(sandbox, "_try_bubblewrap", lambda: ((), "bwrap is not installed"))
    yield


@pytest.mark.usefixtures("no_walls")
def test_a_node_without_a_wall_does_not_start(head: HeadDouble, start_node: StartNode) -> None:
    fault = start_node().end()
    assert isinstance(fault, LocalFault)
    assert "there is no wall here to run POV-Ray behind" in str(fault)


@pytest.mark.usefixtures("no_walls")
def test_a_node_that_is_told_so_in_words_starts_and_warns(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        start_node(sandbox=NO_WALL)
        talk = head.meet()
        talk.send(head.lease(make_scene(tmp_path, SPHERES), TOP))
        finish_band(talk)
    assert "without a wall: every scene can do what this user can" in caplog.text


def test_what_a_wall_leaves_open_is_said_at_the_start(
    head: HeadDouble,
    start_node: StartNode,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    try:
        landlock.abi()
    except landlock.NoLandlock as reason:
        pytest.skip(f"needs Landlock: {reason}")
    monkeypatch.setattr(landlock, "abi", lambda: 2)
    with caplog.at_level(logging.INFO):
        start_node(sandbox="landlock")
        head.meet()
    assert "behind Landlock, version 2" in caplog.text
    assert "leaves open: TCP connections (Linux 6.7 closes that)" in caplog.text


def test_the_rules_of_one_render_leave_no_rings(tmp_path: Path) -> None:
    """They are made for every start of POV-Ray, and rings would stay until Python looks."""
    try:
        abi = landlock.abi()
    except landlock.NoLandlock as reason:
        pytest.skip(f"needs Landlock: {reason}")
    rules = [(tmp_path, landlock.READ_FILE)] * 10
    os.close(landlock.make_ruleset(abi, rules))
    gc.collect()
    gc.disable()
    try:
        os.close(landlock.make_ruleset(abi, rules))
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_bubblewrap_is_not_tried_where_landlock_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 7)
    monkeypatch.setattr(sandbox, "_try_bubblewrap", lambda: pytest.fail("it was tried"))
    assert look_for_walls("auto").abi == 7


def test_what_is_to_be_read_must_be_there(start_node: StartNode, tmp_path: Path) -> None:
    fault = start_node(sandbox_reads=(tmp_path / "absent",)).end()
    assert isinstance(fault, LocalFault)
    assert "sandbox_reads" in str(fault)


def test_povray_may_have_most_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine, limit in ((64 << 30, 0.9 * (64 << 30)), (1 << 30, (1 << 30) - (128 << 20))):
        monkeypatch.setattr(sandbox, "memory_bytes", lambda machine=machine: machine)
        assert memory_for_povray(0) == pytest.approx(limit)
        assert memory_for_povray(5) == 5


def test_limits_follow_the_picture_and_the_threads() -> None:
    limits = Limits(1 << 30, file_bytes=1000, wall_s=60)
    assert limits.largest_file(100) == 1000 + 2400
    assert limits.all_files(100, 32) == 4 * 3400
    large = 3840 * 2160
    assert limits.all_files(large, 32) == 4 * (1000 + 24 * large) + 680 * large
    assert limits.cpu_seconds(8) == 480
    assert Limits(1, cpu_s=7.5).cpu_seconds(8) == 8
