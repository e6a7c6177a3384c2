"""Reads what POV-Ray writes to stderr while it renders; sans-IO.

One thread feeds it bytes as they come, in any pieces. Knows the form of POV-Ray's messages and
nothing of processes. A scene can print what it likes, so nothing here may be trusted with more
than showing it to a person; but its lines end in ``\\n``, where POV-Ray's own progress ends in
``\\r``. Source: POV-Ray, vfe/unix/unixconsole.cpp and base/textstreambuffer.h.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from clusterray.core.model import LightKind
from clusterray.povray.command import ALIAS_FOLDER

MAX_TEXT_BYTES = 64 << 10
"""How much of the text's end is kept."""
_MAX_LINE_BYTES = 8 << 10
_MAX_MESSAGE = 4000
_MAX_WARNINGS = 50
_WRAP_COLUMNS = 80
"""POV-Ray wraps its text here: at a space, which then begins the next line, or within a word."""

_END = re.compile(rb"[\r\n]")
_RENDERED = re.compile(rb"Rendered (\d{1,15}) of (\d{1,15}) pixels \(\d+%\)")
_PARSE_TIME = re.compile(r"  Parse Time: .*\((\d{1,9}\.\d{3}) seconds\)")
_PIXELS = re.compile(r"Pixels: +(\d{1,15}) +Samples: ")
_CPU = re.compile(r" +using \d{1,6} thread\(s\) with (\d{1,9}\.\d{3}) CPU-seconds total")
_TRACE_TIME = re.compile(r"  Trace Time: +\d")
_GATHERS = re.compile(r"Radiosity \(final\) calculated:\s+(\d{1,15})\b")
_RADIOSITY = re.compile(r"Radiosity samples calculated:|  Radiosity Time: +\d")
# Of a map that is loaded POV-Ray tells the time too, but no number.
_PHOTONS = re.compile(r"Number of photons shot:")
_PLACE = re.compile(r"File '(.*)' line (\d{1,9}): (.*)", re.DOTALL)
_FATAL = re.compile(r"Fatal error in \w+: (.*)", re.DOTALL)
_MISSING = re.compile(r"Cannot find file '(.*)', even after", re.DOTALL)
_BEGINNINGS = (b"File '", b"Fatal error in ", b"Problem with option setting")
_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC: titles, links, the clipboard
    r"|[\x1b\x9b]\[?[0-?]*[ -/]*[@-~]?"  # CSI and escapes of two characters
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u200e\u200f\u2028-\u202e\u2066-\u2069]"  # what turns the order of letters round
)


@dataclass(frozen=True, slots=True)
class RenderProblem:
    """What POV-Ray says is wrong; ``file`` "" and ``line`` 0 where it names no place."""

    message: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.file else self.message


