"""A head whose threads hand Python's lock round is on one core, and on all when it is calm."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Set
from contextlib import closing
from pathlib import Path

import pytest

from clusterray.client.head_link import HeadLink
from clusterray.core.model import Rect
from clusterray.head import one_core
from clusterray.head.one_core import (
    CALM_PER_S,
    CALM_S,
    CROWDED_PER_S,
    OneCore,
    Rule,
    calmest,
    idle_ticks,
)
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from clusterray.wire.manifest import build_manifest, manifest_parts, scene_id
from clusterray.wire.tar_writer import write_tar
from clusterray.wire.trust import JoinToken
from tests.head.peers import tile_of

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from crowd import Crowd, Tile, Way  # noqa: E402  (needs the path above)

BETWEEN = (CROWDED_PER_S + CALM_PER_S) / 2
LONG_S = 100.0
STAT = """cpu  100 0 100 900 90 0 0 0 0 0
cpu0 50 0 50 400 10 0 0 0 0 0
cpu1 50 0 50 500 80 0 0 0 0 0
cpu10 1 2 3 4 5 6 7 8 9 10
intr 12345 0 1
ctxt 99
"""

# ---------------------------------------------------------------- the rule


def test_threads_are_put_together_when_it_is_crowded_and_let_go_when_it_has_been_calm() -> None:
    rule = Rule()
    assert not rule.judge(CROWDED_PER_S - 1, 0)
    assert rule.judge(CROWDED_PER_S, 1)
    # On one core the lock goes round less for the same work.
    assert rule.judge(BETWEEN, 2)
    assert rule.judge(CALM_PER_S - 1, 3)
    assert rule.judge(CALM_PER_S - 1, 2 + CALM_S - 0.1)
    assert not rule.judge(CALM_PER_S - 1, 2 + CALM_S)
    assert not rule.judge(BETWEEN, 3 + CALM_S)


def test_a_word_now_and_then_keeps_them_together() -> None:
    rule = Rule()
    for second in range(0, 60, 4):
        assert rule.judge(CROWDED_PER_S, second)
        assert rule.judge(0, second + 2)


def test_the_core_is_the_one_of_those_allowed_that_had_least_to_do() -> None:
    assert idle_ticks(STAT) == {0: 410, 1: 580, 10: 9}
    before, now = {0: 0, 1: 100, 2: 0}, {0: 50, 1: 130, 2: 90}
    assert calmest({0, 1, 2}, before, now) == 2
    assert calmest({0, 1}, before, now) == 0
    # A container may not be told of all of them.
    assert calmest({5, 6}, before, now) == 5


# ---------------------------------------------------------------- what it asks of the system


class System:
    """A process of two threads and cores, as ``OneCore`` sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: Set[int] = frozenset({3, 4})):
        self.now = 0.0
        self.sleeps = 0
        self.cores: dict[int, Set[int]] = {1: allowed, 2: allowed}
        self.refuses = False
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
        monkeypatch.setattr(os, "sched_setaffinity", self._set)
        monkeypatch.setattr(one_core, "_threads", lambda: {*self.cores, 99})
        monkeypatch.setattr(one_core, "_sleeps", lambda: self.sleeps)
        monkeypatch.setattr(one_core, "_idle", dict)
        self.keeper = OneCore(lambda: self.now)

    def _set(self, thread: int, cores: Set[int]) -> None:
        if self.refuses:
            raise PermissionError(1, "Operation not permitted")
        if thread not in self.cores:
            raise ProcessLookupError(3, "No such process")
        self.cores[thread] = cores

    def pass_by(self, sleeps_per_s: float) -> None:
        """Let a second pass."""
        self.now += 1
        self.sleeps += int(sleeps_per_s)
        assert self.keeper.look_at == self.now
        self.keeper.look()


def test_every_thread_is_moved_also_one_that_comes_later_and_one_that_has_ended_is_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = System(monkeypatch)
    system.pass_by(CROWDED_PER_S)
    assert system.cores == {1: {3}, 2: {3}}
    system.cores[5] = {3, 4}
    system.pass_by(CROWDED_PER_S)
    assert system.cores == {1: {3}, 2: {3}, 5: {3}}
    for _ in range(int(CALM_S)):
        system.pass_by(0)
    assert system.cores == {1: {3, 4}, 2: {3, 4}, 5: {3, 4}}


