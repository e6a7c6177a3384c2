"""A picture's preview at the head: asked of nodes, shown before there is any tile."""

from __future__ import annotations

import http.client
import io
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from clusterray.head import node_talk
from clusterray.images.glimpse import pack_glimpse
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from tests.head.peers import Peer, RunningHead, running_head
from tests.head.test_light import next_lease

WIDTH, HEIGHT = 160, 128
GREEN, BLUE, RED = (0, 200, 0), (0, 0, 200), (200, 0, 0)
WaitFor = Callable[[Callable[[], bool]], None]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RunningHead]:
    with running_head(tmp_path / "state") as running:
        yield running


def submit(client: Peer, folder: Path, bands: int | None = None) -> str:
    (folder / "scene").mkdir()
    (folder / "scene" / "a.pov").write_text("sphere { 0, 1 }\n")
    client.join("submit")
    spec = RenderSpec(input="a.pov", width=WIDTH, height=HEIGHT)
    return client.submit(client.stage(folder / "scene"), spec=spec.to_wire(), bands=bands)


def small(colour: tuple[int, ...], size: tuple[int, int] = (10, 8)) -> bytes:
    return pack_glimpse(Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour), 1 << 16)


def looks(head: RunningHead, job: str, at: tuple[int, int]) -> object:
    """Give the colour that the head's page shows of a pixel, None while it shows nothing."""
    page = http.client.HTTPSConnection(
        "127.0.0.1", head.ready.http, context=ssl._create_unverified_context()
    )
    token = (head.state / "submit.token").read_text().strip()
    page.request("GET", f"/preview/{job}.png", headers={"Authorization": f"Bearer {token}"})
    with page.getresponse() as answer:
        png = answer.read()
        found = answer.status == 200
    page.close()
    return Image.open(io.BytesIO(png)).convert("RGB").getpixel(at) if found else None


def view_of(client: Peer, job: str) -> msg.JobView:
    client.say(msg.Show(20, job))
    return client.hear(msg.JobDetail).job


def test_a_scouts_picture_is_shown_and_blocks_over_it(
    head: RunningHead, tmp_path: Path, wait_for: WaitFor
) -> None:
    with Peer(head) as client, Peer(head) as node:
        job = submit(client, tmp_path)
        node.join("node")
        lease = next_lease(node)
        assert lease.scout
        assert lease.live > 0
        assert not view_of(client, job).previewed
        node.say(msg.Scouted(lease.attempt, small(GREEN), 2, [1.0, 3.0], 0.25))
        wait_for(lambda: looks(head, job, (80, 20)) == GREEN)
        assert (view_of(client, job).previewed, view_of(client, job).parse_s) == (True, 0.25)
        node.say(msg.Blocks(lease.attempt, (0, 0, 64, 32), small(BLUE)))
        wait_for(lambda: looks(head, job, (30, 20)) == BLUE)
        assert looks(head, job, (80, 20)) == GREEN
        node.say(msg.Scouted(lease.attempt, small(RED), 2, [1.0, 3.0], 0.25))
        wait_for(lambda: looks(head, job, (80, 20)) == RED)
        assert looks(head, job, (30, 20)) == BLUE, "blocks are better than what a scout saw"
        node.deliver(lease)
        node.hear(msg.Accepted)
        wait_for(lambda: looks(head, job, (80, 20)) not in (RED, None))


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(lambda a: msg.Scouted(a, b"GIF89a", 2, [1.0]), id="no picture, no grid"),
        pytest.param(lambda a: msg.Scouted("a9", small(GREEN)), id="another's attempt"),
        pytest.param(lambda a: msg.Blocks(a, (0, 0, 999, 32), small(GREEN)), id="outside"),
        pytest.param(lambda a: msg.Blocks(a, (9, 9, 9, 9), small(GREEN)), id="no pixels"),
        pytest.param(lambda a: msg.Blocks(a, (0, 0, 9, 9), b"\x89PNG"), id="torn"),
    ],
)
def test_what_cannot_be_shown_harms_nobody(
    head: RunningHead,
    tmp_path: Path,
    wait_for: WaitFor,
    said: Callable[[str], msg.Message],
) -> None:
    with Peer(head) as client, Peer(head) as node:
        job = submit(client, tmp_path)
        node.join("node")
        lease = next_lease(node)
        node.say(said(lease.attempt))
        node.say(msg.Scouted(lease.attempt, small(BLUE)))
        wait_for(lambda: looks(head, job, (80, 20)) == BLUE)


def test_a_node_that_shows_too_much_is_not_looked_at(
    head: RunningHead, tmp_path: Path, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_talk, "GLIMPSES_S", 1e9)
    with Peer(head) as client, Peer(head) as node:
        job = submit(client, tmp_path)
        node.join("node")
        lease = next_lease(node)
        for _ in range(node_talk.MOST_GLIMPSES):
            node.say(msg.Blocks(lease.attempt, (0, 0, 64, 32), small(BLUE)))
        node.say(msg.Blocks(lease.attempt, (0, 0, 64, 32), small(RED)))
        node.say(msg.Scouted(lease.attempt, small(GREEN)))
        wait_for(lambda: looks(head, job, (80, 60)) == GREEN)
        assert looks(head, job, (30, 20)) == BLUE


def test_an_older_node_is_not_waited_for_and_works_on(
    head: RunningHead, tmp_path: Path, wait_for: WaitFor
) -> None:
    with Peer(head) as client, Peer(head) as old, Peer(head) as new:
        submit(client, tmp_path, bands=2)
        assert old.join("node", protocol=(1, 1), uuid="old").protocol == 1
        first = next_lease(old)
        assert first.scout
        new.join("node", uuid="new")
        assert next_lease(new).scout, "the next lease asks"
        old.deliver(first)
        old.hear(msg.Accepted)