class ProgressParser:
    """Follows one run of POV-Ray; one thread owns it."""

    def __init__(self) -> None:
        self.phase: Literal["parsing", "rendering"] = "parsing"
        self.done = 0
        """Pixels of the rectangle rendered so far; starts again when radiosity's pretrace ends."""
        self.total = 0
        self.first_done: int | None = None
        """The first count of pixels; below half a block, radiosity's pretrace has several steps."""
        self.pretraced = False
        """Whether the count has started again, so that radiosity's pretrace is over."""
        self.radiosity = False
        """Whether POV-Ray's statistics, at its end, say that it used radiosity."""
        self.photons = False
        """Whether they say that it shot photons."""
        self.gathers = 0
        """Radiosity samples added in the final pass; 0 until POV-Ray's statistics said so."""
        self.moves = 0
        """Signs of life between parsing and the end besides pixels, such as photons shot."""
        self.pixels = 0
        """Pixels traced, by POV-Ray's statistics at its end; those at blocks' edges count twice."""
        self.parse_s = 0.0
        """Wall seconds of parsing as POV-Ray counts them; 0 until it has said so."""
        self.parse_cpu_s = 0.0
        """CPU seconds of parsing and bounding; known when rendering begins."""
        self.trace_cpu_s = 0.0
        """CPU seconds of all threads while they rendered; 0 until its statistics say so."""
        self.told_all = False
        """Whether the last of its statistics is there, by which time the picture is written."""
        self.warnings: list[RenderProblem] = []
        self._traced = False
        self._highest = 0
        self._pending = b""
        self._lines: deque[str] = deque()
        self._kept = 0
        self._message: list[bytes] = []
        self._message_bytes = 0
        self._errors: list[RenderProblem] = []
        self._doubts: deque[RenderProblem] = deque(maxlen=_MAX_WARNINGS)
        self._last_words = ""
        self._failed = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of stderr, however they are cut."""
        self._pending += data
        begin = 0
        for end in _END.finditer(self._pending):
            line = self._pending[begin : end.start()]
            begin = end.end()
            if end[0] == b"\r" and self._take_progress(line):
                continue
            self._take_line(line)
        self._pending = self._pending[begin:]
        while len(self._pending) > _MAX_LINE_BYTES:
            self._take_line(self._pending[:_MAX_LINE_BYTES])
            self._pending = self._pending[_MAX_LINE_BYTES:]

    def finish(self) -> None:
        """Take the end of the text; what has no line end yet counts as a line."""
        if self._pending:
            self._take_line(self._pending)
            self._pending = b""
        self._end_message()

    @property
    def used(self) -> tuple[LightKind, ...]:
        """The light that POV-Ray's statistics, at its end, say it used."""
        said: dict[LightKind, bool] = {"radiosity": self.radiosity, "photons": self.photons}
        return tuple(word for word, is_used in said.items() if is_used)

    @property
    def text_tail(self) -> str:
        """The end of what was written, without progress and terminal escapes; at most 64 KiB."""
        return "\n".join(self._lines)

    @property
    def fatal(self) -> RenderProblem | None:
        """Why the render failed, None if POV-Ray has not said so; complete after ``finish()``."""
        if self._errors:
            return self._errors[0]
        if not self._failed:
            return None
        for doubt in reversed(self._doubts):
            missing = _MISSING.search(doubt.message)
            if missing is not None:
                return RenderProblem(f"Cannot find file '{missing[1]}'", doubt.file, doubt.line)
        if self._doubts:
            return self._doubts[-1]
        return RenderProblem(self._last_words or "POV-Ray gave no reason")

    # ------------------------------------------------------------ lines

    def _take_progress(self, line: bytes) -> bool:
        """Take a status line; tells whether it was one."""
        found = _RENDERED.fullmatch(line)
        if found is None:
            # "Parsing 123K tokens" and the like: shown over and over, worth nothing afterwards.
            is_status = not line or line.split(b" ", 1)[0] in _STATUS_WORDS
            self.moves += is_status and self.phase == "rendering"
            return is_status
        done, total = int(found[1]), int(found[2])
        if done <= total:
            self.phase = "rendering"
            self._count(done, total)
        return True

    def _count(self, done: int, total: int) -> None:
        if self.first_done is None:
            self.first_done = done
        # Threads may report out of order, so that the count wavers by a few blocks; and a pretrace
        # in steps counts fractions of blocks, which add up to a little less than the whole.
        self._highest = max(self._highest, done)
        if 4 * self._highest >= 3 * total and 2 * done < self._highest:
            self.pretraced = True
        self.done, self.total = done, total

    def _take_line(self, raw: bytes) -> None:
        line = _clean(raw)
        self._keep(line)
        if self._continues(raw):
            self._message.append(raw)
            self._message_bytes += len(raw)
            return
        self._end_message()
        if raw.startswith(_BEGINNINGS):
            self._message, self._message_bytes = [raw], len(raw)
        elif line.startswith("==== [Rendering...] ==="):
            self.phase = "rendering"
        elif found := _PARSE_TIME.match(line):
            self.parse_s = float(found[1])
        elif found := _PIXELS.match(line):
            self.pixels = int(found[1])
        elif found := _CPU.match(line):
            if self.phase == "parsing":
                self.parse_cpu_s += float(found[1])
            elif self._traced:
                self.trace_cpu_s, self.told_all = float(found[1]), True
        elif _TRACE_TIME.match(line):
            self._traced = True
        elif found := _GATHERS.match(line):
            self.gathers = int(found[1])
        elif _RADIOSITY.match(line):
            self.radiosity = True
        elif _PHOTONS.match(line):
            self.photons = True
        elif line == "Render failed":
            self._failed = True

    def _continues(self, line: bytes) -> bool:
        """Tell whether a line goes on with the message before it."""
        if not self._message or line.startswith(_BEGINNINGS):
            return False
        if self._message_bytes > _MAX_MESSAGE:
            return False
        return line.startswith(b" ") or len(self._message[-1]) >= _WRAP_COLUMNS

    def _end_message(self) -> None:
        if not self._message:
            return
        # A break at a space leaves the space at the next line's beginning, so nothing is lost.
        text = _clean(b"".join(self._message))[:_MAX_MESSAGE]
        self._message = []
        if text.startswith("Problem with option"):
            self._errors.append(RenderProblem("POV-Ray did not accept its options"))
            return
        fatal = _FATAL.match(text)
        if fatal is not None:
            self._failed = True
            self._last_words = self._last_words or fatal[1].strip()
            return
        place = _PLACE.match(text)
        if place is not None:
            self._take_problem(_own_name(place[1]), int(place[2]), place[3].strip())

    def _take_problem(self, file: str, line: int, text: str) -> None:
        kind, colon, rest = text.partition(": ")
        problem = RenderProblem(rest if colon else text, file, line)
        match kind:
            case "Parse Error" | "Error":
                if len(self._errors) < _MAX_WARNINGS:
                    self._errors.append(problem)
            case "Possible Parse Error" | "Possible Error":
                self._doubts.append(problem)
                self._warn(problem)
            case _:
                self._warn(problem)

    def _warn(self, problem: RenderProblem) -> None:
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(problem)

    def _keep(self, line: str) -> None:
        self._lines.append(line)
        self._kept += len(line.encode()) + 1
        while self._kept > MAX_TEXT_BYTES:
            self._kept -= len(self._lines.popleft().encode()) + 1


_STATUS_WORDS = {b"Parsing", b"Constructed", b"Photon", b"Creating", b"Performing", b"Building"}


def _clean(raw: bytes) -> str:
    return _ESCAPES.sub("", raw.decode("utf-8", "replace"))


def _own_name(file: str) -> str:
    """Give a file its own name, where POV-Ray was given another one for it (see command)."""
    _before, found, alias = file.rpartition(f"/{ALIAS_FOLDER}/")
    return unquote(alias) if found else file
