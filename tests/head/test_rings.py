"""A head keeps nothing of what is over, not even until Python looks for rings.

Objects that hold each other in a ring are found only when Python's collector looks at all objects,
which it does the more seldom the more there are. Jobs and connections that ended as rings made a
head grow by thousands of them, and then leave holes in its memory.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clusterray.wire import protocol as msg
from tests.head.peers import Peer, RunningHead, download, running_head

KEPT_JOBS = 2


@contextmanager
def counting_rings() -> Iterator[Counter[str]]:
    """Gives the types of ours that were found in rings, or held by one, once the block is over."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(_named(each) for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    for name in list(found):
        if not name.startswith(("clusterray.", "ssl.", "json.", "pyftpdlib.")):
            del found[name]


def _named(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def whole_job(head: RunningHead, node: Peer, folder: Path, number: int) -> None:
    """Submit a picture that is rendered, compared, fetched and told of."""
    (folder / "scene" / "a.pov").write_text(f"sphere {{ 0, {number} }}\n")
    with Peer(head) as client:
        client.join("submit")
        scene = client.stage(folder / "scene")
        (folder / "upload.tar").unlink()
        job = client.submit(scene, key=f"k{number}", bands=1, verify=1)
        client.say(msg.Follow(3, job))
        for _ in ("the band", "and once more"):
            lease = node.hear(msg.Lease)
            node.say(msg.Progress(lease.attempt, "rendering", 1, 2))
            node.deliver(lease)
            if lease.probe:
                node.say(msg.Probed(lease.attempt, msg.ProbeView(32, 0, 0)))
            node.hear(msg.Accepted)
        while client.hear(msg.JobStatus).job.state != "done":
            pass
        client.say(msg.Fetch(4, job))
        download(head, client.hear(msg.Result).read, folder / f"{number}.png")


def test_jobs_and_connections_that_are_over_leave_no_rings(scene: Path, tmp_path: Path) -> None:
    with running_head(tmp_path / "state", max_jobs=KEPT_JOBS) as head:
        with Peer(head) as node:
            node.join("node")
            whole_job(head, node, tmp_path, 0)
        with counting_rings() as rings, Peer(head) as node:
            node.join("node")
            for number in range(1, KEPT_JOBS + 4):
                whole_job(head, node, tmp_path, number)
    assert not rings
