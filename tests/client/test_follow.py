"""Following a job to its end, and what its end means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from clusterray.client.follow import follow_job, outcome_fault
from clusterray.client.head_link import HeadLink
from clusterray.core.errors import JobCancelled, RenderFault, SceneFault
from clusterray.wire.protocol import AnyMessage, Follow, JobStatus, JobView, Message, Refused
from tests.client.stand_in import HangUp, Transcript, job_view, stand_in_head


def test_every_state_is_shown_until_the_end() -> None:
    def answer(message: AnyMessage) -> Sequence[Message]:
        if not isinstance(message, Follow):
            return []
        views = [
            job_view(state="queued"),
            job_view(state="queued", note="2 jobs before it"),
            job_view(pixels_done=40),
            job_view(state="paused", note="paused by ann@desk"),
            job_view(state="stitching"),
            job_view(state="done", pixels_done=100),
        ]
        return [JobStatus(message.request, view) for view in views]

    report = Transcript()
    with stand_in_head(answer) as stand_in, HeadLink(stand_in.token) as head:
        head.open()
        assert follow_job(head, "j1", report).state == "done"
    assert report.sentences == [
        "waiting for a node",
        "waiting: 2 jobs before it",
        "paused by ann@desk; clusterray resume j1 lets it go on",
        "joining the tiles",
    ]
    assert [view.pixels_done for view in report.views] == [0, 0, 40, 0, 0]


def test_a_lost_head_is_asked_again() -> None:
    asked: list[Follow] = []

    def answer(message: AnyMessage) -> Sequence[Message]:
        if not isinstance(message, Follow):
            return []
        asked.append(message)
        if len(asked) == 1:
            raise HangUp
        return [JobStatus(message.request, job_view(state="done"))]

    report = Transcript()
    with stand_in_head(answer) as stand_in, HeadLink(stand_in.token, say=report.say) as head:
        head.open()
        assert follow_job(head, "j1", report).state == "done"
    assert report.sentences == [
        "lost the head at 127.0.0.1, reconnecting; job j1 goes on",
        "the head is back",
    ]


def test_an_unknown_job_is_a_fault() -> None:
    def answer(message: AnyMessage) -> Sequence[Message]:
        return [Refused(getattr(message, "request", 0), 3, "there is no job j9")]

    with stand_in_head(answer) as stand_in, HeadLink(stand_in.token) as head:
        head.open()
        with pytest.raises(SceneFault, match="there is no job j9"):
            follow_job(head, "j9", Transcript())


def test_a_job_that_is_deleted_is_a_cancelled_one_to_who_follows_it() -> None:
    def answer(message: AnyMessage) -> Sequence[Message]:
        if not isinstance(message, Follow):
            return []
        words = "job j1 was deleted by ann@desk"
        return [JobStatus(message.request, job_view()), Refused(message.request, 6, words)]

    with stand_in_head(answer) as stand_in, HeadLink(stand_in.token) as head:
        head.open()
        with pytest.raises(JobCancelled, match="job j1 was deleted by ann@desk"):
            follow_job(head, "j1", Transcript())


def test_a_job_that_took_over_the_id_is_not_followed() -> None:
    def answer(message: AnyMessage) -> Sequence[Message]:
        return [JobStatus(getattr(message, "request", 0), job_view(created=2.0))]

    with stand_in_head(answer) as stand_in, HeadLink(stand_in.token) as head:
        head.open()
        with pytest.raises(SceneFault, match="not the one it was"):
            follow_job(head, "j1", Transcript(), is_ours=lambda view: view.created == 1.0)


def failed(**changes: object) -> JobView:
    return job_view(
        state="failed",
        error_code=4,
        error="Parse Error: Expected 'object'",
        error_file="sub/room.pov",
        error_line=12,
        error_text="banner\n==== [Parsing...] ====\n\x1b[31mtwo\x1b[0m\n\nthree\r\n",
        **changes,
    )


def test_a_failed_job_has_povrays_words_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scene" / "sub").mkdir(parents=True)
    (tmp_path / "scene" / "sub" / "room.pov").touch()
    monkeypatch.chdir(tmp_path)
    report = Transcript()
    fault = outcome_fault(failed(), report, tmp_path / "scene")
    assert isinstance(fault, RenderFault)
    assert str(fault) == "scene/sub/room.pov:12: Parse Error: Expected 'object'"
    assert report.sentences == ["==== [Parsing...] ====", "two", "three"]


def test_a_file_that_is_not_here_is_named_as_povray_names_it(tmp_path: Path) -> None:
    assert outcome_fault(failed(), Transcript(), tmp_path).file == "sub/room.pov"
    assert outcome_fault(failed(), Transcript()).file == "sub/room.pov"


def test_the_code_of_the_job_is_that_of_the_fault() -> None:
    view = job_view(state="failed", error_code=3, error="refused")
    assert isinstance(outcome_fault(view, Transcript()), SceneFault)


def test_a_cancelled_job_says_by_whom() -> None:
    view = job_view(state="cancelled", error_code=6, error="by bob@attic")
    fault = outcome_fault(view, Transcript())
    assert isinstance(fault, JobCancelled)
    assert str(fault) == "job j1 was cancelled: by bob@attic"
