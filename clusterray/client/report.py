"""What the person sees on stderr while a command works: progress, sentences, nothing raw.

Called by the command's main thread only; on a terminal rich redraws from a thread of its own.
Knows nothing of sockets or of how a job is made.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from clusterray.client.text import count_of, duration_text, plain, rate_text, size_text
from clusterray.wire.protocol import JobView

_LINE_EVERY_S = 5.0
_LINE_EVERY_PERCENT = 10
_LINE_APART_S = 1.0

Advance = Callable[[int], None]


class Report(Protocol):
    """Where a command tells the person how it goes."""

    def say(self, sentence: str) -> None:
        """Say one sentence, on a line of its own."""

    def lines(self, lines: list[str]) -> None:
        """Show lines of text as they are, already made plain."""

    def transfer(self, verb: str, total: int) -> AbstractContextManager[Advance]:
        """Show how many of ``total`` bytes are done; the callable takes those just moved."""

    def job(self, view: JobView, sentence: str) -> None:
        """Show how far the job is; ``sentence`` tells what it waits for, "" if nothing."""

    def close(self) -> None:
        """Take the progress away, so that other output follows it cleanly."""


def make_report(stream: TextIO | None = None) -> Report:
    """Make the report that fits the stream: live on a terminal, plain lines elsewhere."""
    target = stream or sys.stderr
    return LiveReport(target) if target.isatty() else PlainReport(target)


def job_line(view: JobView, sentence: str) -> str:
    """Tell how far a job is, in one line."""
    if sentence:
        return f"job {plain(view.id)}: {plain(sentence)}"
    if view.state == "verifying" and view.verified is not None and view.verified.lines:
        return f"job {plain(view.id)}: {plain(view.verified.lines[0])}"
    parts = [
        f"{_percent(view.pixels_done, view.pixels_total)} %",
        f"{view.bands_done}/{_bands(view)} bands",
    ]
    if view.making:
        parts[0] = view.making
    if view.pixels_per_s > 0:
        parts.append(rate_text(view.pixels_per_s))
    if view.eta_s is not None:
        parts.append(f"{duration_text(view.eta_s)} left")
    parts.append(count_of(len(view.nodes), "node"))
    return f"job {plain(view.id)}: " + ", ".join(parts)


def _bands(view: JobView) -> int:
    return view.bands_done + view.bands_running + view.bands_waiting


def _percent(done: int, total: int) -> int:
    return 100 * done // total if total else 0


class PlainReport:
    """Lines for a log or a pipe: one each ten percent or five seconds, and each new sentence.

    Progress lines are at least a second apart.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._last_line = ""
        self._last_percent = 0
        self._last_at = float("-inf")

    def say(self, sentence: str) -> None:
        """Say one sentence."""
        self._write(plain(sentence))

    def lines(self, lines: list[str]) -> None:
        """Show lines of text."""
        for line in lines:
            self._write(line)

    @contextlib.contextmanager
    def transfer(self, verb: str, total: int) -> Iterator[Advance]:
        """Show a transfer by lines; one that is quick shows only its end."""
        self._begin(self._clock())
        done = 0

        def advance(size: int) -> None:
            nonlocal done
            done += size
            percent = min(100, _percent(done, total))
            if percent < 100 and self._is_due(percent):
                self._progress(f"{verb}: {percent} % of {size_text(total)}", percent)

        yield advance
        self._write(f"{verb}: {size_text(total)}, done")

    def job(self, view: JobView, sentence: str) -> None:
        """Show a job's state if it is time for a line."""
        percent = _percent(view.pixels_done, view.pixels_total)
        line = job_line(view, sentence)
        is_due = line != self._last_line if sentence else self._is_due(percent)
        if is_due and line != self._last_line:
            self._progress(line, percent)

    def close(self) -> None:
        """Forget how far the last job was."""
        self._begin(float("-inf"))

    def _begin(self, at: float) -> None:
        self._last_line, self._last_percent, self._last_at = "", 0, at

    def _is_due(self, percent: int) -> bool:
        waited_s = self._clock() - self._last_at
        stepped = percent - self._last_percent >= _LINE_EVERY_PERCENT
        return waited_s >= _LINE_EVERY_S or (stepped and waited_s >= _LINE_APART_S)

    def _progress(self, line: str, percent: int) -> None:
        self._last_line, self._last_percent, self._last_at = line, percent, self._clock()
        self._write(line)

    def _write(self, line: str) -> None:
        # A log that cannot be written must not stop a render.
        with contextlib.suppress(OSError, ValueError):
            print(line, file=self._stream, flush=True)


class _TailColumn(ProgressColumn):
    """The words behind the bar, taken from the task's field ``tail``."""

    def render(self, task: Task) -> Text:
        """Give the words of this moment."""
        return Text(str(task.fields.get("tail", "")), no_wrap=True, overflow="ellipsis")


class LiveReport:
    """A bar that stays on one line of the terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._progress: Progress | None = None

    def say(self, sentence: str) -> None:
        """Say one sentence above the bar."""
        self._print(plain(sentence))

    def lines(self, lines: list[str]) -> None:
        """Show lines of text above the bar."""
        for line in lines:
            self._print(line)

    @contextlib.contextmanager
    def transfer(self, verb: str, total: int) -> Iterator[Advance]:
        """Show a transfer's bar until it is over."""
        progress = self._started()
        task = progress.add_task(verb, total=max(total, 1), tail=f"of {size_text(total)}")
        try:
            yield lambda size: progress.advance(task, size)
        finally:
            progress.remove_task(task)

    def job(self, view: JobView, sentence: str) -> None:
        """Move the job's bar."""
        progress = self._started()
        if not progress.task_ids:
            progress.add_task("", total=1, tail="")
        tail = job_line(view, sentence).partition(": ")[2]
        progress.update(
            progress.task_ids[0],
            description=f"job {plain(view.id)}",
            total=max(view.pixels_total, 1),
            completed=view.pixels_done,
            tail=tail,
        )

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _started(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                _TailColumn(),
                console=self._console,
                transient=True,
            )
            self._progress.start()
        return self._progress

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
