"""What becomes of bands, jobs and nodes when something fails, hangs or comes too late."""

from __future__ import annotations

from typing import TypeVar

import pytest

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.blame import kept_off_words
from clusterray.core.entities import Attempt, Band, Job, Node
from clusterray.core.model import AttemptId, JobId, NodeId
from clusterray.core.patience import Patience
from clusterray.core.states import AttemptState, BandState, JobState
from tests.core.world import Held, World, picture, request

SMALL = picture(64, 32)
"""One band high."""
A = TypeVar("A", bound=act.Action)


def fail(world: World, conn: int, reason: str = "no fonts") -> AttemptId:
    """Let the node fail what it renders."""
    (attempt,) = world.rendering(conn)
    world.forget(conn, attempt)
    world.do(ev.AttemptFailed(conn, attempt, "node", reason))
    return attempt


def pass_time(world: World, seconds: float) -> list[act.Action]:
    world.now += seconds
    return world.do(ev.Tick())


def job_of(world: World, job: JobId) -> Job:
    return world.farm.jobs[job]


def node_of(world: World, name: str) -> Node:
    return world.farm.nodes[NodeId(name)]


def attempt_of(world: World, conn: int) -> Attempt:
    (attempt,) = world.rendering(conn)
    return world.farm.attempts[attempt]


def the_band(world: World, job: JobId) -> Band:
    (band,) = job_of(world, job).frames[0].bands.values()
    return band


def told(actions: list[act.Action], kind: type[A]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def words_of(world: World, job: JobId) -> tuple[str, str]:
    problem = job_of(world, job).problem
    assert job_of(world, job).state is JobState.FAILED and problem is not None
    return problem.message, problem.text


# ---------------------------------------------------------------- how often a band is tried


@pytest.mark.parametrize(("nodes", "tries"), [(1, 2), (2, 4), (3, 3), (5, 3)])
def test_a_band_is_tried_on_three_nodes_or_twice_on_all_there_are(nodes: int, tries: int) -> None:
    world = World()
    conns = [world.join(f"n{number}") for number in range(nodes)]
    job = world.submit(request(shape=SMALL))
    failed = []
    while job_of(world, job).open:
        (conn,) = (conn for conn in conns if world.rendering(conn))
        failed.append(world.conns[conn])
        fail(world, conn)
    assert len(failed) == tries
    assert len(set(failed[: min(nodes, 3)])) == min(nodes, 3), "others come first"
    message, story = words_of(world, job)
    assert message.endswith(f"last on {failed[-1]}: no fonts")
    assert story.count("leased to") == tries


def test_a_part_of_a_band_that_failed_has_failed_too() -> None:
    world = World()
    bad = world.join("bad")
    job = world.submit(request(shape=picture(64, 32 * 24)))
    world.join("good")
    world.join("fine")
    fail(world, bad)
    parts = list(job_of(world, job).frames[0].bands.values())
    assert len(parts) == 2 and {band.failed_on for band in parts} == {(NodeId("bad"),)}
    world.work_off()
    assert job_of(world, job).state is JobState.DONE
    assert {band.accepted.node_name for band in parts if band.accepted} == {"good", "fine"}


def test_the_reasons_name_every_node_that_was_tried() -> None:
    world = World()
    one, two = world.join("pi"), world.join("desk")
    job = world.submit(request(shape=SMALL))
    for conn in (one, two, one, two):
        fail(world, conn)
    message, _story = words_of(world, job)
    assert "it failed on pi 2 times, it failed on desk 2 times" in message


def test_a_node_that_joins_meanwhile_is_asked_before_the_job_fails() -> None:
    world = World()
    one = world.join("one")
    job = world.submit(request(shape=SMALL))
    fail(world, one)
    other = world.join("other")
    fail(world, one)
    assert job_of(world, job).open
    world.finish(other, attempt_of(world, other).id)
    world.work_off()
    assert job_of(world, job).state is JobState.DONE


def test_a_job_waits_for_a_node_that_is_only_away_for_a_moment() -> None:
    """It holds a band still, and may be back before that is lost."""
    world = World()
    one, away = world.join("one"), world.join("away")
    job = world.submit(request(shape=picture(64, 64), wish_bands=2))
    world.gone(away)
    fail(world, one)
    fail(world, one)
    assert job_of(world, job).open
    world.join("away")
    world.work_off()
    assert job_of(world, job).state is JobState.DONE


def test_a_failure_while_nobody_is_there_does_not_fail_the_job() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=SMALL))
    (attempt,) = world.rendering(conn)
    world.rendered(conn, attempt)
    world.gone(conn, killed=True)
    world.do(ev.TileRefused(attempt, "it is torn"))
    assert the_band(world, job).state is BandState.WAITING
    world.join("pi")
    world.work_off()
    assert job_of(world, job).state is JobState.DONE


