"""Who is asked for a scout and when, and what becomes of the answer."""

from __future__ import annotations

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.costs import CostMap
from clusterray.core.entities import Frame
from clusterray.core.model import AttemptId, JobId
from clusterray.core.scouting import MAX_ASKED
from clusterray.core.states import JobState
from tests.core.world import World, picture, request

TALL = picture(64, 6400)
ROUGH, FINE = CostMap.of(64, 6400, 1, [1.0]), CostMap.of(64, 6400, 1, [1.0, 3.0])


def scouted(world: World) -> list[AttemptId]:
    """The attempts with whose lease a scout was asked for, oldest first."""
    return [each for each, lease in world.leases.items() if lease.scout]


def frame_of(world: World, job: JobId) -> Frame:
    return world.farm.jobs[job].frames[0]


def test_the_first_lease_asks_and_no_other_and_nothing_waits_for_the_answer() -> None:
    world = World()
    world.join("pi")
    world.join("desk", threads=4)
    job = world.submit(request(shape=TALL, verify=2))
    world.work_off()
    assert scouted(world) == [next(iter(world.leases))]
    assert len(world.leases) == 4
    assert world.farm.jobs[job].state is JobState.DONE


def test_a_frame_whose_light_is_made_first_is_scouted_with_the_first_light_band() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=TALL, light=("photons", "radiosity")))
    (first,) = scouted(world)
    assert world.leases[first].stage == "photons"
    world.finish(conn, first)
    world.joined()
    world.do(ev.Scouted(conn, first, FINE, 0.25))
    world.work_off()
    assert scouted(world) == [first]
    assert frame_of(world, job).costs == FINE


def test_a_picture_that_is_soon_over_is_not_scouted() -> None:
    world = World()
    world.join("pi")
    world.submit(request(shape=picture(64, 256)))
    assert world.leases
    assert scouted(world) == []


def test_a_finer_answer_replaces_the_first_and_people_see_each() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=TALL))
    attempt = world.rendering(conn)[0]
    assert act.JobChanged(job) in world.do(ev.Scouted(conn, attempt, ROUGH, 0.25))
    assert (frame_of(world, job).costs, frame_of(world, job).parse_s) == (ROUGH, 0.25)
    world.finish(conn, attempt)
    world.do(ev.Scouted(conn, attempt, FINE, 0.3))
    assert (frame_of(world, job).costs, frame_of(world, job).parse_s) == (FINE, 0.25)
    world.do(ev.Scouted(conn, attempt, None, 0.3))
    assert frame_of(world, job).costs == FINE, "what is known is not forgotten"


def test_a_lost_or_useless_scout_is_asked_of_another_at_most_once_more() -> None:
    world = World()
    pi = world.join("pi")
    job = world.submit(request(shape=TALL))
    first = world.rendering(pi)[0]
    world.gone(pi, killed=True, silent=True)
    desk = world.join("desk")
    assert scouted(world) == [first, *world.rendering(desk)]
    second = world.rendering(desk)[0]
    world.do(ev.Scouted(desk, second, None, 0.0, "parsing takes too long"))
    world.finish(desk, second)
    world.work_off()
    assert len(scouted(world)) == MAX_ASKED
    assert not frame_of(world, job).scouted
    assert world.farm.jobs[job].state is JobState.DONE


def test_an_answer_counts_whenever_it_comes_but_not_from_another_node() -> None:
    world = World()
    pi, desk = world.join("pi"), world.join("desk")
    job = world.submit(request(shape=TALL))
    first = scouted(world)[0]
    assert world.leases[first].conn == pi
    world.do(ev.Scouted(desk, first, FINE, 0.1))
    assert frame_of(world, job).costs is None
    world.work_off()
    world.do(ev.Scouted(pi, first, FINE, 0.1))
    assert frame_of(world, job).costs == FINE


def test_a_map_of_another_picture_is_no_answer() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=TALL))
    world.do(ev.Scouted(conn, world.rendering(conn)[0], CostMap.of(640, 64, 1, [1.0]), 0.1))
    assert frame_of(world, job).costs is None
    assert not frame_of(world, job).scouted


def test_a_head_that_is_started_again_asks_again_with_the_next_lease() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=TALL))
    first = world.rendering(conn)[0]
    world.do(ev.Scouted(conn, first, FINE, 0.1))
    world.restart()
    assert frame_of(world, job).costs is None
    conn = world.join("pi")
    world.finish(conn, first)
    assert scouted(world) == [first, *world.rendering(conn)]
