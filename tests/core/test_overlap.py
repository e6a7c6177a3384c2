"""A node takes its next band before it has done with the last: what it says of that, who gets what,
and whatever may befall one of two.
"""

from __future__ import annotations

import pytest

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.entities import Node
from clusterray.core.model import AttemptId, JobId, NodeId
from clusterray.core.states import AttemptState, JobState
from tests.core.world import World, picture, request


def two_bands(*, wish_bands: int = 3) -> tuple[World, int, AttemptId, AttemptId]:
    """A node "pi" whose first band ends soon, and that has the next; some bands wait still."""
    world = World()
    pi = world.join("pi")
    world.submit(request(wish_bands=wish_bands))
    (first,) = world.rendering(pi)
    world.ends_soon(pi, first)
    (second,) = set(world.rendering(pi)) - {first}
    return world, pi, first, second


def node_of(world: World, name: str = "pi") -> Node:
    return world.farm.nodes[NodeId(name)]


def ends_done(world: World) -> None:
    world.work_off()
    (job,) = world.farm.jobs.values()
    assert job.state is JobState.DONE
    assert sum(rect.area for rect in world.tiles[job.id]) == 64 * 256


def test_a_node_whose_band_ends_soon_gets_the_next_one() -> None:
    world, _, first, second = two_bands()
    assert [each.id for each in node_of(world).rendering] == [first, second]
    ends_done(world)


def test_it_gets_no_third_whatever_it_says() -> None:
    world, pi, first, second = two_bands()
    world.ends_soon(pi, second)
    world.ends_soon(pi, first)
    assert set(world.rendering(pi)) == {first, second}


def test_when_the_older_is_done_the_younger_may_have_said_that_it_ends_soon() -> None:
    world, pi, first, second = two_bands()
    world.ends_soon(pi, second)
    world.rendered(pi, first)
    assert len(world.rendering(pi)) == 2
    ends_done(world)


def test_that_a_band_ends_soon_is_not_taken_back() -> None:
    world = World()
    pi = world.join("pi")
    world.submit(request(wish_bands=1))
    (attempt,) = world.rendering(pi)
    world.ends_soon(pi, attempt)
    world.renders(pi, attempt, 5)
    world.submit(request("k2"))
    assert len(world.rendering(pi)) == 2


def test_a_place_beside_a_band_of_light_is_none() -> None:
    world = World()
    pi = world.join("pi")
    world.submit(request(light=("radiosity",), wish_bands=2))
    (attempt,) = world.rendering(pi)
    world.ends_soon(pi, attempt)
    assert world.rendering(pi) == [attempt]


def test_a_place_beside_a_verify_band_is_one() -> None:
    world = World()
    pi = world.join("pi")
    world.submit(request(wish_bands=2, verify="all"))
    while not world.farm.verifying:
        world.finish(pi, world.rendering(pi)[0])
    (attempt,) = world.rendering(pi)
    world.ends_soon(pi, attempt)
    assert len(world.rendering(pi)) == 2


def test_who_has_nothing_at_all_is_asked_first() -> None:
    """Though it has waited less long."""
    world = World()
    pi = world.join("pi")
    world.submit(request(wish_bands=1))
    (attempt,) = world.rendering(pi)
    world.ends_soon(pi, attempt)
    desk = world.join("desk")
    world.submit(request("k2", wish_bands=1))
    assert world.rendering(pi) == [attempt]
    assert len(world.rendering(desk)) == 1


def test_one_with_nothing_at_all_takes_over_what_is_detached() -> None:
    """One that still renders does not: its owner may be back by then."""
    world = World()
    away, pi = world.join("away"), world.join("pi")
    world.submit(request(wish_bands=2))
    (attempt,) = world.rendering(pi)
    world.gone(away)
    world.ends_soon(pi, attempt)
    assert world.rendering(pi) == [attempt]
    world.rendered(pi, attempt)
    assert len(world.rendering(pi)) == 1


@pytest.mark.parametrize("older", [True, False])
def test_one_of_two_fails_and_the_other_goes_on(older: bool) -> None:
    world, pi, first, second = two_bands(wish_bands=2)
    bad, good = (first, second) if older else (second, first)
    world.forget(pi, bad)
    world.do(ev.AttemptFailed(pi, bad, "node", "bad luck"))
    assert good in world.rendering(pi)
    assert world.farm.attempts[good].state is AttemptState.RENDERING
    ends_done(world)


@pytest.mark.parametrize("older", [True, False])
def test_one_of_two_is_dropped_with_its_job(older: bool) -> None:
    world = World()
    pi = world.join("pi")
    jobs = [world.submit(request(f"k{number}", wish_bands=1)) for number in range(2)]
    (first,) = world.rendering(pi)
    world.ends_soon(pi, first)
    world.do(ev.JobCancelled(jobs[not older], "ann"))
    (left,) = world.rendering(pi)
    assert (left == first) is not older
    world.submit(request("k9", wish_bands=1))
    assert len(world.rendering(pi)) == (1 if older else 2), "the older one ends soon still"


def test_a_node_that_dies_loses_both() -> None:
    world, pi, first, second = two_bands()
    desk = world.join("desk")
    world.gone(pi, killed=True, silent=True)
    assert {world.farm.attempts[each].state for each in (first, second)} == {AttemptState.LOST}
    assert len(world.rendering(desk)) == 1
    ends_done(world)


def test_a_node_comes_back_with_both() -> None:
    world, pi, first, second = two_bands()
    world.gone(pi)
    pi = world.join("pi")
    assert set(world.rendering(pi)) == {first, second}
    ends_done(world)


