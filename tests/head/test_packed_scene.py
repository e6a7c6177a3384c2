"""A scene that comes packed: from a real submission, and from those who mean no good."""

from __future__ import annotations

import hashlib
import io
import zlib
from pathlib import Path
from typing import Any

import pytest

from clusterray.client import submit
from clusterray.client.head_link import HeadLink
from clusterray.client.report import make_report
from clusterray.client.submit import Submission, SubmitOptions, prepare
from clusterray.wire import protocol as msg
from clusterray.wire.manifest import build_manifest, scene_id
from tests.head.peers import Peer, running_head, upload


@pytest.mark.parametrize(("below", "packed"), [(0.8, True), (0.0, False)])
def test_a_scene_that_shrinks_comes_packed_and_is_taken_in(
    tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch, below: float, packed: bool
) -> None:
    monkeypatch.setattr(submit, "_is_this_machine", lambda host: False)
    (scene / "mesh.inc").write_text("<0.125, 0.25, 0.5>, " * 100_000)
    said: list[msg.Staged] = []
    send = HeadLink.ask

    def note(link: HeadLink, message: Any, *words: Any) -> Any:
        if isinstance(message, msg.Staged):
            said.append(message)
        return send(link, message, *words)

    monkeypatch.setattr(HeadLink, "ask", note)
    report = make_report(io.StringIO())
    with running_head(tmp_path / "state") as head:
        options = SubmitOptions(scene, pack_below=below, detach=True)
        with HeadLink(lambda: head.token("submit")) as link:
            link.open()
            submission = Submission(link, prepare(options, report), report)
            submission.read_scene()
            assert submission.send()
    (staged,) = said
    assert staged.packing == ("zlib" if packed else "")
    assert (staged.size < 200_000) == packed


@pytest.mark.parametrize(
    ("content", "reason"),
    [(zlib.compress(bytes(200 << 20), 9), "unpacks to more than"), (b"no zlib", "not packed as")],
)
def test_a_bomb_and_what_is_not_packed_are_refused_in_words(
    tmp_path: Path, scene: Path, content: bytes, reason: str
) -> None:
    # Larger than what is sent, so that the upload itself is within its limit.
    (scene / "room.inc").write_bytes(bytes(1 << 20))
    with running_head(tmp_path / "state") as head, Peer(head) as client:
        client.join("submit")
        entries = build_manifest(scene, ["a.pov", "room.inc"])
        size = sum(entry.size for entry in entries)
        client.say(msg.Offer(1, scene_id(entries), len(entries), size, 1))
        client.say(msg.Manifest(1, 0, entries))
        need = client.hear(msg.Need)
        assert need.packings == ["zlib"]
        assert need.write is not None
        packed = tmp_path / "packed"
        packed.write_bytes(content)
        upload(head, need.write, packed)
        digest = hashlib.sha256(content).hexdigest()
        client.say(msg.Staged(1, len(content), digest, "zlib"))
        assert reason in client.hear(msg.Refused).message
        assert list((head.state / "scenes" / "uploads").iterdir()) == []
