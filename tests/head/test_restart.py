"""A head whose store fails or is handed on: what people and nodes are told, and what is kept."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterray.core.errors import LocalFault
from clusterray.core.model import Rect
from clusterray.head import task_manager
from clusterray.head.memory import Memory
from clusterray.head.server import Head
from clusterray.head.settings import HeadSettings
from clusterray.head.store import StoreFault
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from tests.head.peers import Peer, RunningHead, dial, running_head, tile_of, upload
from tests.node.machines import small_disk


def jobs(client: Peer) -> list[tuple[str, str]]:
    client.say(msg.ListJobs(50))
    return [(job.id, job.state) for job in client.hear(msg.Jobs).jobs]


def test_a_head_that_cannot_commit_takes_nothing_new_and_goes_on_once_it_can(
    tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk is full: what was accepted stays so, nobody is told of what is not stored."""
    monkeypatch.setattr(task_manager, "STORE_AGAIN_S", 0.2)
    with (
        small_disk(tmp_path / "disk", "4m") as disk,
        running_head(disk.path / "state") as head,
        Peer(head) as client,
    ):
        client.join("submit")
        staged = client.stage(scene)
        with Peer(head) as node:
            node.join("node")
            client.submit(staged, bands=2)
            node.deliver(node.hear(msg.Lease))
            node.hear(msg.Lease)
            node.hear(msg.Accepted)
            hog = disk.fill()
            refused = _submit_until_refused(client, staged)
            assert refused.code == LocalFault.exit_code
            assert "farm.db cannot be written" in refused.message
            assert "try again when it has been seen to" in refused.message
            bye = _farewell(node)
            assert (bye.retry, "come again" in bye.reason) == (True, True)
        assert ("j1", "running") in jobs(client)
        with Peer(head) as early:
            early.say(early.hello("node"))
            bye = _farewell(early)
            assert (bye.retry, "come again" in bye.reason) == (True, True)
        client.say(msg.Cancel(60, "j1"))
        assert "cannot take this now" in client.hear(msg.Refused).message
        hog.unlink()
        _try_until_accepted(client, staged)
        # What was accepted before is there still: one band of the first job is left.
        assert jobs(client)[-1] == ("j1", "running")
        with Peer(head) as node:
            node.join("node")
            assert node.hear(msg.Lease).job == "j1"


