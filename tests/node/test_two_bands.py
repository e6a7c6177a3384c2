"""A node with two bands at work: a real node and POV-Ray, and a head that says what is wanted."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from clusterray.node import lookout, overlap
from clusterray.node.lookout import OUT_OF_MEMORY
from clusterray.node.machine import memory_bytes
from clusterray.wire.protocol import (
    Accepted,
    Bye,
    Cut,
    CutTo,
    Done,
    Draining,
    Drop,
    HandBack,
    Progress,
    Uploading,
)
from tests.node.doubles import (
    ANSWER_S,
    SLOW,
    SPHERES,
    Conversation,
    HeadDouble,
    Scene,
    make_scene,
)
from tests.node.test_daemon import StartNode, finish_band, leftovers
from tests.node.test_daemon import start_node as start_node

pytestmark = pytest.mark.slow

SMALL, LARGE = (64, 128, 256, 192), (0, 0, 320, 320)
"""Of SLOW at 320x320: some seconds, and longer than any test."""
LEFT, RIGHT = (128, 128, 160, 192), (160, 128, 192, 192)
"""A second or so each."""


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each band end soon as soon as a block of it is finished."""
    monkeypatch.setattr(overlap, "START_S", 1000.0)
    monkeypatch.setattr(overlap, "LEAST_SHARE", 0.0)


@pytest.fixture
def slow_scene(tmp_path: Path) -> Scene:
    return make_scene(tmp_path, SLOW, width=320, height=320)


def expect_place(talk: Conversation, attempt: str) -> Progress:
    """Wait until an attempt says that there is a place; nothing but progress may come before."""
    until = time.monotonic() + ANSWER_S
    while time.monotonic() < until:
        message = talk.link.receive(1.0)
        assert message is None or isinstance(message, Progress), message
        if message is not None and message.place:
            assert message.attempt == attempt
            return message
    raise AssertionError(f"no place beside {attempt} in {ANSWER_S} s")


def expect_rendering(talk: Conversation, attempt: str) -> None:
    until = time.monotonic() + ANSWER_S
    while time.monotonic() < until:
        message = talk.link.receive(1.0)
        assert message is None or isinstance(message, Progress), message
        if message is not None and (message.attempt, message.phase) == (attempt, "rendering"):
            return
    raise AssertionError(f"{attempt} was not rendered in {ANSWER_S} s")


def povrays(of: psutil.Process | None = None) -> list[psutil.Process]:
    return [
        child
        for child in (of or psutil.Process()).children(recursive=True)
        if child.name() == "povray"
    ]


def two_at_work(
    head: HeadDouble, talk: Conversation, scene: Scene, first: tuple[int, ...] = LARGE
) -> None:
    talk.send(head.lease(scene, first))
    expect_place(talk, "a1")
    talk.send(head.lease(scene, LARGE))
    expect_rendering(talk, "a2")


def test_a_tile_goes_up_while_the_next_band_renders(
    head: HeadDouble, start_node: StartNode, slow_scene: Scene, early: None
) -> None:
    start_node()
    talk = head.meet()
    talk.send(head.lease(slow_scene, SMALL))
    assert expect_place(talk, "a1").phase == "rendering"
    (first,) = povrays()
    talk.send(head.lease(slow_scene, LARGE))
    uploading = talk.expect(Uploading)
    (second,) = [each for each in povrays() if each != first]
    done = talk.expect(Done)
    assert (uploading.attempt, done.attempt) == ("a1", "a1")
    assert second.is_running()
    assert head.stage.served == ["scene.tar"]


@pytest.mark.parametrize(("dropped", "left"), [("a1", "a2"), ("a2", "a1")])
def test_a_band_that_is_dropped_leaves_the_other_alone(
    head: HeadDouble,
    start_node: StartNode,
    slow_scene: Scene,
    tmp_path: Path,
    early: None,
    dropped: str,
    left: str,
) -> None:
    start_node()
    talk = head.meet()
    two_at_work(head, talk, slow_scene)
    both = set(povrays())
    assert len(both) == 2
    (victim,) = [each for each in both if any(dropped in word for word in each.cmdline())]
    (other,) = both - {victim}
    talk.send(Drop(dropped, "its job was cancelled"))
    victim.wait(10)
    assert other.is_running()
    # The place is there again.
    small = head.lease(slow_scene, (0, 0, 32, 1), "a3")
    if left == "a1":
        talk.send(small)
        assert finish_band(talk).attempt == "a3"
    assert other.is_running()


def test_a_node_that_drains_finishes_both(
    head: HeadDouble, start_node: StartNode, slow_scene: Scene, tmp_path: Path, early: None
) -> None:
    node = start_node(drain_s=1000)
    talk = head.meet()
    talk.send(head.lease(slow_scene, SMALL))
    expect_place(talk, "a1")
    talk.send(head.lease(slow_scene, RIGHT))
    expect_rendering(talk, "a2")
    node.stop.request()
    talk.expect(Draining)
    done: set[str] = set()
    while len(done) < 2:
        message = talk.receive()
        assert isinstance(message, (Uploading, Done)), message
        if isinstance(message, Done):
            done.add(message.attempt)
            talk.send(Accepted(message.attempt))
    talk.expect(Bye)
    assert node.end() == 0 and done == {"a1", "a2"}
    assert leftovers(tmp_path) == []


