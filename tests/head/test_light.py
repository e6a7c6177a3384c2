"""The light pass at the head: samples in, checked and joined; one file out to every band."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from clusterray.core.model import Rect
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from clusterray.wire.staging import GrantRefused
from tests.head.peers import Peer, RunningHead, download, running_head, tile_of, wait_until_holds

SAMPLE = b"C1\t0.22\t54.88\t%d\t7f007f\t0.1630\t0.1151\t0.0309\t1.62431\t0.233514\t075c97\n"
MAP = struct.pack("<I", 2) + b"p" * 40 + struct.pack("<I", 0)
LIT = RenderSpec(input="a.pov", width=8, height=64, light=("radiosity",))


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RunningHead]:
    with running_head(tmp_path / "state") as running:
        yield running


def submit_lit(client: Peer, folder: Path, bands: int | None = None, spec: RenderSpec = LIT) -> str:
    (folder / "scene").mkdir()
    (folder / "scene" / "a.pov").write_text("sphere { 0, 1 }\n")
    client.join("submit")
    return client.submit(client.stage(folder / "scene"), spec=spec.to_wire(), bands=bands)


def next_lease(node: Peer) -> msg.Lease:
    """Give the next lease; what else the head says is passed over."""
    while True:
        message = node.link.receive(20)
        assert message is not None, "no lease came"
        if isinstance(message, msg.Lease):
            return message


def gather(node: Peer, *parts: bytes) -> msg.Lease:
    """Deliver the samples of each light band, and give the first lease of the picture."""
    for part in parts:
        lease = next_lease(node)
        assert (lease.stage, lease.lights) == ("light", [])
        node.deliver(lease, part)
    return next_lease(node)


def finish(node: Peer, lease: msg.Lease, count: int, gathers: int = 3) -> None:
    """Deliver ``count`` tiles, each after so many gathers."""
    for left in range(count - 1, -1, -1):
        node.announce(lease, tile_of(Rect(*lease.rect)))
        node.say(msg.Done(lease.attempt, msg.PhaseSeconds(), gathers=gathers))
        if left:
            lease = next_lease(node)


def done(client: Peer, job: str) -> msg.JobDetail:
    client.say(msg.Follow(9, job))
    while client.hear(msg.JobStatus).job.state != "done":
        pass
    client.say(msg.Show(10, job))
    return client.hear(msg.JobDetail)


def test_samples_are_joined_and_every_band_gets_the_one_file(
    head: RunningHead, tmp_path: Path
) -> None:
    with Peer(head) as client, Peer(head) as node:
        job = submit_lit(client, tmp_path, bands=2)
        node.join("node")
        parts = [SAMPLE % 1 + SAMPLE % 2, SAMPLE % 3]
        lease = gather(node, *parts)
        assert lease.stage == "final"
        (light,) = lease.lights
        whole = b"".join(parts)
        wanted = ("radiosity", hashlib.sha256(whole).hexdigest(), len(whole))
        assert (light.kind, light.sha256, light.size) == wanted
        download(head, light.read, tmp_path / "light")
        assert (tmp_path / "light").read_bytes() == whole
        finish(node, lease, 2)
        detail = done(client, job)
        assert detail.light == (
            "3 radiosity samples from 2 bands, shared by all; 6 more were gathered where none "
            "fitted: at most 512 of 512 pixels could differ with another cut"
        )
        assert [band.stage for band in detail.bands] == ["light", "light", "final", "final"]
        with pytest.raises(GrantRefused):
            download(head, light.read, tmp_path / "again")
    wait_until_holds(head.state / "tiles")


def test_without_samples_the_bands_get_no_light(head: RunningHead, tmp_path: Path) -> None:
    with Peer(head) as client, Peer(head) as node:
        job = submit_lit(client, tmp_path, bands=2)
        node.join("node")
        lease = gather(node, b"", b"")
        assert (lease.stage, lease.lights) == ("final", [])
        finish(node, lease, 2)
        assert done(client, job).light == "no radiosity in use"


BOTH = replace(LIT, light=("photons", "radiosity"), photon_files=("a.pov",))


def test_a_map_lights_the_samples_and_both_the_picture(head: RunningHead, tmp_path: Path) -> None:
    with Peer(head) as client, Peer(head) as node:
        job = submit_lit(client, tmp_path, bands=2, spec=BOTH)
        node.join("node")
        shot = next_lease(node)
        assert (shot.stage, shot.lights, shot.rect) == ("photons", [], (0, 0, 8, 64))
        node.deliver(shot, MAP)
        for part in (SAMPLE % 1, SAMPLE % 2):
            lease = next_lease(node)
            assert lease.stage == "light"
            (light,) = lease.lights
            assert (light.kind, light.sha256) == ("photons", hashlib.sha256(MAP).hexdigest())
            download(head, light.read, tmp_path / lease.attempt)
            assert (tmp_path / lease.attempt).read_bytes() == MAP
            node.deliver(lease, part)
        lease = next_lease(node)
        assert lease.stage == "final"
        assert [light.kind for light in lease.lights] == ["photons", "radiosity"]
        for light in lease.lights:
            download(head, light.read, tmp_path / light.kind)
        assert (tmp_path / "photons").read_bytes() == MAP
        assert (tmp_path / "radiosity").read_bytes() == SAMPLE % 1 + SAMPLE % 2
        finish(node, lease, 2, gathers=0)
        detail = done(client, job)
        assert detail.light == (
            "2 photons, shot once and 2 radiosity samples from 2 bands, shared by all; "
            "none had to be added"
        )
        stages = [band.stage for band in detail.bands]
        assert stages == ["photons", "light", "light", "final", "final"]
    wait_until_holds(head.state / "tiles")


def test_a_scene_without_photons_goes_on_to_its_samples(head: RunningHead, tmp_path: Path) -> None:
    with Peer(head) as client, Peer(head) as node:
        job = submit_lit(client, tmp_path, bands=2, spec=BOTH)
        node.join("node")
        node.deliver(next_lease(node), b"")
        lease = gather(node, SAMPLE % 1, SAMPLE % 2)
        assert [light.kind for light in lease.lights] == ["radiosity"]
        finish(node, lease, 2, gathers=0)
        assert done(client, job).light == (
            "2 radiosity samples from 2 bands, shared by all; none had to be added; "
            "no photons in use"
        )


@pytest.mark.parametrize("torn", [MAP[:-1], MAP + b"x", SAMPLE % 1])
def test_what_is_no_map_is_refused_and_shot_again(
    head: RunningHead, tmp_path: Path, torn: bytes
) -> None:
    with Peer(head) as client, Peer(head) as node:
        job = submit_lit(client, tmp_path, spec=BOTH)
        node.join("node")
        first = next_lease(node)
        node.deliver(first, torn)
        again = next_lease(node)
        assert (again.band, again.stage) == (first.band, "photons")
        client.say(msg.Show(3, job))
        failed, _ = client.hear(msg.JobDetail).bands[0].attempts
        assert failed.reason == "the light is no whole photon map"


def test_what_is_no_samples_is_refused_and_the_band_tried_again(
    head: RunningHead, tmp_path: Path
) -> None:
    with Peer(head) as client, Peer(head) as node:
        job = submit_lit(client, tmp_path)
        node.join("node")
        first = next_lease(node)
        node.deliver(first, SAMPLE % 1 + b"global_settings { }\n")
        again = next_lease(node)
        assert (again.band, again.stage) == (first.band, "light")
        client.say(msg.Show(3, job))
        failed, _ = client.hear(msg.JobDetail).bands[0].attempts
        assert (failed.state, failed.reason) == (
            "failed",
            "line 2 of the light is no radiosity sample",
        )


def test_one_band_alone_needs_no_light(head: RunningHead, tmp_path: Path) -> None:
    with Peer(head) as client, Peer(head) as node:
        submit_lit(client, tmp_path, bands=1)
        node.join("node")
        assert next_lease(node).stage == "final"


def test_an_older_head_or_node_refuses_what_it_cannot_light() -> None:
    wire = LIT.to_wire()
    assert wire["light"] == ["radiosity"]
    assert "light" not in RenderSpec(input="a.pov", width=8, height=64).to_wire()
    assert RenderSpec.from_wire(msgspec.json.decode(msgspec.json.encode(wire))) == LIT
