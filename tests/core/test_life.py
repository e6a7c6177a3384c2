"""The whole life of a job: paused, resumed, moved, run again, deleted; what becomes of files."""

from __future__ import annotations

import pytest

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.entities import Job
from clusterray.core.model import AttemptId, JobId
from clusterray.core.orders import Order, refusal
from clusterray.core.states import AttemptState, BandState, FrameState, JobState
from tests.core.world import BOTH, SAMPLES, World, picture, request

SMALL = picture(64, 32)


def job_of(world: World, job: JobId) -> Job:
    return world.farm.jobs[job]


def leased_to(world: World, conn: int) -> JobId:
    (attempt,) = world.rendering(conn)
    return world.farm.attempts[attempt].band.frame.job.id


# ---------------------------------------------------------------- pause


def test_a_paused_job_gets_no_lease_while_what_runs_of_it_ends_and_counts() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(wish_bands=2))
    world.do(ev.JobPaused(job, "ann"))
    assert job_of(world, job).state is JobState.PAUSED
    assert job_of(world, job).paused_by == "ann"
    world.finish(conn, world.rendering(conn)[0])
    assert not world.rendering(conn)
    assert job_of(world, job).pixels_covered == 64 * 128
    other = world.submit(request("other", shape=SMALL))
    assert leased_to(world, conn) == other
    world.do(ev.JobResumed(job, "ann"))
    assert job_of(world, job).state is JobState.QUEUED
    world.work_off()
    assert job_of(world, job).state is JobState.DONE


def test_pause_now_takes_back_what_renders_and_lets_what_is_rendered_arrive() -> None:
    world = World()
    one, two = world.join("one"), world.join("two")
    job = world.submit(request(wish_bands=2))
    (uploading,), (rendering,) = world.rendering(one), world.rendering(two)
    world.rendered(one, uploading)
    actions = world.do(ev.JobPaused(job, "ann", now=True))
    assert act.SendDrop(two, rendering, f"job {job} is paused") in actions
    assert world.farm.attempts[rendering].state is AttemptState.DROPPED
    world.do(ev.TileVerified(uploading))
    assert job_of(world, job).pixels_covered == 64 * 128
    assert not world.rendering(one) and not world.rendering(two)


def test_a_job_paused_as_its_last_band_renders_is_joined_all_the_same() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=SMALL))
    world.do(ev.JobPaused(job, "ann"))
    world.work_off()
    assert job_of(world, job).state is JobState.DONE
    assert not world.rendering(conn)


def test_no_node_takes_over_a_band_of_a_paused_job_whose_node_is_away() -> None:
    world = World()
    away = world.join("away")
    job = world.submit(request(shape=SMALL))
    (attempt,) = world.rendering(away)
    world.do(ev.JobPaused(job, "ann"))
    world.gone(away)
    dry = world.join("dry")
    assert world.farm.attempts[attempt].live and not world.rendering(dry)
    back = world.join("away")
    world.finish(back, attempt)
    world.work_off()
    assert job_of(world, job).state is JobState.DONE


def test_a_resumed_job_with_a_band_at_work_runs_and_its_speed_is_counted_anew() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(wish_bands=2))
    world.finish(conn, world.rendering(conn)[0])
    world.do(ev.JobPaused(job, "ann"))
    world.now += 3600
    world.do(ev.JobResumed(job, "ann"))
    entity = job_of(world, job)
    assert (entity.state, entity.started_at) == (JobState.RUNNING, world.now)
    assert entity.counted_from == 64 * 128


# ---------------------------------------------------------------- priority


@pytest.mark.parametrize("running", [False, True])
def test_a_changed_priority_moves_a_job_that_waits_or_runs(running: bool) -> None:
    world = World()
    first, second = (world.submit(request(key, wish_bands=4)) for key in ("first", "second"))
    if running:
        world.join("busy")
    world.do(ev.PriorityChanged(second, "ann", 7))
    assert [job.id for job in world.farm.open_jobs] == [second, first]
    assert leased_to(world, world.join("next")) == second
    world.do(ev.PriorityChanged(first, "ann", 8))
    assert leased_to(world, world.join("last")) == first
    assert job_of(world, first).request.priority == 0, "what was submitted stays what it was"


