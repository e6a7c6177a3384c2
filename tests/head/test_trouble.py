"""What the head does when nodes die at a named point, fall silent, come back too late or lie twice.

Real sockets and FTP; the nodes are make-believe, so that each ends exactly where the test says.
"""

from __future__ import annotations

import contextlib
import errno
import ftplib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from clusterray.core.model import Rect
from clusterray.head import uploads
from clusterray.head.settings import HeadSettings
from clusterray.wire import protocol as msg
from clusterray.wire.link import Link
from tests.head.peers import (
    Peer,
    RunningHead,
    dial,
    download,
    raw_login,
    running_head,
    tile_of,
    upload,
)
from tests.system.harness import Relay


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RunningHead]:
    with running_head(tmp_path / "state", detached_s=0.2) as running:
        yield running


def next_lease(node: Peer, others: tuple[Peer, ...] = ()) -> msg.Lease:
    """Wait for a lease, others' heartbeats flowing meanwhile."""
    while True:
        for other in others:
            other.link.service()
        message = node.link.receive(0.1)
        if isinstance(message, msg.Lease):
            return message


def show(client: Peer, job: str) -> msg.JobDetail:
    client.say(msg.Show(77, job))
    return client.hear(msg.JobDetail)


def nodes(client: Peer) -> dict[str, msg.NodeView]:
    client.say(msg.ListNodes(78))
    return {view.name: view for view in client.hear(msg.Nodes).nodes}


def until_done(client: Peer, job: str, state: str = "done") -> msg.JobView:
    client.say(msg.Follow(79, job))
    while (view := client.hear(msg.JobStatus).job).state != state:
        assert view.state in ("queued", "running", "stitching"), view
    return view


def picture_is_right(client: Peer, head: RunningHead, job: str, target: Path) -> None:
    client.say(msg.Fetch(80, job))
    download(head, client.hear(msg.Result).read, target)
    with Image.open(target) as picture:
        assert all(picture.getpixel((3, y)) == (3, y, 7) for y in range(picture.height))


def failed(node: Peer, lease: msg.Lease, words: str = "no fonts") -> None:
    node.say(msg.Failed(lease.attempt, "node", words))


# ---------------------------------------------------------------- a node dies at a named point


def before_fetch(node: Peer, lease: msg.Lease) -> None:
    """It has the lease and no more."""


def while_rendering(node: Peer, lease: msg.Lease) -> None:
    node.say(msg.Progress(lease.attempt, "rendering", 100, 512))


def while_uploading(node: Peer, lease: msg.Lease) -> None:
    data = tile_of(Rect(*lease.rect))
    node.say(msg.Uploading(lease.attempt, len(data), "0" * 64, msg.PhaseSeconds()))
    ftp = raw_login(node.head, lease.write)
    with ftp.transfercmd("STOR tile.png") as stored:
        stored.sendall(data[:50])
        # As a killed process does: everything ends at once and looks whole.
        ftp.close()


def after_upload_before_report(node: Peer, lease: msg.Lease) -> None:
    node.announce(lease)


def after_report_before_answer(node: Peer, lease: msg.Lease) -> None:
    node.deliver(lease)


@pytest.mark.parametrize(
    ("dies", "delivered"),
    [
        (before_fetch, False),
        (while_rendering, False),
        (while_uploading, False),
        (after_upload_before_report, True),
        (after_report_before_answer, True),
    ],
)
def test_a_node_that_dies_costs_what_it_had_not_delivered_and_nothing_else(
    head: RunningHead,
    scene: Path,
    tmp_path: Path,
    dies: Callable[[Peer, msg.Lease], None],
    delivered: bool,
) -> None:
    with Peer(head) as client, Peer(head) as other:
        client.join("submit")
        with Peer(head) as victim:
            victim.join("node")
            job = client.submit(client.stage(scene), bands=2)
            lease = victim.hear(msg.Lease)
            other.join("node", uuid="other", name="other")
            mine = other.hear(msg.Lease)
            dies(victim, lease)
        other.deliver(mine)
        if not delivered:
            again = next_lease(other)
            assert (again.band, again.rect) == (lease.band, lease.rect)
            other.deliver(again)
        until_done(client, job)
        picture_is_right(client, head, job, tmp_path / "out.png")
        states = [[a.state for a in band.attempts] for band in show(client, job).bands]
        assert states[0] == (["accepted"] if delivered else ["lost", "accepted"])
        assert states[1] == ["accepted"]
        assert not list((head.state / "incoming").iterdir())


