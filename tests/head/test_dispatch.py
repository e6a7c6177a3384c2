"""A crowd of make-believe nodes at a real head: every band once, and nothing stays behind."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from clusterray.core.model import Rect
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from tests.head.peers import Peer, running_head, tile_of, wait_until_holds

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from crowd import Crowd, Tile, Way  # noqa: E402  (needs the path above)

NODES = 64
BANDS = 1000
JOBS = 2
MOST_S = 100.0


def test_many_nodes_get_every_band_once_and_nothing_is_left(
    scene: Path,
    tmp_path: Path,
    nothing_left: None,
    wait_for: Callable[[Callable[[], bool]], None],
) -> None:
    made = tmp_path / "tile.png"
    made.write_bytes(tile_of(Rect(0, 0, 8, 32)))
    state = tmp_path / "state"

    def place(attempt: str) -> None:
        os.link(made, state / "incoming" / f"{attempt}.part")

    tile = Tile(made.stat().st_size, hashlib.sha256(made.read_bytes()).hexdigest(), place)
    with running_head(state) as head, Peer(head) as client:
        client.join("submit")
        staged = client.stage(scene)
        spec = RenderSpec(input="a.pov", width=8, height=32 * BANDS).to_wire()
        for number in range(JOBS):
            client.submit(staged, key=f"k{number}", request=10 + number, spec=spec, bands=BANDS)
        token = head.token("node")
        way = Way(token.host, token.port, token.secret, token.fingerprint)
        with closing(Crowd(way, NODES, tile, text="What POV-Ray says.\n")) as crowd:
            crowd.run(lambda: crowd.accepted == JOBS * BANDS, MOST_S)
            assert set(crowd.leased.values()) == {1}
            assert len(crowd.leased) == JOBS * BANDS
            assert crowd.dropped == 0

        def jobs() -> list[msg.JobView]:
            client.say(msg.ListJobs(50))
            return client.hear(msg.Jobs).jobs

        wait_for(lambda: {job.state for job in jobs()} == {"done"})
        assert {job.bands_done for job in jobs()} == {BANDS}
        wait_until_holds(state / "tiles")
        wait_until_holds(state / "incoming")
