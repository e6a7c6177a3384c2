"""A farm of make-believe machines in make-believe time, for measuring how work is shared out.

Discrete events in a heap: no thread, no wall time, nothing random, so a run repeats exactly. The
machines do what a node and POV-Ray do with a band, block by block with their measured costs; who
gets which band a *head* says, a stand-in (``sharing``) or the real Farm (``simulated_farm``).

Places are in render blocks, not pixels. What starting and ending POV-Ray costs is measured: 0.33 s
of sleep until the first pixels, and a parse on one core. A machine that is asked to cut its band
goes on to the cut, kills POV-Ray there, and has a new one make a tile of the finished blocks. One
whose band ends soon says that it has a place for the next, which then starts beside it.

Each POV-Ray renders with as many threads as its machine has cores. If more threads than cores have
something to do, of two POV-Rays or of a scout besides, all get on equally, each the slower: what
Linux gives to threads of one niceness.
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
    ``tile_s`` is what a tile takes that is made of a band's blocks, from the kill of the first
    POV-Ray to the beginning of the file of the second, which is of the band alone; if
    ``tile_parses``, that one parses besides. So does a cut band get its tile, and each one that
    spares ``SPARED_S`` of the frame's file. ``overlaps``: a node says so when
    its band ends soon. ``upload_s`` is until a finished tile is accepted, ``wire_s`` until a
    message is there, ``progress_s`` between two words of progress.
    """

    parse_s: float = 0.3
    start_s: float = 0.33
    encode_s: float = 0.0
    exit_s: float = 0.05
    tile_s: float = 0.45
    tile_parses: bool = False
    overlaps: bool = True
    upload_s: float = 0.010
    wire_s: float = 0.001
    progress_s: float = 0.5


SPARED_S = 0.3
"""As ``clusterray.node.stub_tile`` has it, in pixels."""
RECENT_S, LEAST_STEPS, LEAST_SHARE = 3.0, 4, 0.5
"""How a node judges whether a band ends soon, as ``clusterray.node.overlap`` does: by the pace of
so many seconds and moments, once so much of the band is there."""


class Head(Protocol):
    """Who shares out the work: told what happens, it calls ``lease`` and ``cut``."""

    def begin(self) -> None:
        """All machines are there, and the picture is wanted."""

    def phase(self, attempt: int, phase: str) -> None:
        """The attempt's POV-Ray parses, or renders."""

    def progress(self, attempt: int, done: int) -> None:
        """So many blocks of the attempt are finished."""

    def place(self, attempt: int, done: int) -> None:
        """The attempt ends soon: its machine has a place for another one."""

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
    """One attempt on its machine: the first ``limit`` blocks of ``rect``, in raster order.

    ``steps`` are the last moments at which blocks were done, and how many by then.
    """

    attempt: int
    machine: Machine
    rect: Rect
    costs: list[float]
    limit: int
    leased_at: float
    begun: int = 0
    done: int = 0
    phase: str = "starts"
    start_s: float = 0.0
    place: bool = False
    cut: bool = False
    dropped: bool = False
    steps: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def renders(self) -> bool:
        """Tell whether POV-Ray renders it."""
        return self.phase == "renders"

    def note(self, now: float) -> None:
        """Some of its blocks are done."""
        self.steps.append((now, self.done))
        while len(self.steps) > LEAST_STEPS and self.steps[1][0] < now - RECENT_S:
            self.steps.popleft()

    def ends_soon(self) -> bool:
        """Tell whether all cores are busy for no longer than its start took, by its recent pace.

        That is all that a node can know (``clusterray.node.overlap``).
        """
        wanted = self.limit - (self.machine.cores - 1)
        if self.done >= wanted:
            return True
        if self.done < LEAST_SHARE * wanted or len(self.steps) < 2:
            return False
        (since, before), (now, done) = self.steps[0], self.steps[-1]
        return (wanted - done) * (now - since) <= self.start_s * (done - before)


@dataclass(frozen=True, slots=True)
class Thread:
    """Something that a thread does: for a run, or beside; then ``happen``."""

    happen: Callable[[], None]
    run: Run | None
    work_s: float