def test_a_node_that_goes_while_its_tile_is_checked_has_delivered(
    head: RunningHead, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, hash_of = threading.Event(), uploads._sha256

    def hash_once_it_is_gone(fd: int, size: int, tick: Callable[[], None]) -> str:
        assert gone.wait(10)
        return hash_of(fd, size, tick)

    with Peer(head) as client:
        client.join("submit")
        job = client.submit(client.stage(scene), bands=1)
        monkeypatch.setattr(uploads, "_sha256", hash_once_it_is_gone)
        with Peer(head) as node:
            node.join("node")
            node.deliver(node.hear(msg.Lease))
        gone.set()
        until_done(client, job)
        assert [a.state for a in show(client, job).bands[0].attempts] == ["accepted"]


# ---------------------------------------------------------------- silence, and coming back late


@pytest.mark.slow
def test_a_half_open_connection_is_found_out_and_its_login_is_dead(
    scene: Path, tmp_path: Path
) -> None:
    """Both ends stand, and nothing passes between them; files go another way and still would."""
    assert HeadSettings(tmp_path).silent_s == 16
    with (
        running_head(tmp_path / "state", silent_s=3.0, detached_s=1000.0) as head,
        Relay(("127.0.0.1", head.ready.control)) as relay,
        Peer(head) as client,
        Peer(head) as other,
        contextlib.closing(Link(dial(head, relay.port), heartbeat_s=0.2)) as link,
    ):
        client.join("submit")
        silent = Peer(head, link)
        silent.join("node")
        job = client.submit(client.stage(scene), bands=1)
        lease = silent.hear(msg.Lease)
        data = tile_of(Rect(*lease.rect))
        ftp = raw_login(head, lease.write)
        stored = ftp.transfercmd("STOR tile.png")
        stored.sendall(data[:50])
        relay.hold()
        other.join("node", uuid="other", name="other")
        again = next_lease(other, (client,))
        assert again.band == lease.band
        assert "nothing was heard" in show(client, job).bands[0].attempts[0].reason
        other.deliver(again)
        until_done(client, job)
        picture_is_right(client, head, job, tmp_path / "out.png")
        # The upload that was under way is cut, and the login opens nothing any more.
        with pytest.raises((ConnectionError, ftplib.Error, EOFError)), stored:
            for _ in range(1000):
                stored.sendall(data)
                ftp.sock.settimeout(0)  # type: ignore[union-attr]
                if not _still_open(ftp.sock):
                    raise ConnectionResetError
        with pytest.raises(ftplib.error_perm, match="530"):
            raw_login(head, lease.write)
        assert not (head.state / "incoming" / f"{lease.attempt}.part").exists()


def _still_open(sock: socket.socket | None) -> bool:
    assert sock is not None
    try:
        return sock.recv(4096) != b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return True


def test_a_late_node_is_told_to_drop_and_its_second_result_is_counted(
    head: RunningHead, scene: Path
) -> None:
    with Peer(head) as client, Peer(head) as other:
        client.join("submit")
        with Peer(head) as late:
            late.join("node")
            job = client.submit(client.stage(scene), bands=1)
            lease = late.hear(msg.Lease)
            late.say(msg.Progress(lease.attempt, "rendering", 100, 512))
        other.join("node", uuid="other", name="other")
        again = next_lease(other, (client,))
        with Peer(head) as back:
            info = msg.NodeInfo(2, 1, 1, "3.7", "test", rendered=[lease.attempt])
            back.join("node", node=info)
            assert back.hear(msg.Drop).attempt == lease.attempt
            with pytest.raises(ftplib.error_perm, match="530"):
                raw_login(head, lease.write)
        other.deliver(again)
        view = until_done(client, job)
        assert (view.dropped_results, view.wasted_pixels) == (1, 512)


# ---------------------------------------------------------------- duplicates, order, stale words


def test_duplicated_and_reordered_words_change_nothing(
    head: RunningHead, scene: Path, tmp_path: Path
) -> None:
    with Peer(head) as client, Peer(head) as node:
        client.join("submit")
        node.join("node")
        job = client.submit(client.stage(scene), bands=2)
        first = node.hear(msg.Lease)
        node.say(msg.Done(first.attempt, msg.PhaseSeconds()))
        node.announce(first)
        node.say(msg.Progress(first.attempt, "rendering", 5, 512))
        second = next_lease(node)
        node.say(msg.Done(first.attempt, msg.PhaseSeconds()))
        node.say(msg.Done(first.attempt, msg.PhaseSeconds()))
        node.say(msg.Failed(first.attempt, "scene", "from the past"))
        node.say(msg.HandBack(first.attempt, "from the past"))
        node.say(msg.Progress("a999-never", "rendering", 5, 512))
        heard = [node.link.receive(10) for _ in range(5)]
        about_first = [each for each in heard if getattr(each, "attempt", "") == first.attempt]
        assert all(isinstance(each, msg.Accepted) for each in about_first)
        assert any(getattr(each, "attempt", "") == "a999-never" for each in heard)
        node.deliver(second)
        until_done(client, job)
        picture_is_right(client, head, job, tmp_path / "out.png")


# ---------------------------------------------------------------- the head's own fault


@pytest.mark.parametrize("where", ["while it is taken in", "while it arrives", "as it begins"])
def test_a_tile_that_the_head_cannot_keep_is_asked_for_again_and_nobody_is_blamed(
    tmp_path: Path, scene: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for a moment."""
    monkeypatch.setattr("clusterray.core.patience.AGAIN_FIRST_S", 0.2)
    with (
        running_head(tmp_path / "state") as head,
        Peer(head) as client,
        Peer(head) as node,
    ):
        client.join("submit")
        node.join("node")
        job = client.submit(client.stage(scene), bands=1)
        lease = node.hear(msg.Lease)
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with monkeypatch.context() as disk:
            if where == "while it is taken in":
                disk.setattr(uploads, "sync", lambda path: _raise(full))
                node.deliver(lease)
            elif where == "while it arrives":
                disk.setattr(
                    "clusterray.head.ftp_files.Upload.write", lambda self, data: _raise(full)
                )
                with pytest.raises(Exception, match="452"):
                    node.deliver(lease)
            else:
                (head.state / "incoming").rename(head.state / "away")
                with pytest.raises(Exception, match="550"):
                    node.deliver(lease)
            view = show(client, job).job
            while not view.note:
                view = show(client, job).job
            assert "the head cannot keep the tile" in view.note
            if where == "as it begins":
                (head.state / "away").rename(head.state / "incoming")
        keep = node.hear(msg.Keep)
        node.deliver(msgspec.structs.replace(lease, write=keep.write))
        assert node.hear(msg.Accepted).attempt == lease.attempt
        until_done(client, job)
        (view_of_node,) = nodes(client).values()
        assert (view_of_node.failures, view_of_node.reason) == (0, "")


def _raise(error: OSError) -> None:
    raise error


# ---------------------------------------------------------------- bad nodes


def test_a_node_that_keeps_failing_is_kept_off_said_and_forgiven(
    tmp_path: Path, scene: Path
) -> None:
    limits = {"node_failed_jobs": 1, "kept_off_s": 1000.0}
    with (
        running_head(tmp_path / "state", **limits) as head,
        Peer(head) as client,
        Peer(head) as bad,
    ):
        client.join("submit")
        bad.join("node", name="bad")
        staged = client.stage(scene)
        job = client.submit(staged, bands=1)
        failed(bad, bad.hear(msg.Lease))
        view = until_done(client, job, "failed")
        assert (
            "no node is left for band b1: it failed on bad once, which is kept off the farm"
            in view.error
        )
        assert "no fonts" in view.error and "leased to bad" in view.error_text
        seen = nodes(client)["bad"]
        assert seen.state == "kept-off" and seen.failures == 1
        assert 990 < (seen.kept_off_s or 0) <= 1000
        assert seen.reason == "kept off the farm for 17 minutes more: no fonts"
        waiting = client.submit(staged, key="k2", bands=1)
        note = show(client, waiting).job.note
        assert "bad is kept off the farm" in note and "--forgive" in note
        client.say(msg.Forgive(5, "nobody"))
        assert client.hear(msg.Refused).code == 3
        client.say(msg.Forgive(6, "bad"))
        assert "bad" in client.hear(msg.Ok).text
        bad.deliver(bad.hear(msg.Lease))
        until_done(client, waiting)
        assert nodes(client)["bad"].state == "idle"


def test_an_unfit_node_is_shown_with_its_reason_and_gets_no_bands(
    head: RunningHead, scene: Path
) -> None:
    full = "the disk of this node is full"
    with Peer(head) as client, Peer(head) as node:
        client.join("submit")
        info = msg.NodeInfo(2, 1, 1, "3.7", "test", unfit=full)
        node.join("node", name="small", node=info)
        job = client.submit(client.stage(scene), bands=1)
        assert f"small: {full}" in show(client, job).job.note
        seen = nodes(client)["small"]
        assert (seen.state, seen.reason) == ("unfit", full)
        node.say(msg.Unfit(""))
        node.deliver(node.hear(msg.Lease))
        until_done(client, job)


def test_a_band_without_progress_is_stopped_and_goes_to_another_node(
    tmp_path: Path, scene: Path
) -> None:
    with (
        running_head(tmp_path / "state", stall_s=0.5) as head,
        Peer(head) as client,
        Peer(head) as hung,
        Peer(head) as other,
    ):
        client.join("submit")
        hung.join("node", name="hung")
        job = client.submit(client.stage(scene), bands=1)
        lease = hung.hear(msg.Lease)
        hung.say(msg.Progress(lease.attempt, "rendering", 5, 512))
        other.join("node", uuid="other", name="other")
        # Its daemon lives and its heartbeats flow; only POV-Ray does not move.
        drop = None
        while not isinstance(drop, msg.Drop):
            client.link.service()
            other.link.service()
            drop = hung.link.receive(0.1)
        assert "no progress" in drop.reason and drop.attempt == lease.attempt
        other.deliver(other.hear(msg.Lease))
        until_done(client, job)
        assert "no progress" in show(client, job).bands[0].attempts[0].reason


# ---------------------------------------------------------------- one uuid, two nodes


def test_a_copied_node_is_refused_with_what_to_delete(head: RunningHead, scene: Path) -> None:
    with Peer(head) as client, Peer(head) as first, Peer(head) as second, Peer(head) as again:
        client.join("submit")
        first.join("node", instance="one", name="pi")
        second.join("node", instance="two", name="pi-copy")
        assert "took over" in first.hear(msg.Bye).reason
        again.join("node", instance="one", name="pi")
        bye = again.hear(msg.Bye)
        assert "delete the file 'uuid'" in bye.reason and not bye.retry
        assert "pi-copy" in bye.reason
        (view,) = nodes(client).values()
        assert (view.name, view.state) == ("pi-copy", "idle")
        client.submit(client.stage(scene), bands=1)
        second.hear(msg.Lease)


# ---------------------------------------------------------------- clocks


def test_a_clock_that_jumps_decides_nothing(
    head: RunningHead, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day forwards and a day back at each look, under all that the head and its links do."""
    jumps: Iterator[float] = iter([])
    real = time.time

    def jumping() -> float:
        nonlocal jumps
        offset = next(jumps, None)
        if offset is None:
            jumps = iter([86_400.0, -86_400.0, 1e9, -1e9])
            offset = 0.0
        return real() + offset

    monkeypatch.setattr(time, "time", jumping)
    with Peer(head) as client, Peer(head) as one, Peer(head) as two:
        client.join("submit")
        one.join("node", uuid="one", name="one")
        two.join("node", uuid="two", name="two")
        job = client.submit(client.stage(scene), bands=2)
        leases = [one.hear(msg.Lease), two.hear(msg.Lease)]
        one.deliver(leases[0])
        two.deliver(leases[1])
        until_done(client, job)
        picture_is_right(client, head, job, tmp_path / "out.png")
        states = [[a.state for a in band.attempts] for band in show(client, job).bands]
        assert states == [["accepted"], ["accepted"]]


# ---------------------------------------------------------------- files changed on their way


def test_a_byte_flipped_in_a_tile_on_its_way_is_noticed_and_the_tile_sent_again(
    head: RunningHead, scene: Path, tmp_path: Path
) -> None:
    with Peer(head) as client, Peer(head) as node:
        client.join("submit")
        node.join("node")
        job = client.submit(client.stage(scene), bands=1)
        lease = node.hear(msg.Lease)
        data = bytearray(tile_of(Rect(*lease.rect)))
        node.announce(lease)
        data[len(data) // 2] ^= 0x10
        flipped = tmp_path / "flipped.png"
        flipped.write_bytes(data)
        upload(head, lease.write, flipped)
        node.say(msg.Done(lease.attempt, msg.PhaseSeconds()))
        keep = node.hear(msg.Keep)
        node.deliver(msgspec.structs.replace(lease, write=keep.write))
        node.hear(msg.Accepted)
        until_done(client, job)
        picture_is_right(client, head, job, tmp_path / "out.png")
