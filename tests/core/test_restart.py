"""The farm is stored, the head killed and started again: what counts, and what begins anew."""

from __future__ import annotations

import pytest

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.model import NodeId
from clusterray.core.patience import RETURN_S
from clusterray.core.states import AttemptState, BandState, FrameState, JobState
from clusterray.head.records import Reader
from tests.core.world import WALL, World, picture, request


def test_what_nodes_render_counts_when_they_are_back() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(wish_bands=2))
    (first,) = world.rendering(conn)
    world.rendered(conn, first)
    (second,) = world.rendering(conn)
    world.restart()
    assert world.farm.jobs[job].state is JobState.RUNNING
    conn = world.join("pi")
    assert {a.id for a in world.farm.attempts.values() if a.live} == {first, second}
    kept = [action.attempt for action in world.log if isinstance(action, act.SendKeep)]
    assert sorted(kept[-2:]) == sorted([first, second])
    world.work_off()
    assert world.farm.jobs[job].state is JobState.DONE
    assert len(world.farm.attempts) == 2


def test_a_node_that_is_back_first_does_not_take_what_another_still_renders() -> None:
    world = World()
    slow, quick = world.join("pi"), world.join("desk")
    world.submit(request(wish_bands=2))
    (of_slow,) = world.rendering(slow)
    world.finish(quick, world.rendering(quick)[0])
    world.restart()
    quick = world.join("desk")
    assert world.rendering(quick) == []
    world.now += RETURN_S - 0.1
    world.do(ev.Tick())
    assert world.farm.attempts[of_slow].live
    world.now += 0.2
    world.do(ev.Tick())
    assert world.farm.attempts[of_slow].state is AttemptState.LOST
    assert len(world.rendering(quick)) == 1


def test_a_tile_that_had_come_but_was_not_accepted_counts() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(wish_bands=1))
    (attempt,) = world.rendering(conn)
    world.disk.add(attempt)
    world.restart()
    assert world.farm.attempts[attempt].state is AttemptState.ACCEPTED
    assert world.farm.jobs[job].state is JobState.STITCHING
    world.join("pi")
    assert world.rendering(max(world.conns)) == []
    world.stitch_all()
    assert world.farm.jobs[job].state is JobState.DONE


@pytest.mark.parametrize("verify", [0, "all"])
def test_a_tile_that_is_gone_is_rendered_again_and_the_picture_joined_anew(verify: int) -> None:
    world = World()
    conn = world.join("pi")
    world.join("desk")
    job = world.submit(request(wish_bands=2, verify=verify))
    for node in list(world.conns):
        for attempt in world.rendering(node):
            world.finish(node, attempt)
    assert world.farm.jobs[job].state is JobState.STITCHING
    (frame,) = world.farm.jobs[job].frames
    lost, kept = [band.accepted.id for band in frame.bands.values() if band.accepted]
    world.restart({lost})
    (frame,) = world.farm.jobs[job].frames
    assert world.farm.jobs[job].state is JobState.QUEUED
    assert frame.uncovered == 64 * 128
    assert "its tile was gone" in "\n".join(world.farm.story(next(iter(frame.waiting))))
    assert kept in world.disk
    conn = world.join("pi")
    world.join("desk")
    assert len(world.rendering(conn)) == 1
    world.work_off()
    assert world.farm.jobs[job].state is JobState.DONE
    assert len(frame.verify_bands) == (2 if verify else 0)


def test_a_frame_whose_light_is_gone_begins_anew() -> None:
    """Tiles that were lit otherwise would not fit those that are to come."""
    world = World()
    conn = world.join("pi")
    job = world.submit(request(wish_bands=2, light=("radiosity",)))
    for _ in range(2):
        world.finish(conn, world.rendering(conn)[0])
    world.joined()
    world.finish(conn, world.rendering(conn)[0])
    lights = set(world.lights)
    assert lights
    world.restart(lights)
    (frame,) = world.farm.jobs[job].frames
    assert (frame.state, frame.lights) == (FrameState.LIGHT, ())
    assert all(band.state is BandState.WAITING for band in frame.bands.values())
    world.join("pi")
    world.work_off()
    assert world.farm.jobs[job].state is JobState.DONE


def test_what_a_pass_found_is_joined_again_and_gathered_again_where_it_is_gone() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(wish_bands=2, light=("radiosity",)))
    attempts = []
    for _ in range(2):
        attempts += world.rendering(conn)
        world.finish(conn, world.rendering(conn)[0])
    world.restart()
    (frame,) = world.farm.jobs[job].frames
    assert frame.state is FrameState.JOINING
    assert len(world.joining) == 1
    world.restart({attempts[0]})
    (frame,) = world.farm.jobs[job].frames
    assert (frame.state, len(frame.waiting), world.joining) == (FrameState.LIGHT, 1, [])
    world.join("pi")
    world.work_off()
    assert world.farm.jobs[job].state is JobState.DONE