@dataclass(eq=False, slots=True)
class Machine:
    """A node: its cores and how fast each is, and the threads that want them.

    ``clock`` is what each thread would have done that was there from the start; ``threads`` are
    queued by the clock's time at which they are done. All have the same share of the cores.
    ``wasted`` are core-seconds of speed 1 that brought the picture no further, by why: what the
    runs were at while cores were idle, work that was dropped, the scout's.
    """

    number: int
    cores: int
    speed: float = 1.0
    alive: bool = True
    runs: list[Run] = field(default_factory=list)
    threads: list[tuple[float, int, Thread]] = field(default_factory=list)
    clock: float = 0.0
    at: float = 0.0
    wakes: int = 0
    wasted: dict[str, float] = field(default_factory=dict)

    @property
    def power(self) -> float:
        """Core-seconds of speed 1 that it does in a second."""
        return self.cores * self.speed

    @property
    def pace(self) -> float:
        """What each of its threads gets done in a second."""
        return self.speed * min(1.0, self.cores / max(1, len(self.threads)))

    def pass_time(self, now: float) -> None:
        """Let its threads get on until ``now``, and count what its other cores do not do."""
        seconds, idle = now - self.at, self.cores - len(self.threads)
        if idle > 0 and self.alive:
            self.waste(self._why_idle(), idle * seconds * self.speed)
        self.clock += seconds * self.pace
        self.at = now

    def waste(self, why: str, work_s: float) -> None:
        """Count what brought the picture no further."""
        self.wasted[why] = self.wasted.get(why, 0.0) + work_s

    def _why_idle(self) -> str:
        phases = [run.phase for run in self.runs]
        for phase in ("starts", "parses", "renders", "makes its tile"):
            if phase in phases:
                return phase
        return "has nothing"


