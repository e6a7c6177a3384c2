"""Running bands are cut for nodes with nothing to do; in each order of what may come, nothing is
lost and no pixel is two nodes'.
"""

from __future__ import annotations

import pytest

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.costs import CostMap
from clusterray.core.entities import Attempt, Job
from clusterray.core.helping import ANSWER_S
from clusterray.core.model import AttemptId, JobId, Rect
from clusterray.core.states import AttemptState, BandState, JobState
from tests.core.world import World, picture, request

ROWS = 32
"""Rows of blocks of ``one_band``; its blocks are 32 pixels, two to a row."""


def one_band(
    *, done_rows: float = 8, seconds: float = 8.0, cuts: bool = True, threads: int = 1
) -> tuple[World, int, AttemptId]:
    """A node "pi" that is so far with all of a picture; gives its connection and attempt."""
    world = World()
    pi = world.join("pi", cuts=cuts, threads=threads)
    world.submit(request(shape=picture(64, 32 * ROWS)))
    (attempt,) = world.rendering(pi)
    world.renders(pi, attempt, 0)
    world.now += seconds
    world.renders(pi, attempt, round(done_rows * 64 * 32))
    return world, pi, attempt


def band_of(world: World, attempt: AttemptId) -> Rect:
    return world.farm.attempts[attempt].band.rect


def the_job(world: World) -> Job:
    (job,) = world.farm.jobs.values()
    return job


def end_well(world: World) -> None:
    world.work_off()
    job = the_job(world)
    assert job.state is JobState.DONE
    assert sum(rect.area for rect in world.tiles[job.id]) == 64 * 32 * ROWS


def live(world: World) -> list[Attempt]:
    return [attempt for attempt in world.farm.attempts.values() if attempt.live]


def test_a_dry_node_gets_the_lower_part_so_that_both_end_together() -> None:
    """24 s are left for one; 12 rows of blocks each, but for a start of POV-Ray on both sides."""
    world, pi, attempt = one_band()
    desk = world.join("desk")
    assert world.rendering(desk) == [], "nothing is taken from a node before it agrees"
    assert world.asked(pi) == [attempt]
    keep = world.answer(pi, attempt)
    assert band_of(world, attempt) == keep == Rect(0, 0, 64, 32 * 20)
    (rest,) = world.rendering(desk)
    assert band_of(world, rest) == Rect(0, 32 * 20, 64, 32 * ROWS)
    end_well(world)


def test_a_strong_node_gets_the_larger_part() -> None:
    world, pi, attempt = one_band()
    world.join("desk", threads=3)
    keep = world.answer(pi, attempt)
    assert 32 * 13 <= keep.y1 <= 32 * 15


def test_costs_decide_where_the_middle_is() -> None:
    world, pi, attempt = one_band()
    (frame,) = the_job(world).frames
    frame.costs = CostMap.of(64, 32 * ROWS, 1, [1.0, 1.0, 1.0, 9.0])
    world.join("desk")
    keep = world.answer(pi, attempt)
    assert keep.y1 >= 32 * 26


def test_what_a_scout_saw_turns_what_was_believed_of_a_band() -> None:
    """The upper half is done and was cheap: nearly all is still to come, and it is not even."""
    world = World()
    pi = world.join("pi")
    world.submit(request(shape=picture(64, 32 * ROWS)))
    (attempt,) = world.rendering(pi)
    world.renders(pi, attempt, 0)
    for second in range(1, 9):
        world.now += 1
        world.renders(pi, attempt, round(second / 8 * 64 * 32 * ROWS / 2))
    seen = CostMap.of(64, 32 * ROWS, 1, [1.0, 1.0, 8.0, 30.0])
    world.do(ev.Scouted(pi, attempt, seen, 0.1))
    assert world.farm.attempts[attempt].pace.done == pytest.approx(64 * 32 * ROWS / 20, rel=0.01)
    world.join("desk")
    assert 32 * 26 <= world.answer(pi, attempt).y1 <= 32 * 29
    end_well(world)


