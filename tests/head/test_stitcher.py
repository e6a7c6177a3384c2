"""The stitcher's thread with real tiles and a clock of the test's own."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from clusterray.core.model import BandId, FileFormat, JobId, Rect
from clusterray.head import stitcher as module
from clusterray.head.stitcher import Pair, Stitcher
from clusterray.images.rows import Source
from clusterray.images.stitch import FrameWriter

WaitFor = Callable[[Callable[[], bool]], None]
JOB, OTHER = JobId("j1"), JobId("j2")
REGION = Rect(0, 0, 64, 48)
UPPER, LOWER = Rect(0, 0, 64, 32), Rect(0, 32, 64, 48)


class Clock:
    """Monotonic seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Outcomes:
    """What the stitcher reported."""

    def __init__(self) -> None:
        self.finished: list[tuple[JobId, int, Path, int, str, int]] = []
        self.failed: list[tuple[JobId, int, str, int]] = []
        self.threads: set[str] = set()

    def on_finished(self, *outcome: object) -> None:
        self.finished.append(outcome)  # type: ignore[arg-type]
        self.threads.add(threading.current_thread().name)

    def on_failed(self, *outcome: object) -> None:
        self.failed.append(outcome)  # type: ignore[arg-type]
        self.threads.add(threading.current_thread().name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outcomes() -> Outcomes:
    return Outcomes()


@pytest.fixture
def stitcher(nothing_left: None, outcomes: Outcomes, clock: Clock) -> Iterator[Stitcher]:
    stitcher = Stitcher(outcomes.on_finished, outcomes.on_failed, clock=clock)
    stitcher.start()
    yield stitcher
    stitcher.stop()


def tile(folder: Path, rect: Rect, colour: tuple[int, int, int]) -> Path:
    path = folder / f"{rect.y0}-{colour[0]}.png"
    Image.new("RGB", (rect.width, rect.height), colour).save(path)
    return path


def begin(stitcher: Stitcher, folder: Path, job: JobId = JOB, frame: int = 0) -> Path:
    target = folder / f"{job}-{frame}.png"
    stitcher.begin(job, frame, REGION, FileFormat(), target)
    return target


def shown(stitcher: Stitcher, job: str = JOB) -> Image.Image:
    png = stitcher.preview(job)
    assert png is not None
    return Image.open(io.BytesIO(png)).convert("RGB")


def test_tiles_become_a_picture(stitcher: Stitcher, outcomes: Outcomes, tmp_path: Path) -> None:
    target = begin(stitcher, tmp_path)
    stitcher.add(JOB, 0, tile(tmp_path, LOWER, (0, 0, 200)), LOWER)
    stitcher.add(JOB, 0, tile(tmp_path, UPPER, (200, 0, 0)), UPPER)
    stitcher.finish(JOB, 0)
    stitcher.stop()
    content = target.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert outcomes.finished == [(JOB, 0, target, len(content), digest, 0)]
    assert outcomes.failed == []
    assert outcomes.threads == {"stitcher"}
    picture = Image.open(target)
    assert picture.size == (64, 48)
    assert picture.getpixel((63, 31)) == (200, 0, 0)
    assert picture.getpixel((0, 32)) == (0, 0, 200)
    assert shown(stitcher).getpixel((0, 47)) == (0, 0, 200), "the last preview is the whole picture"


def test_frames_do_not_mix(stitcher: Stitcher, outcomes: Outcomes, tmp_path: Path) -> None:
    targets = [begin(stitcher, tmp_path, job, frame) for job in (JOB, OTHER) for frame in (0, 1)]
    for number, (job, frame) in enumerate([(JOB, 0), (JOB, 1), (OTHER, 0), (OTHER, 1)]):
        stitcher.add(job, frame, tile(tmp_path, REGION, (number * 10, 0, 0)), REGION)
        stitcher.finish(job, frame)
    stitcher.stop()
    assert [outcome[2] for outcome in outcomes.finished] == targets
    for number, target in enumerate(targets):
        assert Image.open(target).getpixel((5, 5)) == (number * 10, 0, 0)


# ---------------------------------------------------------------- what can go wrong


def test_a_hole_is_a_failure_and_leaves_no_file(
    stitcher: Stitcher, outcomes: Outcomes, tmp_path: Path
) -> None:
    target = begin(stitcher, tmp_path)
    stitcher.add(JOB, 0, tile(tmp_path, UPPER, (1, 2, 3)), UPPER)
    stitcher.finish(JOB, 0)
    stitcher.stop()
    [(job, frame, reason, _)] = outcomes.failed
    assert (job, frame) == (JOB, 0)
    assert "pixels are missing" in reason
    assert not target.exists()
    assert outcomes.finished == []


@pytest.mark.parametrize("harm", ["absent", "garbled", "folder"])
def test_a_bad_tile_fails_its_frame_once_and_no_other(
    stitcher: Stitcher, outcomes: Outcomes, tmp_path: Path, harm: str
) -> None:
    begin(stitcher, tmp_path, JOB)
    begin(stitcher, tmp_path, OTHER)
    bad = tmp_path / "bad.png"
    if harm == "garbled":
        bad.write_bytes(b"not a picture")
    elif harm == "folder":
        bad.mkdir()
    stitcher.add(JOB, 0, bad, UPPER)
    stitcher.add(JOB, 0, tile(tmp_path, LOWER, (1, 1, 1)), LOWER)
    stitcher.finish(JOB, 0)
    stitcher.add(OTHER, 0, tile(tmp_path, REGION, (9, 9, 9)), REGION)
    stitcher.finish(OTHER, 0)
    stitcher.stop()
    assert [outcome[:2] for outcome in outcomes.failed] == [(JOB, 0)]
    assert outcomes.failed[0][2]
    assert [outcome[0] for outcome in outcomes.finished] == [OTHER]


@pytest.mark.parametrize("blocked", ["folder", "file"])
def test_a_disk_that_fails_is_a_failure_in_words(
    stitcher: Stitcher, outcomes: Outcomes, tmp_path: Path, blocked: str
) -> None:
    target = tmp_path / "results" / "room.png"
    if blocked == "folder":
        target.parent.write_bytes(b"a file where the folder should be")
    else:
        target.mkdir(parents=True)
        (target / "something").write_bytes(b"a folder where the file should be")
    stitcher.begin(JOB, 0, REGION, FileFormat(), target)
    stitcher.add(JOB, 0, tile(tmp_path, REGION, (1, 1, 1)), REGION)
    stitcher.finish(JOB, 0)
    stitcher.stop()
    assert [outcome[:2] for outcome in outcomes.failed] == [(JOB, 0)]
    reason = outcomes.failed[0][2]
    assert str(target.parent) in reason
    assert "submit the job again" in reason


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "/somewhere/room.png"), "/somewhere/room.png: No"),
        (MemoryError(), "too little memory"),
        (RuntimeError("odd"), "please report it"),
    ],
)
def test_no_error_ends_the_thread(
    stitcher: Stitcher,
    outcomes: Outcomes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_for: WaitFor,
    error: Exception,
    words: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(FrameWriter, "finish", fail)
        begin(stitcher, tmp_path)
        stitcher.finish(JOB, 0)
        wait_for(lambda: len(outcomes.failed) == 1)
    assert words in outcomes.failed[0][2]
    begin(stitcher, tmp_path, OTHER)
    stitcher.add(OTHER, 0, tile(tmp_path, REGION, (9, 9, 9)), REGION)
    stitcher.finish(OTHER, 0)
    stitcher.stop()
    assert [outcome[0] for outcome in outcomes.finished] == [OTHER]


def test_a_preview_that_cannot_be_made_does_not_lose_the_picture(
    stitcher: Stitcher, outcomes: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise ValueError("odd")

    monkeypatch.setattr(FrameWriter, "preview", fail)
    begin(stitcher, tmp_path)
    stitcher.add(JOB, 0, tile(tmp_path, REGION, (9, 9, 9)), REGION)
    stitcher.finish(JOB, 0)
    stitcher.stop()
    assert len(outcomes.finished) == 1
    assert stitcher.preview(JOB) is None


# ---------------------------------------------------------------- abandoned


def test_an_abandoned_job_is_forgotten(
    stitcher: Stitcher, outcomes: Outcomes, tmp_path: Path, wait_for: WaitFor
) -> None:
    target = begin(stitcher, tmp_path)
    stitcher.add(JOB, 0, tile(tmp_path, UPPER, (9, 9, 9)), UPPER)
    wait_for(lambda: stitcher.preview(JOB) is not None)
    stitcher.abandon(JOB)
    stitcher.add(JOB, 0, tile(tmp_path, LOWER, (9, 9, 9)), LOWER)
    stitcher.finish(JOB, 0)
    stitcher.stop()
    assert stitcher.preview(JOB) is None
    assert not target.exists()
    assert (outcomes.finished, outcomes.failed) == ([], [])


# ---------------------------------------------------------------- previews


def test_previews_come_at_once_then_twice_a_second_and_once_more_when_idle(
    outcomes: Outcomes, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = FrameWriter.preview

    def count(writer: FrameWriter, side: int) -> bytes:
        assert side == 640
        made.append(writer.covered)
        return real(writer, side)

    monkeypatch.setattr(FrameWriter, "preview", count)
    rows = [Rect(0, y, 64, y + 8) for y in range(0, 48, 8)]
    tiles = [tile(tmp_path, row, (9, 9, 9)) for row in rows]
    # Not started: the test takes the thread's part, one step at a time.
    stitcher = Stitcher(outcomes.on_finished, outcomes.on_failed, clock=clock)

    def step() -> None:
        note = stitcher._next_note()
        if note is not None:
            assert not isinstance(note, module._Stop)
            stitcher._handle(note)
        stitcher._publish_due()

    begin(stitcher, tmp_path)
    step()
    stitcher.add(JOB, 0, tiles[0], rows[0])
    step()
    assert stitcher.has_preview(JOB) and not stitcher.has_preview(OTHER)
    assert made == [], "nobody looks"
    stitcher._looks.look(JOB)
    stitcher._publish_due()
    for number in range(1, 3):
        stitcher.add(JOB, 0, tiles[number], rows[number])
        step()
    assert made == [64 * 8], "the first tile at once, the next ones not yet"
    clock.now += 0.49
    stitcher.add(JOB, 0, tiles[3], rows[3])
    step()
    assert made == [64 * 8]
    clock.now += 0.02
    step()
    assert made == [64 * 8, 64 * 32], "one for all that came since, without waiting for a note"
    clock.now += 9
    stitcher._publish_due()
    assert len(made) == 2, "nothing new, no preview"
    stitcher.add(JOB, 0, tiles[4], rows[4])
    step()
    assert made == [64 * 8, 64 * 32, 64 * 40]
    clock.now += 9
    stitcher.add(JOB, 0, tiles[5], rows[5])
    step()
    assert len(made) == 3, "nobody has looked for long"
    stitcher.stop()


def test_previews_wait_for_what_else_there_is_to_do_and_not_for_ever(
    outcomes: Outcomes, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def preview(writer: FrameWriter, side: int) -> bytes:
        order.append("preview")
        return b"png"

    def on_finished(job: JobId, frame: int, path: Path, size: int, sha256: str, run: int) -> None:
        order.append("finished")

    monkeypatch.setattr(FrameWriter, "preview", preview)
    stitcher = Stitcher(on_finished, outcomes.on_failed, clock=clock)

    def step() -> None:
        note = stitcher._next_note()
        assert note is not None
        assert not isinstance(note, module._Stop)
        stitcher._handle(note)
        stitcher._publish_due()

    begin(stitcher, tmp_path)
    stitcher.add(JOB, 0, tile(tmp_path, UPPER, (9, 9, 9)), UPPER)
    stitcher.add(JOB, 0, tile(tmp_path, LOWER, (9, 9, 9)), LOWER)
    stitcher.finish(JOB, 0)
    stitcher._looks.look(JOB)
    step()
    step()
    assert order == []
    clock.now += 3
    step()
    assert order == ["preview"], "it has waited long enough"
    step()
    assert order == ["preview", "finished", "preview"], "nobody waits for the last one"
    stitcher.stop()


def test_slow_previews_take_a_tenth_of_the_time_at_most(
    outcomes: Outcomes, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(writer: FrameWriter, side: int) -> bytes:
        clock.now += 2.0
        return b"png"

    monkeypatch.setattr(FrameWriter, "preview", slow)
    stitcher = Stitcher(outcomes.on_finished, outcomes.on_failed, clock=clock)
    stitcher._frames[(JOB, 0)] = module._Frame(FrameWriter(REGION, FileFormat()), tmp_path / "x")
    stitcher._mark_due(JOB, 0)
    stitcher._looks.look(JOB)
    stitcher._publish_due()
    assert stitcher._due[JOB].not_before_at == pytest.approx(120.0)
    stitcher.stop()


def test_the_preview_shows_what_is_there(
    stitcher: Stitcher, tmp_path: Path, wait_for: WaitFor
) -> None:
    assert stitcher.preview(JOB) is None
    begin(stitcher, tmp_path)
    stitcher.add(JOB, 0, tile(tmp_path, UPPER, (200, 10, 20)), UPPER)
    wait_for(lambda: stitcher.preview(JOB) is not None)
    picture = shown(stitcher)
    assert picture.size == (64, 48)
    assert picture.getpixel((5, 5)) == (200, 10, 20)
    assert picture.getpixel((5, 40)) != (200, 10, 20)


def test_who_begins_to_look_sees_what_is_there_now(
    stitcher: Stitcher, clock: Clock, tmp_path: Path, wait_for: WaitFor
) -> None:
    begin(stitcher, tmp_path)
    stitcher.add(JOB, 0, tile(tmp_path, UPPER, (200, 10, 20)), UPPER)
    wait_for(lambda: stitcher.preview(JOB) is not None)
    clock.now += 60
    # The one note is done when the other job's frame is written.
    stitcher.add(JOB, 0, tile(tmp_path, LOWER, (0, 90, 0)), LOWER)
    begin(stitcher, tmp_path, OTHER)
    stitcher.add(OTHER, 0, tile(tmp_path, REGION, (9, 9, 9)), REGION)
    stitcher.finish(OTHER, 0)
    wait_for(lambda: stitcher.preview(OTHER) is not None)
    assert shown(stitcher).getpixel((5, 40)) == (0, 90, 0)


@pytest.mark.timeout(30)
def test_who_looks_where_nothing_is_new_does_not_wait(
    stitcher: Stitcher,
    clock: Clock,
    tmp_path: Path,
    wait_for: WaitFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOOK_WAIT_S", 1000.0)
    begin(stitcher, tmp_path)
    stitcher.add(JOB, 0, tile(tmp_path, UPPER, (200, 10, 20)), UPPER)
    wait_for(lambda: stitcher.preview(JOB) is not None)
    clock.now += 60
    assert shown(stitcher).getpixel((5, 5)) == (200, 10, 20)


def test_only_recent_previews_are_kept(
    stitcher: Stitcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_PREVIEWS", 2)
    path = tile(tmp_path, REGION, (9, 9, 9))
    for number in range(4):
        job = JobId(f"j{number}")
        begin(stitcher, tmp_path, job)
        stitcher.add(job, 0, path, REGION)
        stitcher.finish(job, 0)
    stitcher.stop()
    kept = [number for number in range(4) if stitcher.preview(f"j{number}") is not None]
    assert kept == [2, 3]


# ---------------------------------------------------------------- comparing


def test_two_tiles_are_compared_also_when_the_picture_is_written(
    nothing_left: None, outcomes: Outcomes, tmp_path: Path
) -> None:
    found: list[tuple[object, ...]] = []
    stitcher = Stitcher(
        outcomes.on_finished, outcomes.on_failed, on_compared=lambda *each: found.append(each)
    )
    begin(stitcher, tmp_path)
    first, second = tile(tmp_path, REGION, (9, 9, 9)), tile(tmp_path, REGION, (12, 9, 8))
    stitcher.add(JOB, 0, first, REGION)
    stitcher.finish(JOB, 0)
    for number, other in enumerate((first, second, tmp_path / "gone.png")):
        pair = Pair(BandId(f"b{number}"), (first, other), REGION, FileFormat())
        stitcher.compare(JOB, 0, pair)
    stitcher.start()
    stitcher.stop()
    assert (len(outcomes.finished), outcomes.failed) == (1, [])
    shown = [(each[2], getattr(each[3], "differing", None), each[4]) for each in found]
    assert shown == [
        ("b0", 0, ""),
        ("b1", 64 * 48, ""),
        ("b2", None, "a tile cannot be compared: it cannot be read: No such file or directory"),
    ]
    assert getattr(found[1][3], "largest", None) == (("red", 3), ("green", 0), ("blue", 1))


def test_a_fault_of_ours_costs_the_comparison_and_nothing_else(
    nothing_left: None,
    outcomes: Outcomes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def stumble(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "compare_tiles", stumble)
    found: list[tuple[object, ...]] = []
    stitcher = Stitcher(
        outcomes.on_finished, outcomes.on_failed, on_compared=lambda *each: found.append(each)
    )
    begin(stitcher, tmp_path)
    first = tile(tmp_path, REGION, (9, 9, 9))
    stitcher.add(JOB, 0, first, REGION)
    stitcher.compare(JOB, 0, Pair(BandId("b1"), (first, first), REGION, FileFormat()))
    stitcher.finish(JOB, 0)
    stitcher.start()
    stitcher.stop()
    assert found[0][3] is None
    assert "please report it" in str(found[0][4])
    assert "could not be compared" in caplog.text
    assert len(outcomes.finished) == 1


# ---------------------------------------------------------------- stop


def test_stop_drains_what_is_noted(nothing_left: None, outcomes: Outcomes, tmp_path: Path) -> None:
    stitcher = Stitcher(outcomes.on_finished, outcomes.on_failed)
    begin(stitcher, tmp_path)
    stitcher.add(JOB, 0, tile(tmp_path, REGION, (9, 9, 9)), REGION)
    stitcher.finish(JOB, 0)
    stitcher.start()
    stitcher.stop()
    stitcher.stop()
    assert len(outcomes.finished) == 1


def test_stop_in_a_hurry_leaves_the_rest(
    nothing_left: None,
    outcomes: Outcomes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    real = FrameWriter.add

    def blocked(writer: FrameWriter, path: Path, rect: Rect, opened: Source | None) -> None:
        inside.set()
        assert go_on.wait(10)
        real(writer, path, rect, opened)

    monkeypatch.setattr(FrameWriter, "add", blocked)
    stitcher = Stitcher(outcomes.on_finished, outcomes.on_failed)
    target = begin(stitcher, tmp_path)
    stitcher.add(JOB, 0, tile(tmp_path, REGION, (9, 9, 9)), REGION)
    stitcher.finish(JOB, 0)
    stitcher.start()
    assert inside.wait(10)
    stopper = threading.Thread(target=lambda: stitcher.stop(drain=False))
    stopper.start()
    assert stitcher._hurry.wait(10)
    go_on.set()
    stopper.join()
    assert not target.exists()
    assert (outcomes.finished, outcomes.failed) == ([], [])


def test_stop_without_start(outcomes: Outcomes) -> None:
    Stitcher(outcomes.on_finished, outcomes.on_failed).stop()
