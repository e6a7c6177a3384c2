"""One daemon of ClusterRay as a process that may be killed, stopped, and started again.

What it says goes to a log file, each line with the time at which it came, and to whoever listens.
The thread of a daemon's lines ends with its process. Knows nothing of farms.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

Heard: TypeAlias = Callable[[float, str], None]
"""Takes a line of stderr, and when it came, in monotonic seconds; on the daemon's own thread."""

START_S = 60.0
"""How long a daemon may take to say that it is ready, on a machine full of POV-Rays."""
NICE = 5
"""Farms for tests are polite to the rest of the machine."""
_NO_CONFIG = ("--config", os.devnull)
"""What /etc says of this machine's own daemons is not this one's."""
_STAMP = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ ")


class Daemon:
    """``module`` of clusterray.cli with its words; every start appends to the same log."""

    def __init__(
        self,
        name: str,
        module: str,
        words: Sequence[str],
        log: Path,
        heard: Heard = lambda at, line: None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = [*program(module), *_NO_CONFIG, *words]
        self._heard = heard
        self._process: subprocess.Popen[str] | None = None
        self._listening: threading.Thread | None = None

    def start(self) -> None:
        """Start it; it must not be running."""
        assert self._listening is None
        self._process = subprocess.Popen(
            ["nice", "-n", str(NICE), *self._command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment(),
            # Ctrl-C is for the caller, who then ends the daemons in order.
            start_new_session=True,
        )
        self._listening = threading.Thread(
            target=self._listen, args=(self._process,), name=f"lines of {self.name}"
        )
        self._listening.start()

    @property
    def pid(self) -> int:
        """The process id; ``nice`` has become the daemon itself."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Tell whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def first_line(self) -> str:
        """Give the first line it says on stdout, "" if it ends without or takes too long."""
        assert self._process is not None and self._process.stdout is not None
        too_late = threading.Timer(START_S, self._process.kill)
        too_late.start()
        try:
            return self._process.stdout.readline()
        finally:
            too_late.cancel()
            too_late.join()

    def signal(self, number: int) -> None:
        """Send a signal; nothing if it does not run."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at this instant, as a power cut would."""
        self.signal(signal.SIGKILL)
        self.wait(None)

    def wait(self, timeout_s: float | None) -> int | None:
        """Wait for its end; give the exit code, None if it still runs after ``timeout_s``.

        One that was never started has ended well.
        """
        if self._process is None:
            return 0
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        if self._listening is not None:
            self._listening.join()
            self._listening = None
            assert self._process.stdout is not None
            self._process.stdout.close()
        return code

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as lines, self.log.open("a", encoding="utf-8") as log:
            for line in lines:
                now = time.monotonic()
                log.write(line)
                log.flush()
                self._heard(now, _STAMP.sub("", line.rstrip("\n")))


def program(module: str) -> list[str]:
    """Give the command that runs a program of clusterray.cli."""
    return [sys.executable, "-m", f"clusterray.cli.{module}"]


def environment() -> dict[str, str]:
    """Give this process's environment without what would set a daemon up."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CLUSTERRAY_", "NOTIFY_SOCKET"))
    }
