"""The whole life of a job at a real head: orders, logs, partial pictures, room on the disk."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from clusterray.core.model import FileFormat, Rect
from clusterray.head.job_logs import JOB_BYTES
from clusterray.images.hatch import DARK, LIGHT, hatch_rows
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from clusterray.wire.protocol import Message
from tests.head.peers import (
    Peer,
    RunningHead,
    download,
    raw_login,
    running_head,
    tile_of,
    wait_until_holds,
)

SPEC = RenderSpec(input="a.pov", width=8, height=128).to_wire()
SECONDS = msg.PhaseSeconds()


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RunningHead]:
    with running_head(tmp_path / "state") as running:
        yield running


@pytest.fixture
def client(head: RunningHead) -> Iterator[Peer]:
    with Peer(head) as peer:
        peer.join("submit")
        yield peer


@pytest.fixture
def node(head: RunningHead) -> Iterator[Peer]:
    with Peer(head) as peer:
        peer.join("node")
        yield peer


def submit(client: Peer, scene: Path, key: str = "k", bands: int = 4) -> str:
    """A job of 8 x 128 pixels."""
    return client.submit(client.stage(scene), key, spec=SPEC, bands=bands)


def ordered(client: Peer, order: Message) -> str:
    client.say(order)
    return client.hear(msg.Ok).text


def refused(client: Peer, order: Message, code: int = 3) -> str:
    client.say(order)
    answer = client.hear(msg.Refused)
    assert answer.code == code
    return answer.message


def view_of(client: Peer, job: str) -> msg.JobView:
    client.say(msg.Show(90, job))
    return client.hear(msg.JobDetail).job


def settled(node: Peer) -> msg.Lease | None:
    """Wait until all that the node said has had its effect; gives the lease that came of it."""
    node.say(msg.Done("a0-stale", SECONDS))
    lease: msg.Lease | None = None
    while True:
        message = node.link.receive(20)
        if isinstance(message, msg.Lease):
            lease = message
        elif isinstance(message, msg.Drop) and message.attempt == "a0-stale":
            return lease


def deliver(node: Peer, lease: msg.Lease) -> msg.Lease | None:
    """Deliver the tile; gives the lease that came meanwhile."""
    node.deliver(lease)
    following: msg.Lease | None = None
    while True:
        message = node.link.receive(20)
        if isinstance(message, msg.Lease):
            following = message
        else:
            assert isinstance(message, msg.Accepted)
            return following


def finish(node: Peer, lease: msg.Lease | None) -> None:
    while lease is not None:
        lease = deliver(node, lease)


def followed(client: Peer, job: str, state: str) -> msg.JobView:
    client.say(msg.Follow(80, job))
    while True:
        view = client.hear(msg.JobStatus).job
        if view.state == state:
            return view


def fetched(client: Peer, job: str, target: Path, *, partial: bool = False) -> msg.Result:
    client.say(msg.Fetch(70, job, partial))
    result = client.hear(msg.Result)
    target.unlink(missing_ok=True)
    download(client.head, result.read, target)
    return result


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


WHOLE = Image.open(io.BytesIO(tile_of(Rect(0, 0, 8, 128)))).tobytes()


# ---------------------------------------------------------------- pause, resume, priority


def test_a_paused_job_rests_and_its_follower_is_told_until_it_goes_on(
    client: Peer, node: Peer, scene: Path, tmp_path: Path
) -> None:
    job = submit(client, scene)
    lease = node.hear(msg.Lease)
    said = ordered(client, msg.Pause(3, job))
    assert said == f"job {job} is paused; 1 band at work will end"
    assert "paused already" in refused(client, msg.Pause(4, job))
    assert deliver(node, lease) is None
    assert settled(node) is None
    view = followed(client, job, "paused")
    assert (view.bands_done, view.bands_waiting, view.note) == (1, 3, "paused by a-submit")
    assert ordered(client, msg.Resume(5, job)) == f"job {job} goes on"
    finish(node, node.hear(msg.Lease))
    followed(client, job, "done")
    assert not fetched(client, job, tmp_path / "out.png").partial
    assert pixels(tmp_path / "out.png") == WHOLE


def test_pause_now_takes_the_band_back_at_once(client: Peer, node: Peer, scene: Path) -> None:
    job = submit(client, scene)
    lease = node.hear(msg.Lease)
    assert ordered(client, msg.Pause(3, job, now=True)) == f"job {job} is paused"
    drop = node.hear(msg.Drop)
    assert (drop.attempt, drop.reason) == (lease.attempt, f"job {job} is paused")
    ordered(client, msg.Resume(4, job))
    assert node.hear(msg.Lease).attempt != lease.attempt


def test_a_job_moved_to_the_front_is_next(client: Peer, node: Peer, scene: Path) -> None:
    submit(client, scene, "one", bands=2)
    second = submit(client, scene, "two", bands=2)
    lease = node.hear(msg.Lease)
    said = ordered(client, msg.SetPriority(5, second, 9))
    assert said == f"job {second} has priority 9, none before it"
    following = deliver(node, lease)
    assert following is not None and following.job == second
    assert view_of(client, second).priority == 9


# ---------------------------------------------------------------- requeue


def test_a_failed_job_is_gone_on_with_and_its_picture_is_whole(
    client: Peer, node: Peer, scene: Path, tmp_path: Path
) -> None:
    job = submit(client, scene)
    lease: msg.Lease | None = node.hear(msg.Lease)
    assert lease is not None
    first = lease.band
    lease = deliver(node, lease)
    while lease is not None:
        node.say(msg.Failed(lease.attempt, "node", "no luck"))
        lease = settled(node)
    assert view_of(client, job).state == "failed"
    assert "there is no finished picture" in refused(client, msg.Fetch(6, job))
    said = ordered(client, msg.Requeue(7, job))
    assert said == f"job {job} is queued again: 3 of 4 bands are to be rendered"
    leased = set()
    lease = node.hear(msg.Lease)
    while lease is not None:
        leased.add(lease.band)
        lease = deliver(node, lease)
    assert first not in leased and len(leased) == 3
    view = followed(client, job, "done")
    assert (view.error, view.error_code) == ("", 0)
    fetched(client, job, tmp_path / "out.png")
    assert pixels(tmp_path / "out.png") == WHOLE


def test_a_done_job_is_rendered_again_from_the_start_only_when_that_is_said(
    head: RunningHead, client: Peer, node: Peer, scene: Path
) -> None:
    job = submit(client, scene, bands=1)
    finish(node, node.hear(msg.Lease))
    followed(client, job, "done")
    assert "--all" in refused(client, msg.Requeue(5, job))
    created = view_of(client, job).created
    ordered(client, msg.Requeue(6, job, everything=True))
    assert not list((head.state / "results").iterdir())
    finish(node, node.hear(msg.Lease))
    assert followed(client, job, "done").created == created, "it is the same job to who follows it"


def test_a_job_whose_scene_is_gone_is_not_requeued(
    tmp_path: Path, scene: Path, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    with (
        running_head(tmp_path / "small", scene_store_bytes=1) as small,
        Peer(small) as client,
    ):
        with Peer(small) as other:
            other.join("submit")
            job = submit(other, scene)
        client.join("submit")
        ordered(client, msg.Cancel(5, job))
        # It goes as soon as neither the job nor its submitter's connection holds it.
        wait_for(lambda: [path.name for path in (small.state / "scenes").iterdir()] == ["uploads"])
        assert "the scene of job j1 is no longer" in refused(client, msg.Requeue(6, job))


# ---------------------------------------------------------------- delete


def test_a_deleted_job_leaves_nothing_and_everybody_is_told(
    head: RunningHead, client: Peer, node: Peer, scene: Path
) -> None:
    with Peer(head) as follower:
        follower.join("submit", name="ben@desk")
        job = submit(client, scene)
        follower.say(msg.Follow(8, job))
        follower.hear(msg.JobStatus)
        lease = node.hear(msg.Lease)
        other = deliver(node, lease)
        assert other is not None
        assert "--force" in refused(client, msg.Delete(3, job))
        assert ordered(client, msg.Delete(4, job, force=True)) == f"job {job} is deleted"
        assert node.hear(msg.Drop).attempt == other.attempt
        words = f"job {job} was deleted by a-submit"
        told = follower.hear(msg.Refused)
        assert (told.code, told.message, told.request) == (6, words, 8)
        assert refused(follower, msg.Follow(9, job), code=6) == words, "also who was away"
        assert refused(follower, msg.Show(10, job)) == words
    client.say(msg.ListJobs(5))
    assert client.hear(msg.Jobs).jobs == []
    for name in ("tiles", "results", "logs", "incoming", "partials"):
        wait_until_holds(head.state / name)
    assert settled(node) is None


def test_a_node_in_the_middle_of_a_scene_whose_job_is_deleted_is_cut_off_and_not_blamed(
    head: RunningHead, client: Peer, node: Peer, scene: Path
) -> None:
    (scene / "large.bin").write_bytes(bytes(64 << 20))
    job = submit(client, scene)
    lease = node.hear(msg.Lease)
    ftp = raw_login(head, lease.read)
    try:
        data = ftp.transfercmd(f"RETR {lease.read.path}")
        assert data.recv(1 << 16)
        ordered(client, msg.Delete(4, job, force=True))
        assert node.hear(msg.Drop).attempt == lease.attempt
        assert ends_early(data, lease.scene.tar_bytes)
        data.close()
    finally:
        ftp.close()
    node.say(msg.Failed(lease.attempt, "node", "the scene was not fetched"))
    assert node.hear(msg.Drop).attempt == lease.attempt, "a late word about it is stale"
    client.say(msg.ListNodes(5))
    (view,) = client.hear(msg.Nodes).nodes
    assert (view.state, view.reason) == ("idle", "")


def ends_early(data: socket.socket, size: int) -> bool:
    received = 0
    try:
        while block := data.recv(1 << 20):
            received += len(block)
    except ConnectionResetError:
        return True
    return received < size


# ---------------------------------------------------------------- logs


def test_logs_are_kept_of_attempts_that_fail_and_of_those_that_succeed(
    head: RunningHead, client: Peer, node: Peer, scene: Path
) -> None:
    job = submit(client, scene, bands=2)
    lease = node.hear(msg.Lease)
    node.say(msg.Failed(lease.attempt, "node", "killed", text="Parsing...\nüble Sache"))
    again = node.hear(msg.Lease)
    node.announce(again)
    node.say(msg.Done(again.attempt, SECONDS, text="Parse Time: 0.1"))
    finish(node, settled(node))
    followed(client, job, "done")
    logs = logs_of(client, msg.Logs(5, job))
    assert [(log.band, log.state, log.reason, log.text) for log in logs] == [
        (lease.band, "failed", "killed", "Parsing...\nüble Sache"),
        (lease.band, "accepted", "", ""),
        (again.band, "accepted", "", "Parse Time: 0.1"),
    ]
    assert (logs[0].node, logs[0].rect, logs[0].attempt) == ("a-node", lease.rect, lease.attempt)
    assert [log.band for log in logs_of(client, msg.Logs(6, job, again.band))] == [again.band]
    assert f"job {job} has no band b99" in refused(client, msg.Logs(7, job, "b99"))
    ordered(client, msg.Delete(8, job))
    wait_until_holds(head.state / "logs")


def logs_of(client: Peer, question: msg.Logs) -> list[msg.AttemptLog]:
    client.say(question)
    found: list[msg.AttemptLog] = []
    while True:
        message = client.link.receive(20)
        if isinstance(message, msg.Ok):
            return found
        assert isinstance(message, msg.AttemptLog)
        found.append(message)


# ---------------------------------------------------------------- partial pictures


def test_a_partial_picture_is_exact_where_it_is_there_and_hatched_elsewhere(
    head: RunningHead, client: Peer, node: Peer, scene: Path, tmp_path: Path
) -> None:
    job = submit(client, scene)
    lease = node.hear(msg.Lease)
    none = fetched(client, job, tmp_path / "none.png", partial=True)
    assert (none.partial, none.pixels_done, none.pixels_total) == (True, 0, 1024)
    assert {(row[:3]) for row in chunks(pixels(tmp_path / "none.png"), 3)} == {
        bytes(DARK),
        bytes(LIGHT),
    }
    finish_one = deliver(node, lease)
    assert finish_one is not None
    _, y0, _, y1 = lease.rect
    for state in ("running", "paused", "cancelled"):
        if state == "paused":
            ordered(client, msg.Pause(3, job, now=True))
        if state == "cancelled":
            ordered(client, msg.Cancel(4, job))
        result = fetched(client, job, tmp_path / "part.png", partial=True)
        assert (result.name, result.partial, result.pixels_done) == ("a.png", True, 8 * (y1 - y0))
        wanted = bytearray(hatch_rows(Rect(0, 0, 8, 128), FileFormat()))
        wanted[24 * y0 : 24 * y1] = WHOLE[24 * y0 : 24 * y1]
        assert pixels(tmp_path / "part.png") == wanted
    client.link.close()
    partials_gone(head)


def partials_gone(head: RunningHead) -> None:
    """A partial picture goes with the connection that asked for it."""
    with Peer(head) as other:
        other.join("submit")
        for _ in range(1000):
            other.say(msg.ListJobs(1))
            other.hear(msg.Jobs)
            if not list((head.state / "partials").iterdir()):
                return
    raise AssertionError("a partial picture was left behind")


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def test_of_a_done_job_the_partial_picture_is_the_whole_one(
    client: Peer, node: Peer, scene: Path, tmp_path: Path
) -> None:
    job = submit(client, scene)
    finish(node, node.hear(msg.Lease))
    followed(client, job, "done")
    result = fetched(client, job, tmp_path / "out.png", partial=True)
    assert (result.partial, result.pixels_done, result.pixels_total) == (False, 1024, 1024)
    assert pixels(tmp_path / "out.png") == WHOLE


# ---------------------------------------------------------------- room on the disk


def test_a_job_that_cannot_fit_is_refused_with_the_figures(tmp_path: Path, scene: Path) -> None:
    with running_head(tmp_path / "s", disk_bytes=5 << 20) as head, Peer(head) as client:
        client.join("submit")
        first, second = submit(client, scene, "one"), submit(client, scene, "two")
        staged = client.stage(scene)
        client.say(msg.Submit(7, "three", staged, SPEC, "a.png"))
        words = client.hear(msg.Refused).message
        assert "this job needs up to 2.1 MB" in words
        assert "may use 5.2 MB (setting disk_bytes)" in words
        assert "promised to 2 jobs that wait or run" in words
        assert submit(client, scene, "one") == first, "the same submit again needs no room"
        ordered(client, msg.Delete(8, second, force=True))
        submit(client, scene, "three")
        (scene / "large.bin").write_bytes(bytes(4 << 20))
        client.say(msg.Offer(9, *offer_of(scene)))
        client.say(msg.Manifest(9, 0, entries_of(scene)))
        assert "this scene needs up to" in client.hear(msg.Refused).message


def entries_of(folder: Path) -> list[msg.Entry]:
    from clusterray.wire.manifest import build_manifest

    return build_manifest(folder, sorted(path.name for path in folder.iterdir()))


def offer_of(folder: Path) -> tuple[str, int, int, int]:
    from clusterray.wire.manifest import scene_id

    entries = entries_of(folder)
    return scene_id(entries), len(entries), sum(entry.size for entry in entries), 1


def test_the_oldest_picture_goes_when_room_is_needed_and_its_job_says_so(
    tmp_path: Path, scene: Path, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    promised = 3 * 1024 * 3 + JOB_BYTES
    with (
        running_head(tmp_path / "s", disk_bytes=promised + 100_000) as head,
        Peer(head) as client,
        Peer(head) as node,
    ):
        client.join("submit")
        node.join("node")
        old, new = (job_with_log(client, node, scene, key) for key in ("old", "new"))
        assert view_of(client, old).gone == ""
        submit(client, scene, "third")
        wait_for(lambda: view_of(client, old).gone != "")
        assert view_of(client, old).gone == (
            "its files were deleted to make room (setting disk_bytes)"
        )
        assert view_of(client, old).state == "done"
        assert "requeue --all" in refused(client, msg.Fetch(6, old))
        assert view_of(client, new).gone == ""
        fetched(client, new, tmp_path / "new.png")
        assert [path.name for path in (head.state / "results").iterdir()] == [new]


def job_with_log(client: Peer, node: Peer, scene: Path, key: str) -> str:
    """A job that is done, of which a little over 60,000 bytes are kept."""
    job = submit(client, scene, key, bands=1)
    lease = node.hear(msg.Lease)
    node.announce(lease)
    node.say(msg.Done(lease.attempt, SECONDS, text="x" * 60_000))
    node.hear(msg.Accepted)
    followed(client, job, "done")
    return job


def test_files_go_when_their_time_is_over(
    tmp_path: Path, scene: Path, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    with (
        running_head(tmp_path / "s", keep_results_days=1e-6) as head,
        Peer(head) as client,
        Peer(head) as node,
    ):
        client.join("submit")
        node.join("node")
        job = submit(client, scene)
        finish(node, node.hear(msg.Lease))
        wait_for(lambda: "keep_results_days" in view_of(client, job).gone)
        assert not list((head.state / "results").iterdir())
