"""Light before the picture: passes in order, what each finds shared by all that follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.entities import Frame
from clusterray.core.invariants import InvariantBroken
from clusterray.core.model import AttemptId, JobId, NodeId, PovrayClass, Stage
from clusterray.core.states import BandState, FrameState, JobState
from tests.core.world import BOTH, PHOTONS, SAMPLES, World, picture, povray, request

RADIOSITY = BOTH[1:]
SMALL = picture(64, 32)
MAP = replace(PHOTONS, readers=("3.7", ""))
"""The map, as it is known once a node of World's own class has shot it."""


def frame_of(world: World, job: JobId) -> Frame:
    (frame,) = world.farm.jobs[job].frames
    return frame


def state(world: World, job: JobId) -> JobState:
    return world.farm.jobs[job].state


def stages(world: World, conn: int) -> list[Stage]:
    return [world.leases[attempt].stage for attempt in world.rendering(conn)]


def joins(world: World) -> list[act.JoinLight]:
    return [action for action in world.log if isinstance(action, act.JoinLight)]


def class_of(world: World, conn: int) -> PovrayClass:
    return world.farm.nodes[NodeId(world.conns[conn])].povray_class


def cover(world: World, *conns: int) -> None:
    """Let the nodes do all they get until light is to be joined."""
    while not world.joining:
        for conn in conns:
            for attempt in world.rendering(conn):
                world.finish(conn, attempt)


def test_samples_are_gathered_by_all_joined_once_and_then_shared_by_every_band() -> None:
    world = World()
    one, two = world.join("one"), world.join("two")
    job = world.submit(request(light=RADIOSITY))
    frame = frame_of(world, job)
    assert stages(world, one) == stages(world, two) == ["light"]
    cover(world, one, two)
    assert (state(world, job), frame.state) == (JobState.RUNNING, FrameState.JOINING)
    (join,) = joins(world)
    assert join.kind == "radiosity"
    tops = [world.farm.attempts[attempt].band.rect.y0 for attempt in join.attempts]
    assert tops == sorted(tops) and len(tops) == len(frame.bands)
    assert world.rendering(one) == world.rendering(two) == []
    world.joined()
    assert frame.state is FrameState.FINAL
    world.work_off()
    assert state(world, job) is JobState.DONE
    assert sum(rect.area for rect in world.tiles[job]) == 64 * 256
    for band in frame.bands.values():
        assert [attempt.lights for attempt in band.attempts] == [(SAMPLES,)]


def test_photons_are_shot_by_one_node_for_the_whole_area() -> None:
    world = World()
    one, two = world.join("one", threads=4), world.join("two", threads=4)
    job = world.submit(request(light=("photons",), wish_bands=4))
    frame = frame_of(world, job)
    assert stages(world, one) == ["photons"] and not world.rendering(two)
    (attempt,) = world.rendering(one)
    assert world.leases[attempt].rect == frame.area
    world.finish(one, attempt)
    assert [(join.kind, join.attempts) for join in joins(world)] == [("photons", (attempt,))]
    world.joined()
    assert stages(world, one) == stages(world, two) == ["final"]
    world.work_off()
    assert state(world, job) is JobState.DONE
    assert len(frame.bands) == 4
    assert frame.lights == (MAP,)


def test_photons_come_first_and_light_the_samples() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(light=BOTH, shape=SMALL))
    (shot,) = world.rendering(conn)
    assert (world.leases[shot].stage, world.leases[shot].lights) == ("photons", ())
    world.finish(conn, shot)
    world.joined()
    (gathered,) = world.rendering(conn)
    assert (world.leases[gathered].stage, world.leases[gathered].lights) == ("light", (MAP,))
    world.finish(conn, gathered)
    world.joined()
    (rendered,) = world.rendering(conn)
    assert world.leases[rendered].stage == "final"
    assert world.leases[rendered].lights == (MAP, SAMPLES)
    world.work_off()
    assert state(world, job) is JobState.DONE
    stories = [band.stage for band in frame_of(world, job).all_bands]
    assert stories == ["photons", "light", "final"]


@pytest.mark.parametrize("light", [("photons",), RADIOSITY])
def test_a_scene_in_which_no_light_is_found_gets_bands_without(light: tuple[str, ...]) -> None:
    world = World()
    conn = world.join("pi")
    kinds = tuple(kind for kind in BOTH if kind in light)
    job = world.submit(request(light=kinds, shape=SMALL))
    world.finish(conn, world.rendering(conn)[0])
    world.joined(found=False)
    (attempt,) = world.rendering(conn)
    assert (world.leases[attempt].stage, world.leases[attempt].lights) == ("final", ())
    world.work_off()
    assert state(world, job) is JobState.DONE


def test_samples_are_cut_into_as_few_pieces_as_there_are_shares() -> None:
    world = World()
    one = world.join("one", threads=3)
    world.join("two", threads=1)
    world.submit(request(light=RADIOSITY, shape=picture(64, 32 * 40)))
    (attempt,) = world.rendering(one)
    assert world.farm.attempts[attempt].band.rect.height == 32 * 30


def test_while_light_is_joined_the_nodes_get_other_jobs() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request("lit", light=RADIOSITY, shape=SMALL))
    other = world.submit(request("other", shape=SMALL))
    world.finish(conn, world.rendering(conn)[0])
    (attempt,) = world.rendering(conn)
    assert world.farm.attempts[attempt].band.frame.job.id == other


