"""A picture's fidelity at the head: asked of nodes, shown to people, kept beside the picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterray.core.model import Rect
from clusterray.wire import protocol as msg
from tests.head.peers import Peer, RunningHead, running_head, tile_of
from tests.head.test_light import SAMPLE, done, finish, gather, next_lease, submit_lit

CRAND = msg.Chance("crand", "a.pov", 3)
SAME = msg.ProbeView(4800, 0)
NOISY = msg.ProbeView(4800, 12, 20)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RunningHead]:
    with running_head(tmp_path / "state") as running:
        yield running


def submit(client: Peer, folder: Path, *chance: msg.Chance, bands: int | None = None) -> str:
    (folder / "scene").mkdir()
    (folder / "scene" / "a.pov").write_text("sphere { 0, 1 }\n")
    client.join("submit")
    return client.submit(client.stage(folder / "scene"), chance=list(chance), bands=bands)


def kept(head: RunningHead, job: str) -> dict[str, Any]:
    file = head.state / "results" / job / "a.png.fidelity.json"
    found = json.loads(file.read_text("ascii"))
    assert isinstance(found, dict)
    return found


def shown(client: Peer, job: str) -> msg.JobDetail:
    client.say(msg.Show(20, job))
    return client.hear(msg.JobDetail)


WaitFor = Callable[[Callable[[], bool]], None]


def test_a_late_answer_is_shown_and_written_again(
    head: RunningHead, tmp_path: Path, wait_for: WaitFor
) -> None:
    with Peer(head) as client, Peer(head) as node:
        job = submit(client, tmp_path, CRAND, bands=2)
        node.join("node")
        first = next_lease(node)
        assert first.probe
        node.announce(first, tile_of(Rect(*first.rect)))
        node.say(msg.Done(first.attempt, msg.PhaseSeconds()))
        second = next_lease(node)
        assert not second.probe
        finish(node, second, 1)
        assert done(client, job).job.fidelity == "being probed"
        assert kept(head, job)["fidelity"] == "being probed"
        node.say(msg.Probed(first.attempt, NOISY))
        wait_for(lambda: shown(client, job).job.fidelity == "noisy")
        detail = shown(client, job)
        assert (detail.probe, detail.chance) == (NOISY, [CRAND])
        assert "12 of 4,800 pixels differ" in detail.job.fidelity_reason
        assert "crand (a.pov:3)" in detail.job.fidelity_reason
        client.say(msg.ListJobs(21))
        assert client.hear(msg.Jobs).jobs[0].fidelity == "noisy"
        node.say(msg.Probed(first.attempt, SAME))
        found = kept(head, job)
    assert (found["fidelity"], found["reason"]) == ("noisy", detail.job.fidelity_reason)
    assert found["probe"] == {"pixels": 4800, "differing": 12, "largest": 20, "levels": 255}
    assert found["chance"] == [{"feature": "crand", "file": "a.pov", "line": 3}]
    assert found["povray"][0]["version"] == "3.7"
    assert (found["picture"], found["width"], found["light"]) == ("a.png", 8, None)


def test_a_node_that_goes_before_it_tells_leaves_it_untold(
    head: RunningHead, tmp_path: Path, wait_for: WaitFor
) -> None:
    with Peer(head) as client:
        job = submit(client, tmp_path, bands=1)
        with Peer(head) as node:
            node.join("node")
            finish(node, next_lease(node), 1)
            assert done(client, job).job.fidelity == "being probed"
        wait_for(lambda: shown(client, job).job.fidelity == "not probed")
        assert "a-node is away" in shown(client, job).job.fidelity_reason
        wait_for(lambda: kept(head, job)["fidelity"] == "not probed")


def test_light_of_all_bands_is_told_with_its_counts(head: RunningHead, tmp_path: Path) -> None:
    with Peer(head) as client, Peer(head) as node:
        job = submit_lit(client, tmp_path, bands=2)
        node.join("node")
        lease = gather(node, SAMPLE % 1, SAMPLE % 2)
        assert not lease.probe
        finish(node, lease, 2)
        assert done(client, job).job.fidelity == "shared light"
        found = kept(head, job)
    assert found["fidelity"] == "shared light"
    assert found["light"] == {"photons": 0, "samples": 2, "light_bands": 2, "gathers": 6}


def test_light_that_the_one_povray_says_it_used_is_believed(
    head: RunningHead, tmp_path: Path
) -> None:
    with Peer(head) as client, Peer(head) as node:
        photons = msg.Chance("photons", "a.pov", 1)
        job = submit(client, tmp_path, photons, bands=1)
        node.join("node")
        lease = next_lease(node)
        assert not lease.probe
        node.announce(lease, tile_of(Rect(*lease.rect)))
        node.say(msg.Done(lease.attempt, msg.PhaseSeconds(), used=["photons"]))
        view = done(client, job).job
    assert view.fidelity == "shared light"
    assert view.fidelity_reason == "photons, made by the one POV-Ray that rendered it"


def test_what_is_kept_goes_with_the_job(tmp_path: Path) -> None:
    with running_head(tmp_path / "state", max_jobs=1) as head, Peer(head) as client:
        job = submit(client, tmp_path, bands=1)
        with Peer(head) as node:
            node.join("node")
            finish(node, next_lease(node), 1)
            done(client, job)
            assert kept(head, job)
            scene = client.stage(tmp_path / "scene", request=30)
            other = client.submit(scene, key="k2", request=31, bands=1)
        assert other != job
        assert not (head.state / "results" / job).exists()
