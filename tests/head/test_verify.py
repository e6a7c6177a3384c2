"""Bands rendered again, at the head: both tiles in, the comparison out, and the words for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterray.core import events as ev
from clusterray.core.model import JobId, Rect
from clusterray.core.states import JobState
from clusterray.core.verify import Comparison
from clusterray.head.verdicts import MAX_LINES, check_views, verdict_lines, verified_view
from clusterray.wire import protocol as msg
from tests.core.world import ALIKE, World, picture, request
from tests.head.peers import Peer, RunningHead, running_head, tile_of, wait_until_holds


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RunningHead]:
    with running_head(tmp_path / "state") as running:
        yield running


def next_lease(node: Peer) -> msg.Lease:
    """Give the next lease; what else the head says is passed over."""
    while True:
        message = node.link.receive(20)
        assert message is not None, "no lease came"
        if isinstance(message, msg.Lease):
            return message


def ended(client: Peer, job: str) -> msg.JobDetail:
    client.say(msg.Follow(9, job))
    states: list[str] = []
    while not states or states[-1] not in ("done", "failed", "cancelled"):
        states.append(client.hear(msg.JobStatus).job.state)
    assert states[-1] == "done"
    client.say(msg.Show(10, job))
    return client.hear(msg.JobDetail)


def other_tile(lease: msg.Lease) -> bytes:
    """The tile of these rows, but as if it were one row lower: each pixel's green is 1 more."""
    x0, y0, x1, y1 = lease.rect
    return tile_of(Rect(x0, y0 + 1, x1, y1 + 1))


def test_a_difference_is_told_in_words_and_figures_and_fails_nothing(
    head: RunningHead, scene: Path
) -> None:
    with Peer(head) as client, Peer(head) as desk, Peer(head) as pi:
        client.join("submit")
        desk.join("node", uuid="desk", name="desk")
        pi.join("node", uuid="pi", name="pi")
        job = client.submit(client.stage(scene), bands=1, verify=2)
        first = next_lease(desk)
        desk.deliver(first)
        again = next_lease(pi)
        assert (again.rect, again.spec, again.stage) == (first.rect, first.spec, "final")
        assert again.attempt != first.attempt
        pi.deliver(again, other_tile(again))
        detail = ended(client, job)
        line = "rows 0 to 63: 512 of 512 pixels differ between desk and pi, by up to 1 of 255"
        assert detail.job.verified == msg.VerifiedView(
            compared=1,
            pixels=512,
            differing=512,
            largest=1.0,
            lines=[
                "verified: 1 band rendered again on another node, "
                "512 of 512 pixels differ, by up to 1 of 255",
                line,
            ],
        )
        (check,) = detail.checks
        assert (check.first, check.second, check.state) == ("desk", "pi", "compared")
        assert check.largest == {"red": 0, "green": 1, "blue": 0}
        assert [band.stage for band in detail.bands] == ["final", "verify"]
        assert detail.bands[0].id == check.band
        assert (detail.job.bands_done, detail.job.error_code) == (1, 0)
        wait_until_holds(head.state / "tiles")


def test_the_second_tile_goes_when_it_is_compared(head: RunningHead, scene: Path) -> None:
    with Peer(head) as client, Peer(head) as desk, Peer(head) as pi:
        client.join("submit")
        desk.join("node", uuid="desk", name="desk")
        pi.join("node", uuid="pi", name="pi")
        job = client.submit(client.stage(scene), bands=2, verify="all")
        desk_lease, pi_lease = next_lease(desk), next_lease(pi)
        desk.deliver(desk_lease)
        pi.deliver(pi_lease)
        desk_again, pi_again = next_lease(desk), next_lease(pi)
        assert (desk_again.rect, pi_again.rect) == (pi_lease.rect, desk_lease.rect)
        pi.deliver(pi_again)
        client.say(msg.Follow(9, job))
        while True:
            view = client.hear(msg.JobStatus).job
            if view.verified is not None and view.verified.compared:
                break
        assert (view.verified.open, view.verified.lines) == (
            1,
            ["verifying: 1 of 2 bands rendered again and compared"],
        )
        wait_until_holds(head.state / "tiles", desk_lease.attempt, pi_lease.attempt)
        client.say(msg.Cancel(11, job))


def test_the_only_node_that_may_verifies_its_own_band(head: RunningHead, scene: Path) -> None:
    """Another class is there, and does not count."""
    odd = msg.NodeInfo(2, 1, 1 << 30, "3.7.0.8", "test")
    usual = msg.NodeInfo(2, 2, 1 << 30, "3.7", "test")
    with Peer(head) as client, Peer(head) as only, Peer(head) as other:
        client.join("submit")
        only.join("node", uuid="only", name="only", node=usual)
        other.join("node", uuid="odd", name="odd", node=odd)
        job = client.submit(client.stage(scene), bands=1, verify=1)
        only.deliver(next_lease(only))
        only.deliver(next_lease(only))
        verified = ended(client, job).job.verified
        assert verified is not None
        assert verified.lines == [
            "verified: 1 band rendered again by the same node (there was no other), 0 pixels differ"
        ]
        assert not isinstance(other.link.receive(0.05), msg.Lease)


def test_a_farm_whose_only_node_left_ends_the_job_unverified(tmp_path: Path, scene: Path) -> None:
    with running_head(tmp_path / "state", detached_s=0.3) as head, Peer(head) as client:
        client.join("submit")
        with Peer(head) as only:
            only.join("node")
            job = client.submit(client.stage(scene), bands=2, verify="all")
            only.deliver(next_lease(only))
            only.deliver(next_lease(only))
            next_lease(only)
        detail = ended(client, job)
        assert detail.job.verified is not None
        assert detail.job.verified.lines == [
            "not verified: 2 bands: no node that may render it was there for 0.3 s"
        ]
        assert {check.state for check in detail.checks} == {"failed"}
        client.say(msg.Fetch(12, job))
        assert client.hear(msg.Result).size > 0


# ---------------------------------------------------------------- words

NOISE = Comparison(64 * 32, 12, (("red", 3.0), ("green", 0.0), ("blue", 1.0)), 255)
DEEP = Comparison(64 * 32, 1, (("grey", 700.0),), 65535)
LIGHT = Comparison(64 * 32, 30, (("red", 0.01234), ("green", 0.0), ("blue", 0.0)), 1)


def verified(*found: Comparison | str, nodes: int = 2) -> tuple[World, JobId]:
    """A done job of as many bands, and what each comparison found."""
    world = World()
    for number in range(nodes):
        world.join(f"n{number}")
    shape = picture(64, 32 * len(found))
    job = world.submit(request(shape=shape, wish_bands=len(found), verify="all"))
    outcomes = dict(zip(range(0, 32 * len(found), 32), found, strict=True))
    while world.farm.jobs[job].open:
        for conn in list(world.conns):
            for attempt in world.rendering(conn):
                world.finish(conn, attempt)
        while world.stitching:
            world.do(ev.FrameStitched(*world.stitching.pop()))
        while world.comparing:
            outcome = outcomes[world.comparing[0].rect.y0]
            comparison = None if isinstance(outcome, str) else outcome
            asked = world.comparing.pop(0)
            reason = outcome if isinstance(outcome, str) else ""
            world.do(ev.Compared(job, 0, asked.band, comparison, reason))
    assert world.farm.jobs[job].state is JobState.DONE
    return world, job


def lines_of(*found: Comparison | str, nodes: int = 2) -> list[str]:
    world, job = verified(*found, nodes=nodes)
    return verdict_lines(world.farm.jobs[job])


def test_nothing_differs() -> None:
    assert lines_of(ALIKE, ALIKE) == [
        "verified: 2 bands rendered again on other nodes, 0 pixels differ"
    ]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (NOISE, "rows 32 to 63: 12 of 2048 pixels differ between {}, by up to 3 of 255"),
        (DEEP, "rows 32 to 63: 1 of 2048 pixels differs between {}, by up to 700 of 65535"),
        (
            LIGHT,
            "rows 32 to 63: 30 of 2048 pixels differ between {}, by up to 0.0123, where white is 1",
        ),
    ],
)
def test_a_difference_names_rows_nodes_and_measure(found: Comparison, words: str) -> None:
    first, line = lines_of(ALIKE, found)
    assert line in (words.format("n0 and n1"), words.format("n1 and n0"))
    measure = line.partition(", by ")[2]
    of_all = f"{found.differing} of 4096 pixels {'differs' if found is DEEP else 'differ'}"
    assert first == f"verified: 2 bands rendered again on other nodes, {of_all}, by {measure}"
    lone = lines_of(ALIKE, found, nodes=1)
    assert "between two renders on n0" in lone[1]


def test_what_failed_is_said_with_its_reason_and_not_counted() -> None:
    assert lines_of(ALIKE, "torn") == [
        "verified: 1 band rendered again on another node, 0 pixels differ",
        "not verified: rows 32 to 63: torn",
    ]
    assert lines_of("torn", "torn", "bent") == [
        "not verified: 2 bands: torn",
        "not verified: rows 64 to 95: bent",
    ]


def test_many_differences_are_not_all_named() -> None:
    lines = lines_of(*[NOISE] * (MAX_LINES + 3))
    assert len(lines) == MAX_LINES + 2
    assert lines[-1] == "3 bands more with differences: clusterray show j1 lists them"
    world, job = verified(*[NOISE] * (MAX_LINES + 3))
    assert len(check_views(world.farm.jobs[job])) == MAX_LINES + 3
    view = verified_view(world.farm.jobs[job])
    assert view is not None
    assert (view.differing, view.largest, view.white) == (12 * (MAX_LINES + 3), 3.0, 255)


def test_a_cancelled_job_says_nothing_of_what_it_would_have_verified() -> None:
    world = World()
    conn = world.join("n0")
    job = world.submit(request(shape=picture(64, 32), verify="all"))
    assert verified_view(world.farm.jobs[job]) is None
    world.finish(conn, world.rendering(conn)[0])
    world.do(ev.JobCancelled(job, "ann"))
    assert verdict_lines(world.farm.jobs[job]) == []
    (check,) = check_views(world.farm.jobs[job])
    assert (check.state, check.reason) == ("failed", "the job was cancelled")
