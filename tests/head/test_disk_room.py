"""What goes when the head's disk has no room: the oldest first, and no more than must."""

from __future__ import annotations

import time

import pytest

from clusterray.core import events as ev
from clusterray.core.entities import Job
from clusterray.core.model import JobId, SceneId
from clusterray.head.disk_room import DiskRoom, in_words
from clusterray.head.memory import WallClock
from tests.core.world import World, picture, request


class Scenes:
    """Scenes by name: the wall time of their last use, and bytes."""

    def __init__(self, **known: tuple[float, int]) -> None:
        self.known = {SceneId(name): value for name, value in known.items()}

    def total_bytes(self, among: set[SceneId] | None = None) -> int:
        return sum(v[1] for name, v in self.known.items() if among is None or name in among)

    def oldest(self, in_use: set[SceneId]) -> tuple[SceneId, float] | None:
        free = [(used, name) for name, (used, _) in self.known.items() if name not in in_use]
        return (min(free)[1], min(free)[0]) if free else None

    def remove(self, scene: SceneId) -> None:
        del self.known[scene]


class Disk:
    """A room of 1,000 bytes over two jobs that are done, of 300 bytes each, and some scenes."""

    def __init__(self, scenes: Scenes, in_use: set[SceneId], at_once: bool) -> None:
        self.world = World()
        self.world.join("pi")
        self.scenes = scenes
        self.gone: list[JobId] = []
        self.at_once = at_once
        self.jobs = []
        for key in ("old", "new"):
            self.world.now += 100
            self.jobs.append(self.world.submit(request(key, shape=picture(64, 32))))
            self.world.work_off()
        self.room = DiskRoom(
            1000,
            self.world.farm,
            scenes,  # type: ignore[arg-type]
            size_of=lambda _: 300,
            discard=self.discard,
            in_use=lambda: in_use,
            wall=WallClock(lambda: self.world.now),
        )
        for job in self.jobs:
            self.room.job_ended(self.job(job))

    def job(self, job: JobId) -> Job:
        return self.world.farm.jobs[job]

    def discard(self, job: JobId, reason: str) -> None:
        self.gone.append(job)
        self.world.do(ev.FilesUnwanted(job, reason))
        if self.at_once:
            self.room.forget(job)


def wall_of(seconds_ago: float) -> float:
    return time.time() - seconds_ago


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("wanted", "gone"), [(100, 0), (400, 0), (401, 1), (700, 1), (701, 2)])
def test_no_more_goes_than_must_also_where_files_are_deleted_later(
    wanted: int, gone: int, at_once: bool
) -> None:
    disk = Disk(Scenes(), set(), at_once)
    assert disk.room.make_room(wanted, "this") == ""
    assert disk.gone == disk.jobs[:gone]


def test_scenes_and_files_go_by_their_age_and_what_is_in_use_stays() -> None:
    scenes = Scenes(early=(wall_of(500), 100), late=(wall_of(0), 100), used=(wall_of(900), 100))
    disk = Disk(scenes, {SceneId("used")}, at_once=True)
    assert disk.room.make_room(150, "this") == ""
    assert (set(scenes.known), disk.gone) == ({"late", "used"}, [])
    assert disk.room.make_room(500, "this") == ""
    assert (set(scenes.known), disk.gone) == ({"late", "used"}, disk.jobs[:1])
    assert disk.room.make_room(900, "this") == ""
    assert (set(scenes.known), disk.gone) == ({"used"}, disk.jobs)


def test_nothing_goes_for_what_cannot_fit_and_the_figures_are_said() -> None:
    scenes = Scenes(used=(wall_of(1), 400))
    disk = Disk(scenes, {SceneId("used")}, at_once=True)
    words = disk.room.make_room(700, "this job")
    assert "this job needs up to 700 B, and the head may use 1.0 kB" in words
    assert "0 B are promised to 0 jobs that wait or run and 400 B are scenes in use" in words
    assert disk.gone == []


def test_a_job_that_is_run_again_keeps_its_own_files() -> None:
    disk = Disk(Scenes(), set(), at_once=True)
    old = disk.job(disk.jobs[0])
    assert disk.room.make_room(800, "it", keep=old) == ""
    assert disk.gone == disk.jobs[1:]


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (5 << 40, "5.5 TB")]
)
def test_bytes_in_words(size: int, words: str) -> None:
    assert in_words(size) == words
