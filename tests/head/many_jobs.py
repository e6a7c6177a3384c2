"""Measures what a head keeps of jobs that are over: thousands through one, without POV-Ray.

    python -m tests.head.many_jobs [JOBS]    # the table of docs/reliability.md

A make-believe submitter, on a new connection for each job, sends a scene of its own; a make-believe
node delivers its tile, over real sockets, TLS and FTP. Printed are the resident memory of this
process, which is the head's and the peers', and the number of Python's memory blocks.
"""

from __future__ import annotations

import gc
import logging
import sys
import tempfile
from pathlib import Path

import psutil

from clusterray.wire import protocol as msg
from tests.head.peers import Peer, RunningHead

STEPS = 8
KEPT_JOBS = 50
KEPT_SCENE_BYTES = 200_000


def one_job(head: RunningHead, node: Peer, folder: Path, number: int) -> None:
    """Submit a job with a scene of its own and deliver its tile."""
    (folder / "scene" / "a.pov").write_text(f"sphere {{ 0, {number} }}\n")
    with Peer(head) as client:
        client.join("submit")
        client.submit(client.stage(folder / "scene"), key=f"k{number}", bands=1)
        (folder / "upload.tar").unlink()
        lease = node.hear(msg.Lease)
        node.deliver(lease)
        (folder / f"{lease.attempt}.png").unlink()
        node.hear(msg.Accepted)


def main(jobs: int) -> None:
    """Measure, and print a row for each eighth of the jobs."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        folder, process = Path(name), psutil.Process()
        (folder / "scene").mkdir()
        head = RunningHead(folder / "state", max_jobs=KEPT_JOBS, scene_store_bytes=KEPT_SCENE_BYTES)
        try:
            with Peer(head) as node:
                node.join("node")
                for number in range(1, jobs + 1):
                    one_job(head, node, folder, number)
                    if number % (jobs // STEPS) == 0:
                        gc.collect()
                        size, blocks = process.memory_info().rss, sys.getallocatedblocks()
                        sys.stdout.write(f"| {number} | {size / 1e6:.2f} MB | {blocks} |\n")
                        sys.stdout.flush()
        finally:
            head.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6000)
