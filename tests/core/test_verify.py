"""Bands rendered again: who gets them, when the job ends, and what never fails it."""

from __future__ import annotations

import pytest

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.entities import Band, Frame
from clusterray.core.invariants import InvariantBroken
from clusterray.core.model import JobId, NodeId, PovrayClass, VerifyBands
from clusterray.core.states import BandState, JobState
from clusterray.core.verify import Comparison, spread
from tests.core.world import ALIKE, BOTH, PHOTONS, SAMPLES, Held, World, picture, request

NOISE = Comparison(64 * 32, 12, (("red", 3.0), ("green", 0.0), ("blue", 1.0)), 255)


@pytest.mark.parametrize(
    ("count", "wanted", "places"),
    [
        (9, 2, [2, 6]), (9, 1, [4]), (2, 2, [0, 1]), (3, 5, [0, 1, 2]), (4, "all", [0, 1, 2, 3]),
        (10, 3, [1, 5, 8]), (1, 2, [0]), (7, 0, []),
    ],
)  # fmt: skip
def test_the_chosen_bands_are_spread_evenly(
    count: int, wanted: VerifyBands, places: list[int]
) -> None:
    assert spread(count, wanted) == places


def test_no_band_is_chosen_twice() -> None:
    for count in range(1, 40):
        for wanted in range(count + 2):
            places = spread(count, wanted)
            assert len(set(places)) == len(places) == min(count, wanted)
            assert all(0 <= place < count for place in places)


def frame_of(world: World, job: JobId) -> Frame:
    return world.farm.jobs[job].frames[0]


def verify_bands(world: World, job: JobId) -> list[Band]:
    return list(frame_of(world, job).verify_bands.values())


def cover(world: World, job: JobId) -> None:
    """Let the nodes render the picture, and not yet what is to be compared with it."""
    while not frame_of(world, job).complete:
        for conn in list(world.conns):
            for attempt in world.rendering(conn):
                if world.farm.attempts[attempt].band.stage != "verify":
                    world.finish(conn, attempt)
        while world.joining:
            world.joined()


def pair(band: Band) -> tuple[str, str]:
    """The names of the nodes of the first and the second tile."""
    assert band.again is not None
    assert band.again.accepted is not None
    assert band.accepted is not None
    return band.again.accepted.node_name, band.accepted.node_name


def test_nothing_is_rendered_again_unless_asked() -> None:
    world = World()
    world.join("pi")
    job = world.submit(request())
    world.work_off()
    assert not frame_of(world, job).verify_bands
    assert not [action for action in world.log if isinstance(action, act.CompareTiles)]


def test_bands_are_rendered_again_by_another_node_when_the_picture_is_covered() -> None:
    world = World()
    for name in ("pi", "desk", "attic"):
        world.join(name)
    job = world.submit(request(shape=picture(64, 32 * 8), wish_bands=8, verify=3))
    cover(world, job)
    assert len(verify_bands(world, job)) == 3
    world.work_off()
    chosen = [band.rect.y0 for band in verify_bands(world, job)]
    assert chosen == [32, 128, 192]
    for band in verify_bands(world, job):
        first, second = pair(band)
        assert first != second
        assert band.comparison == ALIKE
    assert world.farm.jobs[job].state is JobState.DONE
    assert sum(rect.area for rect in world.tiles[job]) == 64 * 32 * 8, "the picture has its own"


def test_the_very_same_is_rendered_again_and_the_two_tiles_are_compared() -> None:
    world = World()
    one, two = world.join("one"), world.join("two")
    job = world.submit(request(shape=picture(64, 64), wish_bands=2, light=BOTH, verify="all"))
    cover(world, job)
    for conn in (one, two):
        for attempt in world.rendering(conn):
            lease = world.leases[attempt]
            again = world.farm.attempts[attempt].band.again
            assert again is not None
            assert again.accepted is not None
            assert (lease.stage, lease.rect) == ("verify", again.rect)
            assert [light.sha256 for light in lease.lights] == [PHOTONS.sha256, SAMPLES.sha256]
            world.finish(conn, attempt)
            asked = world.comparing[-1]
            assert (asked.first, asked.second) == (again.accepted.id, attempt)


