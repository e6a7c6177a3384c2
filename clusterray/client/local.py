"""A farm of one machine for one job: the same three programs, as processes over loopback.

Called by the submitter's main thread only. The processes are started and ended by a keeper process
(``client.keeper``), so that none is left however this one ends. Knows the programs' command lines
and nothing of what they do.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from clusterray.client import keeper
from clusterray.client.text import plain_lines
from clusterray.core.errors import LocalFault
from clusterray.wire.trust import JoinToken

READY_WITHIN_S = 30.0
_STOP_WITHIN_S = 2.2
_HEAD = "head"
_TAIL_LINES = 20
_KEPT_VARIABLES = frozenset({"CLUSTERRAY_POVRAY", "CLUSTERRAY_SANDBOX", "CLUSTERRAY_SANDBOX_READS"})
"""Which POV-Ray, and behind which wall: as this machine needs it, whoever's job it is."""
_ALIKE = ("--canary", "off")
"""The nodes of one machine share its POV-Ray: there is nothing to compare, and a second to save."""


def usable_cores() -> int:
    """Give the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def divide_threads(cores: int, nodes: int) -> list[int]:
    """Divide ``cores`` over ``nodes`` as evenly as whole threads go, at least one each."""
    share, rest = divmod(cores, nodes)
    return [max(1, share + (index < rest)) for index in range(nodes)]


class LocalFarm:
    """A head and ``nodes`` nodes on this machine; a context manager that leaves nothing behind.

    ``head_words`` are more words for the head's command line.
    """

    def __init__(
        self,
        nodes: int,
        *,
        head_words: tuple[str, ...] = (),
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._threads = divide_threads(usable_cores(), nodes)
        self._head_words = head_words
        self._say = say
        self._running: set[str] = set()
        self._buffer = bytearray()
        self._folder = Path()
        self._token: JoinToken | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LocalFarm:
        """Start the head and the nodes, which wait for its token; nobody waits for them here."""
        self._folder = Path(tempfile.mkdtemp(prefix="clusterray-local-"))
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(os.environ),
            # Ctrl-C in the terminal is the submitter's alone.
            start_new_session=True,
        )
        try:
            self._start_head()
            self._start_nodes()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_ready(self) -> JoinToken:
        """Wait for the head, and give the token to submit with; once is enough.

        Raises LocalFault with the head's own words if it does not start.
        """
        if self._token is not None:
            return self._token
        give_up_at = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < give_up_at:
            for name, report in self._reports(timeout_s=0.2):
                if name == _HEAD and str(report.get("line", "")).startswith("ready "):
                    self._token = JoinToken.decode((self._state / "submit.token").read_text())
                    return self._token
        raise self._fault(f"the head was not ready within {READY_WITHIN_S:g} s", _HEAD)

    def nodes_running(self) -> int:
        """Count the nodes whose processes run; raises as ``check`` does."""
        self.check()
        return len(self._running - {_HEAD})

    def check(self) -> None:
        """Raise LocalFault if the farm can no longer finish a job: its head or all nodes ended."""
        for _ in self._reports(timeout_s=0.0):
            pass

    def stop(self) -> None:
        """End all processes and delete the folder; harmless when repeated."""
        if self._keeper is None:
            return
        process, self._keeper = self._keeper, None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        keeper.remove_folder(self._folder)

    # ------------------------------------------------------------ within

    @property
    def _state(self) -> Path:
        return self._folder / _HEAD

    def _start_head(self) -> None:
        words = ["--state", str(self._state), "--listen", "127.0.0.1", *self._head_words]
        self._start(_HEAD, "clusterray.cli.server", words)

    def _start_nodes(self) -> None:
        for index, threads in enumerate(self._threads, start=1):
            name = f"local-{index}"
            words = ["--join", str(self._state / "node.token"), "--name", name]
            words += ["--threads", str(threads), "--work", str(self._folder / name)]
            words += ["--join-wait-s", f"{READY_WITHIN_S:g}", "--drain-s", "0", *_ALIKE]
            self._start(name, "clusterray.cli.node", words)

    def _start(self, name: str, module: str, words: list[str]) -> None:
        # -P: a file of the person's that is named like a module must not be imported. An empty
        # configuration: /etc/clusterray is about this machine's own daemons.
        argv = [sys.executable, "-P", "-m", module, "--config", os.devnull, *words]
        assert self._keeper is not None
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(json.dumps({"name": name, "argv": argv}).encode() + b"\n")
        self._keeper.stdin.flush()
        self._running.add(name)

    def _reports(self, timeout_s: float) -> Iterator[tuple[str, Mapping[str, object]]]:
        for line in self._read_lines(timeout_s):
            report = json.loads(line)
            name = str(report["name"])
            if "exit" in report:
                self._ended(name, int(report["exit"]))
            yield name, report

    def _read_lines(self, timeout_s: float) -> list[bytes]:
        assert self._keeper is not None
        assert self._keeper.stdout is not None
        descriptor = self._keeper.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if poll.poll(timeout_s * 1000):
            data = os.read(descriptor, 65536)
            if not data:
                raise LocalFault("the process that keeps the local farm was killed; submit again")
            self._buffer += data
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        return lines

    def _ended(self, name: str, code: int) -> None:
        self._running.discard(name)
        if name == _HEAD:
            raise self._fault(f"the local head ended with exit code {code}", name)
        if self._running <= {_HEAD}:
            raise self._fault(f"the local node {name} ended with exit code {code}", name)
        self._say(f"the local node {name} ended with exit code {code}; the others go on")

    def _fault(self, what: str, name: str) -> LocalFault:
        try:
            text = (self._folder / f"{name}.log").read_text(errors="replace")
        except OSError:
            text = ""
        tail = [line for line in plain_lines(text) if line][-_TAIL_LINES:]
        for line in tail:
            self._say(f"{name}: {line}")
        return LocalFault(what + (f": {tail[-1]}" if tail else ""))


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out what is meant for this machine's own daemons."""
    return {
        name: value
        for name, value in environ.items()
        if name in _KEPT_VARIABLES or not name.startswith(("CLUSTERRAY_", "NOTIFY_SOCKET"))
    }
