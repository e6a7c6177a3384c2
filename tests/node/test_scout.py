"""The scout on a node, with real POV-Ray: what is seen, what it costs, how it ends."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from clusterray.core.costs import CostMap
from clusterray.core.model import Rect
from clusterray.images.glimpse import read_glimpse
from clusterray.node import scout as node_scout
from clusterray.node.beside import Task
from clusterray.node.renderer import RenderFailed
from clusterray.node.scout import Scouter
from clusterray.povray import scout as povray_scout
from clusterray.wire.protocol import (
    Blocks,
    Bye,
    Done,
    Draining,
    Drop,
    Failed,
    Lease,
    Message,
    Scouted,
)
from tests.node import stand_ins
from tests.node.doubles import (
    ANSWER_S,
    POVRAY,
    SPHERES,
    HeadDouble,
    Scene,
    make_scene,
    walled,
)
from tests.node.test_daemon import StartNode, start_node
from tests.node.test_probe import heard

__all__ = ["start_node"]

SKY_OVER_FOG = """
#version 3.7;
global_settings { assumed_gamma 1 }
#if (image_width != 320 | image_height != 240) #error "another size" #end
camera { location <0, 0, -5> look_at 0 right x*4/3 }
light_source { <0, 9, -9> rgb 1 }
background { rgb <0.2, 0.4, 0.9> }
box { <-9, -9, 0>, <9, 0, 1> pigment { granite turbulence 1 } normal { wrinkles 0.5 }
  finish { reflection 0.2 } }
plane { z, -20 pigment { granite } finish { ambient 0.3 } }
light_source { <3, -5, -6> rgb 1 area_light x*4, y*4, 60, 60 }
"""
"""The upper half is sky of one colour, the lower one costs much."""

Scouts = Callable[[Scene], list[Scouted]]


@pytest.fixture(autouse=True)
def costs_however_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an idle machine the first picture is over after a few looks: too few to tell costs by."""
    monkeypatch.setattr(povray_scout, "LEAST_LOOKS", 1)


@pytest.fixture
def told() -> queue.Queue[Message]:
    return queue.Queue()


@pytest.fixture
def faults() -> list[tuple[str, RenderFailed]]:
    return []


@pytest.fixture
def scouts(
    tmp_path: Path, told: queue.Queue[Message], faults: list[tuple[str, RenderFailed]]
) -> Iterator[Scouts]:
    """Scout a scene and give all that is told of it."""

    def note(attempt: str, failure: RenderFailed) -> bool:
        faults.append((attempt, failure))
        return True

    scouter = Scouter(POVRAY, walled(), tmp_path / "scouts", told.put, note)
    thread = threading.Thread(target=scouter.run)
    thread.start()

    def scout(scene: Scene) -> list[Scouted]:
        scouter.add(Task("a1", "it", scene.spec, "S", scene.root))
        while not scouter.spent():
            threading.Event().wait(0.02)
        assert not any((tmp_path / "scouts").glob("*"))
        answers = [told.get_nowait() for _ in range(told.qsize())]
        return [each for each in answers if isinstance(each, Scouted)]

    yield scout
    scouter.stop()
    thread.join(ANSWER_S)
    assert not thread.is_alive()


def whole(answers: list[Scouted]) -> list[Scouted]:
    """Those of pictures that are done."""
    return [each for each in answers if each.costs]


def test_the_picture_and_the_dear_half_are_seen_at_once(tmp_path: Path, scouts: Scouts) -> None:
    scene = make_scene(tmp_path, SKY_OVER_FOG, width=320, height=240)
    first = whole(scouts(scene))[0]
    assert (first.attempt, first.reason) == ("a1", "")
    picture = read_glimpse(first.picture)
    assert picture.size == (20, 15)
    red, green, blue = picture.getpixel((10, 2))  # type: ignore[misc]
    assert red < green < blue
    costs = CostMap.of(320, 240, first.columns, first.costs)
    upper, lower = costs.cost(Rect(0, 0, 320, 120)), costs.cost(Rect(0, 120, 320, 240))
    assert lower > 2 * upper