def test_a_node_comes_back_with_both_to_a_head_that_was_started_again() -> None:
    """The younger one is of an earlier job, and is read back first."""
    world = World()
    pi = world.join("pi")
    world.submit(request("k1", wish_bands=1))
    world.submit(request("k2", wish_bands=1, priority=1))
    early, late = (world.farm.jobs[JobId(name)] for name in ("j1", "j2"))
    world.finish(pi, world.rendering(pi)[0])
    (first,) = world.rendering(pi)
    assert world.farm.attempts[first].band.frame.job is late
    world.stitch_all()
    world.do(ev.JobRequeued(early.id, "ann", everything=True))
    world.ends_soon(pi, first)
    second = next(each for each in world.rendering(pi) if each != first)
    world.restart()
    pi = world.join("pi")
    assert [each.id for each in node_of(world).rendering] == [first, second]
    world.rendered(pi, first)
    world.submit(request("k3", wish_bands=1))
    assert world.rendering(pi) == [second], "of the younger nobody said that it ends soon"


def test_a_node_comes_back_and_has_lost_the_tile_of_the_older_one() -> None:
    """It renders that one anew, so it has no place until one of the two is done."""
    world, pi, first, second = two_bands()
    world.rendered(pi, first)
    world.gone(pi)
    held = world.held["pi"]
    held.rendered.discard(first)
    held.rendering.add(first)
    pi = world.join("pi")
    assert set(world.rendering(pi)) == {first, second}
    ends_done(world)


def test_a_band_that_is_rendered_anew_alone_does_not_end_soon() -> None:
    world = World()
    pi = world.join("pi")
    world.submit(request(wish_bands=2))
    (attempt,) = world.rendering(pi)
    world.do(ev.JobPaused(JobId("j1"), "ann"))
    world.ends_soon(pi, attempt)
    world.rendered(pi, attempt)
    world.gone(pi)
    world.held["pi"].rendered.discard(attempt)
    world.held["pi"].rendering.add(attempt)
    pi = world.join("pi")
    world.do(ev.JobResumed(JobId("j1"), "ann"))
    assert world.rendering(pi) == [attempt]


def test_of_three_that_a_node_says_it_renders_the_youngest_is_dropped() -> None:
    world, pi, first, second = two_bands(wish_bands=4)
    world.ends_soon(pi, second)
    world.rendered(pi, first)
    (third,) = set(world.rendering(pi)) - {second}
    world.gone(pi)
    held = world.held["pi"]
    held.rendered.discard(first)
    held.rendering.add(first)
    pi = world.join("pi")
    assert set(world.rendering(pi)) == {first, second}
    assert world.farm.attempts[third].state is AttemptState.DROPPED
    ends_done(world)


def test_the_younger_of_two_is_cut_before_it_has_begun() -> None:
    world = World()
    pi = world.join("pi")
    world.submit(request("k1", shape=picture(64, 32 * 32)))
    (first,) = world.rendering(pi)
    world.renders(pi, first, 0)
    world.now += 8
    world.renders(pi, first, 8 * 64 * 32)
    desk = world.join("desk")
    world.answer(pi, first)
    (rest,) = world.rendering(desk)
    world.gone(desk, killed=True, silent=True)
    world.ends_soon(pi, first)
    (second,) = set(world.rendering(pi)) - {first}
    assert world.rects[second] == world.rects[rest]
    world.join("attic")
    assert world.asked(pi) == [second]
    world.answer(pi, second)
    assert len(world.rendering(pi)) == 2


def helped(
    busy: bool, *, parses: bool = True, seconds: float = 12.0
) -> tuple[World, list[act.SendCut]]:
    """A band with so many seconds left, and a node that has nothing else, or a band that ends soon;
    gives what its owner was asked.
    """
    world = World()
    pi, desk = world.join("pi"), world.join("desk")
    world.do(ev.JobSubmitted(1, request("k1", shape=picture(64, 32 * 64))))
    (first,), (other,) = world.rendering(pi), world.rendering(desk)
    for conn, attempt in ((pi, first), (desk, other)):
        world.renders(conn, attempt, 0)
    world.now += 32 - seconds
    frame = world.farm.attempts[first].band.frame
    frame.parse_s, frame.tile_parses = 2.0, parses
    world.renders(pi, first, round((32 - seconds) * 64 * 32))
    world.renders(desk, other, 32 * 64 * 32 - 64, place=busy)
    if not busy:
        world.finish(desk, other)
    return world, [each for each in world.log if isinstance(each, act.SendCut)]


@pytest.mark.parametrize("busy", [False, True])
def test_one_whose_band_ends_soon_helps_too(busy: bool) -> None:
    _, cuts = helped(busy)
    assert len(cuts) == 1


def test_a_tile_without_a_parse_makes_cuts_worth_while_that_were_not() -> None:
    """4 s are left; a start takes 2.4 s, and so does a tile that parses: 1.6 s for the other at
    the very most, and the cut's owner would be done no sooner.
    """
    assert helped(busy=False, seconds=4.0)[1] == []
    assert len(helped(busy=False, seconds=4.0, parses=False)[1]) == 1


def test_whether_a_tile_parses_is_learned_from_who_cut_a_band() -> None:
    world, cuts = helped(busy=False)
    (cut,) = cuts
    world.answer(cut.conn, cut.attempt, parses=False)
    (frame,) = world.farm.jobs[JobId("j1")].frames
    assert not frame.tile_parses
    assert frame.tile_s < 1.0 < frame.start_s
