"""A farm with make-believe nodes around it: what the shells do, without sockets or clocks."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import product

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.changes import Changes
from clusterray.core.entities import Frame
from clusterray.core.farm import Farm
from clusterray.core.model import (
    AttemptId,
    Chance,
    JobId,
    JobRequest,
    Light,
    LightKind,
    Mix,
    NodeId,
    Picture,
    PovrayClass,
    Rect,
    SceneId,
    VerifyBands,
)
from clusterray.core.policy import class_threads, reads_light
from clusterray.core.restart_rules import number_of
from clusterray.core.states import JobState
from clusterray.core.verify import Comparison
from clusterray.head.records import Reader, Rows, Writer

PHOTONS = Light("photons", "2" * 64, 2008, 100)
SAMPLES = Light("radiosity", "1" * 64, 1000, 20)
BOTH: tuple[LightKind, ...] = ("photons", "radiosity")
ALIKE = Comparison(64 * 32, 0, (("red", 0.0), ("green", 0.0), ("blue", 0.0)), 255)


def picture(
    width: int = 64, height: int = 256, block: int | None = 32, region: Rect | None = None
) -> Picture:
    return Picture(width, height, region or Rect(0, 0, width, height), block)


def povray(version: str, *levels: int) -> PovrayClass:
    """A class whose canary is of these channel values, three to a pixel."""
    pixels = bytes(levels)
    return PovrayClass(version, "test", pixels.hex(), "", pixels)


def request(
    key: str = "k1",
    *,
    shape: Picture | None = None,
    priority: int = 0,
    wish_bands: int | None = None,
    light: tuple[LightKind, ...] = (),
    mix: Mix = "never",
    verify: VerifyBands = 0,
    chance: tuple[Chance, ...] = (),
) -> JobRequest:
    return JobRequest(
        key=key,
        title=key,
        owner="ann@desk",
        priority=priority,
        scene=SceneId("0" * 64),
        spec={"input": "a.pov"},
        spec_hash="h",
        picture=shape or picture(),
        wish_bands=wish_bands,
        output_name="a.png",
        light=light,
        mix=mix,
        verify=verify,
        chance=chance,
    )


@dataclass
class Held:
    """What a make-believe node believes it holds."""

    rendering: set[AttemptId] = field(default_factory=set)
    rendered: set[AttemptId] = field(default_factory=set)
    kept: dict[AttemptId, Rect] = field(default_factory=dict)
    """What it agreed to keep of bands that were cut."""
    asked: dict[AttemptId, Rect] = field(default_factory=dict)
    """What it was asked to keep and has not answered."""


WALL = 0.0
"""What lies between the world's time and wall time: nothing, so that no moment is rounded."""


class Stores:
    """A make-believe store: the rows of all that changed, as a database would have them."""

    def __init__(self) -> None:
        self.rows = Rows()

    def commit(self, changes: Changes) -> None:
        made = Writer(WALL).changes(changes)
        for name in ("requests", "jobs", "frames", "bands", "attempts", "nodes", "classes"):
            getattr(self.rows, name).update(getattr(made, name))
        self.rows.jobs_made = max(self.rows.jobs_made, made.jobs_made)
        for job, reason in changes.deleted.items():
            if reason is None:
                del self.rows.deleted[job]
            else:
                self.rows.deleted[job] = reason
        for band in changes.gone_bands:
            self.rows.bands.pop(number_of(band), None)
        for attempt in changes.gone_attempts:
            self.rows.attempts.pop(number_of(attempt), None)
        for job in changes.gone_jobs:
            number = number_of(job)
            self.rows.requests.pop(number, None)
            self.rows.jobs.pop(number, None)
            for key in [key for key in self.rows.frames if key[0] == number]:
                del self.rows.frames[key]

    def check(self, farm: Farm) -> None:
        """What was stored bit by bit is all of the farm."""
        whole = Writer(WALL).farm(farm)
        for name in ("requests", "jobs", "frames", "bands", "attempts", "nodes", "deleted"):
            assert getattr(self.rows, name) == getattr(whole, name), name


