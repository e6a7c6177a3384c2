"""What a person sees: lines in a pipe, a bar on a terminal, never an escape of somebody else."""

from __future__ import annotations

import io

from clusterray.client.report import LiveReport, PlainReport, job_line, make_report
from clusterray.wire.protocol import VerifiedView
from tests.client.stand_in import job_view


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_lines_and_a_terminal_a_bar() -> None:
    assert isinstance(make_report(io.StringIO()), PlainReport)
    assert isinstance(make_report(Terminal()), LiveReport)


def test_a_transfer_tells_each_ten_percent() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainReport(stream, clock).transfer("uploading", 1000) as advance:
        for _ in range(100):
            clock.now += 0.2
            advance(10)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "uploading: 10 % of 1.0 kB"
    assert len(lines) == 10
    assert lines[-1] == "uploading: 1.0 kB, done"


def test_a_transfer_of_a_moment_tells_its_end_only() -> None:
    stream = io.StringIO()
    with PlainReport(stream, Clock()).transfer("uploading", 1000) as advance:
        for _ in range(100):
            advance(10)
    assert stream.getvalue() == "uploading: 1.0 kB, done\n"


def test_a_slow_transfer_tells_each_five_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainReport(stream, clock).transfer("uploading", 100_000) as advance:
        for _ in range(12):
            clock.now += 1
            advance(100)
    assert stream.getvalue().count("\n") == 3


def test_a_job_tells_each_new_sentence_once() -> None:
    stream, clock = io.StringIO(), Clock()
    report = PlainReport(stream, clock)
    for _ in range(5):
        clock.now += 60
        report.job(job_view(state="queued"), "waiting: 2 jobs before it")
    assert stream.getvalue() == "job j1: waiting: 2 jobs before it\n"


def test_a_running_job_tells_ten_percent_or_five_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    report = PlainReport(stream, clock)
    for done in (0, 5, 10, 12, 25):
        clock.now += 0.5
        report.job(job_view(pixels_done=done, pixels_per_s=3.0, eta_s=30.0, nodes=["a"]), "")
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        "job j1: 0 %",
        "job j1: 10 %",
        "job j1: 25 %",
    ]


def test_verifying_tells_how_far_it_is_each_five_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    report = PlainReport(stream, clock)
    for done in range(12):
        clock.now += 1
        line = f"verifying: {done} of 12 bands rendered again and compared"
        report.job(job_view(state="verifying", verified=VerifiedView(lines=[line])), "")
    assert stream.getvalue().splitlines() == [
        f"job j1: verifying: {done} of 12 bands rendered again and compared" for done in (0, 5, 10)
    ]


def test_the_line_of_a_job_has_everything() -> None:
    view = job_view(
        pixels_done=50,
        bands_done=3,
        bands_running=2,
        bands_waiting=1,
        pixels_per_s=12_300.0,
        eta_s=42.0,
        nodes=["a", "b"],
    )
    assert job_line(view, "") == "job j1: 50 %, 3/6 bands, 12.3 kpx/s, 42 s left, 2 nodes"


def test_light_that_is_being_made_stands_where_the_percents_will() -> None:
    view = job_view(making="photons are being shot", bands_done=0, bands_running=1)
    line = job_line(view, "")
    assert line.startswith("job j1: photons are being shot, 0/")
    assert "%" not in line


def test_no_foreign_escape_reaches_a_terminal() -> None:
    stream = Terminal()
    report = LiveReport(stream)
    report.say("title \x1b]0;owned\x07 and [red]markup[/red]")
    report.job(job_view(note=""), "waits \x1b[2J for you")
    report.close()
    text = stream.getvalue()
    assert "owned" not in text
    assert "\x1b[2J" not in text
    assert "[red]markup[/red]" in text
    assert "waits  for you" in text


def test_a_closed_log_does_not_stop_a_render() -> None:
    stream = io.StringIO()
    stream.close()
    PlainReport(stream).say("nobody listens")
