"""Real daemons as real processes on loopback, and plain POV-Ray beside them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from clusterray.node.sandbox import NO_WALL

WAIT_S = 60.0
"""How long something that must happen may take on a busy machine before the test gives up."""
NO_CONFIG = ("--config", os.devnull)
"""A daemon installed on this machine has settings of its own in /etc."""

needs_povray = pytest.mark.skipif(
    shutil.which("povray") is None, reason="povray is not installed: apt install povray"
)


class Lines:
    """The lines of a stream as they come, kept for whoever asks later."""

    def __init__(self, stream: Any) -> None:
        self.seen: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: Any) -> None:
        with stream:
            for line in stream:
                self.seen.append(line.rstrip("\n"))
                self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def wait_for(self, part: str, timeout_s: float = WAIT_S) -> str:
        """Give the first line from now on that has ``part``; fails the test if none comes."""
        give_up_at = time.monotonic() + timeout_s
        while True:
            try:
                line = self._queue.get(timeout=max(0.0, give_up_at - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                text = "\n".join(self.seen[-40:])
                raise AssertionError(f"{part!r} never came; what came:\n{text}")
            if part in line:
                return line

    def join(self) -> None:
        self._thread.join()


class Process:
    """One daemon or command, with its two streams read all the time."""

    def __init__(
        self,
        module: str,
        words: Sequence[str],
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.popen = subprocess.Popen(
            [*prefix, sys.executable, "-m", module, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**clean_environment(), **(env or {})},
            # A Ctrl-C is sent to one program, not to the tests.
            start_new_session=True,
        )
        self.out = Lines(self.popen.stdout)
        self.err = Lines(self.popen.stderr)

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        code = self.popen.wait(timeout_s)
        self.out.join()
        self.err.join()
        return code

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.wait()

    def stop(self) -> int:
        if self.popen.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            return self.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def stop_at_once(self) -> None:
        """Ask again until it ends: of two signals that come together one is heard."""
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at:
            if self.popen.poll() is None:
                self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(0.1)
                return
        self.kill()
        raise AssertionError("it did not end when it was asked again and again")


def clean_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CLUSTERRAY_", "NOTIFY_SOCKET"))
    }


class Farm:
    """A head and nodes in a folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "head"
        self.nodes: dict[str, Process] = {}
        self.submits: list[Process] = []
        self.head: Process | None = None
        self.ports: dict[str, int] = {}

    def start_head(self, *words: str, dies: str = "", prefix: Sequence[str] = ()) -> Process:
        """Start the head, one that ``dies`` at a point of tests.system.dying_head."""
        argv = [*NO_CONFIG, "--state", str(self.state), "--listen", "127.0.0.1", *words]
        if dies:
            self.head = Process("tests.system.dying_head", [dies, *argv])
        else:
            self.head = Process("clusterray.cli.server", argv, prefix=prefix)
        line = self.head.out.wait_for("ready ")
        self.ports = {
            name: int(address.rsplit(":", 1)[1])
            for name, address in (part.split("=") for part in line.split()[1:])
        }
        return self.head

    def start_node(
        self, name: str, *words: str, threads: int = 1, prefix: Sequence[str] = ()
    ) -> Process:
        token = str(self.state / "node.token")
        argv = [*NO_CONFIG, "--join", token, "--name", name, "--threads", str(threads)]
        argv += ["--work", str(self.folder / f"node-{name}"), *words]
        if "--povray" in words:
            # What stands in for POV-Ray needs a shell and its programs.
            argv += ["--sandbox", NO_WALL]
        self.nodes[name] = Process("clusterray.cli.node", argv, prefix=prefix)
        return self.nodes[name]

    def submit(self, scene: Path | str, *words: str, cwd: Path) -> Process:
        token = str(self.state / "submit.token")
        process = Process("clusterray.cli.submit", ["--join", token, str(scene), *words], cwd=cwd)
        self.submits.append(process)
        return process

    def control(self, *words: str, token: str = "submit") -> subprocess.CompletedProcess[str]:
        argv = [*words, "--join", str(self.state / f"{token}.token")]
        return subprocess.run(
            [sys.executable, "-m", "clusterray.cli.control", *argv],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            env=clean_environment(),
            cwd=self.folder,
            check=False,
        )

    def ask(self, *words: str) -> Any:
        done = self.control(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def wait_until(self, words: Sequence[str], holds: Any, what: str) -> Any:
        """Ask again and again until ``holds`` of the answer; for what has no event to wait for."""
        give_up_at = time.monotonic() + WAIT_S
        while time.monotonic() < give_up_at:
            answer = self.ask(*words)
            if holds(answer):
                return answer
        raise AssertionError(f"never came about: {what}")

    def stop(self) -> None:
        for process in self.submits:
            process.kill()
        for node in self.nodes.values():
            if node.popen.poll() is None:
                node.signal(signal.SIGTERM)
        for node in self.nodes.values():
            node.stop_at_once()
        if self.head is not None:
            self.head.stop()


class Relay:
    """A TCP relay on loopback that counts the bytes of those who connect to it.

    ``hold`` makes connections half-open: both ends stand, and nothing passes any more.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.from_peer = 0
        self._held = threading.Event()
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._sockets = [self._listening]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Relay:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join()

    def hold(self) -> None:
        """Swallow whatever comes from now on."""
        self._held.set()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listening.accept()
            except OSError:
                return
            head = socket.create_connection(self._target)
            self._sockets += [peer, head]
            for source, sink in ((peer, head), (head, peer)):
                thread = threading.Thread(target=self._pump, args=(source, sink, source is peer))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.from_peer += len(data) if counted else 0
                if not self._held.is_set():
                    sink.sendall(data)
            if not self._held.is_set():
                sink.shutdown(socket.SHUT_WR)


@contextmanager
def farm_of(folder: Path, *threads: int, head: tuple[str, ...] = ()) -> Iterator[Farm]:
    """A running farm with one node for each number of threads; ``head`` are words for the head."""
    farm = Farm(folder)
    try:
        farm.start_head(*head)
        for index, count in enumerate(threads, start=1):
            farm.start_node(f"n{index}", threads=count)
        yield farm
    finally:
        farm.stop()


def plain_povray(folder: Path, output: Path, *options: str) -> Path:
    """Render with plain POV-Ray as a person would, Debian's own defaults in force."""
    argv = ["povray", "-D", "-P", f"+O{output}", *options]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def differing_pixels(one: Path, other: Path) -> int:
    """Count pixels that differ in any channel; pictures of another size or mode never compare."""
    with Image.open(one) as first, Image.open(other) as second:
        assert (first.size, first.mode) == (second.size, second.mode)
        rows, others = first.tobytes(), second.tobytes()
        size = len(rows) // (first.width * first.height)
    if rows == others:
        return 0
    return sum(rows[i : i + size] != others[i : i + size] for i in range(0, len(rows), size))


def povrays_of(process: Process, word: str = "") -> list[psutil.Process]:
    """The POV-Ray processes below a daemon; with a ``word`` of their command line, if given.

    A scout's has another size than a band's.
    """
    found = []
    for child in psutil.Process(process.popen.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if child.name() == "povray" and (not word or word in child.cmdline()):
                found.append(child)
    return found


def gone(processes: Sequence[psutil.Process], timeout_s: float) -> bool:
    """Tell whether all of them end within the time."""
    _, alive = psutil.wait_procs(list(processes), timeout=timeout_s)
    return not alive