def test_the_job_ends_when_picture_and_verification_are_there() -> None:
    world = World()
    one, _ = world.join("one"), world.join("two")
    job = world.submit(request(shape=picture(64, 32), verify=2))
    cover(world, job)
    assert world.farm.jobs[job].state is JobState.STITCHING
    world.do(ev.FrameStitched(job, 0))
    assert world.farm.jobs[job].state is JobState.VERIFYING
    (second,) = [attempt for conn in world.conns for attempt in world.rendering(conn)]
    (conn,) = [conn for conn in world.conns if world.rendering(conn)]
    assert conn != one or world.farm.attempts[second].node_name == "two"
    world.finish(conn, second)
    assert world.farm.jobs[job].open
    actions = world.do(ev.Compared(job, 0, verify_bands(world, job)[0].id, NOISE))
    assert world.farm.jobs[job].state is JobState.DONE, "a difference fails nothing"
    assert act.JobDone(job) in actions
    assert act.DiscardTile(second) in actions, "its tile was for the comparison alone"
    assert verify_bands(world, job)[0].comparison == NOISE


def test_a_picture_that_is_written_last_ends_the_job_too() -> None:
    world = World()
    world.join("one"), world.join("two")
    job = world.submit(request(shape=picture(64, 32), verify=1))
    cover(world, job)
    for conn in list(world.conns):
        for attempt in world.rendering(conn):
            world.finish(conn, attempt)
    world.compared()
    assert world.farm.jobs[job].state is JobState.STITCHING
    assert act.JobDone(job) in world.do(ev.FrameStitched(job, 0))
    assert world.farm.jobs[job].state is JobState.DONE


def test_a_lone_node_renders_its_own_band_again() -> None:
    world = World()
    world.join("only")
    job = world.submit(request(shape=picture(64, 32), verify="all"))
    world.work_off()
    assert [pair(band) for band in verify_bands(world, job)] == [("only", "only")]


def test_the_first_node_waits_for_the_other_which_is_busy() -> None:
    world = World()
    first, other = world.join("first"), world.join("other")
    job = world.submit(request(shape=picture(64, 32), verify=1))
    world.submit(request("next", shape=picture(64, 32)))
    (attempt,) = world.rendering(first)
    world.finish(first, attempt)
    assert world.rendering(first) == [], "the other one is there, if busy"
    world.finish(other, world.rendering(other)[0])
    assert world.farm.attempts[world.rendering(other)[0]].band.stage == "verify"
    world.gone(other, killed=True)
    assert world.rendering(first) == [], "it may be back in time"
    world.now += 11
    world.do(ev.Tick())
    assert world.rendering(first), "nobody else is left"
    world.work_off()
    assert [pair(band) for band in verify_bands(world, job)] == [("first", "first")]


def test_a_dry_third_node_takes_over_from_one_that_left() -> None:
    world = World()
    first, second = world.join("first"), world.join("second")
    job = world.submit(request(shape=picture(64, 32), verify=1))
    world.finish(first, world.rendering(first)[0])
    third = world.join("third")
    (lost,) = world.rendering(second)
    world.gone(second, killed=True)
    assert world.rendering(third)
    assert not world.farm.attempts[lost].live
    world.work_off()
    assert [pair(band) for band in verify_bands(world, job)] == [("first", "third")]


def test_a_node_of_another_class_does_not_verify() -> None:
    world = World()
    world.join("x86", povray_class=PovrayClass("3.7", "x86"), threads=2)
    arm = world.join("arm", povray_class=PovrayClass("3.7", "arm"))
    job = world.submit(request(shape=picture(64, 32), verify=1))
    world.work_off()
    assert [pair(band) for band in verify_bands(world, job)] == [("x86", "x86")]
    assert world.farm.nodes[NodeId("arm")].conn == arm


def test_failing_again_and_again_ends_as_not_verified() -> None:
    world = World()
    conns = {name: world.join(name) for name in ("one", "two")}
    job = world.submit(request(shape=picture(64, 32), verify=1))
    cover(world, job)
    world.do(ev.FrameStitched(job, 0))
    tried = []
    while world.farm.jobs[job].open:
        for name, conn in conns.items():
            for attempt in world.rendering(conn):
                tried.append(name)
                world.forget(conn, attempt)
                world.do(ev.AttemptFailed(conn, attempt, "node", "disk full"))
    assert len(tried) == 3
    assert tried[0] == "two"
    (band,) = verify_bands(world, job)
    assert band.state is BandState.VOID
    assert band.reason == f"rendering it again failed on {tried[-1]}: disk full"
    assert world.farm.jobs[job].state is JobState.DONE


