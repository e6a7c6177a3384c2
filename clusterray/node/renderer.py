"""Runs POV-Ray for one attempt: starts it through the launcher, watches it, ends it for sure.

The thread that calls ``Render.run`` owns the process and must live as long as the render, because
the kernel kills POV-Ray when that thread ends (node.launcher); ``Render.cancel`` may be called by
any thread. Knows nothing of leases, uploads or the head.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import selectors
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from typing import IO, Literal

from clusterray.core.blocks import BlockGrid
from clusterray.core.model import LightKind, Rect
from clusterray.node import launcher
from clusterray.node.cut_line import CutLine
from clusterray.node.folders import AttemptFolder
from clusterray.node.machine import (
    memory_left,
    process_cpu_s,
    process_largest,
    process_written,
)
from clusterray.node.sandbox import Sandbox
from clusterray.povray.command import environment, prepare_home, render_argv
from clusterray.povray.pixel_buffer import buffer_words
from clusterray.povray.progress import ProgressParser, RenderProblem
from clusterray.povray.spec import RenderSpec
from clusterray.povray.state_file import PIXEL_BYTES, NoStateFile, StateReader, has_bytes_of

TERMINATE_S = 2.0
"""How long POV-Ray may take to end after SIGTERM before SIGKILL follows (DESIGN 6)."""
STOP_S = 20.0
"""As long as that where what it writes at its end is wanted."""
_TICK_S = 0.25
_ENDING_TICK_S = 0.02
"""Between the end of POV-Ray's output and its own lies a moment that no event marks."""
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_SOON_TICK_S = 0.05
"""So soon it is seen that a picture is whole, or a band at the line at which it was cut."""
_LOOK_S = 1.0
"""How often it is looked whether POV-Ray keeps to what it may write."""
_CHUNK_BYTES = 1 << 16
_LAST_CHUNKS = 16
ASKED_TO_END = 2
"""POV-Ray's return code after SIGTERM, SIGINT or SIGQUIT, its files whole (unixconsole.cpp)."""

RenderPhase = Literal["parsing", "rendering"]
OnProgress = Callable[[RenderPhase, int, int], None]
"""Takes the phase, and the pixels done and in all; called at least each ``_TICK_S`` seconds."""


class RenderCancelled(Exception):
    """The render was ended by ``Render.cancel``; nobody is at fault."""


class RenderFailed(Exception):
    """POV-Ray left no picture.

    ``fault`` is "scene" if the scene itself cannot be parsed, so that another node would do no
    better, else "node". ``text`` is the tail of what POV-Ray wrote. ``killed``: a signal that was
    not ours ended it, so that its finished blocks may be gone on from.
    """

    def __init__(
        self,
        fault: Literal["scene", "node"],
        message: str,
        *,
        file: str = "",
        line: int = 0,
        text: str = "",
        killed: bool = False,
    ) -> None:
        super().__init__(message)
        self.fault: Literal["scene", "node"] = fault
        self.message = message
        self.file = file
        self.line = line
        self.text = text
        self.killed = killed


class BlocksDone(Exception):
    """The blocks that are wanted are there, up to the line at which the band was cut, or all; so
    the render was ended before it had written a picture.
    """

    def __init__(self, times: RenderTimes) -> None:
        super().__init__("all blocks are there")
        self.times = times


@dataclass(frozen=True, slots=True)
class RenderTimes:
    """Wall seconds of a render: parsing as POV-Ray counts it, and all the rest of the process.

    ``gathers`` counts the radiosity samples that POV-Ray added in its final pass, ``used`` is the
    light that its statistics say it used, ``text`` the tail of what it wrote, ``trace_cpu_s`` what
    its threads computed while they rendered.
    """

    parse_s: float
    render_s: float
    gathers: int = 0
    used: tuple[LightKind, ...] = ()
    text: str = ""
    trace_cpu_s: float = 0.0


class _Cancel(IntEnum):
    """How urgently a render is to end; only ever rises."""

    NO = 0
    TERMINATE = 1
    KILL = 2


class _Output(Enum):
    """What a read of POV-Ray's stderr gave."""

    SOME = "some"
    NONE_YET = "none yet"
    ENDED = "ended"