def test_the_picture_may_be_another_classs_than_its_samples() -> None:
    world = World()
    pi = world.join("pi", povray_class="arm")
    job = world.submit(request(light=RADIOSITY, shape=SMALL))
    desk = world.join("desk", threads=8, povray_class="x86")
    assert not world.rendering(desk)
    world.finish(pi, world.rendering(pi)[0])
    frame = frame_of(world, job)
    assert frame.povray_class == class_of(world, pi), "while it is joined"
    world.joined()
    assert frame.povray_class == class_of(world, desk), "the strongest begins it"
    assert world.rendering(desk) and not world.rendering(pi)


# ---------------------------------------------------------------- who can read a map


def test_a_map_is_read_by_the_povray_that_shot_it_alone_whatever_the_mix() -> None:
    world = World()
    pi = world.join("pi", povray_class="arm")
    job = world.submit(request(light=BOTH, mix="any"))
    desk = world.join("desk", threads=8, povray_class="x86")
    world.finish(pi, world.rendering(pi)[0])
    world.joined()
    assert stages(world, pi) == ["light"] and not world.rendering(desk)
    other = world.submit(request("other", mix="any"))
    assert [world.leases[attempt].job for attempt in world.rendering(desk)] == [other]
    world.work_off()
    assert state(world, job) is JobState.DONE
    assert frame_of(world, job).tile_classes == [PovrayClass("arm")]


def test_the_same_povray_with_another_canary_reads_it() -> None:
    world = World()
    one = world.join("one", povray_class=povray("3.7", 1, 2, 3))
    world.submit(request(light=("photons",), mix="any"))
    two = world.join("two", povray_class=povray("3.7", 9, 9, 9))
    world.finish(one, world.rendering(one)[0])
    world.joined()
    assert stages(world, one) == stages(world, two) == ["final"]


def test_light_that_nobody_there_can_read_is_made_anew() -> None:
    world = World()
    pi = world.join("pi", povray_class="arm")
    job = world.submit(request(light=BOTH))
    desk = world.join("desk", povray_class="x86")
    world.finish(pi, world.rendering(pi)[0])
    world.joined()
    world.gone(pi)
    assert not world.rendering(desk), "it may come back"
    world.now += 11
    world.do(ev.Tick())
    assert stages(world, desk) == ["photons"]
    frame = frame_of(world, job)
    assert frame.lights == () and {band.stage for band in frame.bands.values()} == {"photons"}
    old = {band.stage: band.state for band in frame.light_bands.values()}
    assert old == {"photons": BandState.COVERED, "light": BandState.VOID}
    back = world.join("pi", povray_class="arm")
    world.work_off()
    assert state(world, job) is JobState.DONE
    assert frame.tile_classes == [class_of(world, desk)] and not world.rendering(back)


def test_a_picture_that_has_a_tile_waits_for_those_who_can_read_its_light() -> None:
    world = World()
    pi = world.join("pi", povray_class="arm")
    job = world.submit(request(light=("photons",), wish_bands=2))
    desk = world.join("desk", povray_class="x86")
    for _ in range(2):
        world.finish(pi, world.rendering(pi)[0])
        while world.joining:
            world.joined()
    world.gone(pi, killed=True)
    world.now += 11
    world.do(ev.Tick())
    assert frame_of(world, job).uncovered and not world.rendering(desk)
    world.join("pi", povray_class="arm")
    world.work_off()
    assert state(world, job) is JobState.DONE


def test_a_shot_that_fails_is_another_nodes_to_try() -> None:
    world = World()
    one, two = world.join("one"), world.join("two")
    world.submit(request(light=("photons",)))
    (attempt,) = world.rendering(one)
    world.forget(one, attempt)
    world.do(ev.AttemptFailed(one, attempt, "node", "POV-Ray was ended by SIGKILL"))
    assert stages(world, two) == ["photons"] and not world.rendering(one)


# ---------------------------------------------------------------- the job's end


def test_light_that_cannot_be_joined_fails_the_job_and_a_late_join_changes_nothing() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(light=RADIOSITY, shape=SMALL))
    world.finish(conn, world.rendering(conn)[0])
    world.do(ev.FrameFailed(job, 0, "the disk of the head is full"))
    assert state(world, job) is JobState.FAILED
    world.joined()
    assert world.rendering(conn) == []


def test_a_job_that_is_forgotten_takes_its_light_along() -> None:
    world = World(max_jobs=1)
    world.join("pi")
    world.submit(request("old", light=BOTH))
    world.work_off()
    world.submit(request("young", shape=SMALL))
    assert len(world.farm.bands) == len(world.farm.attempts) == 1


# ---------------------------------------------------------------- the invariants hold it


def lit(world: World) -> AttemptId:
    conn = world.join("pi")
    world.submit(request())
    return world.rendering(conn)[0]


def test_a_band_with_another_light_is_caught() -> None:
    world = World()
    world.farm.attempts[lit(world)].lights = (SAMPLES,)
    with pytest.raises(InvariantBroken, match=r"(?s)^11\..*another light"):
        world.farm.check()


def test_a_band_whose_povray_cannot_read_its_light_is_caught() -> None:
    world = World()
    attempt = world.farm.attempts[lit(world)]
    attempt.lights = attempt.band.frame.lights = (replace(MAP, readers=("3.8", "")),)
    with pytest.raises(InvariantBroken, match=r"(?s)^11\..*cannot read"):
        world.farm.check()