def test_comparisons_under_way_are_made_again() -> None:
    world = World()
    world.join("pi")
    world.join("desk")
    job = world.submit(request(wish_bands=2, verify="all"))
    for _ in range(2):
        for conn in list(world.conns):
            for attempt in world.rendering(conn):
                world.finish(conn, attempt)
    assert len(world.comparing) == 2
    world.compared()
    while world.stitching:
        world.do(ev.FrameStitched(*world.stitching.pop()))
    assert world.farm.jobs[job].state is JobState.VERIFYING
    world.restart()
    assert (len(world.comparing), world.stitching) == (1, [])
    world.compared()
    assert world.farm.jobs[job].state is JobState.DONE


def test_nobody_gives_a_comparison_up_while_nodes_are_on_their_way_back() -> None:
    world = World(detached_s=1.0)
    world.join("pi")
    job = world.submit(request(wish_bands=1, verify="all"))
    world.finish(max(world.conns), world.rendering(max(world.conns))[0])
    world.stitch_all()
    world.restart()
    world.now += RETURN_S - 0.1
    world.do(ev.Tick())
    assert world.farm.jobs[job].state is JobState.VERIFYING
    world.join("pi")
    world.work_off()
    (band,) = world.farm.jobs[job].frames[0].verify_bands.values()
    assert band.state is BandState.COMPARED


def test_a_finished_picture_that_is_gone_is_said_and_can_be_rendered_again() -> None:
    world = World()
    world.join("pi")
    job = world.submit(request())
    world.work_off()
    world.restart({job})
    done = world.farm.jobs[job]
    assert done.state is JobState.DONE
    assert "its picture was gone" in done.gone
    world.join("pi")
    world.do(ev.JobRequeued(job, "ann", everything=True))
    world.work_off()
    assert done.state is JobState.DONE
    assert done.gone == ""


def test_of_a_failed_job_only_what_is_there_counts_when_it_is_requeued() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(wish_bands=3))
    first, second = world.rendering(conn)[0], ""
    world.finish(conn, first)
    (second,) = world.rendering(conn)
    world.finish(conn, second)
    world.do(ev.JobCancelled(job, "ann"))
    world.restart({second})
    world.do(ev.JobRequeued(job, "ann"))
    (frame,) = world.farm.jobs[job].frames
    assert len(frame.waiting) == 2
    conn = world.join("pi")
    world.work_off()
    assert world.farm.jobs[job].state is JobState.DONE


def test_a_farm_that_is_read_back_knows_nothing_of_what_was_not_stored() -> None:
    """As after a commit that failed: what happened since the last one has not happened."""
    world = World()
    conn = world.join("pi")
    world.submit(request("a", wish_bands=2))
    world.farm.handle(ev.JobSubmitted(99, request("never stored")), world.now)
    world.farm.handle(ev.AttemptRendered(conn, world.rendering(conn)[0]), world.now)
    world.farm.take_changes()
    world.farm.adopt(Reader(world.stores.rows, WALL, world.now).stored())
    assert list(world.farm.jobs) == ["j1"]
    assert [job.id for job in world.farm.open_jobs] == ["j1"]
    assert (world.farm.hungry, world.farm.job_of_key("never stored")) == ({}, None)
    world.farm.handle(ev.NodeGone(conn, "of the farm that was"), world.now)
    (attempt,) = world.farm.attempts.values()
    assert (attempt.state, attempt.detached_until) == (AttemptState.RENDERING, None)
    world.do(ev.Restarted(frozenset()))
    assert world.submit(request("b")) == "j2"


def test_ids_are_not_used_twice_and_a_submit_is_known_by_its_key() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request("a"))
    gone = world.submit(request("b"))
    seen = set(world.farm.attempts)
    world.do(ev.JobDeleted(gone, "ann", force=True))
    world.restart()
    assert world.submit(request("a")) == job
    assert world.submit(request("b")) == "j3"
    assert (world.farm.was_made(gone), world.farm.deleted[gone] != "") == (True, True)
    conn = world.join("desk")
    assert not seen.intersection(world.rendering(conn))


def test_what_is_held_against_a_node_is_forgiven_and_what_it_did_is_not_forgotten() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request(wish_bands=2))
    world.finish(conn, world.rendering(conn)[0])
    for attempt in world.rendering(conn):
        world.forget(conn, attempt)
        world.do(ev.AttemptFailed(conn, attempt, "node", "bad luck"))
    world.restart()
    node = world.farm.nodes[NodeId("pi")]
    assert (node.bands_done, node.failures, node.standings) == (1, 1, {})
    (job,) = world.farm.jobs.values()
    assert [band.failed_on for band in job.frames[0].bands.values()] == [(), ("pi",)]


def test_a_paused_job_stays_paused_and_the_queue_keeps_its_order() -> None:
    world = World()
    first = world.submit(request("a", shape=picture(64, 32)))
    second = world.submit(request("b", priority=5))
    world.do(ev.JobPaused(first, "ann"))
    world.restart()
    assert [job.id for job in world.farm.open_jobs] == [second, first]
    assert world.farm.jobs[first].paused_by == "ann"
    conn = world.join("pi")
    assert world.farm.attempts[world.rendering(conn)[0]].band.frame.job.id == second
