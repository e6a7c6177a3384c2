"""A farm of make-believe machines in make-believe time, for measuring how work is shared out.

Discrete events in a heap: no thread, no wall time, nothing random, so a run repeats exactly. The
machines do what a node and POV-Ray do with a band, block by block with their measured costs; who
gets which band a *head* says, a stand-in (``sharing``) or the real Farm (``simulated_farm``).

Places are in render blocks, not pixels. What starting and ending POV-Ray costs is measured: 0.33 s
of sleep until the first pixels, and a parse on one core. A machine that is asked to cut its band
goes on to the cut, kills POV-Ray there, and has a new one make a tile of the finished blocks.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from block_costs import CostGrid

from clusterray.core.model import Rect


@dataclass(frozen=True, slots=True)
class Costs:
    """What is not rendering, in seconds: of POV-Ray's start and end, of the tile of a cut band.

    ``parse_s`` is work of one core of speed 1, ``encode_s`` too: POV-Ray writes the whole frame's
    file, however small the band. ``exit_s`` is from the whole file to when the node goes on.
    ``tile_s`` is what a cut band's tile takes, from the kill of the first POV-Ray to the whole file
    of the second; if ``tile_parses``, that one parses besides. ``beside``: a place is free as soon
    as all blocks are done, and the tile is made beside the next band. ``upload_s`` is until a
    finished tile is accepted, ``wire_s`` until a message is there, ``progress_s`` between two words
    of progress.
    """

    parse_s: float = 0.3
    start_s: float = 0.33
    encode_s: float = 0.0
    exit_s: float = 0.05
    tile_s: float = 0.45
    tile_parses: bool = True
    beside: bool = False
    upload_s: float = 0.010
    wire_s: float = 0.001
    progress_s: float = 0.5


class Head(Protocol):
    """Who shares out the work: told what happens, it calls ``lease`` and ``cut``."""

    def begin(self) -> None:
        """All machines are there, and the picture is wanted."""

    def phase(self, attempt: int, phase: str) -> None:
        """The attempt's POV-Ray parses, or renders."""

    def progress(self, attempt: int, done: int) -> None:
        """So many blocks of the attempt are finished."""

    def was_cut(self, attempt: int, keep: Rect) -> None:
        """The attempt will make just ``keep``: what was asked, more, or all as before."""

    def rendered(self, attempt: int) -> None:
        """The attempt's machine has a place again."""

    def accepted(self, attempt: int) -> None:
        """The attempt's tile is at the head."""

    def lost(self, machine: Machine) -> None:
        """The machine is gone, and what it had in hand."""


@dataclass(eq=False, slots=True)
class Run:
    """One attempt on its machine: the first ``limit`` blocks of ``rect``, in raster order."""

    attempt: int
    machine: Machine
    rect: Rect
    costs: list[float]
    limit: int
    leased_at: float
    begun: int = 0
    done: int = 0
    ready: bool = False
    over: bool = False
    cut: bool = False


@dataclass(eq=False, slots=True)
class Machine:
    """A node: its threads and how fast each is, and what they do.

    ``tasks`` are the ends of what its cores do now, by a number of their own.
    """

    number: int
    cores: int
    speed: float = 1.0
    alive: bool = True
    idle: int = 0
    runs: list[Run] = field(default_factory=list)
    chores: deque[tuple[float, Callable[[], None], Run | None]] = field(default_factory=deque)
    tasks: dict[int, tuple[float, Callable[[], None], Run | None]] = field(default_factory=dict)
    busy_s: float = 0.0

    @property
    def power(self) -> float:
        """Core-seconds of speed 1 that it does in a second."""
        return self.cores * self.speed