class World:
    """Drives a Farm and keeps what each node and the head's disk would hold."""

    def __init__(self, seed: int = 1, **farm_settings: object) -> None:
        self._settings = farm_settings
        self._random = random.Random(seed)
        self.farm = self._new_farm()
        self.stores = Stores()
        self.now = 100.0
        self.conns: dict[int, str] = {}
        self.held: dict[str, Held] = {}
        self.answers: dict[int, str] = {}
        self.stitching: list[tuple[JobId, int, int]] = []
        self.joining: list[tuple[act.JoinLight, int]] = []
        self.comparing: list[act.CompareTiles] = []
        self.leases: dict[AttemptId, act.SendLease] = {}
        self.rects: dict[AttemptId, Rect] = {}
        """What the node of each attempt renders."""
        self.runs: dict[tuple[JobId, int], int] = {}
        self.tiles: dict[JobId, list[Rect]] = {}
        self.disk: set[AttemptId] = set()
        self.lights: set[tuple[JobId, int, LightKind]] = set()
        self.pictures: set[JobId] = set()
        self.log: list[act.Action] = []
        self._next = 0

    def _new_farm(self) -> Farm:
        return Farm(self._random, **self._settings)  # type: ignore[arg-type]

    def restart(self, lost: Collection[object] = (), *, in_place: bool = False) -> None:
        """Kill the head and start another, whose disk has ``lost`` these attempts' tiles, lights
        and pictures. ``in_place``: the head lives, and reads back what is stored.
        """
        self.stores.check(self.farm)
        if not in_place:
            self.farm = self._new_farm()
        self.farm.adopt(Reader(self.stores.rows, WALL, self.now).stored())
        self.conns.clear()
        for stale in (self.stitching, self.joining, self.comparing):
            stale.clear()
        self.disk.difference_update(lost)
        self.lights.difference_update(lost)
        self.pictures.difference_update(lost)
        live = [each for each in self.farm.attempts.values() if each.live]
        arrived = [ev.Arrived(each.id, 7, "5" * 64) for each in live if each.id in self.disk]
        self.do(
            ev.Restarted(
                frozenset(self.disk),
                frozenset(self.lights),
                frozenset(self.pictures),
                tuple(arrived),
            )
        )

    def number(self) -> int:
        self._next += 1
        return self._next

    def do(self, event: ev.Event) -> list[act.Action]:
        """Let the event happen, check the farm, and let the make-believe shells act."""
        begun = {id(each) for each in self._begun()}
        if isinstance(event, ev.TileVerified):
            self.disk.add(event.attempt)
        if isinstance(event, ev.FrameStitched):
            self.pictures.add(event.job)
        actions = self.farm.handle(event, self.now)
        self.farm.check()
        deadline = self.farm.next_deadline()
        assert deadline is None or deadline > self.now, "what was due has not happened"
        self._check_who_began([each for each in self._begun() if id(each) not in begun])
        self.log += actions
        self.stores.commit(self.farm.take_changes())
        for action in actions:
            self._perform(action)
        return actions

    def _begun(self) -> list[Frame]:
        frames = (frame for job in self.farm.jobs.values() for frame in job.frames)
        return [frame for frame in frames if frame.povray_class is not None]

    def _check_who_began(self, frames: list[Frame]) -> None:
        """No node of a stronger class is left without work by a weaker one that began a frame."""
        threads = class_threads(self.farm.nodes.values())
        for frame in frames:
            assert frame.povray_class is not None
            power = threads.get(frame.povray_class, 0)
            for node in self.farm.hungry.values():
                tried = all(node.id in band.failed_on for band in frame.bands.values())
                barred = node.kept_off_job(frame.job.id)
                barred = barred or not reads_light(node.povray_class, frame)
                stronger = threads[node.povray_class] > power
                assert tried or barred or not stronger, f"{node.name} was passed over"

    def _perform(self, action: act.Action) -> None:
        match action:
            case act.SendLease(conn=conn, attempt=attempt):
                assert self.farm.jobs[action.job].state is not JobState.PAUSED
                for light in action.lights:
                    assert (action.job, action.frame, light.kind) in self.lights
                self.leases[attempt] = action
                self.rects[attempt] = action.rect
                self.held[self.conns[conn]].rendering.add(attempt)
            case act.SendCut(conn=conn, attempt=attempt, keep=keep):
                self.held[self.conns[conn]].asked[attempt] = keep
            case act.SendKeep(attempt=attempt, rect=rect):
                assert rect == self.rects[attempt], "head and node disagree on what is rendered"
            case (
                act.SendDrop(conn=conn, attempt=attempt)
                | act.SendAccepted(conn=conn, attempt=attempt)
            ):
                self.forget(conn, attempt)
            case act.CloseConnection(conn=conn):
                self.conns.pop(conn, None)
            case act.AnswerSubmit(reply=reply, job=job):
                self.answers[reply] = job
            case act.RefuseSubmit(reply=reply, message=message):
                self.answers[reply] = message
            case act.BeginFrame(job=job, frame=frame, run=run):
                assert run > self.runs.get((job, frame), -1)
                self.runs[job, frame] = run
                self.tiles[job] = []
            case act.FinishFrame(job=job, frame=frame):
                self.stitching.append((job, frame, self.runs[job, frame]))
            case act.JoinLight(job=job, frame=frame, attempts=attempts):
                assert self.disk.issuperset(attempts)
                self.joining.append((action, self.runs[job, frame]))
            case act.CompareTiles(first=first, second=second):
                assert self.disk.issuperset((first, second))
                self.comparing.append(action)
            case act.AddTile(job=job, rect=rect, attempt=attempt):
                assert attempt in self.disk
                assert rect == self.rects[attempt], "the tile is of another rectangle"
                self.tiles[job].append(rect)
            case act.AbandonJob(job=job) | act.DiscardResult(job=job) | act.ForgetJob(job=job):
                self.pictures.discard(job)
            case act.DiscardTile(attempt=attempt):
                self.disk.discard(attempt)
            case act.DiscardTiles(job=job, frames=frames, attempts=attempts):
                self.disk.difference_update(attempts)
                gone = product([job], frames, BOTH)
                self.lights.difference_update(gone)
            case _:
                pass

    def forget(self, conn: int, attempt: AttemptId) -> None:
        held = self.held[self.conns[conn]]
        held.rendering.discard(attempt)
        held.rendered.discard(attempt)
        held.kept.pop(attempt, None)
        held.asked.pop(attempt, None)

    def join(
        self,
        name: str,
        *,
        threads: int = 1,
        povray_class: str | PovrayClass = "3.7",
        instance: str = "",
        unfit: str = "",
        cuts: bool = True,
        canary_cpu_s: float = 0.0,
    ) -> int:
        if isinstance(povray_class, str):
            povray_class = PovrayClass(povray_class)
        conn = self.number()
        held = self.held.setdefault(name, Held())
        self.conns[conn] = name
        self.do(
            ev.NodeJoined(
                conn,
                NodeId(name),
                name,
                threads,
                povray_class,
                frozenset(held.rendering),
                frozenset(held.rendered),
                instance,
                f"{name}'s place",
                unfit,
                dict(held.kept),
                cuts,
                canary_cpu_s,
            )
        )
        return conn

    def gone(self, conn: int, *, killed: bool = False, silent: bool = False) -> None:
        name = self.conns.pop(conn)
        self.held[name].asked.clear()
        if killed:
            self.held[name] = Held()
        self.do(ev.NodeGone(conn, "closed", silent))

    def submit(self, job_request: JobRequest) -> JobId:
        reply = self.number()
        self.do(ev.JobSubmitted(reply, job_request))
        return JobId(self.answers[reply])

    def rendering(self, conn: int) -> list[AttemptId]:
        return sorted(self.held[self.conns[conn]].rendering)

    def rendered(self, conn: int, attempt: AttemptId) -> None:
        held = self.held[self.conns[conn]]
        held.rendering.discard(attempt)
        held.rendered.add(attempt)
        held.asked.pop(attempt, None)
        self.do(ev.AttemptRendered(conn, attempt))

    def asked(self, conn: int) -> list[AttemptId]:
        """Give the attempts of which a node was asked to keep only a part."""
        return sorted(self.held[self.conns[conn]].asked)

    def renders(self, conn: int, attempt: AttemptId, done: int, *, place: bool = False) -> None:
        """Let a node say how many pixels of an attempt are done, or that it ends soon besides."""
        self.do(ev.AttemptProgress(conn, attempt, "rendering", done, place=place))

    def ends_soon(self, conn: int, attempt: AttemptId) -> None:
        """Let a node say that it has a place, for of an attempt hardly anything is left."""
        self.renders(conn, attempt, self.rects[attempt].area, place=True)

    def answer(
        self, conn: int, attempt: AttemptId, keep: Rect | None = None, *, parses: bool = True
    ) -> Rect:
        """Let a node agree to a cut, to what was asked unless told otherwise."""
        keep = self.agree(conn, attempt, keep)
        self.do(ev.AttemptCut(conn, attempt, keep, parses))
        return keep

    def agree(self, conn: int, attempt: AttemptId, keep: Rect | None = None) -> Rect:
        """Let a node agree to a cut without the farm's hearing of it."""
        held = self.held[self.conns[conn]]
        asked = held.asked.pop(attempt)
        keep = keep or asked
        if keep != self.rects[attempt]:
            self.rects[attempt] = held.kept[attempt] = keep
        return keep

    def finish(self, conn: int, attempt: AttemptId) -> None:
        """Render, upload and verify one attempt."""
        self.rendered(conn, attempt)
        self.do(ev.TileVerified(attempt))

    def joined(self, *, found: bool = True) -> None:
        """Let the oldest join of light end, with some or with none."""
        asked, run = self.joining.pop(0)
        light = {"photons": PHOTONS, "radiosity": SAMPLES}[asked.kind] if found else None
        self.lights.add((asked.job, asked.frame, asked.kind))
        self.do(ev.LightJoined(asked.job, asked.frame, light, run))

    def compared(self, found: Comparison | None = ALIKE) -> None:
        """Let the oldest comparison end; None: the tiles cannot be read."""
        asked = self.comparing.pop(0)
        reason = "" if found else "the tile is torn"
        self.do(ev.Compared(asked.job, asked.frame, asked.band, found, reason))

    def work_off(self) -> None:
        """Let every node finish all it gets, and every frame be compared and stitched."""
        busy = True
        while busy:
            busy = False
            for conn in list(self.conns):
                busy = self.work_off_one(conn) or busy
            busy = self.stitch_all() or busy

    def work_off_one(self, conn: int) -> bool:
        """Let a node finish what it has now; tells whether it had anything."""
        held = self.held[self.conns[conn]]
        rendering, rendered = self.rendering(conn), sorted(held.rendered)
        for attempt in rendering:
            self.finish(conn, attempt)
        for attempt in rendered:
            self.do(ev.TileVerified(attempt))
        return bool(rendering or rendered)

    def stitch_all(self) -> bool:
        """Let lights be joined, tiles compared, frames stitched; tells whether there were any."""
        busy = bool(self.joining or self.comparing or self.stitching)
        while self.joining:
            self.joined()
        while self.comparing:
            self.compared()
        while self.stitching:
            self.do(ev.FrameStitched(*self.stitching.pop()))
        return busy