def test_the_second_stop_ends_both_at_once(
    head: HeadDouble, start_node: StartNode, slow_scene: Scene, tmp_path: Path, early: None
) -> None:
    node = start_node(drain_s=1000)
    talk = head.meet()
    two_at_work(head, talk, slow_scene)
    both = povrays()
    node.stop.request()
    talk.expect(Draining)
    node.stop.request()
    assert {talk.expect(HandBack).attempt, talk.expect(HandBack).attempt} == {"a1", "a2"}
    talk.expect(Bye)
    assert node.end() == 0
    _gone, alive = psutil.wait_procs(both, timeout=10)
    assert len(both) == 2 and not alive
    assert leftovers(tmp_path) == []


def test_a_killed_node_leaves_neither(head: HeadDouble, slow_scene: Scene, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from clusterray.node import overlap\n"
        "from clusterray.node.daemon import run_node\n"
        "from clusterray.node.settings import NodeSettings\n"
        "from clusterray.node.stop import StopFlag\n"
        "overlap.START_S, overlap.LEAST_SHARE = 1000.0, 0.0\n"
        "work, join = sys.argv[1:]\n"
        "run_node(NodeSettings(Path(work), join, threads=1), stop=StopFlag())\n"
    )
    work = tmp_path / "the work"
    with subprocess.Popen([sys.executable, "-c", code, str(work), head.token]) as process:
        talk = head.meet()
        two_at_work(head, talk, slow_scene)
        both = povrays(psutil.Process(process.pid))
        process.send_signal(signal.SIGKILL)
    _gone, alive = psutil.wait_procs(both, timeout=10)
    assert len(both) == 2 and not alive


def test_after_a_lost_connection_both_go_on_and_the_place_is_said_again(
    head: HeadDouble, start_node: StartNode, slow_scene: Scene, early: None
) -> None:
    start_node()
    talk = head.meet()
    two_at_work(head, talk, slow_scene)
    both = povrays()
    talk.hang_up()
    back = head.meet()
    assert back.hello.node is not None and back.hello.node.rendering == ["a1", "a2"]
    for attempt in ("a1", "a2"):
        back.send(head.keep(attempt))
    expect_place(back, "a1")
    assert len(both) == 2 and all(each.is_running() for each in both)


# ---------------------------------------------------------------- when it is said


def test_it_is_said_of_a_quick_band_before_its_tile_is_there(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES, width=320, height=240)
    start_node()
    talk = head.meet()
    talk.send(head.lease(scene, (0, 0, 320, 240)))
    expect_place(talk, "a1")
    assert finish_band(talk).attempt == "a1"


def test_it_is_not_said_of_a_band_that_goes_on_for_long(
    head: HeadDouble, start_node: StartNode, slow_scene: Scene
) -> None:
    start_node()
    talk = head.meet()
    talk.send(head.lease(slow_scene, LARGE))
    for _ in range(3):
        assert not talk.expect_progress("rendering").place


def test_a_band_that_has_come_to_its_cut_ends_soon(
    head: HeadDouble, start_node: StartNode, slow_scene: Scene
) -> None:
    start_node()
    talk = head.meet()
    talk.send(head.lease(slow_scene, LARGE))
    talk.expect_progress("rendering")
    talk.send(Cut("a1", (0, 0, 320, 32)))
    # Or what it had begun by then.
    assert talk.expect(CutTo).keep[3] < 320
    expect_place(talk, "a1")
    assert finish_band(talk).attempt == "a1"


def test_a_node_that_is_told_not_to_overlap_does_not(
    head: HeadDouble, start_node: StartNode, slow_scene: Scene, early: None
) -> None:
    start_node(overlap=False)
    talk = head.meet()
    talk.send(head.lease(slow_scene, LEFT))
    talk.send(head.lease(slow_scene, RIGHT))
    talk.expect(Uploading)
    assert not any(told.place or told.attempt == "a2" for told in talk.progress)


# ---------------------------------------------------------------- memory


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Give what is left of memory, to be changed."""
    left = [memory_bytes()]
    monkeypatch.setattr(lookout, "memory_left", lambda: left[0])
    yield left


def test_without_room_for_a_second_povray_there_is_no_place(
    head: HeadDouble, start_node: StartNode, slow_scene: Scene, early: None, left: list[int]
) -> None:
    left[0] = memory_bytes() // overlap.SPARE_SHARE
    start_node()
    talk = head.meet()
    talk.send(head.lease(slow_scene, LEFT))
    talk.expect(Uploading)
    assert talk.progress and not any(told.place for told in talk.progress)


def test_when_memory_runs_short_the_younger_is_handed_back(
    head: HeadDouble, start_node: StartNode, slow_scene: Scene, early: None, left: list[int]
) -> None:
    start_node()
    talk = head.meet()
    two_at_work(head, talk, slow_scene, SMALL)
    left[0] = memory_bytes() // overlap.SCARCE_SHARE - 1
    back = talk.expect(HandBack)
    assert (back.attempt, back.reason) == ("a2", OUT_OF_MEMORY)
    left[0] = memory_bytes()
    talk.send(head.lease(slow_scene, (0, 0, 32, 1), "a3"))
    assert talk.expect(Uploading).attempt == "a1", "the next one waits for the older to be over"
    talk.expect(Done)
    talk.send(Accepted("a1"))
    assert finish_band(talk).attempt == "a3"
