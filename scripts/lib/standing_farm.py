"""A head and its nodes as real processes on loopback, started once and used for many jobs.

Caller's thread; ``submit`` may be called by several at once. Speaks to the farm by its commands
alone, as a person would.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from programs import Ended, Programs

_START_S = 60.0
_END_S = 5.0
_ASK_S = 60.0
_JOB = re.compile(r"^job (\S+) is submitted$", re.MULTILINE)
_NO_CONFIG = ("--config", os.devnull)
"""What /etc says of this machine's own daemons is not this farm's."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """How a submit ended: its exit code, None if it was given up; what it said; its job's id."""

    code: int | None
    said: str
    job: str = ""


@dataclass(slots=True)
class StandingFarm:
    """One head, and a node for each number of ``threads``; lives in ``folder``."""

    folder: Path
    threads: Sequence[int]
    programs: Programs
    _daemons: list[subprocess.Popen[str]] = field(default_factory=list)

    def __enter__(self) -> StandingFarm:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def submit(
        self,
        scene: Path,
        output: Path,
        options: Sequence[str],
        timeout_s: float,
        *,
        only_needed: bool = False,
    ) -> Submitted:
        """Submit and wait for the end; after ``timeout_s`` the job is cancelled."""
        command = [*_program("submit"), str(scene), "--join", self._token("submit")]
        command += ["--only-needed"] if only_needed else []
        command += ["-o", str(output), "--", *options]
        ended = self.programs.run(command, timeout_s=timeout_s, environment=_environment())
        said = ended.stderr.decode("utf-8", "replace")
        found = _JOB.search(said)
        job = found[1] if found else ""
        if ended.code is None and job:
            self._control("cancel", job)
        return Submitted(ended.code, said, job)

    def bands_of(self, job: str) -> int:
        """Give the number of bands that a job was rendered in, 0 if the head does not say."""
        done = self._control("show", job, "--json")
        if done.code:
            return 0
        bands: list[object] = json.loads(done.stdout)["bands"]
        return len(bands)

    def _start(self) -> None:
        state = self.folder / "head"
        head = self._daemon("server", "--state", str(state), "--listen", "127.0.0.1")
        if not _first_line(head).startswith("ready "):
            raise RuntimeError(f"the head did not start; see {self.folder}/server.log")
        for number, threads in enumerate(self.threads, start=1):
            self._daemon(
                "node",
                *("--join", str(state / "node.token"), "--name", f"node-{number}"),
                *("--threads", str(threads), "--work", str(self.folder / f"node-{number}")),
            )
        self._wait_for_nodes()

    def _wait_for_nodes(self) -> None:
        """Wait until all have joined: a lone node would take the first pictures whole."""
        give_up_at = time.monotonic() + _START_S
        while time.monotonic() < give_up_at:
            done = self._control("nodes", "--json")
            if done.code == 0 and len(json.loads(done.stdout)) == len(self.threads):
                return
        raise RuntimeError(f"not all nodes joined within {_START_S:g} s; see {self.folder}/*.log")

    def _daemon(self, name: str, *words: str) -> subprocess.Popen[str]:
        with (self.folder / f"{name}.log").open("ab") as log:
            daemon = subprocess.Popen(
                [*_program(name), *_NO_CONFIG, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if name == "server" else subprocess.DEVNULL,
                stderr=log,
                text=True,
                env=_environment(),
                # Ctrl-C is for the caller, who then ends the daemons in order.
                start_new_session=True,
            )
        self._daemons.append(daemon)
        return daemon

    def _stop(self) -> None:
        """End all, nodes first. The first signal drains, the second means now."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            for daemon in reversed(self._daemons):
                daemon.send_signal(number)
            if all(_ends(daemon) for daemon in self._daemons):
                break
        for daemon in self._daemons:
            if daemon.stdout is not None:
                daemon.stdout.close()

    def _control(self, *words: str) -> Ended:
        command = [*_program("control"), *words, "--join", self._token("submit")]
        return self.programs.run(command, timeout_s=_ASK_S, environment=_environment())

    def _token(self, role: str) -> str:
        return str(self.folder / "head" / f"{role}.token")


def _program(name: str) -> list[str]:
    return [sys.executable, "-m", f"clusterray.cli.{name}"]


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CLUSTERRAY_", "NOTIFY_SOCKET"))
    }


def _first_line(daemon: subprocess.Popen[str]) -> str:
    too_late = threading.Timer(_START_S, daemon.kill)
    too_late.start()
    try:
        assert daemon.stdout is not None
        return daemon.stdout.readline()
    finally:
        too_late.cancel()
        too_late.join()


def _ends(daemon: subprocess.Popen[str]) -> bool:
    try:
        daemon.wait(_END_S)
    except subprocess.TimeoutExpired:
        return False
    return True
