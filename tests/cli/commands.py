"""The commands as a person starts them: real processes, their streams, their exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

WAIT_S = 60.0

SPHERE = """\
#version 3.7;
global_settings { assumed_gamma 1 }
camera { location <0, 1, -4> look_at 0 }
light_source { <3, 5, -4> rgb 1 }
plane { y, -1 pigment { checker rgb 1, rgb 0.2 } }
sphere { 0, 1 pigment { rgb <1, 0.3, 0.2> } finish { reflection 0.2 } }
"""
SMALL = ("--width", "64", "--height", "48")


def command(program: str) -> list[str]:
    """The installed entry point beside this Python."""
    return [str(Path(sys.executable).parent / program)]


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment with a home of the test's and no setting of ClusterRay."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CLUSTERRAY", "XDG_"))}
    # The configuration of daemons that this machine may have is none of the tests' business.
    ours = {"HOME": str(home), "CLUSTERRAY_CONFIG": os.devnull, "PYTHONUNBUFFERED": "1"}
    return {**kept, **ours, **more}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def run(
    program: str,
    *words: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> Ended:
    """Run a command to its end with ``cwd`` as its home too, unless ``env`` says otherwise."""
    found = subprocess.run(
        [*prefix, *command(program), *map(str, words)],
        cwd=cwd,
        env=environment(cwd) if env is None else env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    return Ended(found.returncode, found.stdout, found.stderr)


class Running:
    """A command that runs; its streams are read by threads as they come."""

    def __init__(
        self, program: str, words: Sequence[str | Path], cwd: Path, env: Mapping[str, str]
    ):
        self.process = subprocess.Popen(
            [*command(program), *map(str, words)],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._changed = threading.Condition()
        self._lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._open = 2
        self._readers = [threading.Thread(target=self._read, args=(name,)) for name in self._lines]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        with getattr(self.process, name) as stream:
            for line in stream:
                with self._changed:
                    self._lines[name].append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    @property
    def stdout(self) -> list[str]:
        with self._changed:
            return list(self._lines["stdout"])

    @property
    def stderr(self) -> str:
        with self._changed:
            return "\n".join(self._lines["stderr"])

    def wait_for(self, part: str, stream: str = "stderr") -> str:
        """Give the first line of ``stream`` that has ``part``, as soon as it is there."""
        give_up_at = time.monotonic() + WAIT_S
        with self._changed:
            while True:
                found = [line for line in self._lines[stream] if part in line]
                if found:
                    return found[0]
                left_s = give_up_at - time.monotonic()
                if self._open == 0 or left_s <= 0:
                    raise AssertionError(f"{part!r} never came; what came: {self._lines}")
                self._changed.wait(left_s)

    def ended(self, timeout_s: float = WAIT_S) -> Ended:
        """Wait for the end."""
        code = self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join()
        return Ended(code, "\n".join(self.stdout), self.stderr)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.ended()


@contextmanager
def running(
    program: str, *words: str | Path, cwd: Path, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Start a command and see to it that it is gone in the end."""
    found = Running(program, words, cwd, environment(cwd) if env is None else env)
    try:
        yield found
    finally:
        found.stop()


@dataclass(frozen=True)
class HeadCommand:
    """A running clusterray-server."""

    state: Path
    command: Running

    def token(self, role: str) -> Path:
        return self.state / f"{role}.token"

    def run(self, program: str, *words: str | Path, cwd: Path) -> Ended:
        """Run a command with this head's token for people."""
        return run(program, *words, "--join", self.token("submit"), cwd=cwd)


@contextmanager
def head_process(state: Path, *words: str) -> Iterator[HeadCommand]:
    """Start a head and wait until it is ready; its exit code must be 0 in the end."""
    with running("clusterray-server", "--state", state, *words, cwd=state.parent) as command:
        command.wait_for("ready control=", "stdout")
        yield HeadCommand(state, command)


@contextmanager
def node_process(head: HeadCommand, work: Path, *words: str) -> Iterator[Running]:
    """Start a node of ``head``."""
    own = ("--join", head.token("node"), "--work", work, "--drain-s", "0")
    with running("clusterray-node", *own, *words, cwd=work.parent) as command:
        yield command


def family(pid: int) -> list[psutil.Process]:
    """The process and all below it."""
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def scene_folder(parent: Path, name: str = "scene", **files: str) -> Path:
    """Make a scene folder with ``files`` (a name without suffix is a .pov), by default one."""
    folder = parent / name
    folder.mkdir(parents=True)
    for stem, text in (files or {"room": SPHERE}).items():
        (folder / f"{stem}.pov").write_text(text)
    return folder
