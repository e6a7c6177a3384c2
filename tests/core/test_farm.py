"""The farm's rules, one conversation each; invariants are checked after every event."""

from __future__ import annotations

from typing import Any

import pytest

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.entities import Band
from clusterray.core.invariants import INVARIANTS, InvariantBroken
from clusterray.core.model import AttemptId, JobId, Mix, NodeId, Rect
from clusterray.core.states import AttemptState, BandState, JobState
from tests.core.world import Held, World, picture, povray, request


def state(world: World, job: JobId) -> JobState:
    return world.farm.jobs[job].state


def bands(world: World, job: JobId) -> list[Band]:
    return list(world.farm.jobs[job].frames[0].bands.values())


def sent(actions: list[act.Action], kind: type[act.Action]) -> list[act.Action]:
    return [action for action in actions if isinstance(action, kind)]


def test_one_node_renders_a_job_from_top_to_bottom() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request())
    assert state(world, job) is JobState.RUNNING
    tops = []
    while world.rendering(conn):
        (attempt,) = world.rendering(conn)
        tops.append(world.farm.attempts[attempt].band.rect.y0)
        world.finish(conn, attempt)
    assert tops == sorted(tops)
    assert state(world, job) is JobState.STITCHING
    world.work_off()
    assert state(world, job) is JobState.DONE
    assert sum(rect.area for rect in world.tiles[job]) == 64 * 256


def test_the_stronger_node_gets_the_larger_band() -> None:
    world = World()
    strong, weak = world.join("desktop", threads=8), world.join("pi", threads=1)
    world.submit(request(shape=picture(64, 32 * 40)))
    heights = {
        conn: world.farm.attempts[world.rendering(conn)[0]].band.rect.height
        for conn in (strong, weak)
    }
    assert heights[strong] >= 4 * heights[weak]