def test_a_dry_node_does_not_take_over_what_it_has_failed() -> None:
    world = World()
    bad, good = world.join("bad"), world.join("good")
    world.submit(request(shape=SMALL))
    fail(world, bad)
    (attempt,) = world.rendering(good)
    world.gone(good)
    assert world.farm.attempts[attempt].live
    assert world.rendering(bad) == []


# ---------------------------------------------------------------- nodes that are kept off


def test_a_node_that_fails_again_and_again_is_kept_off_the_job_and_no_other() -> None:
    world = World()
    bad, good = world.join("bad"), world.join("good")
    job = world.submit(request("long", shape=picture(64, 32 * 8), wish_bands=8))
    for _ in range(3):
        fail(world, bad)
    node = node_of(world, "bad")
    assert node.kept_off_job(job) and not node.kept_off
    assert world.rendering(bad) == []
    assert kept_off_words(node, world.now) == [f"kept off job {job} for 5 minutes more: no fonts"]
    other = world.submit(request("other", shape=SMALL))
    assert attempt_of(world, bad).band.frame.job.id == other
    while world.rendering(good):
        world.finish(good, world.rendering(good)[0])
    world.work_off()
    assert job_of(world, job).state is JobState.DONE
    assert not node.standings, "an ended job holds nothing against it"


def test_a_node_that_fails_on_three_jobs_is_kept_off_the_farm_and_let_in_again() -> None:
    world = World()
    bad = world.join("bad")
    for number in range(3):
        world.submit(request(f"k{number}", shape=SMALL))
    failed = [fail(world, bad) for _ in range(2)]
    assert world.farm.attempts[failed[0]].band is world.farm.attempts[failed[1]].band
    fail(world, bad), fail(world, bad)
    fail(world, bad)
    last = job_of(world, JobId("j3"))
    message, _story = words_of(world, last.id)
    words = (
        "no node is left for band b3: it failed on bad once, which is kept off the farm; last on"
    )
    assert message.startswith(words)
    node = node_of(world, "bad")
    assert node.kept_off and not node.usable
    later = world.submit(request("later", shape=SMALL))
    assert job_of(world, later).state is JobState.QUEUED
    pass_time(world, 299)
    assert world.rendering(bad) == []
    pass_time(world, 1)
    assert attempt_of(world, bad).band.frame.job.id == later
    world.work_off()
    assert job_of(world, later).state is JobState.DONE


def test_one_more_failure_keeps_it_off_at_once_and_twice_as_long() -> None:
    world = World(patience=Patience(node_failed_jobs=1))
    bad = world.join("bad")
    for times in range(4):
        world.submit(request(f"k{times}", shape=SMALL))
        fail(world, bad)
        until = node_of(world, "bad").standing.kept_off_until
        assert until == world.now + 300 * 2**times
        pass_time(world, 300 * 2**times)
    world.submit(request("last", shape=SMALL))
    world.work_off()
    world.submit(request("bad again", shape=SMALL))
    fail(world, bad)
    until = node_of(world, "bad").standing.kept_off_until
    assert until == world.now + 300, "what it delivered made it a good node again"


def test_on_a_job_too_one_more_failure_is_enough_until_it_delivers() -> None:
    world = World(patience=Patience(node_failed_jobs=9))
    bad, _busy = world.join("bad"), world.join("busy")
    job = world.submit(request(shape=picture(64, 32 * 20), wish_bands=20))
    for _ in range(3):
        fail(world, bad)
    pass_time(world, 300)
    fail(world, bad)
    assert node_of(world, "bad").standings[job].kept_off_until == world.now + 600
    pass_time(world, 600)
    world.finish(bad, world.rendering(bad)[0])
    fail(world, bad)
    assert not node_of(world, "bad").kept_off_job(job), "it has delivered since"


