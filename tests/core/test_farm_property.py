"""Whatever nodes and people do, in any order: no band is lost, doubled or left to hang.

Nodes join, leave, finish, fail, stall, detach, return, and are copied; people cancel, pause,
resume, requeue, delete, forgive.
"""

from __future__ import annotations

from typing import TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clusterray.core import events as ev
from clusterray.core.bands import cut_rows, row_step
from clusterray.core.costs import CostMap
from clusterray.core.entities import Band, Job, Node
from clusterray.core.fidelity import fidelity_of
from clusterray.core.model import (
    AttemptId,
    JobId,
    LightKind,
    Mix,
    NodeId,
    PovrayClass,
    ProbeFound,
    Rect,
    VerifyBands,
)
from clusterray.core.patience import KEPT_OFF_MOST_S, Patience
from clusterray.core.policy import choose_stranded, may_render
from clusterray.core.states import JobState
from tests.core.world import ALIKE, BOTH, Held, World, picture, povray, request

# Some 20 CPU seconds: thousands of events, each with all invariants checked.
pytestmark = pytest.mark.timeout(600)

NAMES = ["pi", "desk", "attic", "cellar"]
A, NEAR_A, B = povray("A", 100, 100, 100), povray("A'", 101, 100, 99), povray("B", 102, 100, 100)
"""Of the classes A' is close to A and to B, while A and B are too far apart."""
MIXES: list[Mix] = ["never", "never", "close", "any"]
VERIFY: list[VerifyBands] = [0, 2, "all"]
Lights: TypeAlias = tuple[LightKind, ...]
LIGHTS: list[Lights] = [(), ("radiosity",), ("photons",), BOTH]
PATIENCE = Patience(node_failures=2, node_failed_jobs=2, kept_off_s=15, stall_s=20, parse_s=30)


