"""Who is asked for a probe and when, and what a job's fidelity is for what is known of it."""

from __future__ import annotations

import pytest

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.entities import Frame, Probe
from clusterray.core.fidelity import Fidelity, fidelity_of
from clusterray.core.model import AttemptId, Chance, JobId, LightKind, ProbeFound
from clusterray.core.probing import MAX_ASKED
from clusterray.core.states import JobState, ProbeState
from clusterray.core.verify import Comparison
from tests.core.world import BOTH, World, picture, request

SAME = ProbeFound(4800, 0)
NOISY = ProbeFound(4800, 12, 20)
CRAND = Chance("crand", "a.pov", 7)
RADIOSITY = Chance("radiosity", "a.pov", 2)
PHOTONS = Chance("photons", "a.pov", 3)
TALL = picture(64, 6400)


def probed(world: World) -> list[AttemptId]:
    """The attempts with whose lease a probe was asked for, oldest first."""
    return [each for each, lease in world.leases.items() if lease.probe]


def probe_of(world: World, job: JobId) -> Probe:
    probe = world.farm.jobs[job].frames[0].probe
    assert probe is not None
    return probe


def test_the_first_lease_of_the_picture_asks_and_no_other() -> None:
    world = World()
    world.join("pi")
    world.join("desk", threads=4)
    job = world.submit(request(shape=TALL, wish_bands=8))
    world.work_off()
    assert probed(world) == [next(iter(world.leases))]
    assert len(world.leases) > 4
    assert world.farm.jobs[job].state is JobState.DONE
    assert probe_of(world, job).state is ProbeState.ASKED


def test_light_bands_are_not_asked_and_shared_light_needs_no_probe() -> None:
    world = World()
    conn = world.join("pi")
    job = world.submit(request(light=("radiosity",), chance=(RADIOSITY,)))
    world.finish(conn, world.rendering(conn)[0])
    world.joined()
    assert world.rendering(conn)
    assert probed(world) == []
    assert world.farm.jobs[job].frames[0].probe is None


def test_a_light_pass_that_finds_none_leaves_the_picture_to_a_probe() -> None:
    world = World()
    conn = world.join("pi")
    world.submit(request(light=("radiosity",), chance=(RADIOSITY,)))
    world.finish(conn, world.rendering(conn)[0])
    world.joined(found=False)
    assert probed(world) == world.rendering(conn)


@pytest.mark.parametrize("word", [RADIOSITY, PHOTONS])
def test_light_that_one_node_makes_for_all_is_not_made_again_for_a_probe(word: Chance) -> None:
    world = World()
    world.join("pi")
    world.submit(request(wish_bands=1, chance=(word,)))
    assert world.leases
    assert probed(world) == []


def test_the_next_lease_asks_when_the_node_is_lost_with_its_band() -> None:
    world = World()
    pi = world.join("pi")
    world.submit(request(shape=TALL, wish_bands=8))
    desk = world.join("desk")
    assert len(probed(world)) == 1
    world.gone(pi, killed=True)
    world.finish(desk, world.rendering(desk)[0])
    assert len(probed(world)) == 1, "it may come back"
    world.now += 11
    world.do(ev.Tick())
    world.finish(desk, world.rendering(desk)[0])
    assert probed(world)[1:] == world.rendering(desk)


def test_the_next_lease_asks_when_the_node_is_lost_after_its_band() -> None:
    world = World()
    pi = world.join("pi")
    job = world.submit(request(shape=TALL, wish_bands=8))
    first = world.rendering(pi)[0]
    world.finish(pi, first)
    assert probe_of(world, job).attempt == first
    world.gone(pi)
    desk = world.join("desk")
    assert probed(world) == [first, *world.rendering(desk)]


def test_a_band_that_counts_while_its_node_is_away_takes_the_question_back() -> None:
    world = World()
    pi = world.join("pi")
    job = world.submit(request(shape=TALL, wish_bands=8))
    attempt = world.rendering(pi)[0]
    world.rendered(pi, attempt)
    world.gone(pi)
    world.do(ev.TileVerified(attempt))
    assert probe_of(world, job).state is ProbeState.DUE


def test_a_node_that_cannot_tell_hands_the_question_on_three_times() -> None:
    world = World()
    pi = world.join("pi")
    job = world.submit(request(shape=TALL, wish_bands=8))
    for _ in range(MAX_ASKED + 2):
        attempt = world.rendering(pi)[0]
        world.do(ev.Probed(pi, attempt, None, "its band was over first"))
        world.finish(pi, attempt)
    assert len(probed(world)) == MAX_ASKED
    assert probe_of(world, job).state is ProbeState.GIVEN_UP
    assert fidelity_of(world.farm.jobs[job], {}) == Fidelity(
        "not probed", "its band was over first (pi)"
    )
    world.do(ev.Probed(pi, probed(world)[0], SAME))
    assert probe_of(world, job).found == SAME, "better late than never"