def test_whoever_asked_as_a_commit_failed_is_answered(
    tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question by what is stored, an order and a scene that comes by a sentence."""
    commit = Memory.commit
    broken = False

    def fail_while_broken(memory: Memory) -> None:
        if broken:
            raise StoreFault("the store cannot be written: it is broken")
        commit(memory)

    monkeypatch.setattr(task_manager, "STORE_AGAIN_S", 0.02)
    monkeypatch.setattr(Memory, "commit", fail_while_broken)
    with running_head(tmp_path / "state") as head, Peer(head) as client:
        client.join("submit")
        job = client.submit(client.stage(scene))
        broken = True
        assert jobs(client) == [(job, "queued")]
        broken = False
        assert jobs(client) == [(job, "queued")]
        broken = True
        client.say(msg.Cancel(61, job))
        assert "it is broken" in client.hear(msg.Refused).message
        broken = False
        assert jobs(client) == [(job, "queued")]
        broken = True
        (scene / "a.pov").write_text("sphere { 1, 1 }\n")
        with pytest.raises(AssertionError, match="the head cannot take a scene now"):
            client.stage(scene, request=62)
        broken = False
        assert jobs(client) == [(job, "queued")]


def _submit_until_refused(client: Peer, scene: str) -> msg.Refused:
    """Until the room in the files that there are is used up."""
    for number in range(1000):
        client.say(_submission(scene, f"more-{number}", 100 + number))
        answer = _answer(client)
        if isinstance(answer, msg.Refused):
            return answer
    raise AssertionError("the disk never was full")


def _try_until_accepted(client: Peer, scene: str) -> None:
    give_up_at, request = time.monotonic() + 20, 2000
    while time.monotonic() < give_up_at:
        request += 1
        client.say(_submission(scene, "later", request))
        if isinstance(_answer(client), msg.Submitted):
            return
    raise AssertionError("the head never recovered")


def _submission(scene: str, key: str, request: int) -> msg.Submit:
    spec = RenderSpec(input="a.pov", width=8, height=64)
    return msg.Submit(request, key, scene, spec.to_wire(), "a.png")


def _answer(client: Peer) -> msg.Submitted | msg.Refused:
    while True:
        message = client.link.receive(20)
        if isinstance(message, msg.Submitted | msg.Refused):
            return message


def _farewell(node: Peer) -> msg.Bye:
    while True:
        message = node.link.receive(20)
        if isinstance(message, msg.Bye):
            return message


def test_a_store_that_cannot_be_read_ends_the_start_and_leaves_the_folder_alone(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "farm.db").write_bytes(b"my holiday pictures" * 1000)
    with pytest.raises(LocalFault, match=r"farm\.db.*: file is not a database"):
        Head(HeadSettings(state)).start()
    assert (state / "farm.db").read_bytes().startswith(b"my holiday")
    (state / "farm.db").unlink()
    with running_head(state):
        pass


def test_files_that_no_job_knows_are_gone_after_a_start(tmp_path: Path, scene: Path) -> None:
    state = tmp_path / "state"
    with running_head(state) as head, Peer(head) as client, Peer(head) as node:
        client.join("submit")
        node.join("node")
        job = client.submit(client.stage(scene), bands=2)
        node.deliver(node.hear(msg.Lease))
        node.hear(msg.Lease)
        node.hear(msg.Accepted)
    (kept,) = (state / "tiles").iterdir()
    strays = [
        "tiles/a99-00000000.png",
        "tiles/j99-0.radiosity",
        "incoming/a98-00000000.part",
        "results/j99/old.png",
        "results/j1/half.png.part",
        "logs/j99/a1.txt",
    ]
    for name in strays:
        (state / name).parent.mkdir(exist_ok=True)
        (state / name).write_bytes(b"?")
    with running_head(state) as head, Peer(head) as client:
        client.join("submit")
        assert jobs(client) == [(job, "running")]
        assert [name for name in strays if (state / name).exists()] == []
        assert kept.exists()


def test_a_job_whose_scene_is_gone_fails_with_words_that_say_so(
    tmp_path: Path, scene: Path, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    state = tmp_path / "state"
    with running_head(state) as head, Peer(head) as client:
        client.join("submit")
        client.submit(client.stage(scene))
    for stored in (state / "scenes").iterdir():
        for file in stored.iterdir():
            file.unlink()
        stored.rmdir()
    with running_head(state) as head, Peer(head) as client:
        client.join("submit")
        wait_for(lambda: jobs(client) == [("j1", "failed")])
        client.say(msg.Show(3, "j1"))
        assert "the scene of job j1 is gone" in client.hear(msg.JobDetail).job.error


# ---------------------------------------------------------------- a newer head, an older node


class OldNode:
    """A node that says what protocol 1 began with, byte for byte, and knows nothing else."""

    def __init__(self, head: RunningHead) -> None:
        self._sock = dial(head)
        self._sock.settimeout(20)
        self._secret = head.token("node").secret

    def __enter__(self) -> OldNode:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def say(self, text: str) -> None:
        data = text.encode()
        self._sock.sendall(struct.pack(">I", len(data)) + data)

    def hear(self) -> dict[str, Any]:
        (size,) = struct.unpack(">I", self._read(4))
        found = json.loads(self._read(size))
        assert isinstance(found, dict)
        return found

    def hear_a(self, kind: str) -> dict[str, Any]:
        while (message := self.hear())["type"] != kind:
            assert message["type"] == "beat", message
        return message

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._sock.recv(size - len(data))
            assert piece, "closed"
            data += piece
        return data

    def hello(self, protocol: str = "[1,1]") -> None:
        self.say(
            f'{{"type":"hello","role":"node","protocol":{protocol},"secret":"{self._secret}",'
            '"uuid":"old","name":"old","version":"0.0.9","node":{"cores":1,"threads":1,'
            '"memory_bytes":1000,"povray_version":"3.7.0.10","povray_build":"gnu"}}'
        )


def test_a_node_of_an_older_release_works_for_a_newer_head(tmp_path: Path, scene: Path) -> None:
    with running_head(tmp_path / "state") as head, Peer(head) as client, OldNode(head) as node:
        client.join("submit")
        node.hello()
        node.hear_a("welcome")
        client.submit(client.stage(scene), bands=1)
        lease = node.hear_a("lease")
        name = lease["attempt"]
        node.say(
            f'{{"type":"progress","attempt":"{name}","phase":"rendering","done":9,"total":512}}'
        )
        tile = tmp_path / "tile.png"
        tile.write_bytes(tile_of(Rect(*lease["rect"])))
        sha256 = hashlib.sha256(tile.read_bytes()).hexdigest()
        node.say(
            f'{{"type":"uploading","attempt":"{name}","size":{tile.stat().st_size},'
            f'"sha256":"{sha256}","seconds":{{}}}}'
        )
        upload(head, msg.Grant(**lease["write"]), tile)
        node.say(f'{{"type":"done","attempt":"{name}","seconds":{{}}}}')
        assert node.hear_a("accepted")["attempt"] == name
        client.say(msg.Follow(9, "j1"))
        while client.hear(msg.JobStatus).job.state != "done":
            pass


def test_a_node_too_old_for_this_head_is_told_what_to_update(tmp_path: Path) -> None:
    with running_head(tmp_path / "state") as head, OldNode(head) as node:
        node.hello("[0,0]")
        bye = node.hear_a("bye")
        assert "update" in bye["reason"]
        assert "0.0.9" in bye["reason"]
