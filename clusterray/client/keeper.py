"""Keeps the processes of a one-machine farm, and lets none of them outlive the submitter.

A process of its own, single-threaded, standard library only, run as ``python keeper.py FOLDER``. It
reads one JSON object a line on stdin, ``{"name": ..., "argv":
[...]}``, and starts that program; it writes one JSON object a line on stdout: ``{"name": ...,
"line": ...}`` for each line of a child's stdout, ``{"name": ..., "exit": ...}`` when a child ends.
A child's stderr goes to ``FOLDER/<name>.log``. When stdin ends, because the submitter is done or
was killed in whatever way, the children are stopped and FOLDER is deleted.

Should the keeper itself be killed, Linux kills the children (PR_SET_PDEATHSIG); that is set between
fork and exec, which is safe here because this process has one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

STOP_WITHIN_S = 1.2
"""How long children may take after a first signal that they could heed, until they are killed."""
_REMOVE_TRIES = 10
_REMOVE_PAUSE_S = 0.05
_FIRST_SIGNAL = signal.SIGKILL if sys.platform.startswith("linux") else signal.SIGTERM
"""Nothing of the farm is kept, so nobody waits for its daemons to tidy up; what POV-Ray they run
Linux kills with them (``node.launcher``)."""
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_EXEC_FAILED = 127


@dataclass
class Child:
    """A process of the farm: its pid is its process group's and session's too."""

    name: str
    pid: int
    stdout: int
    buffer: bytearray = field(default_factory=bytearray)


class Keeper:
    """The loop: commands in, children's words and ends out."""

    def __init__(self, folder: Path, commands: int, reports: int) -> None:
        self._folder = folder
        self._commands = commands
        self._reports = reports
        self._buffer = bytearray()
        self._children: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)

    def run(self) -> None:
        """Serve until the commands end, then stop all children and delete the folder."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for descriptor in (self._commands, self._wake_read):
            self._selector.register(descriptor, selectors.EVENT_READ)
        try:
            while self._serve_once():
                pass
        finally:
            self._stop_children()
            remove_folder(self._folder)

    def _serve_once(self) -> bool:
        for key, _ in self._selector.select():
            if key.fd == self._commands and not self._read_commands():
                return False
            if key.fd == self._wake_read:
                os.read(self._wake_read, 512)
            if isinstance(key.data, Child):
                self._read_child(key.data)
        self._reap()
        return True

    def _read_commands(self) -> bool:
        data = os.read(self._commands, 65536)
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            command = json.loads(self._buffer[:end])
            del self._buffer[: end + 1]
            self._start(command["name"], command["argv"])
        return bool(data)

    def _start(self, name: str, argv: Sequence[str]) -> None:
        read_end, write_end = os.pipe()
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(argv, write_end, self._folder / f"{name}.log", keeper)
        os.close(write_end)
        child = Child(name, pid, read_end)
        self._children[pid] = child
        self._selector.register(read_end, selectors.EVENT_READ, child)

    def _read_child(self, child: Child) -> None:
        data = os.read(child.stdout, 65536)
        if not data:
            self._selector.unregister(child.stdout)
            os.close(child.stdout)
            return
        child.buffer += data
        while (end := child.buffer.find(b"\n")) >= 0:
            line = child.buffer[:end].decode("utf-8", "replace")
            del child.buffer[: end + 1]
            self._report({"name": child.name, "line": line})

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._children[pid]
                code = os.waitstatus_to_exitcode(status)
                self._report({"name": child.name, "exit": code})

    def _report(self, report: dict[str, object]) -> None:
        # The reader may be gone; stdin tells so too, and that is what ends us.
        with contextlib.suppress(OSError):
            os.write(self._reports, json.dumps(report).encode() + b"\n")

    def _stop_children(self) -> None:
        self._selector.unregister(self._commands)
        self._signal_all(_FIRST_SIGNAL)
        kill_at = time.monotonic() + STOP_WITHIN_S
        while self._children and (left_s := kill_at - time.monotonic()) > 0:
            for key, _ in self._selector.select(left_s):
                os.read(key.fd, 65536) or self._selector.unregister(key.fd)
            self._reap()
        self._signal_all(signal.SIGKILL)
        for pid in list(self._children):
            os.waitpid(pid, 0)

    def _signal_all(self, number: int) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)


def remove_folder(folder: Path) -> None:
    """Delete a farm's folder with the read-only scenes in it.

    Tries again while it is not gone: a POV-Ray killed a moment ago may still have made a file.
    """
    for _ in range(_REMOVE_TRIES):
        for place, _, _ in os.walk(folder):
            with contextlib.suppress(OSError):
                Path(place).chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_REMOVE_PAUSE_S)


def _become(argv: Sequence[str], stdout: int, log: Path, keeper: int) -> NoReturn:
    """Turn the forked child into the program; only ever returns by ending the process."""
    try:
        os.setsid()
        _die_with(keeper)
        signal.set_wakeup_fd(-1)
        for number in (*_IGNORED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        stderr = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.dup2(nothing, 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.execv(argv[0], list(argv))
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(_EXEC_FAILED)


def _die_with(keeper: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A keeper killed before the prctl will send no signal any more.
    if os.getppid() != keeper:
        os._exit(_EXEC_FAILED)


def main() -> int:
    """Keep the farm of the folder named on the command line."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    Keeper(Path(sys.argv[1]), commands=0, reports=1).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