def blocks_of(world: World, job: JobId) -> list[int]:
    return [band.rect.area // 1024 for band in bands(world, job)]


def test_all_who_wait_share_a_picture_also_one_of_few_rows() -> None:
    world = World()
    for name in range(8):
        world.join(f"n{name}")
    job = world.submit(request(shape=picture(32 * 40, 64)))
    assert len(blocks_of(world, job)) == 8
    assert all(8 <= blocks <= 12 for blocks in blocks_of(world, job))


def test_a_band_has_blocks_for_every_thread_so_not_everybody_gets_one() -> None:
    world = World()
    for name in range(30):
        world.join(f"n{name}", threads=4)
    job = world.submit(request(shape=picture(32 * 40, 64)))
    assert len(blocks_of(world, job)) == 20
    assert all(blocks >= 3 for blocks in blocks_of(world, job))
    world.work_off()
    assert state(world, job) is JobState.DONE


def test_bands_are_narrow_where_rows_are_few_and_wide_where_they_are_many() -> None:
    world = World()
    for name in range(4):
        world.join(f"n{name}")
    few = world.submit(request("few", shape=picture(32 * 60, 32 * 34)))
    assert all(band.rect.width <= 32 * 16 for band in bands(world, few))
    world.work_off()
    many = world.submit(request("many", shape=picture(32 * 60, 32 * 160)))
    assert all(band.rect.width == 32 * 60 for band in bands(world, many))


def test_a_wished_number_of_bands_is_kept() -> None:
    world = World()
    world.join("pi")
    job = world.submit(request(wish_bands=3))
    assert [band.rect.height for band in bands(world, job)] == [96, 64, 96]
    world.work_off()
    assert len(bands(world, job)) == 3


def test_jobs_go_by_priority_then_age_and_no_node_idles_while_work_waits() -> None:
    world = World()
    small = picture(64, 32)
    low = world.submit(request("low", shape=small))
    old = world.submit(request("old", shape=small, priority=5))
    young = world.submit(request("young", shape=small, priority=5))
    order = []
    for name in ("n1", "n2", "n3"):
        (attempt,) = world.rendering(world.join(name))
        order.append(world.farm.attempts[attempt].band.frame.job.id)
    assert order == [old, young, low]


def test_a_node_of_another_class_gets_another_frame_never_the_same() -> None:
    world = World()
    world.join("debian", povray_class="3.7.0.10")
    first = world.submit(request("first"))
    other = world.join("elder", povray_class="3.7.0.8")
    assert world.rendering(other) == []
    world.submit(request("second"))
    (attempt,) = world.rendering(other)
    assert world.farm.attempts[attempt].band.frame.job.id != first
    world.work_off()
    assert all(job.state is JobState.DONE for job in world.farm.jobs.values())


def test_the_class_is_free_again_when_its_only_node_left_nothing() -> None:
    world = World()
    conn = world.join("debian", povray_class="A")
    job = world.submit(request())
    world.join("pi", povray_class="B")
    world.gone(conn, killed=True)
    world.now += 11
    world.do(ev.Tick())
    world.work_off()
    assert state(world, job) is JobState.DONE


def test_the_strongest_class_begins_a_frame_and_the_weak_one_has_the_next_job() -> None:
    """The desktop came last and has waited least; the Pis do not wait for it either."""
    world = World()
    pis = [world.join(f"pi-{number}", povray_class="arm") for number in range(4)]
    desk = world.join("desk", threads=8, povray_class="x86")
    first = world.submit(request("first"))
    assert [world.rendering(pi) for pi in pis] == [[], [], [], []]
    (attempt,) = world.rendering(desk)
    assert world.farm.attempts[attempt].band.frame.job.id == first
    second = world.submit(request("second"))
    for pi in pis:
        (attempt,) = world.rendering(pi)
        assert world.farm.attempts[attempt].band.frame.job.id == second
    world.work_off()
    assert all(job.state is JobState.DONE for job in world.farm.jobs.values())


def test_many_weak_nodes_are_a_strong_class() -> None:
    world = World()
    desk = world.join("desk", threads=3, povray_class="x86")
    pis = [world.join(f"pi-{number}", povray_class="arm") for number in range(4)]
    world.submit(request())
    assert world.rendering(desk) == []
    assert all(world.rendering(pi) for pi in pis)


def test_the_weak_class_renders_where_the_strong_one_is_not_to_be_had() -> None:
    world = World()
    desk = world.join("desk", threads=8, povray_class="x86")
    pi = world.join("pi", povray_class="arm")
    world.do(ev.NodeDraining(desk))
    job = world.submit(request())
    assert world.rendering(pi)
    world.work_off()
    assert state(world, job) is JobState.DONE


def test_a_share_is_of_those_who_may_render_the_frame() -> None:
    """The one node of the strongest class cuts nothing off for Pis that may not take it."""
    world = World()
    pi = world.join("pi", threads=2, povray_class="arm")
    desk = world.join("desk", threads=4, povray_class="x86")
    job = world.submit(request(shape=picture(64, 32 * 12)))
    alone = World()
    alone.join("desk", threads=4, povray_class="x86")
    wanted = alone.submit(request(shape=picture(64, 32 * 12)))
    assert world.rendering(pi) == [] and world.rendering(desk)
    heights = [band.rect.height for band in bands(world, job)]
    assert heights == [band.rect.height for band in bands(alone, wanted)]


FAR, NEAR, MIDDLE = povray("far", 3, 1, 1), povray("near", 1, 1, 1), povray("middle", 2, 2, 0)


@pytest.mark.parametrize(
    ("mix", "helpers"),
    [("never", set()), ("close", {"middle"}), ("any", {"middle", "far", "untested"})],
)
def test_a_jobs_mix_says_who_may_help(mix: Mix, helpers: set[str]) -> None:
    """Far and middle are close to each other; but it is the frame's first class that counts."""
    world = World()
    world.join("near", threads=8, povray_class=NEAR)
    others = {
        "middle": world.join("middle", povray_class=MIDDLE),
        "far": world.join("far", povray_class=FAR),
        "untested": world.join("untested", povray_class="untested"),
    }
    job = world.submit(request(shape=picture(64, 32 * 40), mix=mix))
    assert {name for name, conn in others.items() if world.rendering(conn)} == helpers
    world.work_off()
    assert state(world, job) is JobState.DONE
    frame = world.farm.jobs[job].frames[0]
    assert frame.povray_class == NEAR
    assert {kind.version for kind in frame.tile_classes} == {"near"} | helpers


def test_tiles_that_the_mix_does_not_admit_break_an_invariant() -> None:
    world = World()
    conn = world.join("near", povray_class=NEAR)
    world.submit(request(mix="close"))
    (attempt,) = world.rendering(conn)
    world.farm.attempts[attempt].povray_class = MIDDLE
    world.farm.check()
    world.farm.attempts[attempt].povray_class = FAR
    with pytest.raises(InvariantBroken, match=r"^5\."):
        world.farm.check()


def test_a_node_whose_povray_changed_goes_on_with_what_it_had_and_takes_no_more() -> None:
    world = World()
    conn = world.join("one", povray_class="old")
    job = world.submit(request())
    (attempt,) = world.rendering(conn)
    world.gone(conn)
    back = world.join("one", povray_class="new")
    assert world.rendering(back) == [attempt]
    world.finish(back, attempt)
    assert world.rendering(back) == []
    other = world.join("two", povray_class="old")
    while world.rendering(other):
        world.finish(other, world.rendering(other)[0])
    world.work_off()
    assert state(world, job) is JobState.DONE


def test_a_scene_fault_fails_the_job_at_once_and_the_next_goes_on() -> None:
    world = World()
    one, two = world.join("one"), world.join("two")
    bad = world.submit(request("bad"))
    good = world.submit(request("good"))
    (attempt,) = world.rendering(one)
    actions = world.do(
        ev.AttemptFailed(one, attempt, "scene", "Parse Error: no.", "a.pov", 3, "text")
    )
    assert state(world, bad) is JobState.FAILED
    problem = world.farm.jobs[bad].problem
    assert problem is not None
    assert (problem.file, problem.line, problem.message) == ("a.pov", 3, "Parse Error: no.")
    assert [drop.conn for drop in sent(actions, act.SendDrop)] == [two]  # type: ignore[union-attr]
    assert act.AbandonJob(bad) in actions
    world.held["one"] = Held(set(world.held["one"].rendering) - {attempt})
    world.work_off()
    assert state(world, good) is JobState.DONE


def test_a_nodes_fault_is_tried_on_another_node_first() -> None:
    world = World()
    bad = world.join("bad")
    world.join("good")
    job = world.submit(request(shape=picture(64, 64), wish_bands=2))
    (attempt,) = world.rendering(bad)
    band = world.farm.attempts[attempt].band
    world.forget(bad, attempt)
    world.do(ev.AttemptFailed(bad, attempt, "node", "disk full"))
    assert band.state is BandState.WAITING
    assert world.rendering(bad) == []
    world.work_off()
    assert band.accepted is not None
    assert band.accepted.node == NodeId("good")
    assert state(world, job) is JobState.DONE


@pytest.mark.parametrize("late", [ev.TileVerified, lambda a: ev.TileRefused(a, "torn")])
def test_a_second_upload_of_an_accepted_tile_does_not_cost_the_first(late: Any) -> None:
    """A node that comes back may upload again what was taken in from its last connection."""
    world = World()
    conn = world.join("pi")
    job = world.submit(request())
    (attempt,) = world.rendering(conn)
    world.finish(conn, attempt)
    actions = world.do(late(attempt))
    assert act.DiscardTile(attempt) not in actions
    assert not sent(actions, act.AddTile)
    world.work_off()
    assert state(world, job) is JobState.DONE


def test_an_upload_frees_the_place_for_the_next_band() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request(wish_bands=2))
    (attempt,) = world.rendering(conn)
    world.rendered(conn, attempt)
    assert len(world.rendering(conn)) == 1
    assert world.rendering(conn) != [attempt]


