"""The whole head over real sockets and FTP, with make-believe nodes and clients."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from clusterray.core.errors import LocalFault
from clusterray.core.model import Rect
from clusterray.head.server import Head
from clusterray.head.settings import HeadSettings
from clusterray.images import exr
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from clusterray.wire.link import LinkClosed
from clusterray.wire.manifest import build_manifest, scene_id
from clusterray.wire.staging import GrantRefused, StagingFault
from clusterray.wire.trust import JoinToken
from tests.head.peers import (
    Peer,
    RunningHead,
    download,
    running_head,
    tile_of,
    upload,
    wait_until_holds,
)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RunningHead]:
    with running_head(tmp_path / "state") as running:
        yield running


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    folder = tmp_path / "scene"
    (folder / "parts").mkdir(parents=True)
    (folder / "a.pov").write_text("sphere { 0, 1 }\n")
    (folder / "parts" / "b.inc").write_text("// nothing\n")
    return folder


def finish(node: Peer, client: Peer, job: str) -> msg.JobView:
    """Let the node deliver everything; give the job as its follower last sees it."""
    client.say(msg.Follow(9, job))
    delivered = 0
    while True:
        message = node.link.receive(0.05)
        if isinstance(message, msg.Lease):
            node.deliver(message)
            delivered += 1
        status = client.link.receive(0.05)
        if isinstance(status, msg.JobStatus) and status.job.state in ("done", "failed"):
            assert delivered
            return status.job


# ---------------------------------------------------------------- the door


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"secret": "wrong"}, "not valid"),
        ({"role": "submit", "node": None}, "a token for node, not for submit"),
        ({"protocol": (99, 100)}, "update the head"),
        ({"protocol": (0, 0)}, "update a-node"),
        ({"node": None}, "must say what it can do"),
    ],
)
def test_who_is_not_let_in_is_told_why(
    head: RunningHead, changes: dict[str, object], words: str
) -> None:
    with Peer(head) as peer:
        peer.say(peer.hello("node", **changes))
        bye = peer.hear(msg.Bye)
        assert words in bye.reason
        assert not bye.retry
        with pytest.raises(LinkClosed):
            peer.link.receive(5)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", struct.pack(">I", 5) + b"hello", struct.pack(">I", 2) + b"{}"],
)
def test_strangers_cost_nobody_anything(head: RunningHead, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", head.ready.control), 5) as stranger:
        stranger.sendall(data)
        assert b"bye" in stranger.recv(4096)
    with Peer(head) as peer:
        assert peer.join("submit").farm


def test_a_node_may_not_speak_as_a_client(head: RunningHead) -> None:
    with Peer(head) as peer:
        peer.join("node")
        peer.say(msg.ListJobs(1))
        assert "ListJobs is not for a node" in peer.hear(msg.Bye).reason


def test_only_an_admin_sees_tokens_and_a_revoked_one_ends_its_connections(
    head: RunningHead,
) -> None:
    with Peer(head) as client, Peer(head) as admin, Peer(head) as other:
        client.join("submit")
        client.say(msg.ListTokens(1))
        assert "admin" in client.hear(msg.Refused).message
        admin.join("admin")
        admin.say(msg.MakeToken(1, "submit", "class 7b"))
        made = admin.hear(msg.TokenMade)
        other.join("submit", secret=JoinToken.decode(made.token).secret, uuid="other")
        admin.say(msg.RevokeToken(2, made.id))
        assert "class 7b" in admin.hear(msg.Ok).text
        assert "revoked" in other.hear(msg.Bye).reason


def test_a_canary_that_is_not_what_its_hash_says_is_not_let_in(head: RunningHead) -> None:
    with Peer(head) as peer:
        lying = node_info(bytes(9216), canary_sha256="0" * 64)
        peer.say(peer.hello("node", node=lying))
        assert "not those of its hash" in peer.hear(msg.Bye).reason


# ---------------------------------------------------------------- alike nodes


CANARY = bytes([128]) * 9216
CLOSE = bytes([129, 128, 127]) + CANARY[3:]
APART = bytes([131, 128, 128] * 12) + CANARY[36:]


def node_info(canary: bytes, **changes: object) -> msg.NodeInfo:
    values: dict[str, object] = {
        "cores": 2,
        "threads": 1,
        "memory_bytes": 1 << 30,
        "povray_version": "3.7",
        "povray_build": "test",
        "canary_sha256": hashlib.sha256(canary).hexdigest(),
        "includes_sha256": "1" * 64,
        "canary": canary,
    }
    return msg.NodeInfo(**{**values, **changes})  # type: ignore[arg-type]


def test_people_are_told_who_differs_and_how(head: RunningHead) -> None:
    kinds = {
        "most": node_info(CANARY, threads=2),
        "older": node_info(CANARY, povray_version="3.7.0.8", includes_sha256="2" * 64),
        "other": node_info(APART),
        "silent": msg.NodeInfo(2, 1, 1 << 30, "3.7", "test"),
    }
    with ExitStack() as stack:
        for name, info in kinds.items():
            peer = stack.enter_context(Peer(head))
            peer.join("node", uuid=f"uuid-{name}", name=name, node=info)
        client = stack.enter_context(Peer(head))
        client.join("submit")
        client.say(msg.ListNodes(1))
        views = {view.name: view for view in client.hear(msg.Nodes).nodes}
    assert {name: view.differs for name, view in views.items()} == {
        "most": "",
        "older": "differs from most: other POV-Ray 3.7.0.8, other include files",
        "other": "differs from most: canary differs by up to 3/255 in 12 pixels",
        "silent": "differs from most: no canary to compare",
    }
    assert views["most"].canary_sha256 == kinds["most"].canary_sha256
    assert views["older"].includes_sha256 == "2" * 64
    assert (views["silent"].canary_sha256, views["silent"].povray_build) == (None, "test")


@pytest.mark.parametrize(
    ("mix", "canary", "says"),
    [
        ("never", CLOSE, ""),
        ("close", APART, ""),
        (
            "close",
            CLOSE,
            "mixed: tiles of 2 kinds of POV-Ray are in the picture; "
            "their canaries differ by up to 1/255 in 1 pixel",
        ),
        (
            "any",
            APART,
            "mixed: tiles of 2 kinds of POV-Ray are in the picture; "
            "their canaries differ by up to 3/255 in 12 pixels",
        ),
    ],
)
def test_a_frame_is_of_one_kind_unless_its_job_says_otherwise(
    head: RunningHead, scene: Path, mix: str, canary: bytes, says: str
) -> None:
    spec = RenderSpec(input="a.pov", width=8, height=256)
    with Peer(head) as client, Peer(head) as first, Peer(head) as second:
        client.join("submit")
        first.join("node", uuid="first", node=node_info(CANARY, threads=2))
        second.join("node", uuid="second", node=node_info(canary))
        job = client.submit(client.stage(scene), spec=spec.to_wire(), bands=2, mix=mix)
        lease = first.hear(msg.Lease)
        if says:
            second.deliver(second.hear(msg.Lease))
            first.deliver(lease)
        else:
            first.deliver(lease)
            first.deliver(first.hear(msg.Lease))
        client.say(msg.Follow(9, job))
        while (view := client.hear(msg.JobStatus).job).state != "done":
            pass
        assert (view.mix, view.mixed) == (mix, says)
        if not says:
            assert not isinstance(second.link.receive(0.05), msg.Lease)


def test_a_job_that_waits_for_its_kind_says_for_which(head: RunningHead, scene: Path) -> None:
    spec = RenderSpec(input="a.pov", width=8, height=256)
    with Peer(head) as client, Peer(head) as other:
        client.join("submit")
        with Peer(head) as only:
            only.join("node", uuid="only", node=node_info(CANARY, threads=2))
            other.join("node", uuid="other", node=node_info(APART))
            job = client.submit(client.stage(scene), spec=spec.to_wire(), bands=2)
            only.deliver(only.hear(msg.Lease))
            left = only.hear(msg.Lease)
            only.say(msg.Draining())
            only.say(msg.HandBack(left.attempt, "upgraded"))
        client.say(msg.Follow(9, job))
        while not (view := client.hear(msg.JobStatus).job).note:
            pass
        digest = hashlib.sha256(CANARY).hexdigest()
        wanted = f"POV-Ray 3.7 test, canary {digest[:8]}, include files 11111111"
        assert view.note == f"waits for a node with {wanted}"


# ---------------------------------------------------------------- a job's way


def test_a_job_from_offer_to_fetch(head: RunningHead, scene: Path, tmp_path: Path) -> None:
    with Peer(head) as client, Peer(head) as node:
        client.join("submit")
        node.join("node")
        job = client.submit(client.stage(scene))
        view = finish(node, client, job)
        assert (view.state, view.pixels_done, view.pixels_total) == ("done", 512, 512)
        client.say(msg.Fetch(10, job))
        result = client.hear(msg.Result)
        download(head, result.read, tmp_path / "out.png")
        with Image.open(tmp_path / "out.png") as picture:
            assert picture.getpixel((3, 60)) == (3, 60, 7)
        wait_until_holds(head.state / "tiles")
        assert not list((head.state / "incoming").iterdir())


def test_a_scene_known_already_is_not_sent_again(head: RunningHead, scene: Path) -> None:
    with Peer(head) as client:
        client.join("submit")
        client.stage(scene)
    (scene / "c.inc").write_text("// new\n")
    with Peer(head) as client:
        client.join("submit")
        entries_needed = _needed(client, scene)
        assert entries_needed == ["c.inc"]


def _needed(client: Peer, folder: Path) -> list[str]:
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    entries = build_manifest(folder, names)
    client.say(msg.Offer(1, scene_id(entries), len(entries), 100, 1))
    client.say(msg.Manifest(1, 0, entries))
    need = client.hear(msg.Need)
    return [entries[i].path for start, end in need.ranges for i in range(start, end)]


def test_the_same_submit_twice_is_one_job(head: RunningHead, scene: Path) -> None:
    with Peer(head) as client:
        client.join("submit")
        staged = client.stage(scene)
        job = client.submit(staged, key="once")
        assert client.submit(staged, key="once", request=3) == job
        client.say(msg.ListJobs(4))
        assert [view.id for view in client.hear(msg.Jobs).jobs] == [job]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output_name": "../x.png"}, "plain file name"),
        ({"output_name": ".png"}, "plain file name"),
        ({"output_name": "a\n.png"}, "plain file name"),
        ({"output_name": "ü" * 120 + ".png"}, "at most 200 bytes"),
        ({"spec": {}}, "settings are not valid"),
        ({"scene": "f" * 64}, "offer it first"),
    ],
)
def test_a_job_that_cannot_be_is_refused_in_words(
    head: RunningHead, scene: Path, changes: dict[str, object], words: str
) -> None:
    with Peer(head) as client:
        client.join("submit")
        staged = client.stage(scene)
        good = msg.Submit(2, "k", staged, _spec(), "a.png")
        client.say(msgspec.structs.replace(good, **changes))
        refused = client.hear(msg.Refused)
        assert words in refused.message
        assert refused.code == 3


def test_a_format_that_this_head_cannot_write_is_refused_before_it_is_rendered(
    head: RunningHead, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exr, "is_supported", lambda: False)
    with Peer(head) as client:
        client.join("submit")
        staged = client.stage(scene)
        halves = RenderSpec(input="a.pov", width=8, height=64, file_type="E", bits=16).to_wire()
        client.say(msg.Submit(2, "k", staged, halves, "a.exr"))
        assert "pip install 'clusterray[head]'" in client.hear(msg.Refused).message
        wide = RenderSpec(input="a.pov", width=65_501, height=1, file_type="J").to_wire()
        client.say(msg.Submit(3, "k", staged, wide, "a.jpg"))
        assert "JPEG file has at most 65500" in client.hear(msg.Refused).message


def _spec() -> dict[str, object]:
    return RenderSpec(input="a.pov", width=8, height=64).to_wire()


def test_limits_of_this_head_are_told(tmp_path: Path, scene: Path) -> None:
    limits = {"max_pixels": 100, "max_scene_files": 2}
    with running_head(tmp_path / "s", **limits) as head, Peer(head) as client:
        client.join("submit")
        client.say(msg.Offer(1, "0" * 64, 3, 10, 1))
        assert "max_scene_files" in client.hear(msg.Refused).message
        staged = client.stage(scene, request=2)
        client.say(msg.Submit(3, "k", staged, _spec(), "a.png"))
        assert "max_pixels" in client.hear(msg.Refused).message


def test_an_unknown_job_is_refused_with_three(head: RunningHead) -> None:
    with Peer(head) as client:
        client.join("submit")
        for question in (msg.Follow(1, "j9"), msg.Fetch(2, "j9"), msg.Cancel(3, "j9")):
            client.say(question)
            refused = client.hear(msg.Refused)
            assert (refused.code, refused.request) == (3, question.request)


def test_cancel_drops_the_band_and_ends_its_logins(head: RunningHead, scene: Path) -> None:
    with Peer(head) as client, Peer(head) as node:
        client.join("submit")
        node.join("node")
        job = client.submit(client.stage(scene))
        lease = node.hear(msg.Lease)
        client.say(msg.Cancel(5, job))
        client.hear(msg.Ok)
        assert node.hear(msg.Drop).attempt == lease.attempt
        with pytest.raises((GrantRefused, StagingFault)):
            upload(head, lease.write, scene / "a.pov")
        node.say(msg.Done(lease.attempt, msg.PhaseSeconds()))
        assert node.hear(msg.Drop).attempt == lease.attempt


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize(
    "tile",
    [b"not a picture", tile_of(Rect(0, 0, 8, 3)), tile_of(Rect(0, 0, 8, 64))[:-30]],
    ids=["no picture", "short", "torn"],
)
def test_what_is_no_tile_is_refused_and_the_band_goes_out_again(
    head: RunningHead, scene: Path, tile: bytes
) -> None:
    with Peer(head) as client, Peer(head) as node:
        client.join("submit")
        node.join("node")
        job = client.submit(client.stage(scene), bands=1)
        first = node.hear(msg.Lease)
        node.deliver(first, tile)
        assert node.hear(msg.Drop).attempt == first.attempt
        again = node.hear(msg.Lease)
        assert (again.band, again.rect) == (first.band, first.rect)
        assert again.attempt != first.attempt
        node.deliver(again)
        node.hear(msg.Accepted)
        client.say(msg.Show(7, job))
        detail = client.hear(msg.JobDetail)
        states = [attempt.state for attempt in detail.bands[0].attempts]
        assert states == ["failed", "accepted"]
        assert detail.bands[0].attempts[0].reason


def test_a_tile_that_is_not_the_announced_file_is_asked_for_again(
    head: RunningHead, scene: Path
) -> None:
    with Peer(head) as client, Peer(head) as node:
        client.join("submit")
        node.join("node")
        client.submit(client.stage(scene), bands=1)
        lease = node.hear(msg.Lease)
        data = tile_of(Rect(*lease.rect))
        node.say(msg.Uploading(lease.attempt, len(data), "0" * 64, msg.PhaseSeconds()))
        path = head.state.parent / "tile.png"
        path.write_bytes(data)
        upload(head, lease.write, path)
        node.say(msg.Done(lease.attempt, msg.PhaseSeconds()))
        keep = node.hear(msg.Keep)
        assert keep.write.password != lease.write.password
        node.deliver(msgspec.structs.replace(lease, write=keep.write))
        assert node.hear(msg.Accepted).attempt == lease.attempt


def test_an_upload_is_cut_off_at_what_its_own_node_announced(
    head: RunningHead, scene: Path, tmp_path: Path
) -> None:
    with Peer(head) as client, Peer(head) as node, Peer(head) as other:
        client.join("submit")
        node.join("node")
        other.join("node", uuid="other", name="other")
        client.submit(client.stage(scene), bands=1)
        lease = node.hear(msg.Lease)
        digest = hashlib.sha256(b"x").hexdigest()
        other.say(msg.Uploading(lease.attempt, 1, digest, msg.PhaseSeconds()))
        assert other.hear(msg.Drop).attempt == lease.attempt
        tile = tile_of(Rect(*lease.rect))
        node.say(msg.Uploading(lease.attempt, len(tile), digest, msg.PhaseSeconds()))
        path = tmp_path / "tile.png"
        path.write_bytes(tile + b"x")
        with pytest.raises(StagingFault, match=f"552 More than the {len(tile)} bytes"):
            # Not before the head has heard what was announced, on the other connection.
            while True:
                upload(head, lease.write, path)
        node.deliver(lease)
        assert node.hear(msg.Accepted).attempt == lease.attempt


def test_a_whole_tile_counts_though_its_node_never_said_done(
    head: RunningHead, scene: Path
) -> None:
    with Peer(head) as client:
        client.join("submit")
        with Peer(head) as node:
            node.join("node")
            job = client.submit(client.stage(scene), bands=1)
            node.announce(node.hear(msg.Lease))
        client.say(msg.Follow(8, job))
        while client.hear(msg.JobStatus).job.state != "done":
            pass


def test_a_node_that_comes_back_keeps_its_band_with_a_fresh_login(
    head: RunningHead, scene: Path
) -> None:
    with Peer(head) as client:
        client.join("submit")
        with Peer(head) as node:
            node.join("node")
            client.submit(client.stage(scene), bands=1)
            lease = node.hear(msg.Lease)
        with Peer(head) as back:
            info = msg.NodeInfo(2, 1, 1, "3.7", "test", rendering=[lease.attempt, "a0-stale"])
            back.join("node", node=info)
            answers = {message.attempt: message for message in _two(back)}
            keep = answers[lease.attempt]
            assert isinstance(keep, msg.Keep)
            assert isinstance(answers["a0-stale"], msg.Drop)
            assert keep.write.password != lease.write.password
            back.deliver(msgspec.structs.replace(lease, write=keep.write))
            assert back.hear(msg.Accepted).attempt == lease.attempt


def _two(peer: Peer) -> list[msg.Keep | msg.Drop]:
    heard = [peer.link.receive(10), peer.link.receive(10)]
    return [message for message in heard if isinstance(message, msg.Keep | msg.Drop)]


def test_a_second_hello_of_a_node_takes_over(head: RunningHead) -> None:
    with Peer(head) as first, Peer(head) as second:
        first.join("node")
        second.join("node")
        assert "took over" in first.hear(msg.Bye).reason


def test_a_scenes_fault_reaches_the_follower_with_file_and_line(
    head: RunningHead, scene: Path
) -> None:
    with Peer(head) as client, Peer(head) as node:
        client.join("submit")
        node.join("node")
        job = client.submit(client.stage(scene))
        lease = node.hear(msg.Lease)
        words = "Parse Error: Undeclared identifier."
        node.say(msg.Failed(lease.attempt, "scene", words, "a.pov", 1, "the tail"))
        client.say(msg.Follow(8, job))
        view = client.hear(msg.JobStatus).job
        while view.state != "failed":
            view = client.hear(msg.JobStatus).job
        assert (view.error, view.error_file, view.error_line) == (words, "a.pov", 1)
        assert (view.error_code, view.error_text) == (4, "the tail")


def test_a_silent_node_is_lost_and_its_band_goes_to_another(tmp_path: Path, scene: Path) -> None:
    with (
        running_head(tmp_path / "s", silent_s=1.0, detached_s=0.1) as head,
        Peer(head) as client,
        Peer(head) as silent,
        Peer(head) as other,
    ):
        client.join("submit")
        silent.join("node")
        client.submit(client.stage(scene), bands=1)
        lease = silent.hear(msg.Lease)
        other.join("node", uuid="other", name="other")
        message: msg.AnyMessage | None = None
        while not isinstance(message, msg.Lease):
            client.link.service()
            message = other.link.receive(0.2)
        assert message.band == lease.band


# ---------------------------------------------------------------- start and stop


def test_a_port_in_use_is_a_fault_in_words_and_leaves_nothing_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        head = Head(HeadSettings(tmp_path / "s", port=port))
        with pytest.raises(LocalFault, match=f"127.0.0.1:{port}"):
            head.start()


def test_a_second_head_on_the_same_folder_is_told_who_has_it(tmp_path: Path) -> None:
    words = rf"another head \(pid {os.getpid()}\) uses the state folder"
    with running_head(tmp_path / "state"), pytest.raises(LocalFault, match=words):
        Head(HeadSettings(tmp_path / "state")).start()


def test_job_numbers_are_never_used_twice_on_one_folder(tmp_path: Path, scene: Path) -> None:
    for expected in ("j1", "j2"):
        with running_head(tmp_path / "state") as head, Peer(head) as client, Peer(head) as node:
            client.join("submit")
            node.join("node")
            job = client.submit(client.stage(scene), key=f"key-of-{expected}")
            assert job == expected
            finish(node, client, job)
