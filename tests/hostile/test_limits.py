"""Scenes that take all there is: of time, of memory, of the disk."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from clusterray.node.folders import AttemptFolder
from clusterray.node.machine import process_cpu_s
from clusterray.node.renderer import Render, RenderCancelled, RenderFailed
from clusterray.node.sandbox import Sandbox, Wall
from tests.hostile.attacks import PICTURE, hostile_scene
from tests.hostile.conftest import built, limited
from tests.hostile.test_files import SIDE, render

MIB = 1 << 20
ENDLESS_PARSE = "#while (1) #end\n"
ENDLESS_TEXT = '#while (1) #debug "again and again and again and again and again\\n" #end\n'
MUCH_MEMORY = (
    "#declare N = 0;\n#while (N < 150000) sphere { N, 1 } #declare N = N + 1; #end\n" + PICTURE
)
"""Some 400 MiB."""
LARGE_FILE = (
    '#fopen F "large.txt" write\n#declare N = 0;\n#declare S = "{line}"\n'
    "#while (N < 4096) #write(F, S, S, S, S, S, S, S, S) #declare N = N + 1; #end\n#fclose F\n"
    + PICTURE
).replace("{line}", "x" * 250)
"""Eight million bytes."""
MANY_FILES = (
    '#declare S = "{line}"\n#declare I = 0;\n#while (1)\n'
    '#fopen F concat("many", str(I, 0, 0)) write\n#declare N = 0;\n'
    "#while (N < 512) #write(F, S, S, S, S, S, S, S, S) #declare N = N + 1; #end\n"
    "#fclose F\n#declare I = mod(I + 1, 50);\n#end\n"
).replace("{line}", "x" * 250)
"""Each of a million bytes."""


def failure(sandbox: Sandbox, text: str, folder: Path) -> RenderFailed:
    scene = hostile_scene(folder, text, SIDE)
    with pytest.raises(RenderFailed) as caught:
        render(sandbox, scene, AttemptFolder(folder / "attempt")).run()
    return caught.value


def goes_beyond(sandbox: Sandbox, text: str, folder: Path, cpu_s: float) -> None:
    """See that the scene takes more CPU time than that, and end it."""
    scene = hostile_scene(folder, text, SIDE)
    endless = render(sandbox, scene, AttemptFolder(folder / "attempt"))

    def look(_phase: str, _done: int, _total: int) -> None:
        if process_cpu_s(endless._pid) > cpu_s:
            endless.cancel(at_once=True)

    endless._on_progress = look
    with pytest.raises(RenderCancelled):
        endless.run()


@pytest.mark.parametrize("text", [ENDLESS_PARSE, ENDLESS_TEXT], ids=["loop", "text"])
def test_an_endless_parse_ends_when_its_cpu_time_is_spent(
    wall: Sandbox, tmp_path: Path, text: str
) -> None:
    (tmp_path / "without").mkdir()
    goes_beyond(built(Wall.NONE), text, tmp_path / "without", 1.5)
    failed = failure(limited(wall, cpu_s=1), text, tmp_path)
    assert failed.fault == "scene"
    assert failed.message == "POV-Ray computed for 1 s, all that this node lets it (cpu_limit_s)"
    assert len(failed.text) <= 64 << 10


def test_an_endless_parse_ends_when_its_time_is_over(wall: Sandbox, tmp_path: Path) -> None:
    failed = failure(limited(wall, wall_s=1), ENDLESS_PARSE, tmp_path)
    assert failed.fault == "scene"
    assert failed.message == (
        "POV-Ray ran for 1 s and was ended: longer than this node lets it (wall_limit_s)"
    )


def test_memory_beyond_the_limit_is_refused(wall: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    scene = hostile_scene(tmp_path / "without", MUCH_MEMORY, SIDE)
    render(built(Wall.NONE), scene, AttemptFolder(tmp_path / "without" / "attempt")).run()
    failed = failure(limited(wall, memory_bytes=60 * MIB), MUCH_MEMORY, tmp_path)
    assert failed.fault == "node", "a larger machine may render it"
    assert "Out of memory" in failed.message
    assert f"{60 * MIB} bytes, memory_limit_bytes" in failed.message


@pytest.mark.parametrize("threads", [1, 16])
def test_threads_do_not_count_against_the_memory(
    wall: Sandbox, tmp_path: Path, threads: int
) -> None:
    """Each has an address range of its own for what it allocates, and uses next to none of it."""
    scene = hostile_scene(tmp_path, PICTURE, SIDE)
    many = render(limited(wall, memory_bytes=100 * MIB), scene, AttemptFolder(tmp_path / "a1"))
    many._threads = threads
    many.run()


def test_a_file_grows_no_larger_than_the_limit(wall: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    scene = hostile_scene(tmp_path / "without", LARGE_FILE, SIDE)
    attempt = AttemptFolder(tmp_path / "without" / "attempt")
    render(built(Wall.NONE), scene, attempt).run()
    assert (attempt.scene / "large.txt").stat().st_size > 8_000_000
    failed = failure(limited(wall, file_bytes=MIB), LARGE_FILE, tmp_path)
    most = MIB + 24 * SIDE * SIDE
    assert failed.fault == "scene"
    assert failed.message == (
        f"POV-Ray wrote a file of {most} bytes, the largest that this node lets it write "
        "(file_limit_bytes)"
    )
    assert (tmp_path / "attempt" / "scene" / "large.txt").stat().st_size == most


def test_many_files_grow_no_larger_than_four_times_that(wall: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    goes_beyond(built(Wall.NONE), MANY_FILES, tmp_path / "without", 1.0)
    written = sum(
        path.stat().st_size for path in (tmp_path / "without" / "attempt" / "scene").glob("many*")
    )
    assert written > 4 * (2 * MIB)
    failed = failure(limited(wall, file_bytes=2 * MIB), MANY_FILES, tmp_path)
    assert failed.fault == "scene"
    assert failed.message == (
        f"POV-Ray wrote more than {4 * (2 * MIB + 24 * SIDE * SIDE)} bytes in all and was ended: "
        "more than this node lets it (file_limit_bytes)"
    )


def test_a_picture_has_room_whatever_a_scene_may_write(wall: Sandbox, tmp_path: Path) -> None:
    """POV-Ray's blocks and its picture lie beside what the setting grants."""
    scene = hostile_scene(tmp_path, PICTURE, SIDE)
    attempt = AttemptFolder(tmp_path / "attempt")
    render(limited(wall, file_bytes=1), scene, attempt).run()
    assert attempt.picture.stat().st_size > 100


def test_a_render_that_is_cancelled_ends_as_it_does_without_a_wall(
    wall: Sandbox, tmp_path: Path
) -> None:
    """POV-Ray hears SIGTERM and writes its files; nothing of the wall is left."""
    scene = hostile_scene(tmp_path, ENDLESS_PARSE, SIDE)
    endless: Render = render(wall, scene, AttemptFolder(tmp_path / "attempt"))
    parsing = threading.Event()
    ended: list[int] = []
    run_process = endless._run_process

    def note(start: Path, heard: socket.socket) -> int:
        ended.append(run_process(start, heard))
        return ended[0]

    def look(_phase: str, _done: int, _total: int) -> None:
        if not parsing.is_set() and "[Parsing...]" in endless._parser.text_tail:
            parsing.set()
            endless.cancel()

    endless._run_process = note  # type: ignore[method-assign]
    endless._on_progress = look
    with pytest.raises(RenderCancelled):
        endless.run()
    assert ended == [2]