def test_a_closed_connection_detaches_and_its_return_counts_again() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request())
    (attempt,) = world.rendering(conn)
    world.gone(conn)
    assert world.farm.next_deadline() == world.now + 10
    back = world.join("pi")
    deadline = world.farm.next_deadline()
    assert deadline is not None and deadline > world.now + 10
    assert world.rendering(back) == [attempt]
    assert any(isinstance(a, act.SendKeep) and a.attempt == attempt for a in world.log)
    world.work_off()
    assert all(job.state is JobState.DONE for job in world.farm.jobs.values())


def test_a_detached_band_is_lost_after_ten_seconds_and_its_late_return_dropped() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request(shape=picture(64, 32)))
    (attempt,) = world.rendering(conn)
    world.gone(conn)
    world.now += 9.9
    world.do(ev.Tick())
    assert world.farm.attempts[attempt].live
    world.now += 0.2
    actions = world.do(ev.Tick())
    assert act.RevokeGrants(attempt) in actions
    other = world.join("other")
    assert len(world.rendering(other)) == 1
    late = world.join("pi")
    assert attempt not in world.held["pi"].rendering
    assert world.rendering(late) == []


def test_in_the_tail_a_dry_node_takes_a_detached_band_at_once() -> None:
    world = World()
    conn, dry = world.join("gone"), world.join("dry")
    world.submit(request(shape=picture(32, 32)))
    (lost,) = world.rendering(conn)
    assert world.rendering(dry) == []
    world.gone(conn)
    assert len(world.rendering(dry)) == 1
    assert world.farm.attempts[lost].state is AttemptState.LOST


def test_a_tile_that_was_whole_counts_though_its_node_died() -> None:
    world = World()
    conn, _dry = world.join("pi"), world.join("dry")
    job = world.submit(request(shape=picture(32, 32)))
    (attempt,) = world.rendering(conn)
    world.rendered(conn, attempt)
    world.gone(conn, killed=True)
    world.do(ev.TileVerified(attempt))
    assert world.farm.attempts[attempt].state is AttemptState.ACCEPTED
    assert state(world, job) is JobState.STITCHING


def test_a_node_that_missed_the_answer_is_told_again() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request(shape=picture(64, 32)))
    (attempt,) = world.rendering(conn)
    world.rendered(conn, attempt)
    world.gone(conn)
    world.do(ev.TileVerified(attempt))
    again = world.join("pi")
    assert act.SendAccepted(again, attempt) in world.log