def test_each_tile_makes_up_for_a_failure() -> None:
    world = World()
    shaky, other = world.join("shaky"), world.join("other")
    world.submit(request(shape=picture(64, 32 * 30), wish_bands=30))
    for _ in range(6):
        fail(world, shaky)
        world.finish(shaky, world.rendering(shaky)[0])
        world.finish(other, world.rendering(other)[0])
    assert node_of(world, "shaky").failures == 6
    assert not node_of(world, "shaky").standings


def test_a_scenes_fault_is_nobodys_and_is_not_tried_again() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=SMALL))
    (attempt,) = world.rendering(conn)
    world.forget(conn, attempt)
    world.do(ev.AttemptFailed(conn, attempt, "scene", "Parse Error"))
    assert job_of(world, job).state is JobState.FAILED
    node = node_of(world, "pi")
    assert (node.failures, node.standing.failures, node.standings) == (0, 0, {})


def test_a_person_forgives_a_node_all_it_did() -> None:
    world = World(patience=Patience(node_failed_jobs=1))
    bad = world.join("bad")
    waiting = world.submit(request("waiting", shape=picture(64, 64), wish_bands=2))
    good = world.join("good")
    fail(world, bad)
    assert world.rendering(bad) == []
    world.gone(good)
    pass_time(world, 11)
    assert world.rendering(bad) == []
    world.do(ev.NodeForgiven(NodeId("bad"), "ann"))
    assert len(world.rendering(bad)) == 1
    world.work_off()
    assert job_of(world, waiting).state is JobState.DONE
    world.do(ev.NodeForgiven(NodeId("nobody"), "ann"))


def test_forgiven_it_may_try_what_it_failed_as_often_as_it_may() -> None:
    world = World()
    only = world.join("only")
    job = world.submit(request(shape=SMALL))
    fail(world, only)
    late = world.join("late")
    fail(world, only)
    world.gone(late)
    pass_time(world, 11)
    assert world.rendering(only) == [], "it failed it twice, and late may come back"
    world.do(ev.NodeForgiven(NodeId("only"), "ann"))
    fail(world, only)
    assert job_of(world, job).open
    world.work_off()
    assert job_of(world, job).state is JobState.DONE


# ---------------------------------------------------------------- no progress


def test_an_attempt_that_makes_no_progress_is_stopped_and_tried_elsewhere() -> None:
    world = World()
    stuck, other = world.join("stuck"), world.join("other")
    job = world.submit(request(shape=SMALL))
    (attempt,) = world.rendering(stuck)
    world.do(ev.AttemptProgress(stuck, attempt, "rendering", 64))
    pass_time(world, 1799)
    world.do(ev.AttemptProgress(stuck, attempt, "rendering", 65))
    pass_time(world, 1799)
    world.do(ev.AttemptProgress(stuck, attempt, "rendering", 65))
    assert world.farm.attempts[attempt].live
    actions = pass_time(world, 1)
    assert [drop.attempt for drop in told(actions, act.SendDrop)] == [attempt]
    assert act.RevokeGrants(attempt) in actions
    reason = "no progress for 30 minutes while rendering (the head's stall_s)"
    assert world.farm.attempts[attempt].reason == reason
    assert attempt_of(world, other).band is the_band(world, job)
    assert node_of(world, "stuck").standings[job].reason == reason


def test_a_band_that_stalled_is_given_twice_the_time() -> None:
    world = World(patience=Patience(stall_s=100))
    conns = [world.join("one"), world.join("two"), world.join("three")]
    job = world.submit(request(shape=SMALL))
    for conn, seconds in zip(conns, (100, 200, 400), strict=True):
        (attempt,) = world.rendering(conn)
        pass_time(world, seconds - 1)
        assert world.farm.attempts[attempt].live
        pass_time(world, 1)
    message, _story = words_of(world, job)
    assert "failed on 3 nodes" in message and "no progress for 7 minutes" in message


def test_parsing_is_never_taken_for_a_stall_and_has_a_limit_of_its_own() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request(shape=SMALL))
    (attempt,) = world.rendering(conn)
    for _ in range(3):
        world.do(ev.AttemptProgress(conn, attempt, "parsing", 0))
        pass_time(world, 4799)
    assert world.farm.attempts[attempt].live
    actions = pass_time(world, 3)
    assert told(actions, act.SendDrop)
    reason = "the scene was not parsed in 240 minutes (the head's parse_s)"
    assert world.farm.attempts[attempt].reason == reason