class Simulation:
    """One picture on these machines. ``blocks`` are the true costs; attempts are numbered here."""

    def __init__(
        self, blocks: CostGrid, machines: Sequence[tuple[int, float]], costs: Costs
    ) -> None:
        self.blocks, self.costs = blocks, costs
        self.machines = [Machine(n, c, s, idle=c) for n, (c, s) in enumerate(machines)]
        self.now = 0.0
        self.runs: dict[int, Run] = {}
        self.starts = self.cuts = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._missing = blocks.columns * blocks.rows
        self._lacks = bytearray([1]) * self._missing
        self.finished_at: float | None = None

    @property
    def area(self) -> Rect:
        """The picture, in blocks."""
        return Rect(0, 0, self.blocks.columns, self.blocks.rows)

    @property
    def ideal_s(self) -> float:
        """All work over all speed: what no farm can be faster than."""
        return self.blocks.total / sum(machine.power for machine in self.machines)

    def run(self, head: Head, most_s: float = math.inf) -> float:
        """Let it happen; gives the makespan. Raises RuntimeError if the picture is never whole."""
        self.head = head
        self.after(0.0, head.begin)
        for machine in self.machines:
            # Nodes do not tell in step.
            self.after(self.costs.progress_s * (machine.number * 0.618 % 1), self._telling(machine))
        while self.finished_at is None:
            if not self._heap or self.now > most_s:
                raise RuntimeError(f"the picture lacks {self._missing} blocks at {self.now:.1f} s")
            self.now, _, happen = heapq.heappop(self._heap)
            happen()
        return self.finished_at

    def after(self, seconds: float, happen: Callable[[], None]) -> int:
        """Let something happen later; gives its number."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + seconds, self._number, happen))
        return self._number

    # ---------------------------------------------------------------- what a head may ask for

    def lease(self, machine: Machine, rect: Rect) -> int:
        """Have a machine render a rectangle of blocks; gives the attempt."""
        attempt = self._number = self._number + 1
        costs = self.blocks.costs
        of_rect = [
            costs[y * self.blocks.columns + x]
            for y in range(rect.y0, rect.y1)
            for x in range(rect.x0, rect.x1)
        ]
        run = Run(attempt, machine, rect, of_rect, rect.area, self.now)
        self.runs[attempt] = run
        machine.runs.append(run)
        self.starts += 1

        def parse() -> None:
            if not run.over:
                self.head.phase(attempt, "parsing")
                self._chore(machine, self.costs.parse_s, lambda: self._begin_run(run), run)

        self.after(self.costs.wire_s + self.costs.start_s, parse)
        return attempt

    def cut(self, attempt: int, keep: Rect) -> None:
        """Ask an attempt's machine to make no more than ``keep``: rows from the top.

        Of a band of one row: columns from the left.
        """
        self.after(self.costs.wire_s, lambda: self._cut(self.runs[attempt], keep))

    def drop(self, attempt: int) -> None:
        """Stop an attempt: it counts no more."""
        self._forget(self.runs[attempt])

    def beside(self, machine: Machine, work_s: float, happen: Callable[[], None]) -> None:
        """Have one core of a machine render something small beside its bands."""

        def begin() -> None:
            self._chore(machine, self.costs.parse_s + work_s, tell)

        def tell() -> None:
            self.after(self.costs.wire_s, happen)

        self.after(self.costs.wire_s + self.costs.start_s, begin)

    def finish(self) -> None:
        """The head says that the picture is whole."""
        self.finished_at = self.now

    # ---------------------------------------------------------------- what may befall machines

    def slow(self, machine: Machine, factor: float) -> None:
        """From now on the machine is so many times slower."""
        machine.speed /= factor
        for task, (end, happen, run) in list(machine.tasks.items()):
            del machine.tasks[task]
            self._task(machine, (end - self.now) * factor, happen, run)

    def kill(self, machine: Machine) -> None:
        """The machine is gone for good."""
        machine.alive = False
        machine.tasks.clear()
        machine.chores.clear()
        for run in list(machine.runs):
            self._forget(run)
        self.head.lost(machine)

    # ---------------------------------------------------------------- machines

    def _telling(self, machine: Machine) -> Callable[[], None]:
        def tell() -> None:
            if not machine.alive:
                return
            for run in list(machine.runs):
                if run.ready and not run.over:
                    self.head.progress(run.attempt, run.done)
            self.after(self.costs.progress_s, tell)

        return tell

    def _task(
        self, machine: Machine, seconds: float, happen: Callable[[], None], run: Run | None
    ) -> None:
        """Have one core be at it for so long."""

        def end() -> None:
            if machine.tasks.pop(number, None) is None:
                return
            happen()

        number = self.after(seconds, end)
        machine.tasks[number] = self.now + seconds, happen, run

    def _chore(
        self, machine: Machine, work_s: float, happen: Callable[[], None], run: Run | None = None
    ) -> None:
        machine.chores.append((work_s, happen, run))
        self._feed(machine)

    def _feed(self, machine: Machine) -> None:
        """Give idle cores something to do: chores first, then blocks of the oldest run."""
        while machine.idle and machine.alive:
            if machine.chores:
                work_s, happen, about = machine.chores.popleft()
                self._occupy(machine, work_s, happen, about)
                continue
            run = next((r for r in machine.runs if r.ready and r.begun < r.limit), None)
            if run is None:
                return
            cost = run.costs[run.begun]
            run.begun += 1
            machine.busy_s += cost
            self._occupy(machine, cost, self._block_of(run), run)

    def _occupy(
        self, machine: Machine, work_s: float, happen: Callable[[], None], run: Run | None
    ) -> None:
        machine.idle -= 1

        def end() -> None:
            machine.idle += 1
            happen()
            self._feed(machine)

        self._task(machine, work_s / machine.speed, end, run)

    def _begin_run(self, run: Run) -> None:
        run.ready = True
        self.head.phase(run.attempt, "rendering")

    def _block_of(self, run: Run) -> Callable[[], None]:
        def done() -> None:
            run.done += 1
            if run.done == run.limit and not run.over:
                self._end_run(run)

        return done

    def _cut(self, run: Run, keep: Rect) -> None:
        rect = run.rect
        if run.over or run.attempt not in self.runs:
            return
        if keep.width == rect.width:
            rows = max(keep.height, -(-run.begun // rect.width))
            real = Rect(rect.x0, rect.y0, rect.x1, rect.y0 + rows)
        elif rect.height == 1:
            real = Rect(rect.x0, rect.y0, rect.x0 + max(keep.width, run.begun), rect.y1)
        else:
            real = rect
        if real != rect:
            run.rect, run.limit, run.cut = real, real.area, True
            self.cuts += 1
        self.after(self.costs.wire_s, lambda: self.head.was_cut(run.attempt, real))
        if run.done == run.limit:
            self._end_run(run)

    def _end_run(self, run: Run) -> None:
        """All blocks are done: the tile is made, and then the place is free."""
        run.over = True
        if self.costs.beside:
            self.after(self.costs.wire_s, lambda: self._tell_rendered(run))
        work_s, sleep_s = self.costs.encode_s, self.costs.exit_s
        if run.cut:
            work_s += self.costs.parse_s if self.costs.tile_parses else 0.0
            sleep_s = self.costs.tile_s
        self.after(
            sleep_s, lambda: self._chore(run.machine, work_s, lambda: self._rendered(run), run)
        )

    def _rendered(self, run: Run) -> None:
        if run.attempt not in self.runs:
            return
        run.machine.runs.remove(run)
        if not self.costs.beside:
            self.after(self.costs.wire_s, lambda: self._tell_rendered(run))
        self.after(self.costs.wire_s + self.costs.upload_s, lambda: self._accepted(run))

    def _tell_rendered(self, run: Run) -> None:
        if run.machine.alive:
            self.head.rendered(run.attempt)

    def _accepted(self, run: Run) -> None:
        if self.runs.pop(run.attempt, None) is None:
            return
        self._cover(run)
        self.head.accepted(run.attempt)
        if self._missing == 0:
            self.finish()

    def _cover(self, run: Run) -> None:
        rect, columns = run.rect, self.blocks.columns
        for y in range(rect.y0, rect.y1):
            row = slice(y * columns + rect.x0, y * columns + rect.x1)
            self._missing -= self._lacks[row].count(1)
            self._lacks[row] = bytes(rect.width)

    def _forget(self, run: Run) -> None:
        machine = run.machine
        self.runs.pop(run.attempt, None)
        if run in machine.runs:
            machine.runs.remove(run)
        run.over, run.limit = True, run.begun
        machine.chores = deque(chore for chore in machine.chores if chore[2] is not run)
        for task in [task for task, (_, _, of) in machine.tasks.items() if of is run]:
            del machine.tasks[task]
            machine.idle += 1
        self._feed(machine)


class Sums:
    """Sums of a grid of costs over rectangles, in no time."""

    def __init__(self, grid: CostGrid) -> None:
        self._rows: list[list[float]] = [[0.0] * (grid.columns + 1)]
        for y in range(grid.rows):
            line = [0.0, *accumulate(grid.costs[y * grid.columns : (y + 1) * grid.columns])]
            self._rows.append([up + own for up, own in zip(self._rows[-1], line, strict=True)])

    def of(self, rect: Rect) -> float:
        """Give the sum over a rectangle of blocks."""
        top, bottom = self._rows[rect.y0], self._rows[rect.y1]
        return bottom[rect.x1] - bottom[rect.x0] - top[rect.x1] + top[rect.x0]