def test_the_band_that_would_end_last_is_cut() -> None:
    world = World()
    conns = {name: world.join(name) for name in ("slow", "fast", "dry")}
    world.submit(request(shape=picture(64, 32 * 96)))
    first = {name: world.rendering(conn)[0] for name, conn in conns.items()}
    for name, attempt in first.items():
        world.renders(conns[name], attempt, 0)
    world.now += 8
    for name, rows in (("slow", 4), ("fast", 20)):
        world.renders(conns[name], first[name], rows * 64 * 32)
    world.finish(conns["dry"], first["dry"])
    assert world.asked(conns["slow"]) == [first["slow"]]
    assert world.asked(conns["fast"]) == []


def test_a_node_that_says_it_keeps_more_is_believed() -> None:
    world, pi, attempt = one_band()
    desk = world.join("desk")
    world.answer(pi, attempt, Rect(0, 0, 64, 32 * 30))
    assert band_of(world, world.rendering(desk)[0]) == Rect(0, 32 * 30, 64, 32 * ROWS)
    end_well(world)


def test_a_node_that_is_too_late_keeps_all_and_is_not_asked_again() -> None:
    world, pi, attempt = one_band()
    desk = world.join("desk")
    world.answer(pi, attempt, band_of(world, attempt))
    world.now += 1
    world.renders(pi, attempt, 9 * 64 * 32)
    assert world.asked(pi) == [] and world.rendering(desk) == []
    end_well(world)


def test_a_tile_that_came_before_the_answer_is_of_the_whole_band() -> None:
    world, pi, attempt = one_band()
    desk = world.join("desk")
    whole = band_of(world, attempt)
    world.finish(pi, attempt)
    assert world.farm.asks == {}
    world.do(ev.AttemptCut(pi, attempt, whole))
    assert world.rendering(desk) == []
    assert world.farm.attempts[attempt].state is AttemptState.ACCEPTED
    end_well(world)


@pytest.mark.parametrize("agreed", [False, True])
def test_a_node_killed_in_the_middle_of_a_cut_loses_what_the_farm_knew_it_had(
    agreed: bool,
) -> None:
    world, pi, attempt = one_band()
    desk = world.join("desk")
    if agreed:
        world.answer(pi, attempt)
    world.gone(pi, killed=True)
    world.now += 20
    world.do(ev.Tick())
    assert world.farm.asks == {}
    waiting = [band for band in the_job(world).frames[0].bands.values() if not band.live_attempts]
    assert bool(waiting) is agreed, "the dry one has the rest, or all of it"
    assert len(world.rendering(desk)) == 1
    end_well(world)


def test_an_answer_that_was_lost_on_the_way_is_made_up_for_by_hello() -> None:
    world, pi, attempt = one_band()
    desk = world.join("desk")
    keep = world.agree(pi, attempt)
    # Or it would take the band over while its owner is away.
    world.gone(desk)
    world.gone(pi)
    pi = world.join("pi")
    assert band_of(world, attempt) == keep
    desk = world.join("desk")
    assert band_of(world, world.rendering(desk)[0]).y0 == keep.y1
    end_well(world)


def test_so_is_one_that_a_killed_head_had_not_stored() -> None:
    world, pi, attempt = one_band()
    world.join("desk")
    keep = world.agree(pi, attempt)
    world.restart()
    world.join("pi")
    assert band_of(world, attempt) == keep
    world.join("desk")
    end_well(world)


def test_a_tile_that_is_of_less_than_the_head_knew_fits_after_hello() -> None:
    world, pi, attempt = one_band()
    desk = world.join("desk")
    keep = world.agree(pi, attempt)
    world.gone(desk)
    world.gone(pi)
    held = world.held["pi"]
    held.rendering.discard(attempt)
    held.rendered.add(attempt)
    world.join("pi")
    assert world.farm.attempts[attempt].state is AttemptState.UPLOADING
    assert band_of(world, attempt) == keep
    end_well(world)


def test_a_node_that_comes_back_with_another_part_than_a_cut_leaves_is_dropped() -> None:
    world, pi, attempt = one_band()
    world.gone(pi)
    world.held["pi"].kept[attempt] = world.rects[attempt] = Rect(0, 32, 64, 64)
    world.join("pi")
    assert world.farm.attempts[attempt].state is AttemptState.DROPPED
    end_well(world)


def test_a_cut_elsewhere_than_between_blocks_is_the_nodes_failure() -> None:
    world, pi, attempt = one_band()
    world.join("desk")
    world.answer(pi, attempt, Rect(0, 0, 64, 100))
    assert world.farm.attempts[attempt].state is AttemptState.FAILED
    end_well(world)


