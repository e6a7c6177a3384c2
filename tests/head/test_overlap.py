"""A node that says that its band ends soon, over real sockets: it gets the next one, both count,
and people see on which jobs it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from clusterray.wire import protocol as msg
from tests.head.peers import Peer, RunningHead, running_head


@pytest.fixture
def head(nothing_left: None, tmp_path: Path) -> Iterator[RunningHead]:
    with running_head(tmp_path / "state") as running:
        yield running


def ends_soon(node: Peer, lease: msg.Lease) -> msg.Lease:
    """Say that hardly anything of a band is left; gives the next one."""
    node.say(msg.Progress(lease.attempt, "rendering", 500, 512, place=True))
    return node.hear(msg.Lease)


def test_a_node_gets_its_next_band_before_it_has_done_with_the_last(
    head: RunningHead, scene: Path
) -> None:
    with Peer(head) as client, Peer(head) as node:
        client.join("submit")
        node.join("node")
        job = client.submit(client.stage(scene), bands=2)
        first = node.hear(msg.Lease)
        second = ends_soon(node, first)
        for lease in (first, second):
            node.deliver(lease)
            assert node.hear(msg.Accepted).attempt == lease.attempt
        client.say(msg.Follow(8, job))
        while client.hear(msg.JobStatus).job.state != "done":
            pass


def test_a_node_that_comes_back_goes_on_with_both(head: RunningHead, scene: Path) -> None:
    with Peer(head) as client:
        client.join("submit")
        with Peer(head) as node:
            node.join("node")
            client.submit(client.stage(scene), bands=2)
            first = node.hear(msg.Lease)
            second = ends_soon(node, first)
        with Peer(head) as back:
            held = [first.attempt, second.attempt]
            back.join("node", node=msg.NodeInfo(2, 1, 1, "3.7", "test", rendering=held))
            keeps = {keep.attempt: keep for keep in (back.hear(msg.Keep), back.hear(msg.Keep))}
            for lease in (second, first):
                write = keeps[lease.attempt].write
                back.deliver(msgspec.structs.replace(lease, write=write))
                assert back.hear(msg.Accepted).attempt == lease.attempt


def test_people_see_both_jobs_of_a_node(head: RunningHead, scene: Path) -> None:
    with Peer(head) as client, Peer(head) as node:
        client.join("submit")
        node.join("node")
        staged = client.stage(scene)
        jobs = [client.submit(staged, f"k{number}", number, bands=1) for number in (2, 3)]
        ends_soon(node, node.hear(msg.Lease))
        client.say(msg.ListNodes(9))
        (view,) = client.hear(msg.Nodes).nodes
        assert [view.job, view.next_job] == jobs