def test_the_first_answer_counts_even_of_a_node_that_was_thought_lost() -> None:
    world = World()
    pi = world.join("pi")
    job = world.submit(request(shape=TALL, wish_bands=8))
    first = world.rendering(pi)[0]
    world.finish(pi, first)
    world.gone(pi)
    desk = world.join("desk")
    second = world.rendering(desk)[0]
    pi = world.join("pi")
    actions = world.do(ev.Probed(pi, first, SAME))
    assert act.NoteFidelity(job) in actions
    assert act.JobChanged(job) in actions
    assert world.do(ev.Probed(desk, second, NOISY)) == []
    assert probe_of(world, job).found == SAME
    assert world.farm.probing == {}


def test_an_answer_after_the_end_counts_and_is_noted_again() -> None:
    world = World()
    pi = world.join("pi")
    job = world.submit(request())
    world.work_off()
    assert world.log.count(act.NoteFidelity(job)) == 0
    assert fidelity_of(world.farm.jobs[job], {}).kind == "being probed"
    world.do(ev.Probed(pi, probed(world)[0], SAME))
    assert world.log.count(act.NoteFidelity(job)) == 1
    assert fidelity_of(world.farm.jobs[job], {}).kind == "exact (probed)"


def test_another_nodes_word_on_it_is_none() -> None:
    world = World()
    pi = world.join("pi")
    desk = world.join("desk")
    job = world.submit(request(shape=TALL, wish_bands=8))
    (asked,) = probed(world)
    other = desk if asked in world.rendering(pi) else pi
    assert world.do(ev.Probed(other, asked, NOISY)) == []
    assert world.do(ev.Probed(pi, AttemptId("a99"), NOISY)) == []
    assert probe_of(world, job).state is ProbeState.ASKED


def test_a_node_that_probes_for_a_cancelled_job_is_told_to_stop() -> None:
    world = World()
    pi = world.join("pi")
    job = world.submit(request(shape=TALL, wish_bands=8))
    first = world.rendering(pi)[0]
    world.finish(pi, first)
    actions = world.do(ev.JobCancelled(job, "ann"))
    dropped = [each.attempt for each in actions if isinstance(each, act.SendDrop)]
    assert first in dropped
    assert world.farm.probing == {}
    assert fidelity_of(world.farm.jobs[job], {}).kind == "not probed"


def test_a_job_that_is_forgotten_expects_no_answer() -> None:
    world = World(max_jobs=1)
    pi = world.join("pi")
    world.submit(request("k1"))
    world.work_off()
    (asked,) = probed(world)
    world.submit(request("k2"))
    assert world.farm.probing.keys() == {probed(world)[1]}
    assert world.do(ev.Probed(pi, asked, SAME)) == []


# ---------------------------------------------------------------- what it comes to


def job_with(
    *chance: Chance,
    found: ProbeFound | None = None,
    light: tuple[LightKind, ...] = (),
    bands: int = 1,
) -> tuple[World, Frame]:
    """A job that is done, with what a probe found; with light it was shared."""
    world = World()
    conn = world.join("pi")
    job = world.submit(request(chance=chance, light=light, wish_bands=bands))
    world.work_off()
    if found is not None:
        world.do(ev.Probed(conn, probed(world)[0], found))
    return world, world.farm.jobs[job].frames[0]


def used_in(frame: Frame, *words: LightKind) -> dict[AttemptId, frozenset[LightKind]]:
    accepted = [band.accepted for band in frame.bands.values() if band.accepted is not None]
    return {attempt.id: frozenset(words) for attempt in accepted}


def test_the_probe_decides_and_the_text_is_named_beside_it() -> None:
    _, frame = job_with(found=SAME)
    figures = "0 of 4,800 pixels differ between one thread and two"
    assert fidelity_of(frame.job, {}) == Fidelity("exact (probed)", figures)
    _, frame = job_with(CRAND, found=SAME)
    words = f"{figures}; its text has crand (a.pov:7)"
    assert fidelity_of(frame.job, {}) == Fidelity("exact (probed)", words)
    _, frame = job_with(CRAND, found=NOISY)
    assert fidelity_of(frame.job, {}) == Fidelity(
        "noisy",
        "12 of 4,800 pixels differ between one thread and two, by up to 20 of 255; "
        "its text has crand (a.pov:7)",
    )


def test_without_a_probe_the_text_decides_once_none_can_come() -> None:
    world, frame = job_with(CRAND)
    assert fidelity_of(frame.job, {}).kind == "being probed"
    world.gone(next(iter(world.conns)))
    found = fidelity_of(frame.job, {})
    assert found.kind == "noisy"
    assert "a.pov:7" in found.reason
    assert "not probed" in found.reason
    many = tuple(Chance("crand", "a.pov", line) for line in range(5))
    world, frame = job_with(*many)
    world.gone(next(iter(world.conns)))
    assert "crand (a.pov:2), 2 more" in fidelity_of(frame.job, {}).reason


def test_shared_light_is_a_class_of_its_own_and_noise_in_it_is_noise() -> None:
    _, frame = job_with(RADIOSITY, light=("radiosity",), bands=2)
    reason = "radiosity, gathered once for all its bands"
    assert fidelity_of(frame.job, {}) == Fidelity("shared light", reason)
    _, both = job_with(RADIOSITY, PHOTONS, light=BOTH, bands=2)
    assert fidelity_of(both.job, {}) == Fidelity(
        "shared light", "photons and radiosity, each made once for all its bands"
    )
    _, frame = job_with(RADIOSITY, CRAND, light=("radiosity",), bands=2)
    assert fidelity_of(frame.job, {}) == Fidelity(
        "noisy", f"{reason}; its text has crand (a.pov:7)"
    )


def test_a_picture_of_one_node_is_judged_by_the_light_its_povray_made() -> None:
    _, frame = job_with(PHOTONS, RADIOSITY)
    assert fidelity_of(frame.job, used_in(frame, "photons")) == Fidelity(
        "shared light", "photons, made by the one POV-Ray that rendered it"
    )
    found = fidelity_of(frame.job, used_in(frame))
    assert found.kind == "not probed"
    assert "radiosity and photons, which came to nothing" in found.reason
    assert "radiosity and photons, made" in fidelity_of(frame.job, {}).reason, "it did not say"


def test_light_that_the_text_did_not_show_and_each_band_made_anew_is_noise() -> None:
    _, frame = job_with(found=SAME, bands=3)
    found = fidelity_of(frame.job, used_in(frame, "radiosity"))
    assert found == Fidelity("noisy", "radiosity, made anew for each of its 3 bands")


def test_a_job_says_how_far_it_is_with_finding_out() -> None:
    world = World()
    job = world.submit(request(shape=TALL, wish_bands=8, chance=(CRAND,)))
    assert fidelity_of(world.farm.jobs[job], {}).reason == "no band of it has begun"
    pi = world.join("pi")
    assert fidelity_of(world.farm.jobs[job], {}).kind == "being probed"
    world.do(ev.Probed(pi, probed(world)[0], None, "too little memory"))
    assert fidelity_of(world.farm.jobs[job], {}) == Fidelity(
        "not probed", "the next band to be handed out asks for it; so far too little memory (pi)"
    )


def test_a_job_whose_last_band_renders_does_not_promise_another_to_ask_with() -> None:
    world = World()
    pi = world.join("pi")
    job = world.submit(request(wish_bands=1))
    world.do(ev.Probed(pi, probed(world)[0], None, "too little memory"))
    assert fidelity_of(world.farm.jobs[job], {}) == Fidelity("not probed", "too little memory (pi)")


def test_bands_that_differ_when_rendered_twice_are_stronger_than_a_probe() -> None:
    world = World()
    pi, desk = world.join("pi"), world.join("desk")
    job = world.submit(request(wish_bands=2, verify=1))
    world.finish(pi, world.rendering(pi)[0])
    world.finish(desk, world.rendering(desk)[0])
    (again,) = (lease for lease in world.leases.values() if lease.stage == "verify")
    assert not again.probe
    told = probed(world)[0]
    world.do(ev.Probed(world.farm.nodes[world.farm.attempts[told].node].conn or 0, told, SAME))
    assert fidelity_of(world.farm.jobs[job], {}).kind == "exact (probed)"
    world.finish(again.conn, again.attempt)
    world.do(ev.Compared(job, 0, again.band, Comparison(512, 3, (("red", 9.0),), 255.0)))
    reason = "3 of 512 pixels differ in bands that were rendered twice"
    assert fidelity_of(world.farm.jobs[job], {}) == Fidelity("noisy", reason)