class Simulation:
    """One picture on these machines. ``blocks`` are the true costs; attempts are numbered here."""

    def __init__(
        self, blocks: CostGrid, machines: Sequence[tuple[int, float]], costs: Costs
    ) -> None:
        self.blocks, self.costs = blocks, costs
        self.machines = [Machine(n, c, s) for n, (c, s) in enumerate(machines)]
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
        machine.pass_time(self.now)
        machine.runs.append(run)
        self.starts += 1
        begun_at = self.now + self.costs.wire_s

        def parse() -> None:
            if not run.dropped:
                self._turn(run, "parses")
                self.head.phase(attempt, "parsing")
                self._thread(machine, self.costs.parse_s, render, run)

        def render() -> None:
            # A lone core loses what a parse beside its band takes.
            run.start_s = self.now - begun_at if machine.cores > 1 else self.costs.start_s
            self._turn(run, "renders")
            run.note(self.now)
            self.head.phase(attempt, "rendering")
            for _ in range(min(machine.cores, run.limit)):
                self._next_block(run)

        self.after(self.costs.wire_s + self.costs.start_s, parse)
        return attempt

    def cut(self, attempt: int, keep: Rect) -> None:
        """Ask an attempt's machine to make no more than ``keep``: rows from the top.

        Of a band of one row: columns from the left.
        """
        self.after(self.costs.wire_s, lambda: self._cut(self.runs[attempt], keep))

    def drop(self, attempt: int) -> None:
        """Stop an attempt: it counts no more. Its tile may have been on its way."""
        run = self.runs.get(attempt)
        if run is not None:
            self._forget(run)

    def beside(self, machine: Machine, work_s: float, happen: Callable[[], None]) -> None:
        """Have one core of a machine render something small beside its bands."""

        def begin() -> None:
            self._thread(machine, self.costs.parse_s + work_s, tell)

        def tell() -> None:
            self.after(self.costs.wire_s, happen)

        self.after(self.costs.wire_s + self.costs.start_s, begin)

    def finish(self) -> None:
        """The head says that the picture is whole."""
        self.finished_at = self.now

    # ---------------------------------------------------------------- what may befall machines

    def slow(self, machine: Machine, factor: float) -> None:
        """From now on the machine is so many times slower."""
        machine.pass_time(self.now)
        machine.speed /= factor
        self._wake(machine)

    def kill(self, machine: Machine) -> None:
        """The machine is gone for good."""
        machine.pass_time(self.now)
        machine.alive = False
        machine.threads.clear()
        for run in list(machine.runs):
            self._forget(run)
        self.head.lost(machine)

    # ---------------------------------------------------------------- machines

    def _telling(self, machine: Machine) -> Callable[[], None]:
        def tell() -> None:
            if not machine.alive:
                return
            for run in list(machine.runs):
                if run.renders:
                    self.head.progress(run.attempt, run.done)
            self.after(self.costs.progress_s, tell)

        return tell

    def _thread(
        self, machine: Machine, work_s: float, happen: Callable[[], None], run: Run | None = None
    ) -> None:
        """Have a thread do so much."""
        if not machine.alive:
            return
        machine.pass_time(self.now)
        self._number += 1
        thread = Thread(happen, run, work_s)
        heapq.heappush(machine.threads, (machine.clock + work_s, self._number, thread))
        self._wake(machine)

    def _wake(self, machine: Machine) -> None:
        """Look at a machine again when the first of its threads is done."""
        machine.wakes = 0
        if not machine.threads:
            return
        done_in_s = max(0.0, machine.threads[0][0] - machine.clock) / machine.pace

        def wake() -> None:
            if machine.wakes == number:
                self._end_threads(machine)

        machine.wakes = number = self.after(done_in_s, wake)

    def _end_threads(self, machine: Machine) -> None:
        machine.pass_time(self.now)
        threads = machine.threads
        # The first is done, whatever rounding says.
        _, _, thread = heapq.heappop(threads)
        if thread.run is None:
            machine.waste("scout", thread.work_s)
        thread.happen()
        self._wake(machine)

    def _turn(self, run: Run, phase: str) -> None:
        run.machine.pass_time(self.now)
        run.phase = phase

    def _next_block(self, run: Run) -> None:
        """Have a thread of a run's POV-Ray take the next block, if there is one."""
        if run.begun == run.limit:
            return
        cost = run.costs[run.begun]
        run.begun += 1

        def done() -> None:
            run.done += 1
            run.note(self.now)
            self._next_block(run)
            self._give_place(run)
            if run.done == run.limit:
                self._end_run(run)

        self._thread(run.machine, cost, done, run)

    def _give_place(self, run: Run) -> None:
        """Say so if a run ends soon, unless the machine has another one."""
        others = [other for other in run.machine.runs if other is not run]
        alone = all(other.phase == "makes its tile" for other in others)
        if not self.costs.overlaps or run.place or not alone or not run.ends_soon():
            return
        run.place = True
        self.after(self.costs.wire_s, lambda: self._tell_place(run))

    def _tell_place(self, run: Run) -> None:
        if run.machine.alive and not run.dropped and run.attempt in self.runs:
            self.head.place(run.attempt, run.done)

    def _cut(self, run: Run, keep: Rect) -> None:
        rect = run.rect
        if run.dropped or run.attempt not in self.runs or run.phase == "makes its tile":
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
        if run.renders:
            self._give_place(run)
            if run.done == run.limit:
                self._end_run(run)

    def _end_run(self, run: Run) -> None:
        """All blocks are done: the tile is made, and then the place is free for sure."""
        self._turn(run, "makes its tile")
        work_s, sleep_s = self.costs.encode_s, self.costs.exit_s
        own_s = work_s * run.rect.area / self.area.area
        spared = work_s - own_s >= SPARED_S and not self.costs.tile_parses
        if run.cut or spared:
            work_s = own_s + (self.costs.parse_s if self.costs.tile_parses else 0.0)
            sleep_s = self.costs.tile_s
        self.after(
            sleep_s, lambda: self._thread(run.machine, work_s, lambda: self._rendered(run), run)
        )

    def _rendered(self, run: Run) -> None:
        if run.attempt not in self.runs:
            return
        run.machine.pass_time(self.now)
        run.machine.runs.remove(run)
        for other in run.machine.runs:
            if other.renders:
                self._give_place(other)
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
        machine.pass_time(self.now)
        self.runs.pop(run.attempt, None)
        if run in machine.runs:
            machine.runs.remove(run)
        run.dropped = True
        machine.threads = [each for each in machine.threads if each[2].run is not run]
        heapq.heapify(machine.threads)
        if run.phase in ("renders", "makes its tile"):
            machine.waste("dropped", sum(run.costs[: run.done]))
        self._wake(machine)


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