class AnyOrder(RuleBasedStateMachine):
    """The world does what it likes; each step checks every invariant (World.do)."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(seed=7, keep_s=30.0, patience=PATIENCE)
        self.jobs: list[JobId] = []
        self.seen: list[AttemptId] = []

    @rule(
        name=st.sampled_from(NAMES),
        threads=st.integers(1, 8),
        povray_class=st.sampled_from([A, A, NEAR_A, B]),
        instance=st.sampled_from(["one", "one", "two"]),
    )
    def join(self, name: str, threads: int, povray_class: PovrayClass, instance: str) -> None:
        """Now and then another daemon has the uuid too."""
        self.world.join(name, threads=threads, povray_class=povray_class, instance=instance)

    @rule(
        width=st.integers(1, 80),
        height=st.integers(1, 400),
        block=st.sampled_from([None, 4, 32, 500]),
        priority=st.integers(-1, 1),
        wish=st.one_of(st.none(), st.integers(1, 9)),
        light=st.sampled_from(LIGHTS),
        mix=st.sampled_from(MIXES),
        verify=st.sampled_from(VERIFY),
    )
    def submit(
        self,
        width: int,
        height: int,
        block: int | None,
        priority: int,
        wish: int | None,
        light: Lights,
        mix: Mix,
        verify: VerifyBands,
    ) -> None:
        job = request(
            f"k{len(self.jobs)}",
            shape=picture(width, height, block),
            priority=priority,
            wish_bands=wish,
            light=light,
            mix=mix,
            verify=verify,
        )
        self.jobs.append(self.world.submit(job))

    @rule(mix=st.sampled_from(MIXES), light=st.sampled_from(LIGHTS), verify=st.sampled_from(VERIFY))
    def a_job_comes_to_nodes_that_wait(self, mix: Mix, light: Lights, verify: VerifyBands) -> None:
        """World.do checks that the strongest class among them begins it."""
        for job in list(self.world.farm.open_jobs):
            self.world.do(ev.JobCancelled(job.id, "ann"))
        self.submit(64, 256, 32, 0, None, light, mix, verify)

    def _conn(self, data: st.DataObject) -> int | None:
        conns = sorted(self.world.conns)
        return data.draw(st.sampled_from(conns)) if conns else None

    def _attempt(self, data: st.DataObject, conn: int) -> AttemptId | None:
        held = self.world.held[self.world.conns[conn]]
        mine = sorted(held.rendering | held.rendered)
        known = mine + sorted(self.world.farm.attempts)[:20]
        return data.draw(st.sampled_from(known)) if known else None

    @rule(data=st.data(), killed=st.booleans(), silent=st.booleans())
    def leave(self, data: st.DataObject, killed: bool, silent: bool) -> None:
        conn = self._conn(data)
        if conn is not None:
            self.world.gone(conn, killed=killed, silent=silent)

    @rule(data=st.data(), reason=st.sampled_from(["", "the disk of this node is full"]))
    def say_whether_it_can_work(self, data: st.DataObject, reason: str) -> None:
        conn = self._conn(data)
        if conn is not None:
            self.world.do(ev.NodeUnfit(conn, reason))

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        conn = self._conn(data)
        if conn is not None:
            self._fail_all(conn)

    def _fail_all(self, conn: int) -> None:
        for attempt in self.world.rendering(conn)[:1]:
            self.world.forget(conn, attempt)
            self.world.do(ev.AttemptFailed(conn, attempt, "node", "bad luck"))

    @rule(name=st.sampled_from(NAMES))
    def forgive(self, name: str) -> None:
        self.world.do(ev.NodeForgiven(NodeId(name), "ann"))
        node = self.world.farm.nodes.get(NodeId(name))
        assert node is None or not (node.kept_off or node.standings)

    @rule(data=st.data())
    def word_of_a_dead_connection(self, data: st.DataObject) -> None:
        attempts = sorted(self.world.farm.attempts)
        if attempts:
            attempt = data.draw(st.sampled_from(attempts))
            self.world.do(ev.AttemptFailed(-1, attempt, "scene", "from the dead"))
        self.world.do(ev.NodeGone(-1, "again"))

    @rule(data=st.data())
    def rendered(self, data: st.DataObject) -> None:
        conn = self._conn(data)
        if conn is None:
            return
        for attempt in self.world.rendering(conn):
            self.world.rendered(conn, attempt)

    @rule(data=st.data(), seconds=st.floats(0.1, 4), share=st.floats(0, 1), place=st.booleans())
    def render_on(self, data: st.DataObject, seconds: float, share: float, place: bool) -> None:
        """Time passes, and a node says how far it is, also that it has a place for another band;
        others have nothing to do by then.
        """
        conn = self._conn(data)
        self.world.now += seconds
        for attempt in [] if conn is None else self.world.rendering(conn):
            done = round(share * self.world.rects[attempt].area)
            self.world.renders(conn or 0, attempt, done, place=place)

    @rule(data=st.data())
    def one_of_two_is_done(self, data: st.DataObject) -> None:
        """The older or the younger, or one alone."""
        conn = self._conn(data)
        rendering = [] if conn is None else self.world.rendering(conn)
        if conn is not None and rendering:
            self.world.rendered(conn, data.draw(st.sampled_from(rendering)))

    @rule(data=st.data())
    def its_tile_is_lost(self, data: st.DataObject) -> None:
        """A node that is away loses the file of a tile, and renders that band anew."""
        away = sorted(set(self.world.held) - set(self.world.conns.values()))
        tiles = [(name, each) for name in away for each in sorted(self.world.held[name].rendered)]
        if tiles:
            name, attempt = data.draw(st.sampled_from(tiles))
            self.world.held[name].rendered.discard(attempt)
            self.world.held[name].rendering.add(attempt)

    @rule(data=st.data(), lost=st.booleans())
    def answer_a_cut(self, data: st.DataObject, lost: bool) -> None:
        """To what was asked, to more, or not at all; the answer may be lost with its connection."""
        world = self.world
        asks = [(conn, each) for conn in sorted(world.conns) for each in world.asked(conn)]
        if not asks:
            return
        conn, attempt = data.draw(st.sampled_from(asks))
        asked, whole = world.held[world.conns[conn]].asked[attempt], world.rects[attempt]
        step = row_step(world.leases[attempt].request.picture)
        rows = [Rect(whole.x0, whole.y0, whole.x1, row) for row in cut_rows(whole, step)]
        keep = data.draw(st.sampled_from([asked, whole, *rows]))
        if lost:
            world.agree(conn, attempt, keep)
            world.gone(conn)
        else:
            world.answer(conn, attempt, keep)

    @rule(light=st.sampled_from(LIGHTS), mix=st.sampled_from(MIXES), verify=st.sampled_from(VERIFY))
    def a_picture_is_covered(self, light: Lights, mix: Mix, verify: VerifyBands) -> None:
        """And its bands are to be verified next, unless nobody is there to render it."""
        world = self.world
        self.submit(64, 64, 32, 2, 2, light, mix, verify)
        (frame,) = world.farm.jobs[self.jobs[-1]].frames
        for _ in range(4):
            for conn in sorted(world.conns):
                if frame.complete:
                    return
                for attempt in world.rendering(conn):
                    world.finish(conn, attempt)
            while world.joining:
                world.joined()

    @rule(data=st.data())
    def any_word(self, data: st.DataObject) -> None:
        """A duplicate, early, late or foreign report of any attempt."""
        conn = self._conn(data)
        attempt = None if conn is None else self._attempt(data, conn)
        if conn is None or attempt is None:
            return
        words: list[ev.Event] = [
            ev.AttemptProgress(conn, attempt, "rendering", 10),
            ev.AttemptProgress(conn, attempt, "parsing", 10),
            ev.AttemptProgress(conn, attempt, "uploading", 10, place=True),
            ev.AttemptRendered(conn, attempt),
            ev.AttemptFailed(conn, attempt, "node", "bad luck"),
            ev.AttemptHandedBack(conn, attempt, "give back"),
            ev.NodeDraining(conn),
        ]
        word = data.draw(st.sampled_from(words))
        if isinstance(word, ev.AttemptRendered) and attempt in self.world.rendering(conn):
            self.world.rendered(conn, attempt)
            return
        if not isinstance(word, ev.AttemptProgress | ev.AttemptRendered | ev.NodeDraining):
            self.world.forget(conn, attempt)
        self.world.do(word)

    @rule(data=st.data(), whole=st.booleans())
    def tile_arrives(self, data: st.DataObject, whole: bool) -> None:
        attempts = sorted(self.world.farm.attempts)
        if attempts:
            attempt = data.draw(st.sampled_from(attempts))
            event = ev.TileVerified(attempt) if whole else ev.TileRefused(attempt, "torn")
            self.world.do(event)

    @rule(data=st.data(), damaged=st.booleans())
    def an_upload_comes_to_nothing(self, data: st.DataObject, damaged: bool) -> None:
        """Damaged on the way, or the head has no room for it."""
        farm = self.world.farm
        live = [attempt.id for node in farm.nodes.values() for attempt in node.attempts.values()]
        if live:
            attempt = data.draw(st.sampled_from(live))
            kind = ev.UploadDamaged if damaged else ev.TileNotKept
            self.world.do(kind(attempt, "no room"))

    @rule(data=st.data())
    def scene_fault(self, data: st.DataObject) -> None:
        conn = self._conn(data)
        if conn is None:
            return
        for attempt in self.world.rendering(conn)[:1]:
            self.world.forget(conn, attempt)
            self.world.do(ev.AttemptFailed(conn, attempt, "scene", "Parse Error"))

    @rule(data=st.data())
    @precondition(lambda self: self.jobs)
    def cancel(self, data: st.DataObject) -> None:
        self.world.do(ev.JobCancelled(data.draw(st.sampled_from(self.jobs)), "ann"))

    @rule(data=st.data(), differing=st.one_of(st.none(), st.integers(0, 9)))
    def probed(self, data: st.DataObject, differing: int | None) -> None:
        """Whoever it is, whenever it comes, about any attempt."""
        conn = self._conn(data)
        attempt = None if conn is None else self._attempt(data, conn)
        if conn is None or attempt is None:
            return
        found = None if differing is None else ProbeFound(10, differing)
        self.world.do(ev.Probed(conn, attempt, found, "no time"))

    @rule(data=st.data(), cells=st.integers(0, 9), reason=st.sampled_from(["", "", "no time"]))
    def scouted(self, data: st.DataObject, cells: int, reason: str) -> None:
        """Whoever it is, whenever it comes, about any attempt, and of pictures of any size."""
        conn = self._conn(data)
        attempt = None if conn is None else self._attempt(data, conn)
        if conn is None or attempt is None:
            return
        costs = CostMap.of(64, 300, 1, [1.0] * cells) if cells else None
        self.world.do(ev.Scouted(conn, attempt, costs, 0.5, reason))

    @rule(data=st.data(), flag=st.booleans(), priority=st.integers(-101, 101))
    @precondition(lambda self: self.jobs)
    def order(self, data: st.DataObject, flag: bool, priority: int) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        orders: list[ev.Event] = [
            ev.JobPaused(job, "ann", flag),
            ev.JobResumed(job, "ann"),
            ev.JobRequeued(job, "ann", flag),
            ev.PriorityChanged(job, "ann", priority),
            ev.JobDeleted(job, "ann", flag),
            ev.FilesUnwanted(job, "the disk is small"),
        ]
        self.world.do(data.draw(st.sampled_from(orders)))

    @rule(data=st.data(), everything=st.booleans())
    @precondition(lambda self: any(not job.open for job in self.world.farm.jobs.values()))
    def run_again(self, data: st.DataObject, everything: bool) -> None:
        ended = [job.id for job in self.world.farm.jobs.values() if not job.open]
        self.world.do(ev.JobRequeued(data.draw(st.sampled_from(ended)), "ann", everything))

    @rule()
    def stitched(self) -> None:
        if self.world.stitching:
            self.world.do(ev.FrameStitched(*self.world.stitching.pop()))

    @rule(found=st.booleans())
    def light_joined(self, found: bool) -> None:
        if self.world.joining:
            self.world.joined(found=found)

    @rule(readable=st.booleans())
    def compared(self, readable: bool) -> None:
        if self.world.comparing:
            self.world.compared(ALIKE if readable else None)

    @rule(data=st.data(), loses=st.booleans(), in_place=st.booleans())
    def the_head_is_killed(self, data: st.DataObject, loses: bool, in_place: bool) -> None:
        """And started again, perhaps on a disk that has lost some files; or it reads back only."""
        world, lost = self.world, set()
        if loses:
            files = [*sorted(world.disk), *sorted(world.lights), *sorted(world.pictures)]
            lost = {file for file in files if data.draw(st.integers(0, 3)) == 0}
        world.restart(lost, in_place=in_place)

    @rule(seconds=st.one_of(st.floats(0, 12), st.floats(0, 120)))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.do(ev.Tick())

    @invariant()
    def nobody_idles_while_work_waits(self) -> None:
        farm = self.world.farm
        for node in farm.hungry.values():
            tries = PATIENCE.band_tries
            assert choose_stranded(node, farm.open_jobs, farm.nodes.values(), tries) is None
            for job in farm.open_jobs:
                for frame in job.frames:
                    free = job.takes_leases and not node.kept_off_job(job.id)
                    if free and may_render(node, frame):
                        assert all(band.reluctance(node.id) for band in frame.waiting.values())

    @invariant()
    def a_band_that_enough_nodes_failed_does_not_wait(self) -> None:
        for job in self.world.farm.open_jobs:
            for frame in job.frames:
                for band in frame.waiting.values():
                    assert len(set(band.failed_on)) < PATIENCE.band_nodes

    def _there(self, band: Band) -> list[Node]:
        there = (n for n in self.world.farm.nodes.values() if n.conn is not None and not n.draining)
        return [node for node in there if may_render(node, band.frame)]

    def teardown(self) -> None:
        """However it went, each job ends, or nobody is there who may still take its bands.

        Every other one is requeued, so that a job is gone on with from any state.
        """
        self.world.stores.check(self.world.farm)
        for job in list(self.world.farm.jobs.values()):
            self.world.do(ev.JobResumed(job.id, "ann"))
            if job.number % 2:
                self.world.do(ev.JobRequeued(job.id, "ann"))
        self._end_with_those_that_are_there()
        self._end_once_they_are_forgiven()
        self._end_with_fresh_nodes()
        for job in self.world.farm.jobs.values():
            assert not job.open
            assert fidelity_of(job, {}).reason
            if job.state is JobState.DONE:
                areas = self.world.tiles[job.id]
                assert sum(rect.area for rect in areas) == job.frames[0].area.area
                kinds = job.frames[0].tile_classes
                assert job.request.mix != "never" or len(kinds) == 1
                maps = [light for light in job.frames[0].lights if light.kind == "photons"]
                assert not maps or {kind.program for kind in kinds} == {maps[0].readers}
                self.check_verified(job)
            if job.state is JobState.FAILED:
                assert job.problem is not None and job.problem.message

    def _end_with_those_that_are_there(self) -> None:
        """Every second attempt fails still; nobody is let in by hand."""
        world = self.world
        for conn in list(world.conns):
            world.do(ev.NodeUnfit(conn, ""))
        idle = 0
        for turn in range(200):
            world.now += KEPT_OFF_MOST_S
            world.do(ev.Tick())
            idle = 0 if any(world.rendering(conn) for conn in world.conns) else idle + 1
            if idle > 2:
                break
            for conn in list(world.conns):
                if turn % 2:
                    self._fail_all(conn)
                else:
                    world.work_off_one(conn)
            world.stitch_all()
        for job in world.farm.open_jobs:
            for frame in job.frames:
                for band in frame.waiting.values():
                    tried_out = PATIENCE.band_tries
                    for node in self._there(band):
                        assert band.failed_on.count(node.id) >= tried_out, "it hangs"

    def _end_once_they_are_forgiven(self) -> None:
        world = self.world
        for node in list(world.farm.nodes):
            world.do(ev.NodeForgiven(node, "ann"))
        world.work_off()
        for job in world.farm.open_jobs:
            for frame in job.frames:
                assert not any(self._there(band) for band in frame.waiting.values())

    def _end_with_fresh_nodes(self) -> None:
        world = self.world
        for conn in list(world.conns):
            world.gone(conn, killed=True)
        world.now += 11
        world.do(ev.Tick())
        for name, povray_class in (("fresh-a", A), ("fresh-near", NEAR_A), ("fresh-b", B)):
            world.held[name] = Held()
            world.join(name, povray_class=povray_class)
        world.work_off()

    def check_verified(self, job: Job) -> None:
        frame = job.frames[0]
        wanted = job.request.verify
        count = len(frame.bands) if wanted == "all" else min(wanted, len(frame.bands))
        assert len(frame.verify_bands) == count
        for band in frame.verify_bands.values():
            assert (band.comparison is None) is bool(band.reason)


AnyOrder.TestCase.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase
