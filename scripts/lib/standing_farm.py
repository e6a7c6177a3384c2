"""A head and its nodes as real processes on loopback, started once and used for many jobs.

Caller's thread; ``submit`` and ``ask`` may be called by several at once. Speaks to the farm by its
commands alone, as a person would.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from daemons import START_S, Daemon, Heard, environment, program
from programs import Ended, Programs

_END_S = 5.0
_ASK_S = 60.0
_PORT = re.compile(r"(\w+)=\S*:(\d+)")
_JOB = re.compile(r"^job (\S+) is submitted$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Submitted:
    """How a submit ended: its exit code, None if it was given up; what it said; its job's id."""

    code: int | None
    said: str
    job: str = ""


@dataclass(slots=True)
class StandingFarm:
    """One head, and a node for each number of ``threads``; lives in ``folder``.

    ``head_words`` and ``node_words`` are settings on their command lines; ``heard`` hears the
    head's log.
    """

    folder: Path
    threads: Sequence[int]
    programs: Programs
    head_words: Sequence[str] = ()
    node_words: Sequence[str] = ()
    heard: Heard = lambda at, line: None
    nodes: dict[str, Daemon] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    """The head's, by name: control, ftp, http."""
    _head: Daemon | None = None

    def __enter__(self) -> StandingFarm:
        try:
            self.start_head()
            for number, threads in enumerate(self.threads, start=1):
                self.add_node(f"node-{number}", threads)
            self.wait_for_nodes()
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

    @property
    def state(self) -> Path:
        """The head's state folder."""
        return self.folder / "head"

    @property
    def head(self) -> Daemon:
        """The head, which has been started."""
        assert self._head is not None
        return self._head

    def work_of(self, node: str) -> Path:
        """Give a node's work folder."""
        return self.folder / node

    # ------------------------------------------------------------ daemons

    def start_head(self) -> None:
        """Start the head, or start it again after its end, and wait until it is ready.

        Raises RuntimeError if that does not come about, or if its ports are others than before.
        """
        if self._head is None:
            words = ("--state", str(self.state), "--listen", "127.0.0.1", *self.head_words)
            self._head = Daemon("head", "server", words, self.folder / "server.log", self.heard)
        self._head.start()
        line = self._head.first_line()
        if not line.startswith("ready "):
            raise RuntimeError(f"the head did not start; see {self._head.log}")
        ports = {name: int(port) for name, port in _PORT.findall(line)}
        if self.ports and ports != self.ports:
            raise RuntimeError(f"the head came back with other ports: {line.strip()}")
        self.ports = ports

    def add_node(self, name: str, threads: int, join: str = "") -> None:
        """Start one more node; it joins by the head's own token unless ``join`` is another."""
        words = ["--join", join or self.token("node"), "--name", name, "--threads", str(threads)]
        words += ["--work", str(self.work_of(name)), *self.node_words]
        # Known before it is started, so that it is ended whatever happens.
        self.nodes[name] = Daemon(name, "node", words, self.folder / f"{name}.log")
        self.nodes[name].start()

    def wait_for_nodes(self) -> None:
        """Wait until all have joined: a lone node would take the first pictures whole."""
        give_up_at = time.monotonic() + START_S
        while time.monotonic() < give_up_at:
            done = self.control("nodes", "--json")
            if done.code == 0 and len(json.loads(done.stdout)) == len(self.nodes):
                return
        raise RuntimeError(f"not all nodes joined within {START_S:g} s; see {self.folder}/*.log")

    def _stop(self) -> None:
        """End all, nodes first. The first signal drains, the second means now."""
        daemons = [*self.nodes.values(), *([self._head] if self._head else [])]
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            for daemon in daemons:
                daemon.signal(number)
            give_up_at = time.monotonic() + _END_S
            codes = [daemon.wait(max(0.0, give_up_at - time.monotonic())) for daemon in daemons]
            if None not in codes:
                break

    # ------------------------------------------------------------ commands

    def token(self, role: str) -> str:
        """Give the path of the head's token for a role."""
        return str(self.state / f"{role}.token")

    def submit(
        self,
        scene: Path,
        output: Path,
        options: Sequence[str],
        timeout_s: float,
        *,
        only_needed: bool = False,
        join: str = "",
    ) -> Submitted:
        """Submit and wait for the end; after ``timeout_s`` the job is cancelled.

        ``join`` is a token, or a file with one, instead of the head's own.
        """
        command = [*program("submit"), str(scene), "--join", join or self.token("submit")]
        command += ["--only-needed"] if only_needed else []
        command += ["-o", str(output), "--", *options]
        ended = self.programs.run(command, timeout_s=timeout_s, environment=environment())
        said = ended.stderr.decode("utf-8", "replace")
        found = _JOB.search(said)
        job = found[1] if found else ""
        if ended.code is None and job:
            self.control("cancel", job)
        return Submitted(ended.code, said, job)

    def control(self, *words: str) -> Ended:
        """Run the command ``clusterray`` to its end."""
        command = [*program("control"), *words, "--join", self.token("submit")]
        return self.programs.run(command, timeout_s=_ASK_S, environment=environment())

    def ask(self, *words: str) -> Any:
        """Give what ``clusterray`` answers in JSON; raises RuntimeError with its complaint."""
        done = self.control(*words, "--json")
        if done.code:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise RuntimeError(f"clusterray {' '.join(words)}: {said}")
        return json.loads(done.stdout)

    def bands_of(self, job: str) -> int:
        """Give the number of bands that a job was rendered in, 0 if the head does not say."""
        try:
            return len(self.ask("show", job)["bands"])
        except (RuntimeError, ValueError):
            return 0
