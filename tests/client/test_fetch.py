"""The picture comes whole, or not at all with the reason told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from clusterray.client import fetch
from clusterray.client.control import Control
from clusterray.client.head_link import HeadLink
from clusterray.core.errors import LocalFault, SceneFault
from clusterray.wire.protocol import AnyMessage, Fetch, Message, Refused, Result
from tests.client.stand_in import HangUp, StandInHead, Transcript, stand_in_head

PICTURE = bytes(range(256)) * 1000


class Server:
    """Answers Fetch by what ``results`` makes of the true result, one change each time."""

    def __init__(self, *changes: object) -> None:
        self.changes = list(changes)
        self.result: Result | None = None

    def prepare(self, head: StandInHead, folder: Path) -> None:
        file = folder / "at-the-head.png"
        file.write_bytes(PICTURE)
        self.result = head.offer_file(file)

    def __call__(self, message: AnyMessage) -> Sequence[Message]:
        if not isinstance(message, Fetch):
            return []
        assert self.result is not None
        change = self.changes.pop(0) if self.changes else {}
        if isinstance(change, type) and issubclass(change, Exception):
            raise change
        if isinstance(change, Message):
            return [msgspec.structs.replace(change, request=message.request)]
        assert isinstance(change, dict)
        return [msgspec.structs.replace(self.result, request=message.request, **change)]


def fetch_from(server: Server, folder: Path) -> tuple[Path, Transcript]:
    target, report = folder / "out" / "room.png", Transcript()
    target.parent.mkdir()
    with stand_in_head(server) as stand_in, HeadLink(stand_in.token, say=report.say) as head:
        server.prepare(stand_in, folder)
        head.open()
        Control(head).fetch("j1", str(target), report)
    assert {entry.name for entry in target.parent.iterdir()} == {"room.png"}
    return target, report


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "pause", lambda failures: None)


def test_a_picture_arrives_with_its_progress(tmp_path: Path) -> None:
    target, report = fetch_from(Server(), tmp_path)
    assert target.read_bytes() == PICTURE
    assert report.moved == {"fetching the picture": len(PICTURE)}


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size": len(PICTURE) + 1}, {"size": 10}])
def test_what_is_not_as_announced_is_fetched_again(tmp_path: Path, change: object) -> None:
    target, _ = fetch_from(Server(change, change), tmp_path)
    assert target.read_bytes() == PICTURE


def test_what_never_is_as_announced_is_not_written(tmp_path: Path) -> None:
    wrong = {"sha256": "0" * 64}
    with pytest.raises(LocalFault, match="not what the head announced"):
        fetch_from(Server(*[wrong] * fetch.TRIES), tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_head_lost_meanwhile_is_waited_for(tmp_path: Path) -> None:
    target, report = fetch_from(Server(HangUp), tmp_path)
    assert target.read_bytes() == PICTURE
    assert [sentence.partition(" ")[0] for sentence in report.sentences] == ["lost", "the"]


def test_no_picture_is_the_heads_own_words(tmp_path: Path) -> None:
    with pytest.raises(SceneFault, match="j1 is running"):
        fetch_from(Server(Refused(0, 3, "job j1 is running")), tmp_path)
