"""Uploads taken in many at a time: each is told of once, and nobody waits for ever."""

from __future__ import annotations

import errno
import hashlib
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterray.core.events import TileNotKept, TileRefused, TileVerified, UploadDamaged
from clusterray.core.model import AttemptId, FileFormat, Rect
from clusterray.head import uploads
from clusterray.head.keeper import Found, Keeper, Upload
from clusterray.head.uploads import Announced, Expected
from tests.head.peers import tile_of

RECT = Rect(0, 0, 4, 4)
TILE = tile_of(RECT)
ANNOUNCED = Announced(len(TILE), hashlib.sha256(TILE).hexdigest())
MANY = 20


class Desk:
    """A keeper, and what it has posted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.crashed = threading.Event()
        self.posted: queue.SimpleQueue[Found] = queue.SimpleQueue()
        self.keeper = Keeper(self.posted.put, self.crashed.set)
        (folder / "incoming").mkdir()
        (folder / "tiles").mkdir()

    def expected(self, name: str, kind: FileFormat | None = None) -> Expected:
        upload, tile = self.folder / "incoming" / f"{name}.part", self.folder / "tiles" / name
        return Expected(RECT, kind or FileFormat(), upload, tile, (4, 4))

    def bring(self, name: str, data: bytes = TILE, announced: Announced = ANNOUNCED) -> Upload:
        expected = self.expected(name)
        expected.upload.write_bytes(data)
        return self.keeper.take_in(AttemptId(name), expected, announced)

    def left(self, folder: str) -> set[str]:
        return {path.name for path in (self.folder / folder).iterdir()}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.keeper.stop()


def test_what_is_right_is_kept_and_what_is_not_is_told_by_its_kind(desk: Desk) -> None:
    names = {f"a{number}" for number in range(MANY)}
    coming = [desk.bring(name) for name in sorted(names)]
    coming.append(desk.bring("damaged", b"x" + TILE[1:]))
    other = tile_of(Rect(0, 0, 4, 5))
    wrong = Announced(len(other), hashlib.sha256(other).hexdigest())
    coming.append(desk.bring("wrong", other, wrong))
    desk.keeper.start()
    for upload in coming:
        upload.settle()
    found = [desk.posted.get_nowait() for _ in coming]
    assert {each.attempt for each in found if isinstance(each, TileVerified)} == names
    assert [each.attempt for each in found if isinstance(each, UploadDamaged)] == ["damaged"]
    assert [each.attempt for each in found if isinstance(each, TileRefused)] == ["wrong"]
    assert desk.left("tiles") == names
    assert desk.left("incoming") == set()


def test_of_those_that_share_a_sync_that_fails_none_counts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(uploads, "sync_all", fail)
    coming = [desk.bring(f"a{number}") for number in range(MANY)]
    desk.keeper.start()
    for upload in coming:
        upload.settle()
    found = [desk.posted.get_nowait() for _ in coming]
    assert all(isinstance(each, TileNotKept) and "is broken" in each.reason for each in found)
    assert desk.left("tiles") == desk.left("incoming") == set()


def test_a_fault_of_ours_stops_the_head_and_nobody_waits_for_what_is_not_done(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise AssertionError("a fault of ours")

    monkeypatch.setattr(uploads, "sync_all", fail)
    coming = [desk.bring(f"a{number}") for number in range(MANY)]
    desk.keeper.start()
    assert desk.crashed.wait(10)
    coming.append(desk.bring("late"))
    for upload in coming:
        upload.settle()
