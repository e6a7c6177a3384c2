"""The probe on a node, with real POV-Ray: what it finds, what it costs the bands, how it ends."""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil
import pytest

from clusterray.node import probe as node_probe
from clusterray.node.beside import Task
from clusterray.node.probe import TOO_SHORT, Prober, is_due
from clusterray.node.sandbox import MOST_DISPENSABLE, YIELDING_NICENESS
from clusterray.wire.protocol import (
    Accepted,
    AnyMessage,
    Bye,
    Done,
    Draining,
    Drop,
    Failed,
    Lease,
    Message,
    Probed,
    Uploading,
)
from tests.node import stand_ins
from tests.node.doubles import (
    ANSWER_S,
    POVRAY,
    SPHERES,
    Conversation,
    HeadDouble,
    Scene,
    make_scene,
    open_field,
)
from tests.node.test_daemon import TOP, StartNode, finish_band, start_node

__all__ = ["start_node"]

M = TypeVar("M", bound=Message)


@pytest.fixture(autouse=True)
def due_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands here are quick."""
    monkeypatch.setattr(node_probe, "BEGIN_AFTER_S", 0.0)
    monkeypatch.setattr(node_probe, "PARSE_SHARE", 1e6)


NOISY = SPHERES.replace("reflection 0.3", "reflection 0.3 crand 0.1")
WHOLE = (0, 0, 48, 96)


def asked(head: HeadDouble, scene: Scene, rect: tuple[int, ...] = WHOLE) -> Lease:
    """A lease that asks for a probe."""
    return msgspec.structs.replace(head.lease(scene, rect), probe=True)


def heard(talk: Conversation, *kinds: type[Message]) -> list[AnyMessage]:
    """Hear the node until it has said one of each kind, accepting tiles on the way."""
    messages: list[AnyMessage] = []
    while not all(any(isinstance(each, kind) for each in messages) for kind in kinds):
        message = talk.receive()
        messages.append(message)
        if isinstance(message, Done):
            talk.send(Accepted(message.attempt))
    return messages


def the(kind: type[M], messages: list[AnyMessage]) -> M:
    (found,) = (each for each in messages if isinstance(each, kind))
    return found


class Held:
    """A POV-Ray whose bands, done with rendering, wait until they are let go.

    So a probe becomes due however quick the machine is. With ``hangs`` the probe says that it has
    begun and then hangs.
    """

    def __init__(self, folder: Path, *, hangs: bool = False) -> None:
        self._go, self._said = folder / "go", folder / "said"
        for pipe in (self._go, self._said):
            os.mkfifo(pipe)
        probe = f'echo $$ > "{self._said}"; exec /bin/sleep 1000' if hangs else stand_ins.ITSELF
        self.program = stand_ins.stand_in(
            folder,
            # Bands here have blocks of the usual size.
            f'case "$*" in *Render_Block_Size=8*) {probe};; esac\n'
            f'{stand_ins.TO_ITS_END}; read -r word < "{self._go}"; exit $code',
        )

    def let_go(self) -> None:
        """Let the band end that waits, or is about to."""
        self._go.write_text("go\n")

    def probe(self) -> psutil.Process:
        """Wait until a probe has begun to hang; give its process."""
        return psutil.Process(int(self._said.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize(("text", "noisy"), [(SPHERES, False), (NOISY, True)])
def test_a_probe_beside_the_band_tells_noise_from_none(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, text: str, noisy: bool
) -> None:
    scene = make_scene(tmp_path, text)
    held = Held(tmp_path)
    start_node(povray=held.program)
    talk = head.meet()
    talk.send(asked(head, scene))
    told = talk.expect(Probed)
    assert (told.attempt, told.reason) == ("a1", "")
    assert told.found is not None
    assert told.found.pixels > 700
    assert told.found.levels == 255
    assert (told.found.differing > 0, told.found.largest > 0) == (noisy, noisy)
    held.let_go()
    finish_band(talk)
    assert list((tmp_path / "the work" / "probes").iterdir()) == []


def test_a_scene_that_does_not_parse_fails_and_nothing_is_said_of_its_probe(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES + "sphere { oops }\n")
    node = start_node()
    talk = head.meet()
    talk.send(asked(head, scene, TOP))
    assert talk.expect(Failed).fault == "scene"
    node.stop.request()
    talk.expect(Draining)
    talk.expect(Bye)
    assert node.end() == 0


def test_a_band_that_is_over_too_soon_bears_no_probe(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_probe, "BEGIN_AFTER_S", 1e6)
    scene = make_scene(tmp_path, SPHERES)
    start_node()
    talk = head.meet()
    talk.send(asked(head, scene, TOP))
    assert talk.expect(Probed) == Probed("a1", None, TOO_SHORT)
    finish_band(talk)


@pytest.mark.slow
def test_a_probe_outlives_its_band_and_a_drop_ends_it(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    held = Held(tmp_path, hangs=True)
    start_node(povray=held.program)
    talk = head.meet()
    talk.send(asked(head, scene))
    probe = held.probe()
    assert probe.nice() == min(19, psutil.Process().nice() + YIELDING_NICENESS)
    group = Path(f"/proc/{probe.pid}/autogroup")
    assert not group.exists() or group.read_text().endswith(f"nice {YIELDING_NICENESS}\n")
    dispensable = Path(f"/proc/{probe.pid}/oom_score_adj").read_text().strip()
    assert int(dispensable) == MOST_DISPENSABLE
    held.let_go()
    finish_band(talk)
    talk.send(head.lease(scene, TOP))
    held.let_go()
    finish_band(talk)
    assert probe.is_running(), "it goes on beside the next band"
    talk.send(Drop("a1", "job j1 cancelled"))
    _, alive = psutil.wait_procs([probe], timeout=10)
    assert not alive
    talk.send(head.lease(scene, TOP))
    held.let_go()
    # A word on the probe would come first.
    finish_band(talk)


def test_a_band_that_is_dropped_takes_its_probe_with_it(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    held = Held(tmp_path, hangs=True)
    start_node(povray=held.program)
    talk = head.meet()
    talk.send(asked(head, scene))
    probe = held.probe()
    talk.send(Drop("a1", "job j1 cancelled"))
    _, alive = psutil.wait_procs([probe], timeout=10)
    assert not alive


@pytest.mark.parametrize("requests", [1, 2])
def test_a_node_that_leaves_does_not_wait_for_its_probe(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, requests: int
) -> None:
    """Drained it ends once its band is delivered, stopped it ends at once."""
    scene = make_scene(tmp_path, SPHERES)
    held = Held(tmp_path, hangs=True)
    node = start_node(povray=held.program)
    talk = head.meet()
    talk.send(asked(head, scene))
    probe = held.probe()
    for _ in range(requests):
        node.stop.request()
    if requests == 1:
        held.let_go()
    messages = heard(talk, Bye)
    assert node.end() == 0
    assert not probe.is_running()
    assert not [each for each in messages if isinstance(each, Probed)]
    assert any(isinstance(each, Uploading) for each in messages) == (requests == 1)
    assert list((tmp_path / "the work" / "probes").iterdir()) == []


def test_a_probe_gives_way_when_memory_runs_short(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_probe, "memory_left", lambda: 0)
    scene = make_scene(tmp_path, SPHERES)
    held = Held(tmp_path)
    start_node(povray=held.program)
    talk = head.meet()
    talk.send(asked(head, scene))
    told = talk.expect(Probed)
    assert told.found is None
    assert "memory" in told.reason
    held.let_go()
    finish_band(talk)


@pytest.mark.slow
def test_an_answer_waits_for_a_connection(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    said, go = tmp_path / "said", tmp_path / "go"
    os.mkfifo(said)
    os.mkfifo(go)
    probe = f'echo > "{said}"; {stand_ins.TO_ITS_END}; echo > "{said}"; exit $code'
    start_node(
        povray=stand_ins.stand_in(
            tmp_path,
            f'case "$*" in *+RP3*) {probe};; *Render_Block_Size=8*) {stand_ins.ITSELF};; esac\n'
            f'{stand_ins.TO_ITS_END}; read -r word < "{go}"; exit $code',
        )
    )
    talk = head.meet()
    talk.send(asked(head, scene))
    said.read_text()
    talk.hang_up()
    said.read_text()
    go.write_text("go\n")
    assert the(Probed, heard(head.meet(), Probed)).found is not None


@pytest.mark.parametrize(
    ("parse_cpu_s", "computed_s", "due"),
    [(0.0, 0.99, False), (0.0, 1.0, True), (2.0, 79.0, False), (2.0, 80.0, True)],
)
def test_a_probe_begins_when_rendering_has_outweighed_parsing_by_far(
    monkeypatch: pytest.MonkeyPatch, parse_cpu_s: float, computed_s: float, due: bool
) -> None:
    monkeypatch.undo()
    assert is_due(parse_cpu_s, computed_s) is due


def test_scenes_are_let_go_of_once_for_each_probe_however_it_ends(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, SPHERES)
    told: queue.Queue[Message] = queue.Queue()
    prober = Prober(POVRAY, open_field(), tmp_path / "probes", told.put)
    for name in ("a1", "a2", "a3"):
        prober.add(Task(name, name, scene.spec, name.upper(), tmp_path / "nothing there"))
    prober.drop("a2")
    prober.drop("unknown")
    assert prober.spent() == ["A2"]
    thread = threading.Thread(target=prober.run)
    thread.start()
    answers = [told.get(timeout=ANSWER_S) for _ in range(2)]
    probed = [each for each in answers if isinstance(each, Probed)]
    assert [(each.attempt, each.found) for each in probed] == [("a1", None), ("a3", None)]
    assert all("nothing there" in each.reason for each in probed)
    prober.stop()
    thread.join(ANSWER_S)
    assert prober.spent() == ["A1", "A3"]