@pytest.mark.slow
def test_a_finer_picture_follows_where_it_is_cheap(
    tmp_path: Path, scouts: Scouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(povray_scout, "SHARE", 1.0)
    monkeypatch.setattr(povray_scout, "BUDGET_S", 60.0)
    scene = make_scene(tmp_path, SKY_OVER_FOG, width=320, height=240)
    sizes = [read_glimpse(each.picture).size for each in whole(scouts(scene))]
    assert sizes[0] == (20, 15)
    assert len(sizes) > 1
    assert sizes[1] == (80, 60)


def test_a_fault_of_the_scene_is_its_bands(
    tmp_path: Path, scouts: Scouts, faults: list[tuple[str, RenderFailed]]
) -> None:
    scene = make_scene(tmp_path, SPHERES + "sphere { oops }\n", width=320, height=240)
    assert scouts(scene) == []
    ((attempt, failure),) = faults
    assert (attempt, failure.fault, failure.file) == ("a1", "scene", "main file.pov")
    assert "oops" in failure.message


def test_a_scene_that_takes_long_to_parse_is_given_up_and_said_so(
    tmp_path: Path, scouts: Scouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(povray_scout, "BUDGET_S", 0.1)
    monkeypatch.setattr(node_scout, "WEIGH_S", 0.02)
    endless = "#declare N = 0; #while (N >= 0) #declare N = N + 1; #end\n"
    scene = make_scene(tmp_path, "#version 3.7;\n" + endless + SPHERES, width=320, height=240)
    (answer,) = scouts(scene)
    assert (answer.picture, answer.costs) == (b"", [])
    assert "costs too much" in answer.reason


def test_a_first_picture_that_takes_long_is_shown_as_far_as_it_is(
    tmp_path: Path, scouts: Scouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_scout, "SHOW_FIRST_S", 1e-6)
    scene = make_scene(tmp_path, SKY_OVER_FOG, width=320, height=240)
    answers = scouts(scene)
    shown = [read_glimpse(each.picture) for each in answers if not each.costs]
    assert shown
    assert all(each.mode == "RGBA" and each.size == (20, 15) for each in shown)
    assert shown[0].getpixel((19, 14)) == (0, 0, 0, 0), "the last block is not there yet"
    assert shown[0].getpixel((0, 0)) != (0, 0, 0, 0)
    assert answers[-1].costs


def test_memory_that_runs_short_ends_it(
    tmp_path: Path, scouts: Scouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_scout, "memory_left", lambda: 0)
    (answer,) = scouts(make_scene(tmp_path, SKY_OVER_FOG, width=320, height=240))
    assert "memory" in answer.reason


# ---------------------------------------------------------------- beside a band


def asked(head: HeadDouble, scene: Scene, live: int = 0) -> Lease:
    """A lease of the whole picture that asks for a scout, or for blocks to be seen."""
    whole = (0, 0, scene.spec.width, scene.spec.height)
    return msgspec.structs.replace(head.lease(scene, whole), scout=not live, live=live)


def test_it_is_told_beside_the_band_and_the_band_is_delivered(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES, width=320, height=240)
    start_node()
    talk = head.meet()
    talk.send(asked(head, scene))
    messages = heard(talk, Scouted, Done)
    told = [each for each in messages if isinstance(each, Scouted)]
    assert told[0].picture


def test_a_fault_of_the_scene_is_told_once_whoever_finds_it(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES + "sphere { oops }\n", width=320, height=240)
    node = start_node()
    talk = head.meet()
    talk.send(asked(head, scene))
    assert talk.expect(Failed).fault == "scene"
    node.stop.request()
    talk.expect(Draining)
    talk.expect(Bye)
    assert node.end() == 0


def test_a_band_that_is_dropped_takes_its_scout_with_it(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES, width=320, height=240)
    hung = stand_ins.stand_in(tmp_path, 'echo $$ > "$0.pids.$$"; exec /bin/sleep 1000')
    start_node(povray=hung)
    talk = head.meet()
    talk.send(asked(head, scene))
    folder = Path(hung).parent
    while len(files := list(folder.glob("*.pids.*"))) < 2 or not all(
        each.read_text() for each in files
    ):
        threading.Event().wait(0.02)
    both = [psutil.Process(int(each.read_text())) for each in files]
    talk.send(Drop("a1", "job j1 cancelled"))
    _, alive = psutil.wait_procs(both, timeout=10)
    assert not alive


def test_finished_blocks_are_seen_while_the_band_renders(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    """The band waits, all its blocks done, until they have been seen."""
    scene = make_scene(tmp_path, SPHERES, width=320, height=240)
    go = tmp_path / "go"
    os.mkfifo(go)
    waiting = stand_ins.stand_in(
        tmp_path, f'{stand_ins.TO_ITS_END}; read -r word < "{go}"; exit $code'
    )
    start_node(povray=waiting)
    talk = head.meet()
    talk.send(asked(head, scene, live=80))
    seen = talk.expect(Blocks)
    assert seen.attempt == "a1"
    x0, y0, x1, y1 = seen.rect
    assert read_glimpse(seen.picture).size == ((x1 - x0) // 4, (y1 - y0) // 4)
    go.write_text("go\n")
    heard(talk, Done)