def test_after_parsing_the_time_for_progress_begins() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request(shape=SMALL))
    (attempt,) = world.rendering(conn)
    world.do(ev.AttemptProgress(conn, attempt, "parsing", 0))
    pass_time(world, 14_000)
    world.do(ev.AttemptProgress(conn, attempt, "rendering", 0))
    for moves in range(1, 4):
        pass_time(world, 1700)
        world.do(ev.AttemptProgress(conn, attempt, "rendering", 0, moves))
    assert world.farm.attempts[attempt].live, "photons are shot"
    pass_time(world, 1800)
    assert not world.farm.attempts[attempt].live


@pytest.mark.parametrize("phase", ["fetching", "uploading"])
def test_a_transfer_that_never_gets_further_is_no_progress(phase: str) -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request(shape=SMALL))
    (attempt,) = world.rendering(conn)
    if phase == "uploading":
        world.rendered(conn, attempt)
    world.do(ev.AttemptProgress(conn, attempt, phase, 1000))
    for _ in range(17):
        pass_time(world, 100)
        world.do(ev.AttemptProgress(conn, attempt, phase, 0))
        world.do(ev.AttemptProgress(conn, attempt, phase, 999))
    assert world.farm.attempts[attempt].live
    pass_time(world, 100)
    assert not world.farm.attempts[attempt].live


def test_bytes_are_not_pixels() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request(shape=SMALL))
    (attempt,) = world.rendering(conn)
    for phase, shown in (("fetching", 0), ("parsing", 0), ("rendering", 700)):
        world.do(ev.AttemptProgress(conn, attempt, phase, 700))
        assert world.farm.attempts[attempt].done == shown
    world.rendered(conn, attempt)
    world.do(ev.AttemptProgress(conn, attempt, "uploading", 700))
    assert world.farm.attempts[attempt].done == 64 * 32


def test_a_node_that_comes_back_has_its_time_anew() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request(shape=SMALL))
    (attempt,) = world.rendering(conn)
    pass_time(world, 1795)
    world.gone(conn)
    pass_time(world, 9)
    world.join("pi")
    pass_time(world, 1799)
    assert world.farm.attempts[attempt].live
    pass_time(world, 1)
    assert not world.farm.attempts[attempt].live


# ---------------------------------------------------------------- too late


def test_a_silent_node_has_no_time_left_to_come_back() -> None:
    world = World()
    conn, other = world.join("silent"), world.join("other")
    world.submit(request(shape=picture(64, 64), wish_bands=2))
    lost, kept = attempt_of(world, conn), attempt_of(world, other)
    world.gone(conn, silent=True)
    assert lost.state is AttemptState.LOST
    assert act.RevokeGrants(lost.id) in world.log
    world.finish(other, kept.id)
    assert attempt_of(world, other).band is lost.band


def test_of_two_results_the_second_is_dropped_and_counted() -> None:
    world = World()
    late, other = world.join("late"), world.join("other")
    job = world.submit(request(shape=SMALL))
    (first,) = world.rendering(late)
    world.do(ev.AttemptProgress(late, first, "rendering", 500))
    world.gone(late, silent=True)
    assert job_of(world, job).wasted_pixels == 500
    world.held["late"] = Held(set(), {first})
    back = world.join("late")
    assert world.held["late"].rendered == set(), "it was told to drop it"
    world.do(ev.AttemptRendered(back, first))
    world.do(ev.TileVerified(first))
    world.finish(other, world.rendering(other)[0])
    world.work_off()
    assert job_of(world, job).state is JobState.DONE
    assert job_of(world, job).dropped_results == 1, "each is counted once"
    assert job_of(world, job).wasted_pixels == 64 * 32
    assert len(world.tiles[job]) == 1


def test_what_failed_was_rendered_in_vain() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=SMALL))
    world.do(ev.AttemptProgress(conn, world.rendering(conn)[0], "rendering", 1000))
    fail(world, conn)
    world.work_off()
    assert job_of(world, job).wasted_pixels == 1000
    assert job_of(world, job).dropped_results == 0