def test_a_scene_that_fails_the_second_time_does_not_fail_the_job() -> None:
    world = World()
    world.join("one")
    two = world.join("two")
    job = world.submit(request(shape=picture(64, 32), verify=1))
    cover(world, job)
    (attempt,) = world.rendering(two)
    world.forget(two, attempt)
    world.do(ev.AttemptFailed(two, attempt, "scene", "Cannot open file.", "a.pov", 3))
    world.work_off()
    assert world.farm.jobs[job].state is JobState.DONE
    assert verify_bands(world, job)[0].reason.endswith("failed on two: Cannot open file.")


def test_tiles_that_cannot_be_compared_end_as_not_verified() -> None:
    world = World()
    world.join("one"), world.join("two")
    job = world.submit(request(shape=picture(64, 32), verify=1))
    cover(world, job)
    for conn in list(world.conns):
        for attempt in world.rendering(conn):
            world.finish(conn, attempt)
    world.compared(None)
    world.work_off()
    assert world.farm.jobs[job].state is JobState.DONE
    assert verify_bands(world, job)[0].reason == "the tile is torn"


def test_a_farm_that_everybody_left_does_not_hang_over_it() -> None:
    world = World()
    only = world.join("only")
    job = world.submit(request(shape=picture(64, 96), wish_bands=3, verify="all"))
    cover(world, job)
    world.do(ev.FrameStitched(job, 0))
    world.gone(only, killed=True)
    while (due := world.farm.next_deadline()) is not None:
        world.now = due
        world.do(ev.Tick())
    assert world.farm.jobs[job].state is JobState.DONE
    for band in verify_bands(world, job):
        assert band.reason == "no node that may render it was there for 10 s"


def test_a_node_that_is_back_in_time_verifies() -> None:
    world = World()
    only = world.join("only")
    job = world.submit(request(shape=picture(64, 96), wish_bands=3, verify="all"))
    cover(world, job)
    world.gone(only, killed=True)
    world.now += 9
    world.join("only")
    world.now += 9
    world.do(ev.Tick())
    world.work_off()
    assert all(band.comparison for band in verify_bands(world, job))


def test_cancelling_drops_what_is_rendered_again() -> None:
    world = World()
    world.join("one")
    two = world.join("two")
    job = world.submit(request(shape=picture(64, 96), wish_bands=3, verify="all"))
    cover(world, job)
    (attempt,) = world.rendering(two)
    world.do(ev.JobCancelled(job, "ann"))
    assert world.rendering(two) == []
    assert not world.farm.attempts[attempt].live
    assert world.farm.jobs[job].state is JobState.CANCELLED
    world.do(ev.Compared(job, 0, verify_bands(world, job)[0].id, ALIKE))
    assert world.farm.next_deadline() is None


def test_an_older_jobs_verification_goes_before_a_younger_jobs_picture() -> None:
    world = World()
    only = world.join("only")
    job = world.submit(request("old", shape=picture(64, 32), verify=1))
    world.submit(request("young", shape=picture(64, 64), wish_bands=2))
    world.finish(only, world.rendering(only)[0])
    # While the tile was on its way the node's place was free, and it has begun the younger job.
    world.finish(only, world.rendering(only)[0])
    (attempt,) = world.rendering(only)
    assert world.farm.attempts[attempt].band in verify_bands(world, job)


@pytest.mark.parametrize("number", ["12", "13"])
def test_the_invariants_notice(number: str) -> None:
    world = World()
    world.held["only"] = Held()
    world.join("only")
    job = world.submit(request(shape=picture(64, 64), wish_bands=2, verify="all"))
    cover(world, job)
    one, two = verify_bands(world, job)
    if number == "12":
        one.again = two.again
    else:
        frame_of(world, job).give_up_at = 1.0
    with pytest.raises(InvariantBroken, match=rf"^{number}\."):
        world.farm.check()
