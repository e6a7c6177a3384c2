"""Programs that are run to their end, by several threads, and that can all be ended at once.

Knows nothing of what they are.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit code, None if it was given up, and what it wrote."""

    code: int | None
    stdout: bytes
    stderr: bytes


class Programs:
    """Runs programs; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Guards the two below: a program is either seen by ``end_all`` or not started."""
        self._running: set[subprocess.Popen[bytes]] = set()
        self._over = False

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run ``command`` to its end; one that takes longer than ``timeout_s`` is killed."""
        program = self._start(command, folder, environment)
        if program is None:
            return Ended(None, b"", b"")
        late = False
        try:
            stdout, stderr = program.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            late = True
            program.kill()
            stdout, stderr = program.communicate()
        finally:
            with self._lock:
                self._running.discard(program)
        return Ended(None if late else program.returncode, stdout, stderr)

    @property
    def is_over(self) -> bool:
        """Tell whether ``end_all`` was called."""
        with self._lock:
            return self._over

    def end_all(self) -> None:
        """Kill what runs, and start nothing any more."""
        with self._lock:
            self._over = True
            for program in self._running:
                program.kill()

    def _start(
        self, command: Sequence[str], folder: Path | None, environment: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._over:
                return None
            program = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            self._running.add(program)
            return program