def test_a_process_with_one_core_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert System(monkeypatch, frozenset({3})).keeper.look_at == math.inf


def test_a_system_without_such_a_call_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    assert OneCore().look_at == math.inf


def test_where_the_system_refuses_it_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch)
    system.refuses = True
    system.pass_by(CROWDED_PER_S)
    assert system.keeper.look_at == math.inf


# ---------------------------------------------------------------- a real head


def submit(token: JoinToken, scene: Path, bands: int, folder: Path) -> None:
    """Leave a job of that many bands at the head."""
    entries = build_manifest(scene, ["a.pov"])
    parts, tar = list(manifest_parts(entries)), folder / "scene.tar"
    with HeadLink(lambda: token) as link:
        link.open()
        request = link.next_request()
        size = sum(entry.size for entry in entries)
        link.send(msg.Offer(request, scene_id(entries), len(entries), size, len(parts)))
        for number, part in enumerate(parts):
            link.send(msg.Manifest(request, number, part))
        need = link.wait(request, msg.Need)
        assert need.write is not None
        staged = msg.Staged(request, *write_tar(scene, entries, tar))
        with closing(link.ftp_session()) as session:
            session.upload(need.write, tar)
        link.ask(staged, request, msg.SceneReady)
        spec = RenderSpec(input="a.pov", width=8, height=32 * bands).to_wire()
        submitted = msg.Submit(request, "key", scene_id(entries), spec, "a.png", bands=bands)
        link.ask(submitted, request, msg.Submitted)


def cores_of(pid: int) -> set[frozenset[int]]:
    """Give on which cores the threads of a process may run."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found.add(frozenset(os.sched_getaffinity(int(task.name))))
        except ProcessLookupError:
            continue
    return found


def wait_long(condition: Callable[[], bool]) -> None:
    """Wait, as long as a machine full of other tests may take."""
    until = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        threading.Event().wait(0.05)


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores and a system that lets threads be put on one",
)
def test_a_head_under_load_is_on_one_core_and_on_all_of_them_afterwards(
    scene: Path, tmp_path: Path
) -> None:
    state, everywhere = tmp_path / "state", frozenset(os.sched_getaffinity(0))
    words = ["--config", os.devnull, "--state", str(state)]
    with subprocess.Popen(
        [sys.executable, "-m", "clusterray.cli.server", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as head:
        try:
            assert head.stdout is not None
            assert head.stdout.readline().startswith(b"ready ")
            assert cores_of(head.pid) == {everywhere}
            load_it_until_it_is_on_one_core(head.pid, state, scene, tmp_path)
            wait_long(lambda: cores_of(head.pid) == {everywhere})
        finally:
            head.terminate()


def load_it_until_it_is_on_one_core(pid: int, state: Path, scene: Path, folder: Path) -> None:
    """Have many nodes be done at once, and end with them."""
    made = folder / "tile.png"
    made.write_bytes(tile_of(Rect(0, 0, 8, 32)))
    digest = hashlib.sha256(made.read_bytes()).hexdigest()

    def place(attempt: str) -> None:
        os.link(made, state / "incoming" / f"{attempt}.part")

    def on_one_core() -> bool:
        cores = cores_of(pid)
        return len(cores) == 1 and all(len(each) == 1 for each in cores)

    submit(JoinToken.decode((state / "submit.token").read_text()), scene, 10_000, folder)
    token = JoinToken.decode((state / "node.token").read_text())
    way = Way(token.host, token.port, token.secret, token.fingerprint)
    tile = Tile(made.stat().st_size, digest, place)
    with closing(Crowd(way, 64, tile, text="What POV-Ray says.\n")) as crowd:
        asked_at = time.monotonic()

        def over() -> bool:
            # To ask takes as long as many bands.
            nonlocal asked_at
            if time.monotonic() < asked_at + 0.1:
                return False
            asked_at = time.monotonic()
            return on_one_core()

        crowd.run(over, LONG_S)
