"""Whatever nodes and people do, in any order: no band is lost or doubled.

Nodes join, leave, finish, fail, detach and return; people cancel, pause, resume, requeue, delete.
"""

from __future__ import annotations

from typing import TypeAlias

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clusterray.core import events as ev
from clusterray.core.entities import Job
from clusterray.core.fidelity import fidelity_of
from clusterray.core.model import (
    AttemptId,
    JobId,
    LightKind,
    Mix,
    PovrayClass,
    ProbeFound,
    VerifyBands,
)
from clusterray.core.policy import choose_stranded, may_render
from clusterray.core.states import JobState
from tests.core.world import ALIKE, BOTH, Held, World, picture, povray, request

NAMES = ["pi", "desk", "attic", "cellar"]
A, NEAR_A, B = povray("A", 100, 100, 100), povray("A'", 101, 100, 99), povray("B", 102, 100, 100)
"""Of the classes A' is close to A and to B, while A and B are too far apart."""
MIXES: list[Mix] = ["never", "never", "close", "any"]
VERIFY: list[VerifyBands] = [0, 2, "all"]
Lights: TypeAlias = tuple[LightKind, ...]
LIGHTS: list[Lights] = [(), ("radiosity",), ("photons",), BOTH]


class AnyOrder(RuleBasedStateMachine):
    """The world does what it likes; each step checks every invariant (World.do)."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(seed=7, keep_s=30.0)
        self.jobs: list[JobId] = []
        self.seen: list[AttemptId] = []

    @rule(
        name=st.sampled_from(NAMES),
        threads=st.integers(1, 8),
        povray_class=st.sampled_from([A, A, NEAR_A, B]),
    )
    def join(self, name: str, threads: int, povray_class: PovrayClass) -> None:
        self.world.join(name, threads=threads, povray_class=povray_class)

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

    @rule(data=st.data(), killed=st.booleans())
    def leave(self, data: st.DataObject, killed: bool) -> None:
        conn = self._conn(data)
        if conn is not None:
            self.world.gone(conn, killed=killed)

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
            ev.AttemptRendered(conn, attempt),
            ev.AttemptFailed(conn, attempt, "node", "bad luck"),
            ev.AttemptHandedBack(conn, attempt, "give back"),
            ev.NodeDraining(conn),
        ]
        word = data.draw(st.sampled_from(words))
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

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.do(ev.Tick())

    @invariant()
    def nobody_idles_while_work_waits(self) -> None:
        farm = self.world.farm
        for node in farm.hungry.values():
            assert choose_stranded(node, farm.open_jobs, farm.nodes.values()) is None
            for job in farm.open_jobs:
                for frame in job.frames:
                    if job.takes_leases and may_render(node, frame):
                        assert all(band.avoids(node.id) for band in frame.waiting.values())

    def teardown(self) -> None:
        """However it went, a fresh node of each class brings every job that may go on to its end.

        Every other one is requeued, so that a job is gone on with from any state.
        """
        world = self.world
        for job in list(world.farm.jobs.values()):
            world.do(ev.JobResumed(job.id, "ann"))
            if job.number % 2:
                world.do(ev.JobRequeued(job.id, "ann"))
        for conn in list(world.conns):
            world.gone(conn, killed=True)
        world.now += 11
        world.do(ev.Tick())
        for name, povray_class in (("fresh-a", A), ("fresh-near", NEAR_A), ("fresh-b", B)):
            world.held[name] = Held()
            world.join(name, povray_class=povray_class)
        world.work_off()
        for job in world.farm.jobs.values():
            assert not job.open
            assert fidelity_of(job, {}).reason
            if job.state is JobState.DONE:
                areas = world.tiles[job.id]
                assert sum(rect.area for rect in areas) == job.frames[0].area.area
                kinds = job.frames[0].tile_classes
                assert job.request.mix != "never" or len(kinds) == 1
                maps = [light for light in job.frames[0].lights if light.kind == "photons"]
                assert not maps or {kind.program for kind in kinds} == {maps[0].readers}
                self.check_verified(job)

    def check_verified(self, job: Job) -> None:
        frame = job.frames[0]
        wanted = job.request.verify
        count = len(frame.bands) if wanted == "all" else min(wanted, len(frame.bands))
        assert len(frame.verify_bands) == count
        for band in frame.verify_bands.values():
            assert (band.comparison is None) is bool(band.reason)


AnyOrder.TestCase.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase
