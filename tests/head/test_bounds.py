"""What one submitter may take of a head: bands, jobs, questions and messages."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from clusterray.head.client_talk import MAX_QUESTIONS
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from clusterray.wire.link import LinkClosed
from tests.head.peers import Peer, RunningHead, running_head


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    folder = tmp_path / "scene"
    folder.mkdir()
    (folder / "a.pov").write_text("sphere { 0, 1 }\n")
    return folder


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RunningHead]:
    with running_head(tmp_path / "state", max_bands=3, max_jobs_per_token=2) as running:
        yield running


def refusal_of(client: Peer, scene: str, key: str, **changes: object) -> str:
    spec = RenderSpec(input="a.pov", width=8, height=64).to_wire()
    client.say(msg.Submit(7, key, scene, spec, "a.png", **changes))  # type: ignore[arg-type]
    return client.hear(msg.Refused).message


def test_more_bands_than_the_head_bears_are_refused(head: RunningHead, scene: Path) -> None:
    with Peer(head) as client:
        client.join("submit")
        staged = client.stage(scene)
        assert "4 bands" in refusal_of(client, staged, "k", bands=4)
        assert client.submit(staged, "k", bands=3)


def test_one_token_leaves_room_for_the_jobs_of_others(head: RunningHead, scene: Path) -> None:
    with Peer(head) as client, Peer(head) as other:
        client.join("submit")
        staged = client.stage(scene)
        jobs = [client.submit(staged, f"k{n}") for n in range(2)]
        assert "max_jobs_per_token" in refusal_of(client, staged, "k2")
        # The same job again is no other one.
        assert client.submit(staged, "k1") == jobs[1]
        other.join("admin")
        assert other.submit(other.stage(scene), "k")
        client.say(msg.Cancel(9, jobs[0]))
        client.hear(msg.Ok)
        assert client.submit(staged, "k2")


def test_a_flood_of_questions_waits_at_its_own_connection(head: RunningHead) -> None:
    most = 0
    with Peer(head) as flooder, Peer(head) as other:
        flooder.join("submit")
        other.join("admin")
        stop = threading.Event()
        thread = threading.Thread(target=flood, args=(flooder, stop))
        thread.start()
        for number in range(50):
            other.say(msg.ListJobs(number))
            assert other.hear(msg.Jobs).request == number
            most = max(most, head.head._manager._inbox.qsize())
        stop.set()
        thread.join()
    assert most <= MAX_QUESTIONS + 1


def flood(peer: Peer, stop: threading.Event) -> None:
    """Ask without end, reading answers so as not to be dropped for that."""
    with suppress(LinkClosed, socket.error):
        while not stop.is_set():
            for number in range(100):
                peer.link.send(msg.ListNodes(number))
            while not stop.is_set() and peer.link.receive(0.01) is not None:
                pass