# ---------------------------------------------------------------- requeue


def failed(world: World, job: JobId, conn: int) -> None:
    """Let the job's band fail on its node as often as it takes."""
    while job_of(world, job).open:
        (attempt,) = world.rendering(conn)
        world.forget(conn, attempt)
        world.do(ev.AttemptFailed(conn, attempt, "node", "no luck"))


def test_a_failed_job_goes_on_with_what_is_not_covered() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(wish_bands=4))
    for _ in range(2):
        world.finish(conn, world.rendering(conn)[0])
    failed(world, job, conn)
    attempts = len(world.farm.attempts)
    actions = world.do(ev.JobRequeued(job, "ann"))
    assert [a.rect.y0 for a in actions if isinstance(a, act.AddTile)] == [0, 64]
    entity = job_of(world, job)
    assert (entity.state, entity.problem, entity.reason) == (JobState.RUNNING, None, "")
    world.work_off()
    assert entity.state is JobState.DONE
    assert len(world.farm.attempts) == attempts + 2, "two bands were rendered again, no more"
    assert sum(rect.area for rect in world.tiles[job]) == 64 * 256


def test_a_requeued_band_has_all_its_tries_again_on_every_node() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=SMALL))
    failed(world, job, conn)
    world.do(ev.JobRequeued(job, "ann"))
    (band,) = job_of(world, job).frames[0].bands.values()
    assert (band.state, band.failed_on) == (BandState.RUNNING, ())


def test_requeue_all_begins_from_the_start_with_new_bands() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(light=BOTH, wish_bands=2))
    world.work_off()
    old = list(world.farm.attempts)
    assert "renders all of it again" in refusal(job_of(world, job), ev.JobRequeued(job, "ann"))
    actions = world.do(ev.JobRequeued(job, "ann", everything=True))
    assert act.DiscardResult(job) in actions
    assert not set(old) & set(world.farm.attempts)
    (frame,) = job_of(world, job).frames
    assert (frame.state, frame.run) == (FrameState.LIGHT, 1)
    world.work_off()
    assert job_of(world, job).state is JobState.DONE
    assert not world.rendering(conn)


def test_a_job_all_of_whose_bands_are_covered_is_only_joined_again() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(shape=SMALL))
    world.finish(conn, world.rendering(conn)[0])
    world.do(ev.FrameFailed(job, 0, "the disk of the head is full"))
    actions = world.do(ev.JobRequeued(job, "ann"))
    assert job_of(world, job).state is JobState.STITCHING
    assert act.FinishFrame(job, 0) in actions
    world.do(ev.FrameStitched(job, 0))
    assert job_of(world, job).state is JobState.STITCHING, "the first run's word is stale"
    world.do(ev.FrameStitched(job, 0, run=1))
    assert job_of(world, job).state is JobState.DONE


def test_a_job_that_ended_while_its_light_was_joined_has_it_joined_again() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(light=("radiosity",), shape=SMALL))
    world.finish(conn, world.rendering(conn)[0])
    asked, run = world.joining.pop()
    world.do(ev.JobCancelled(job, "ann"))
    world.do(ev.JobRequeued(job, "ann"))
    world.do(ev.LightJoined(asked.job, asked.frame, SAMPLES, run))
    assert job_of(world, job).frames[0].state is FrameState.JOINING
    world.work_off()
    assert job_of(world, job).state is JobState.DONE


# ---------------------------------------------------------------- delete and files that go


def test_a_deleted_job_leaves_nothing_and_its_nodes_are_told() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request())
    (attempt,) = world.rendering(conn)
    world.do(ev.JobDeleted(job, "ann"))
    assert job_of(world, job).open, "not without force"
    actions = world.do(ev.JobDeleted(job, "ann", force=True))
    words = f"job {job} was deleted by ann"
    assert act.ForgetJob(job, words) in actions
    assert [a.attempt for a in actions if isinstance(a, act.SendDrop)] == [attempt]
    assert not (world.farm.jobs or world.farm.bands or world.farm.attempts or world.farm.open_jobs)
    assert world.farm.deleted == {job: words}
    assert world.submit(request()) != job, "its key is free"


