"""The keeper: what it starts is reported, and nothing of it outlives whoever asked for it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from clusterray.client import keeper

GONE_WITHIN_S = 3.0
# What is read first is said last, so that the rest is there by then.
SAY_PID = "echo warning >&2; echo $$; exec sleep 600"
STUBBORN = "trap '' TERM; echo $$; while :; do sleep 600; done"


class Kept:
    """A keeper process as its user sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def start(self, name: str, *argv: str) -> None:
        self.stdin.write(json.dumps({"name": name, "argv": argv}).encode() + b"\n")
        self.stdin.flush()

    def report(self) -> dict[str, object]:
        found = json.loads(self.stdout.readline())
        assert isinstance(found, dict)
        return found

    def start_shell(self, name: str, script: str) -> psutil.Process:
        """Start a shell that prints its pid first; gives it once it runs."""
        self.start(name, "/bin/sh", "-c", script)
        report = self.report()
        assert report["name"] == name
        return psutil.Process(int(str(report["line"])))


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    folder = tmp_path / "farm"
    folder.mkdir()
    found = Kept(folder)
    yield found
    found.stdin.close()
    found.process.wait(GONE_WITHIN_S)
    found.stdout.close()


def test_lines_and_ends_are_reported(kept: Kept) -> None:
    kept.start("one", "/bin/sh", "-c", "echo 'ready now'; exit 7")
    reports = [kept.report(), kept.report()]
    assert {"name": "one", "line": "ready now"} in reports
    assert {"name": "one", "exit": 7} in reports


def test_the_end_of_stdin_ends_all_and_deletes_the_folder(kept: Kept) -> None:
    children = [kept.start_shell(name, SAY_PID) for name in ("one", "two")]
    (kept.folder / "scene").mkdir()
    (kept.folder / "scene" / "room.pov").touch()
    (kept.folder / "scene").chmod(0o555)
    assert (kept.folder / "one.log").read_text() == "warning\n"
    kept.stdin.close()
    kept.process.wait(GONE_WITHIN_S)
    assert not any(child.is_running() for child in children)
    assert not kept.folder.exists()


def test_a_child_that_ignores_sigterm_is_killed_in_time(kept: Kept) -> None:
    child = kept.start_shell("one", STUBBORN)
    began_at = time.monotonic()
    kept.stdin.close()
    kept.process.wait(GONE_WITHIN_S)
    assert not child.is_running()
    assert time.monotonic() - began_at < GONE_WITHIN_S


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_keeper_takes_its_children_along(kept: Kept) -> None:
    child = kept.start_shell("one", STUBBORN)
    kept.process.kill()
    assert psutil.wait_procs([child], timeout=GONE_WITHIN_S)[1] == []


def test_signals_of_the_terminal_do_not_reach_it(kept: Kept) -> None:
    child = kept.start_shell("one", SAY_PID)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        kept.process.send_signal(number)
    kept.start("two", "/bin/echo", "still here")
    assert kept.report()["line"] == "still here"
    assert child.is_running()


def test_children_get_their_signals_back(kept: Kept) -> None:
    child = kept.start_shell("one", SAY_PID)
    child.send_signal(signal.SIGHUP)
    assert kept.report() == {"name": "one", "exit": -signal.SIGHUP}


def test_a_program_that_cannot_run_says_why_in_its_log(kept: Kept) -> None:
    kept.start("one", "/nowhere/program")
    assert kept.report() == {"name": "one", "exit": 127}
    assert "No such file" in (kept.folder / "one.log").read_text()