def test_a_cancelled_job_forgets_what_it_asked() -> None:
    world, pi, attempt = one_band()
    world.join("desk")
    world.do(ev.JobCancelled(JobId("j1"), "ann"))
    assert world.farm.asks == {}
    actions = world.do(ev.AttemptCut(pi, attempt, Rect(0, 0, 64, 640)))
    assert [type(action) for action in actions] == [act.SendDrop]


def test_a_paused_job_has_nobody_help() -> None:
    world, pi, _ = one_band()
    world.do(ev.JobPaused(JobId("j1"), "ann"))
    world.join("desk")
    assert world.asked(pi) == []


def test_a_node_that_does_not_answer_is_doubled_and_the_first_tile_counts() -> None:
    world, pi, attempt = one_band(done_rows=1, seconds=20)
    desk = world.join("desk", threads=8)
    assert world.asked(pi) == [attempt]
    world.now += ANSWER_S
    world.do(ev.Tick())
    (second,) = world.rendering(desk)
    assert band_of(world, second) == band_of(world, attempt)
    assert len(live(world)) == 2
    world.finish(desk, second)
    assert world.farm.attempts[attempt].state is AttemptState.DROPPED
    assert world.rendering(pi) == [], "it is told at once"
    end_well(world)


def test_the_loser_of_two_may_come_first_in_the_end() -> None:
    world, pi, attempt = one_band(done_rows=1, seconds=20)
    desk = world.join("desk", threads=8)
    world.now += ANSWER_S
    world.do(ev.Tick())
    assert world.rendering(desk)
    world.finish(pi, attempt)
    assert world.rendering(desk) == []
    end_well(world)


def test_an_answer_that_comes_after_all_takes_the_band_from_the_second_node() -> None:
    world, pi, attempt = one_band(done_rows=1, seconds=20)
    desk = world.join("desk", threads=8)
    world.now += ANSWER_S
    world.do(ev.Tick())
    (second,) = world.rendering(desk)
    keep = world.answer(pi, attempt)
    assert world.farm.attempts[second].state is AttemptState.DROPPED
    assert band_of(world, world.rendering(desk)[0]).y0 == keep.y1
    end_well(world)


def test_a_band_whose_second_attempt_fails_goes_on_with_the_first() -> None:
    world, _pi, attempt = one_band(done_rows=1, seconds=20)
    desk = world.join("desk", threads=8)
    world.now += ANSWER_S
    world.do(ev.Tick())
    (second,) = world.rendering(desk)
    world.forget(desk, second)
    world.do(ev.AttemptFailed(desk, second, "node", "bad luck"))
    assert world.farm.attempts[attempt].band.state is BandState.RUNNING
    end_well(world)


def test_a_node_that_slows_down_gives_up_more_than_its_share() -> None:
    """In the middle it becomes eight times slower; at its mean pace it would keep 21 rows."""
    world, pi, attempt = one_band()
    for second in range(1, 21):
        world.now += 1
        world.renders(pi, attempt, round((8 + second / 8) * 64 * 32))
    world.join("desk")
    keep = world.answer(pi, attempt)
    assert keep.y1 <= 32 * 18


def test_older_nodes_are_never_asked() -> None:
    world, pi, _attempt = one_band(cuts=False)
    desk = world.join("desk")
    assert world.asked(pi) == [] and world.rendering(desk) == []
    end_well(world)


def test_a_wished_number_of_bands_is_not_cut() -> None:
    world = World()
    pi = world.join("pi")
    world.submit(request(shape=picture(64, 32 * ROWS), wish_bands=1))
    (attempt,) = world.rendering(pi)
    world.renders(pi, attempt, 0)
    world.now += 8
    world.renders(pi, attempt, 8 * 64 * 32)
    world.join("desk")
    assert world.asked(pi) == []


@pytest.mark.parametrize(("parse_s", "asked"), [(0.1, True), (30.0, False)])
def test_a_cut_that_costs_more_than_it_saves_is_left(parse_s: float, asked: bool) -> None:
    """Each side would parse once more for 24 s of rendering."""
    world, pi, attempt = one_band()
    the_job(world).frames[0].parse_s = parse_s
    world.join("desk")
    assert (world.asked(pi) == [attempt]) is asked