def test_files_of_a_done_job_go_when_they_are_old_and_it_stays_known() -> None:
    world = World(keep_s=86400.0)
    world.join("pi")
    job = world.submit(request(shape=SMALL))
    world.work_off()
    due = world.farm.next_deadline()
    assert due == world.now + 86400
    world.now = due
    actions = world.do(ev.Tick())
    assert act.DiscardResult(job) in actions
    entity = job_of(world, job)
    assert (entity.state, entity.gone) == (
        JobState.DONE,
        "its files were deleted after 1 day (setting keep_results_days)",
    )
    assert world.farm.next_deadline() is None
    world.do(ev.JobRequeued(job, "ann", everything=True))
    world.work_off()
    assert (entity.state, entity.gone) == (JobState.DONE, "")


def test_a_job_whose_tiles_are_gone_begins_anew_when_it_is_requeued() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(wish_bands=2))
    world.finish(conn, world.rendering(conn)[0])
    world.do(ev.JobCancelled(job, "ann"))
    assert job_of(world, job).pixels_covered == 64 * 128
    world.do(ev.FilesUnwanted(job, "room was needed"))
    assert job_of(world, job).pixels_covered == 0
    world.do(ev.JobRequeued(job, "ann"))
    world.work_off()
    assert job_of(world, job).state is JobState.DONE
    assert sum(rect.area for rect in world.tiles[job]) == 64 * 256


def test_files_of_an_open_job_are_never_unwanted() -> None:
    world = World()
    job = world.submit(request())
    assert not world.do(ev.FilesUnwanted(job, "room was needed"))


# ---------------------------------------------------------------- what the state forbids

J = JobId("j1")
PAUSE, RESUME, REQUEUE = ev.JobPaused(J, "ann"), ev.JobResumed(J, "ann"), ev.JobRequeued(J, "ann")
MOVE, DELETE, CANCEL = (
    ev.PriorityChanged(J, "ann", 1),
    ev.JobDeleted(J, "a"),
    ev.JobCancelled(J, ""),
)


@pytest.mark.parametrize(
    ("state", "order", "words"),
    [
        (JobState.PAUSED, PAUSE, "paused already"),
        (JobState.STITCHING, PAUSE, "being joined"),
        (JobState.DONE, PAUSE, "is done already"),
        (JobState.RUNNING, RESUME, "running, not paused"),
        (JobState.FAILED, RESUME, "clusterray requeue j1"),
        (JobState.RUNNING, REQUEUE, "cancel it"),
        (JobState.PAUSED, REQUEUE, "resume it"),
        (JobState.DONE, MOVE, "waits for nothing"),
        (JobState.RUNNING, ev.PriorityChanged(J, "ann", 101), "from -100 to 100"),
        (JobState.STITCHING, DELETE, "--force"),
        (JobState.CANCELLED, CANCEL, "cancelled already"),
    ],
)
def test_what_the_state_forbids_is_refused_in_words_and_changes_nothing(
    state: JobState, order: Order, words: str
) -> None:
    world = World()
    assert world.submit(request()) == J
    job = job_of(world, J)
    if state in (JobState.DONE, JobState.STITCHING):
        conn = world.join("pi")
        while not world.stitching:
            world.finish(conn, world.rendering(conn)[0])
        if state is JobState.DONE:
            world.work_off()
    elif state is JobState.PAUSED:
        world.do(PAUSE)
    elif state is JobState.CANCELLED:
        world.do(CANCEL)
    elif state is JobState.FAILED:
        conn = world.join("pi")
        (attempt,) = world.rendering(conn)
        world.do(ev.AttemptFailed(conn, AttemptId(attempt), "scene", "Parse Error"))
    else:
        world.join("pi")
    assert job.state is state
    assert words in refusal(job, order)
    assert not world.do(order)
    assert job.state is state


def test_that_a_covered_frame_begins_once_more_is_stored() -> None:
    """Or what an earlier run of it writes would count after the head was killed."""
    world = World()
    pi = world.join("pi")
    job = world.submit(request(wish_bands=1))
    world.finish(pi, world.rendering(pi)[0])
    world.do(ev.JobCancelled(job, "ann"))
    world.do(ev.JobRequeued(job, "ann"))
    world.stores.check(world.farm)