# ---------------------------------------------------------------- uploads that come to nothing


def test_a_tile_damaged_on_the_way_is_uploaded_again_and_rendered_again_in_the_end() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=SMALL))
    (attempt,) = world.rendering(conn)
    world.rendered(conn, attempt)
    for _ in range(2):
        actions = world.do(ev.UploadDamaged(attempt, "the bytes differ"))
        assert [keep.attempt for keep in told(actions, act.SendKeep)] == [attempt]
    actions = world.do(ev.UploadDamaged(attempt, "the bytes differ"))
    assert [drop.attempt for drop in told(actions, act.SendDrop)] == [attempt]
    assert world.farm.attempts[attempt].reason == "the bytes differ, 3 times"
    assert node_of(world, "pi").failures == 1
    world.work_off()
    assert job_of(world, job).state is JobState.DONE


def test_what_the_head_cannot_keep_is_asked_for_again_later_and_nobody_is_blamed() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=SMALL))
    (attempt,) = world.rendering(conn)
    world.rendered(conn, attempt)
    for seconds in (5, 10, 20, 40, 60, 60):
        world.do(ev.TileNotKept(attempt, "the disk of the head is full"))
        assert world.farm.attempts[attempt].reason == "the disk of the head is full"
        assert not told(pass_time(world, seconds - 1), act.SendKeep)
        assert [keep.attempt for keep in told(pass_time(world, 1), act.SendKeep)] == [attempt]
    for _ in range(4):
        pass_time(world, 1700)
        world.do(ev.TileNotKept(attempt, "the disk of the head is full"))
    assert world.farm.attempts[attempt].live, "that is no stall"
    world.do(ev.TileVerified(attempt))
    world.work_off()
    assert job_of(world, job).state is JobState.DONE
    node = node_of(world, "pi")
    assert (node.failures, node.standings, the_band(world, job).failed_on) == (0, {}, ())


def test_a_refused_tile_is_its_nodes_failure_and_the_node_is_told_to_forget_it() -> None:
    world = World()
    conn = world.join("only")
    job = world.submit(request(shape=SMALL))
    (attempt,) = world.rendering(conn)
    world.rendered(conn, attempt)
    actions = world.do(ev.TileRefused(attempt, "the tile is 3 rows short"))
    assert act.DiscardTile(attempt) in actions
    assert [drop.attempt for drop in told(actions, act.SendDrop)] == [attempt]
    assert world.farm.attempts[attempt].state is AttemptState.FAILED
    world.work_off()
    assert job_of(world, job).state is JobState.DONE


# ---------------------------------------------------------------- unfit nodes, and twins


def test_an_unfit_node_takes_no_bands_until_it_says_that_it_can() -> None:
    world = World()
    conn = world.join("pi", unfit="the disk of this node is full")
    job = world.submit(request(shape=SMALL))
    assert world.rendering(conn) == []
    world.do(ev.NodeUnfit(conn, ""))
    (attempt,) = world.rendering(conn)
    world.do(ev.NodeUnfit(conn, "the disk of this node is full"))
    world.forget(conn, attempt)
    world.do(ev.AttemptFailed(conn, attempt, "node", "no room"))
    assert job_of(world, job).open, "it is waited for until there is room"
    world.do(ev.NodeUnfit(conn, ""))
    world.work_off()
    assert job_of(world, job).state is JobState.DONE


def test_two_daemons_with_one_uuid_do_not_oust_each_other_for_ever() -> None:
    world = World()
    first = world.join("pi", instance="one")
    second = world.join("pi", instance="two")
    assert act.CloseConnection(first, "another connection took over") in world.log
    third = world.join("pi", instance="one")
    (refused,) = [a for a in world.log if isinstance(a, act.CloseConnection) and a.conn == third]
    assert "delete the file 'uuid'" in refused.reason and "pi's place" in refused.reason
    assert node_of(world, "pi").conn == second
    world.gone(second)
    world.join("pi", instance="one")
    assert node_of(world, "pi").conn is not None


def test_a_daemon_that_was_started_again_or_moved_is_no_twin() -> None:
    world = World()
    for instance in ("one", "one", "two", "two", "three"):
        conn = world.join("pi", instance=instance)
        assert node_of(world, "pi").conn == conn