def test_a_band_that_ends_in_a_moment_is_left() -> None:
    world, pi, _attempt = one_band(done_rows=ROWS - 1, seconds=31)
    world.join("desk")
    assert world.asked(pi) == []


def test_what_is_begun_stays_with_who_began_it() -> None:
    """Four threads have four more blocks in work than are done."""
    world, pi, attempt = one_band(threads=4, done_rows=10, seconds=20)
    world.join("desk", threads=400)
    assert world.answer(pi, attempt).y1 >= 32 * 12


def test_a_single_row_of_blocks_is_cut_down_a_column() -> None:
    world = World()
    pi = world.join("pi")
    world.submit(request(shape=picture(32 * 40, 32)))
    (attempt,) = world.rendering(pi)
    world.renders(pi, attempt, 0)
    world.now += 20
    world.renders(pi, attempt, 10 * 32 * 32)
    desk = world.join("desk")
    keep = world.answer(pi, attempt)
    assert keep.y1 == 32 and 32 * 23 <= keep.x1 <= 32 * 27
    assert band_of(world, world.rendering(desk)[0]) == Rect(keep.x1, 0, 32 * 40, 32)
    world.work_off()
    assert the_job(world).state is JobState.DONE


def test_each_dry_node_gets_a_part_and_none_two() -> None:
    world, pi, attempt = one_band(done_rows=2, seconds=20)
    dry = [world.join(f"n{number}") for number in range(3)]
    for _ in range(8):
        for conn in (pi, *dry):
            for asked in world.asked(conn):
                world.answer(conn, asked)
        world.now += 2
        for conn in (pi, *dry):
            for held in world.rendering(conn):
                world.renders(conn, held, 0)
        world.renders(pi, attempt, 4 * 64 * 32)
    assert all(len(world.rendering(conn)) == 1 for conn in (pi, *dry))
    end_well(world)


def test_a_node_is_known_to_be_faster_after_it_has_shown_it() -> None:
    """Both have one thread; the next picture is shared by what they did with the first."""
    world = World()
    conns = {name: world.join(name) for name in ("slow", "fast")}
    world.submit(request("one", shape=picture(64, 32 * 64)))
    first = {name: world.rendering(conn)[0] for name, conn in conns.items()}
    for name, attempt in first.items():
        world.renders(conns[name], attempt, 0)
    for second in range(1, 33):
        world.now += 4
        for name, rows in (("slow", second / 4), ("fast", second)):
            world.renders(conns[name], first[name], round(rows * 64 * 32))
    for name, conn in conns.items():
        world.finish(conn, first[name])
    speeds = {node.name: node.thread_speed for node in world.farm.nodes.values()}
    assert speeds["fast"] > 1.3 * speeds["slow"]


def test_what_the_canary_took_is_the_first_guess_of_a_nodes_speed() -> None:
    world = World()
    slow, fast = world.join("slow", canary_cpu_s=0.3), world.join("fast", canary_cpu_s=0.1)
    world.submit(request(shape=picture(64, 32 * 64)))
    heights = {conn: band_of(world, world.rendering(conn)[0]).height for conn in (slow, fast)}
    assert heights[fast] == 3 * heights[slow]


def test_what_was_learned_of_a_node_outlives_the_head() -> None:
    world = World()
    world.join("slow", canary_cpu_s=0.4)
    world.restart()
    world.join("slow", canary_cpu_s=0.1)
    (node,) = world.farm.nodes.values()
    assert node.thread_speed == 0.25


def test_a_rest_that_is_wide_for_its_taker_is_halved() -> None:
    world = World()
    pi = world.join("pi")
    world.submit(request(shape=picture(32 * 20, 32 * ROWS)))
    (attempt,) = world.rendering(pi)
    world.renders(pi, attempt, 0)
    world.now += 40
    world.renders(pi, attempt, 8 * 32 * 20 * 32)
    desk = world.join("desk")
    keep = world.answer(pi, attempt)
    assert band_of(world, world.rendering(desk)[0]) == Rect(0, keep.y1, 32 * 10, 32 * ROWS)
    third = world.join("third")
    assert band_of(world, world.rendering(third)[0]) == Rect(32 * 10, keep.y1, 32 * 20, 32 * ROWS)
    world.work_off()
    assert the_job(world).state is JobState.DONE