class Render:
    """One run of POV-Ray over one rectangle, in a folder whose ``scene`` is ready.

    ``kept_pixels``: so many pixels' blocks are done already and lie in ``folder.blocks``, which
    ``keep_blocks`` has made for this very rectangle; 0: it is rendered from nothing. ``lit``: the
    folder's ``samples`` are to be rendered with, and the scene has the footer for it. ``line``
    says what is left of the band, if it can be cut meanwhile. ``sandbox``
    must let POV-Ray read what the links in ``scene`` lead to.
    """

    _yields = False
    """Whether the bands' POV-Ray goes first."""
    _spare = False
    """Whether it goes before the bands' POV-Ray when memory runs out."""
    _words: tuple[str, ...] = ()
    """What else POV-Ray is told, last."""
    _tick_s = _TICK_S
    """At least so often ``on_progress`` is called."""

    def __init__(
        self,
        *,
        povray: str,
        sandbox: Sandbox,
        threads: int,
        spec: RenderSpec,
        rect: Rect,
        folder: AttemptFolder,
        on_progress: OnProgress,
        kept_pixels: int = 0,
        lit: bool = False,
        line: CutLine | None = None,
    ) -> None:
        self._lit = lit
        self._line = line
        self._grid = BlockGrid(rect, spec.block_size)
        self._blocks = StateReader(folder.blocks)
        self._finished: set[int] = set()
        self._povray = povray
        self._sandbox = sandbox
        self._threads = threads
        self._spec = spec
        self._rect = rect
        self._folder = folder
        self._on_progress = on_progress
        self._kept_pixels = kept_pixels
        self._parser = ProgressParser()
        self._pid = 0
        self._excess = ""
        self._cancel = _Cancel.NO
        self._reached = False
        self._is_whole = False
        self.keen = False
        """Whether its owner wants to look at it often; the owner thread's."""
        # Written by cancel(): a socket, because a send to a closed one is an error, where a write
        # to a closed pipe's number could hit another file.
        self._bell: socket.socket | None = None

    # ------------------------------------------------------------ called by any thread

    def cancel(self, *, at_once: bool = False) -> None:
        """End POV-Ray: SIGTERM and after 2 s SIGKILL, or SIGKILL ``at_once``; returns at once."""
        self._cancel = max(self._cancel, _Cancel.KILL if at_once else _Cancel.TERMINATE)
        bell = self._bell
        if bell is not None:
            with contextlib.suppress(OSError):
                bell.send(b"!")

    # ------------------------------------------------------------ called by the owner thread

    @property
    def moves(self) -> int:
        """Count what POV-Ray has said besides pixels since it parsed: for ``on_progress``."""
        return self._parser.moves

    def cpu_seconds(self) -> tuple[float, float]:
        """Give, once POV-Ray renders, those of parsing and those of all else so far."""
        parsed_s = self._parser.parse_cpu_s
        return parsed_s, max(0.0, process_cpu_s(self._pid) - parsed_s)

    @property
    def has_parsed(self) -> bool:
        """Tell whether POV-Ray has parsed the scene, and renders."""
        return self._parser.phase != "parsing"

    def largest_bytes(self) -> int:
        """Give the most memory that POV-Ray ever had, as far as is known while it runs."""
        return process_largest(self._pid)

    def run(self) -> RenderTimes:
        """Render into ``folder.picture``.

        Raises BlocksDone where its ``line`` wants no more than is there; RenderCancelled,
        RenderFailed, or OSError or LocalFault if the folder cannot be used.
        In every case no process of the render is left.
        """
        heard, bell = socket.socketpair()
        with heard, bell:
            heard.setblocking(False)
            bell.setblocking(False)
            # From here on cancel() rings it; what it did before, the next look at _cancel sees.
            self._bell = bell
            return self._run(heard)

    def _run(self, heard: socket.socket) -> RenderTimes:
        start = self._folder.scene / self._spec.start
        if not (self._folder.scene / self._spec.input).is_file():
            raise RenderFailed("scene", f"{self._spec.input} is not in the scene")
        if not start.is_dir():
            raise RenderFailed("scene", f"the folder {self._spec.start} is not in the scene")
        if self._cancel:
            raise RenderCancelled
        prepare_home(self._folder.private, self._spec)
        if self._kept_pixels:
            # A POV-Ray that was killed as it wrote it may have left some of it, and +C with an
            # output file there renders nothing.
            self._folder.picture.unlink(missing_ok=True)
        self._name_blocks()
        began_at = time.monotonic()
        if self._line is not None:
            self._line.begins(self._blocks_begun)
        status = self._run_process(start, heard)
        if self._cancel:
            raise RenderCancelled
        if self._is_whole:
            status = 0
        if self._reached and status != 0:
            raise BlocksDone(self._times(began_at))
        if self._excess:
            raise RenderFailed("scene", self._excess, text=self._parser.text_tail)
        self._check(status)
        self._check_files()
        return self._times(began_at)

    def _times(self, began_at: float) -> RenderTimes:
        parser = self._parser
        spent_s = max(0.0, time.monotonic() - began_at - parser.parse_s)
        return RenderTimes(
            parser.parse_s,
            spent_s,
            parser.gathers,
            parser.used,
            parser.text_tail,
            parser.trace_cpu_s,
        )

    def _blocks_begun(self) -> int:
        """Count the blocks that POV-Ray has begun, as far as is known: called by any thread.

        It takes them in order, and each of its threads has one.
        """
        if self._parser.phase == "parsing":
            return 0
        size = self._spec.block_size
        try:
            written = self._folder.blocks.stat().st_size
        except OSError:
            written = 0
        finished = max(written, 0) // (PIXEL_BYTES * size * size)
        said = (self._kept_pixels + self._parser.done) // (size * size)
        return min(max(finished, said) + self._threads, self._grid.count)

    def _has_picture(self) -> bool:
        """Tell whether POV-Ray has written its picture, and sleeps for 0.3 s before it ends."""
        if not self._parser.told_all or self._folder.picture.suffix != ".png":
            return False
        try:
            with self._folder.picture.open("rb") as file:
                file.seek(-len(_PNG_END), os.SEEK_END)
                return file.read() == _PNG_END
        except OSError:
            return False

    @property
    def _is_cut(self) -> bool:
        """Tell whether less than the whole rectangle is wanted by now."""
        return self._line is not None and self._line.rect != self._rect

    def _all_there(self) -> bool:
        """Tell whether all blocks are there that are wanted, and nothing else is."""
        line = self._line
        if line is None:
            return False
        if line.rect != self._rect:
            return self._at_line(line)
        return line.by_blocks and has_bytes_of(self._folder.blocks, self._grid)

    def _at_line(self, line: CutLine) -> bool:
        """Tell whether all that is left of a band that was cut is done."""
        try:
            self._finished.update(block.serial for block in self._blocks.new_blocks())
        except (OSError, NoStateFile):
            # It goes on to its end then, and the tile is what is left of it.
            return False
        # What is left are the first blocks of the whole.
        left = BlockGrid(line.rect, self._spec.block_size)
        return self._finished.issuperset(range(left.count))

    def _name_blocks(self) -> None:
        """Have the blocks that POV-Ray finishes kept."""
        self._folder.name_blocks()

    def _run_process(self, start: Path, heard: socket.socket) -> int:
        """Start POV-Ray, follow it to its end, and give its return code (negative: a signal)."""
        with (
            self._sandbox.launch(
                self._povray_argv(),
                self._folder,
                start,
                threads=self._threads,
                pixels=self._pixels,
                yields=self._yields,
                spare=self._spare,
            ) as launch,
            subprocess.Popen(
                launch.argv,
                cwd=start,
                env=environment(self._folder.private),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                pass_fds=launch.pass_fds,
            ) as process,
        ):
            self._pid = process.pid
            try:
                assert process.stderr is not None
                self._follow(process, process.stderr, heard)
            finally:
                _end_group(process)
            # A descendant in a session of its own may hold the pipe open, even write on: take what
            # fits a pipe, and never wait for its end.
            for _ in range(_LAST_CHUNKS):
                if self._read(process.stderr) is not _Output.SOME:
                    break
        self._parser.finish()
        return self._sandbox.status(process.returncode)

    @property
    def _pixels(self) -> int:
        """Those of the whole picture, which POV-Ray makes room for."""
        return self._spec.width * self._spec.height

    def _povray_argv(self) -> list[str]:
        argv = render_argv(
            self._spec,
            self._rect,
            threads=self._threads,
            povray=self._povray,
            output=self._folder.picture,
            light=self._folder.samples if self._lit else None,
            resume=self._kept_pixels > 0,
        )
        return [*argv, *buffer_words(self._pixels, memory_left()), *self._words]

    def _enough(self) -> bool:
        """Tell whether POV-Ray may be ended, because nothing more is wanted of it."""
        return False

    def _follow(
        self, process: subprocess.Popen[bytes], stderr: IO[bytes], heard: socket.socket
    ) -> None:
        """Read what POV-Ray says until it has ended, and end it if it is to be cancelled."""
        os.set_blocking(stderr.fileno(), False)
        heeded = _Cancel.NO, False
        kill_at: float | None = None
        ends_at = time.monotonic() + self._sandbox.limits.wall_s
        look_at = time.monotonic() + _LOOK_S
        with selectors.DefaultSelector() as selector:
            selector.register(stderr, selectors.EVENT_READ)
            selector.register(heard, selectors.EVENT_READ)
            tick_s = self._tick_s
            while not _has_ended(process):
                for key, _events in selector.select(
                    min(tick_s, _SOON_TICK_S) if self.keen else tick_s
                ):
                    if key.fileobj is heard:
                        heard.recv(64)
                    elif self._read(stderr) is _Output.ENDED:
                        # That it closed its stderr does not mean that it will end.
                        selector.unregister(stderr)
                        tick_s = min(tick_s, _ENDING_TICK_S)
                asked = self._cancel, self._enough()
                if asked > heeded:
                    heeded = asked
                    kill_at = time.monotonic() + (TERMINATE_S if self._cancel else STOP_S)
                    _signal_group(process, _SIGNALS[max(self._cancel, _Cancel.TERMINATE)])
                now = time.monotonic()
                if self._parser.told_all or self._is_cut:
                    tick_s = min(tick_s, _SOON_TICK_S)
                if not self._is_whole and self._has_picture():
                    self._is_whole, kill_at = True, now
                if not self._reached and self._all_there():
                    self._reached, kill_at = True, now
                if now >= look_at and not self._excess:
                    look_at = now + _LOOK_S
                    self._excess = self._find_excess(late=now >= ends_at)
                    kill_at = now if self._excess else kill_at
                # Before it is killed: of a quick render there is nothing else to be seen.
                self._on_progress(*self._progress())
                if kill_at is not None and now >= kill_at:
                    kill_at = None
                    _signal_group(process, signal.SIGKILL)

    def _find_excess(self, *, late: bool) -> str:
        """Say which of the limits that the kernel does not hold POV-Ray has passed; "" for none."""
        limits = self._sandbox.limits
        if late:
            return (
                f"POV-Ray ran for {limits.wall_s:g} s and was ended: longer than this node lets it "
                "(wall_limit_s)"
            )
        most = limits.all_files(self._pixels, self._spec.block_size)
        if process_written(self._pid) > most:
            return (
                f"POV-Ray wrote more than {most} bytes in all and was ended: more than this node "
                "lets it (file_limit_bytes)"
            )
        return ""

    def _progress(self) -> tuple[RenderPhase, int, int]:
        """Give the phase, and the pixels done and in all, kept ones too: POV-Ray omits these."""
        phase, done, total = self._parser.phase, self._parser.done, self._parser.total
        if phase == "parsing" or not self._kept_pixels:
            return phase, done, total
        return phase, min(self._kept_pixels + done, self._rect.area), self._rect.area

    def _read(self, stderr: IO[bytes]) -> _Output:
        """Feed the parser with what there is to read now."""
        try:
            data = os.read(stderr.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            return _Output.NONE_YET
        if not data:
            return _Output.ENDED
        self._parser.feed(data)
        return _Output.SOME

    def _check(self, status: int) -> None:
        """Turn POV-Ray's end into RenderFailed, unless it was a success."""
        if status == 0:
            self._check_pixels()
            return
        text = self._parser.text_tail
        problem = self._parser.fatal
        placed = problem is not None and problem.file and problem.line
        if status == 1 and problem is not None and placed and not _is_the_machines(problem):
            file = self._name_in_scene(problem.file)
            raise RenderFailed("scene", problem.message, file=file, line=problem.line, text=text)
        if passed := self._passed_limit(status):
            raise RenderFailed("scene", passed, text=text)
        raise RenderFailed("node", self._sentence(status), text=text, killed=_was_killed(status))

    def _passed_limit(self, status: int) -> str:
        """Say which limit the kernel ended POV-Ray over; "" for none. It is the scene's fault:
        another node has the same limits, and this one can work on.
        """
        limits = self._sandbox.limits
        if status == -signal.SIGXCPU:
            most = limits.cpu_seconds(self._threads)
            return f"POV-Ray computed for {most} s, all that this node lets it (cpu_limit_s)"
        if status == -signal.SIGXFSZ:
            most = limits.largest_file(self._pixels)
            return (
                f"POV-Ray wrote a file of {most} bytes, the largest that this node lets it write "
                "(file_limit_bytes)"
            )
        return ""

    def _check_files(self) -> None:
        """See to it that what POV-Ray leaves are files, not what leads elsewhere when it is read.

        It makes nothing else; whoever took it over might, behind a wall that lets him.
        """
        for path in self._folder.picture.parent.iterdir():
            if not stat.S_ISREG(path.lstat().st_mode):
                raise RenderFailed("scene", f"POV-Ray left {path.name}, which is not a file")

    def _check_pixels(self) -> None:
        """See to it that POV-Ray has rendered all it was asked for.

        That its picture is whole says nothing of that, nor do its colours: black may be the scene's
        own. POV-Ray ends with 0 also where it rendered nothing.
        """
        rendered, due = self._kept_pixels + self._parser.pixels, self._rect.area
        if rendered < due:
            message = f"POV-Ray ended with code 0 and rendered {rendered} of {due} pixels"
            raise RenderFailed("node", message, text=self._parser.text_tail)

    def _name_in_scene(self, file: str) -> str:
        """Give a file that POV-Ray names, seen from where it runs, as seen from the scene's root.

        What lies outside, such as POV-Ray's own includes, keeps its absolute name.
        """
        return posixpath.normpath(posixpath.join(self._spec.start, file))

    def _sentence(self, status: int) -> str:
        if status == -signal.SIGKILL:
            return "POV-Ray was ended by SIGKILL, as the kernel does when memory runs out"
        if status < 0:
            return f"POV-Ray was ended by {_signal_name(-status)}"
        if status == launcher.EXIT_NOT_STARTED:
            return self._parser.text_tail.strip() or f"{self._povray} could not be started"
        if reason := self._sandbox.refusal(self._parser.text_tail):
            return reason
        problem = self._parser.fatal
        said = f": {problem.message}" if problem is not None else ""
        if problem is not None and _is_the_machines(problem):
            said += f" (it may have {self._sandbox.limits.memory_bytes} bytes, memory_limit_bytes)"
        return f"POV-Ray ended with code {status}{said}"


_SIGNALS = {_Cancel.TERMINATE: signal.SIGTERM, _Cancel.KILL: signal.SIGKILL}
_LIMITS = {signal.SIGXCPU, signal.SIGXFSZ}
"""What a limit sends: it would be there again."""


def _is_the_machines(problem: RenderProblem) -> bool:
    """Tell whether POV-Ray only happened to be at that line when this machine ran short.

    It reports that as a parse error where it was (POV-Ray 3.7, seen with a limit on its memory).
    """
    return problem.message.startswith("Out of memory")


def _was_killed(status: int) -> bool:
    """Tell whether a signal ended POV-Ray; it turns those that ask it to end into code 2."""
    return status == ASKED_TO_END or (status < 0 and -status not in _LIMITS)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether the process ended, where possible without reaping it.

    While it is not reaped its number, which is its group's number too, cannot be given to another
    process: _end_group may still signal the group.
    """
    if sys.platform == "darwin":
        return process.poll() is not None
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, options) is not None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process group, a descendant that outlives POV-Ray too; reap."""
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.returncode is not None and sys.platform != "darwin":
        return
    # PermissionError is how macOS speaks of a group in which only zombies are left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
