"""POV-Ray's texts on the disk: the end of each, and no more of a job than it may have."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterray.core.model import AttemptId, JobId
from clusterray.head.chores import Chores
from clusterray.head.job_logs import ATTEMPT_BYTES, FILE_BYTES, JOB_BYTES, JobLogs

JOB = JobId("j1")


def settle(chores: Chores) -> None:
    done = threading.Event()
    chores.put(done.set)
    assert done.wait(10)


@pytest.fixture
def chores() -> Iterator[Chores]:
    made = Chores()
    made.start()
    yield made
    made.stop()


def attempt(number: int) -> AttemptId:
    return AttemptId(f"a{number}-0000")


def test_the_end_of_a_long_text_is_kept_and_no_half_letter(tmp_path: Path, chores: Chores) -> None:
    logs = JobLogs(tmp_path, chores)
    logs.keep(JOB, attempt(1), "begin" + "é" * ATTEMPT_BYTES)
    text = logs.read(JOB, attempt(1))
    assert set(text) == {"é"}
    assert len(text.encode()) <= ATTEMPT_BYTES
    logs.keep(JOB, attempt(1), "xé" + "é" * (ATTEMPT_BYTES // 2 - 1) + "y")
    assert set(logs.read(JOB, attempt(1))) == {"é", "y"}


def test_the_oldest_texts_go_first_also_after_a_start(tmp_path: Path, chores: Chores) -> None:
    many = JOB_BYTES // ATTEMPT_BYTES
    logs = JobLogs(tmp_path, chores)
    for number in range(many):
        logs.keep(JOB, attempt(number), "x" * ATTEMPT_BYTES)
    assert logs.read(JOB, attempt(0))
    logs = JobLogs(tmp_path, chores)
    logs.keep(JOB, attempt(many), "x" * ATTEMPT_BYTES)
    settle(chores)
    kept = [number for number in range(many + 1) if logs.read(JOB, attempt(number))]
    assert kept == list(range(kept[0], many + 1))
    assert len(kept) >= (JOB_BYTES - 2 * FILE_BYTES) // ATTEMPT_BYTES
    assert sum(path.stat().st_size for path in (tmp_path / JOB).iterdir()) <= JOB_BYTES


def test_texts_of_many_attempts_lie_in_few_files_and_are_found_after_a_cut(
    tmp_path: Path, chores: Chores
) -> None:
    logs = JobLogs(tmp_path, chores)
    for number in range(200):
        logs.keep(JOB, attempt(number), f"== a{number} 3\nof {number}\n")
    settle(chores)
    (file,) = (tmp_path / JOB).iterdir()
    logs.keep(JOB, attempt(7), "the last word of 7")
    settle(chores)
    assert logs.read(JOB, attempt(7)) == "the last word of 7"
    file.write_bytes(file.read_bytes()[:-5])
    logs = JobLogs(tmp_path, chores)
    assert [logs.read(JOB, attempt(n)) for n in (0, 7, 199)] == [
        f"== a{n} 3\nof {n}\n" for n in (0, 7, 199)
    ]
    logs.keep(JOB, attempt(200), "after the cut")
    settle(chores)
    again = JobLogs(tmp_path, chores)
    assert again.read(JOB, attempt(200)) == "after the cut"
    assert again.read(JOB, attempt(199)) == "== a199 3\nof 199\n"


def test_nothing_is_kept_of_silence_and_nothing_of_a_job_that_is_discarded(
    tmp_path: Path, chores: Chores
) -> None:
    logs = JobLogs(tmp_path, chores)
    logs.keep(JOB, attempt(1), "")
    settle(chores)
    assert not list(tmp_path.iterdir())
    logs.keep(JOB, attempt(2), "words")
    logs.discard(JOB)
    settle(chores)
    assert logs.read(JOB, attempt(2)) == ""
    assert not list(tmp_path.iterdir())


def test_a_text_that_cannot_be_written_costs_nothing_but_itself(
    tmp_path: Path, chores: Chores
) -> None:
    (tmp_path / JOB).write_text("in the way")
    logs = JobLogs(tmp_path, chores)
    logs.keep(JOB, attempt(1), "words")
    settle(chores)
    assert logs.read(JOB, attempt(1)) == ""


def test_a_text_can_be_read_before_the_disk_has_it_and_the_last_one_counts(
    tmp_path: Path, chores: Chores
) -> None:
    busy = threading.Event()
    chores.put(busy.wait)
    logs = JobLogs(tmp_path, chores)
    logs.keep(JOB, attempt(1), "first")
    logs.keep(JOB, attempt(1), "last")
    logs.keep(JobId("j2"), attempt(2), "of a job that is deleted")
    logs.discard(JobId("j2"))
    assert logs.read(JOB, attempt(1)) == "last"
    assert logs.read(JobId("j2"), attempt(2)) == ""
    busy.set()
    settle(chores)
    assert logs.read(JOB, attempt(1)) == "last"
    assert [path.name for path in tmp_path.iterdir()] == [JOB]