def test_a_second_hello_of_a_node_supersedes_the_first_connection() -> None:
    world = World()
    first = world.join("pi")
    world.submit(request())
    (attempt,) = world.rendering(first)
    second = world.join("pi")
    assert act.CloseConnection(first, "another connection took over") in world.log
    assert world.rendering(second) == [attempt]
    world.do(ev.NodeGone(first, "closed"))
    assert world.farm.nodes[NodeId("pi")].conn == second
    world.do(ev.AttemptFailed(first, attempt, "scene", "from the dead"))
    assert world.farm.attempts[attempt].live


def test_cancel_drops_everywhere_and_discards_what_comes_late() -> None:
    world = World()
    one, two = world.join("one"), world.join("two")
    job = world.submit(request())
    attempts = world.rendering(one) + world.rendering(two)
    actions = world.do(ev.JobCancelled(job, "ann"))
    assert {drop.attempt for drop in sent(actions, act.SendDrop)} == set(attempts)  # type: ignore[union-attr]
    assert state(world, job) is JobState.CANCELLED
    late = world.do(ev.TileVerified(attempts[0]))
    assert act.DiscardTile(attempts[0]) in late
    assert not sent(late, act.AddTile)
    assert not world.farm.handle(ev.JobCancelled(job, "ann"), world.now)


def test_drain_gives_no_more_and_handback_returns_the_band() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=picture(64, 64), wish_bands=2))
    (attempt,) = world.rendering(conn)
    world.do(ev.NodeDraining(conn))
    world.forget(conn, attempt)
    world.do(ev.AttemptHandedBack(conn, attempt, "draining"))
    assert world.rendering(conn) == []
    world.gone(conn)
    world.join("other")
    world.work_off()
    assert state(world, job) is JobState.DONE


def test_the_same_submit_twice_is_one_job_and_another_content_is_refused() -> None:
    world = World()
    job = world.submit(request("k"))
    assert world.submit(request("k")) == job
    assert "other content" in world.submit(request("k", priority=1))
    assert len(world.farm.jobs) == 1


def test_at_the_limit_the_oldest_ended_job_is_forgotten_and_open_ones_never() -> None:
    world = World(max_jobs=2)
    world.join("pi")
    small = picture(64, 32)
    old = world.submit(request("old", shape=small))
    world.work_off()
    young = world.submit(request("young", shape=small))
    third = world.submit(request("third", shape=small))
    assert list(world.farm.jobs) == [young, third]
    (forgotten,) = [action for action in world.log if isinstance(action, act.ForgetJob)]
    assert forgotten.job == old
    discarded = [each for each in world.log if isinstance(each, act.DiscardTiles)]
    assert [each.job for each in discarded] == [old, old], "when done, and when forgotten"
    assert "limit" in world.submit(request("fourth", shape=small))
    assert len({old, young, third}) == 3


def test_a_stitch_that_fails_fails_the_job() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=picture(64, 32)))
    world.finish(conn, world.rendering(conn)[0])
    world.do(ev.FrameFailed(job, 0, "the disk of the head is full"))
    assert state(world, job) is JobState.FAILED
    assert world.farm.jobs[job].reason == "the disk of the head is full"


def test_a_stale_word_changes_nothing_and_is_answered_drop() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request())
    before = [band.state for band in world.farm.bands.values()]
    stale = AttemptId("a9-0000")
    for event in (
        ev.AttemptProgress(conn, stale, "rendering", 5),
        ev.AttemptRendered(conn, stale),
        ev.AttemptHandedBack(conn, stale, "?"),
        ev.AttemptFailed(conn, stale, "scene", "?"),
    ):
        assert sent(world.do(event), act.SendDrop)
    assert [band.state for band in world.farm.bands.values()] == before


def test_progress_is_bounded_by_the_band() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=picture(64, 32)))
    (attempt,) = world.rendering(conn)
    actions = world.do(ev.AttemptProgress(conn, attempt, "rendering", 10**9))
    assert world.farm.attempts[attempt].done == 64 * 32
    assert act.JobChanged(job) in actions


def test_a_region_grows_to_whole_blocks() -> None:
    world = World()
    world.join("pi")
    job = world.submit(request(shape=picture(64, 256, region=Rect(3, 40, 9, 41))))
    world.work_off()
    assert world.tiles[job] == [Rect(0, 32, 32, 64)]


def test_a_broken_farm_is_caught_with_the_story() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request())
    (attempt,) = world.rendering(conn)
    band = world.farm.attempts[attempt].band
    band.state = BandState.WAITING
    with pytest.raises(InvariantBroken, match=r"(?s)^1\..*leased to pi"):
        world.farm.check()


def test_the_invariants_are_numbered() -> None:
    for number, invariant in enumerate(INVARIANTS, start=1):
        assert (invariant.__doc__ or "").startswith(f"{number}. ")
