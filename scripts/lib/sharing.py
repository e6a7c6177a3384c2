"""Stand-in heads for the simulator: ways to share out a picture, to hold the Farm against.

Those of others: as many equal bands as nodes (the farms of 2010), a queue of single rows of blocks,
guided self-scheduling, small pieces of equal believed cost. And a sketch of cutting running bands,
with no more than it takes: what the Farm should reach.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapreplace
from itertools import accumulate

from block_costs import CostGrid
from simulator import Machine, Simulation, Sums

from clusterray.core.bands import equal_bands
from clusterray.core.model import Rect

FAIR_PART, LEAST_STARTS = 0.6, 2.0
"""What of its fair share a machine takes at once, and the least, in starts of POV-Ray."""

NextBand = Callable[[Machine], Rect | None]
"""Gives what a machine with a place is to take; None: nothing is left."""


class Handout:
    """Who has a place gets what ``next_band`` says; what is lost is handed out again."""

    def __init__(self, sim: Simulation, next_band: NextBand) -> None:
        self._sim, self._next_band = sim, next_band
        self._out: dict[int, tuple[Machine, Rect]] = {}
        self._back: list[Rect] = []
        self._idle: list[Machine] = []

    def begin(self) -> None:
        """The strongest first."""
        for machine in sorted(self._sim.machines, key=lambda each: -each.power):
            self._serve(machine)

    def _serve(self, machine: Machine) -> None:
        rect = self._back.pop() if self._back else self._next_band(machine)
        if rect is None:
            self._idle.append(machine)
        else:
            self._out[self._sim.lease(machine, rect)] = machine, rect

    def phase(self, attempt: int, phase: str) -> None:
        """Of no interest."""

    def progress(self, attempt: int, done: int) -> None:
        """Of no interest."""

    def place(self, attempt: int, done: int) -> None:
        """Of no interest: who has done with a band gets the next."""

    def was_cut(self, attempt: int, keep: Rect) -> None:
        """Never asked for."""

    def rendered(self, attempt: int) -> None:
        """The next one."""
        self._serve(self._out[attempt][0])

    def accepted(self, attempt: int) -> None:
        """Done with."""
        del self._out[attempt]

    def lost(self, machine: Machine) -> None:
        """Hand out again what it had."""
        for attempt, (owner, rect) in list(self._out.items()):
            if owner is machine:
                del self._out[attempt]
                self._back.append(rect)
        idle = [each for each in self._idle if each.alive]
        self._idle = []
        for each in idle:
            self._serve(each)


def equal(sim: Simulation) -> Handout:
    """As many equal bands as nodes."""
    bands = iter(equal_bands(sim.area, 1, len(sim.machines)))
    return Handout(sim, lambda _machine: next(bands, None))


def single_rows(sim: Simulation) -> Handout:
    """A queue of single rows of blocks."""
    rows = iter(equal_bands(sim.area, 1, sim.area.height))
    return Handout(sim, lambda _machine: next(rows, None))


def guided(sim: Simulation) -> Handout:
    """Guided self-scheduling: a third of the fair share by threads of the rows that are left."""
    power = sum(machine.cores for machine in sim.machines)
    at = 0

    def next_band(machine: Machine) -> Rect | None:
        nonlocal at
        left = sim.area.height - at
        if not left:
            return None
        rows = max(1, round(left * machine.cores / power / 3))
        at += rows
        return Rect(0, at - rows, sim.area.x1, at)

    return Handout(sim, next_band)


def small_pieces(sim: Simulation, belief: CostGrid) -> Handout:
    """Ever smaller pieces by believed cost, in two dimensions: guided self-scheduling of work.

    A piece is part of the machine's fair share of what is left, and no less than what the start of
    POV-Ray costs twice over.
    """
    sums = Sums(belief.at(sim.area.width, sim.area.height).scaled(sim.blocks.total))
    power = sum(machine.power for machine in sim.machines)
    start_s = sim.costs.start_s + sim.costs.parse_s + sim.costs.exit_s
    waiting = [sim.area]

    def next_band(machine: Machine) -> Rect | None:
        if not waiting:
            return None
        left = sum(sums.of(rect) for rect in waiting)
        wanted = machine.power * max(FAIR_PART * left / power, LEAST_STARTS * start_s)
        rect = max(waiting, key=sums.of)
        waiting.remove(rect)
        while sums.of(rect) > 1.5 * wanted and rect.area > 1:
            keeps = list(_parts(rect, columns=rect.width > rect.height))
            half = max(wanted, sums.of(rect) / 2)
            keep = min(keeps, key=lambda part: abs(sums.of(part) - half))
            waiting.append(_rest(rect, keep))
            rect = keep
        return rect

    return Handout(sim, next_band)


def _parts(rect: Rect, *, columns: bool) -> Iterator[Rect]:
    """Give the left or the upper parts of a rectangle, ever larger ones, not all of it."""
    if columns:
        for x in range(rect.x0 + 1, rect.x1):
            yield Rect(rect.x0, rect.y0, x, rect.y1)
    else:
        for y in range(rect.y0 + 1, rect.y1):
            yield Rect(rect.x0, rect.y0, rect.x1, y)


def _rest(rect: Rect, keep: Rect) -> Rect:
    if keep.width == rect.width:
        return Rect(rect.x0, keep.y1, rect.x1, rect.y1)
    return Rect(keep.x1, rect.y0, rect.x1, rect.y1)


def dealt_out(sim: Simulation) -> float:
    """Give a makespan that no farm can beat by more than a hair, with perfect knowledge.

    All blocks, the dearest first, each to the core of any machine that is free first; each machine
    starts POV-Ray once and ends it once. Where they lie does not matter.
    """
    costs = sim.costs
    free = sorted(
        (costs.start_s + costs.parse_s / machine.speed, 1 / machine.speed)
        for machine in sim.machines
        for _ in range(machine.cores)
    )
    for cost in sorted(sim.blocks.costs, reverse=True):
        at, pace = free[0]
        heapreplace(free, (at + cost * pace, pace))
    return max(at for at, _ in free) + costs.exit_s


# ---------------------------------------------------------------- cutting running bands

TALL = 0.1
"""Rectangles wider than that part of their height are rather split between columns."""
WRONG_WAY = 0.15
"""So much worse a split must be the other way to be taken."""
MEMORY_S, PRIOR_S = 8.0, 3.0
"""What a band did weighs less with time; the belief weighs as much as so many seconds of it."""
TAIL = 6
"""So many blocks a core are dealt out one by one to say when a band ends."""
LEAST_GAIN_S = 0.3
LOOKED_AT = 8
AGAIN_S = 0.5


@dataclass(eq=False)
class _Piece:
    """A band at work: its believed costs and their sums, and what was seen of it."""

    machine: Machine
    rect: Rect
    costs: list[float]
    leased_at: float
    done: int = 0
    seen_at: float | None = None
    work: float = 0.0
    spent: float = 0.0
    cut: bool = False
    asked: bool = False
    whole: bool = False
    over: bool = False
    sums: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.believe(self.costs)

    def believe(self, costs: Sequence[float]) -> None:
        self.costs = list(costs)
        self.sums = [0.0, *accumulate(costs)]


class CuttingSketch:
    """One large piece a node; who runs dry takes the lower part of what would end last.

    ``scouted`` is believed from ``scouted_at`` seconds on, before all blocks are believed alike.
    """

    def __init__(
        self, sim: Simulation, scouted: CostGrid | None = None, scouted_at: float = 0.0
    ) -> None:
        self._sim = sim
        self._scouted, self._scouted_at = scouted, scouted_at
        self._pieces: dict[int, _Piece] = {}
        self._wanted_by: dict[int, Machine] = {}
        self._dry: list[Machine] = []
        self._back: list[Rect] = []
        self._scale = 1.0
        self._scaled_at = self._again_at = 0.0
        self._believe(CostGrid(1, 1, (1.0,)))

    def _believe(self, belief: CostGrid) -> None:
        area = self._sim.area
        self._belief = belief.at(area.width, area.height).scaled(self._sim.blocks.total)
        self._sums = Sums(self._belief)
        for piece in self._pieces.values():
            piece.believe(self._costs_of(piece.rect))

    def _costs_of(self, rect: Rect) -> list[float]:
        costs, columns = self._belief.costs, self._belief.columns
        rows = (costs[y * columns : (y + 1) * columns] for y in range(rect.y0, rect.y1))
        return [cost for row in rows for cost in row[rect.x0 : rect.x1]]

    # ---------------------------------------------------------------- the first pieces

    def begin(self) -> None:
        """Divide the picture among all."""
        if self._scouted is not None:
            if self._scouted_at:
                grid = self._scouted
                self._sim.after(self._scouted_at, lambda: self._believe(grid))
            else:
                self._believe(self._scouted)
        machines = sorted(self._sim.machines, key=lambda each: -each.power)
        todo = [(self._sim.area, machines)]
        while todo:
            rect, group = todo.pop()
            if len(group) == 1:
                self._lease(group[0], rect)
            elif rect.area == 1:
                self._lease(group[0], rect)
                self._dry += group[1:]
            else:
                todo += self._split(rect, group)

    def _split(self, rect: Rect, group: list[Machine]) -> list[tuple[Rect, list[Machine]]]:
        """Give two groups of like power, and the parts of the rectangle that fit them best."""
        total, whole = sum(each.power for each in group), self._sums.of(rect)
        best: tuple[float, Rect, list[Machine], list[Machine]] | None = None
        for columns in (True, False):
            keeps = list(_parts(rect, columns=columns))
            wrong = columns != (rect.width > TALL * rect.height)
            for first, second in _halves(group):
                wanted = whole * sum(each.power for each in first) / total
                least = min(wanted, whole - wanted) or whole
                at = bisect_left(keeps, wanted, key=self._sums.of)
                for keep in keeps[max(0, at - 1) : at + 1]:
                    error = abs(self._sums.of(keep) - wanted) / least + WRONG_WAY * wrong
                    if best is None or error < best[0]:
                        best = error, keep, first, second
        assert best is not None
        _, keep, first, second = best
        return [(keep, first), (_rest(rect, keep), second)]

    def _lease(self, machine: Machine, rect: Rect) -> None:
        attempt = self._sim.lease(machine, rect)
        self._pieces[attempt] = _Piece(machine, rect, self._costs_of(rect), self._sim.now)

    # ---------------------------------------------------------------- when they end

    def _begins_in_s(self, machine: Machine) -> float:
        return self._sim.costs.start_s + self._sim.costs.parse_s / machine.speed

    def _factor(self, piece: _Piece) -> float:
        """Give how much dearer a band is than believed."""
        prior = PRIOR_S * piece.machine.power
        return (piece.spent + prior * self._scale) / (piece.work + prior)

    def _span(self, piece: _Piece, begin: int, end: int, machine: Machine) -> float:
        """Give how long a machine takes for blocks ``begin`` to ``end`` of a band."""
        middle = max(begin, end - TAIL * machine.cores)
        free = [(piece.sums[middle] - piece.sums[begin]) / machine.cores] * machine.cores
        for cost in piece.costs[middle:end]:
            heapreplace(free, free[0] + cost)
        return max(free) * self._factor(piece) / machine.speed

    def _left_s(self, piece: _Piece, end: int) -> float:
        """Give the seconds until a band's blocks before ``end`` are done."""
        ready_at = piece.leased_at + self._begins_in_s(piece.machine)
        since = ready_at if piece.seen_at is None else piece.seen_at
        return max(0.0, since - self._sim.now + self._span(piece, piece.done, end, piece.machine))

    def _tile_s(self, machine: Machine) -> float:
        parse_s = self._sim.costs.parse_s if self._sim.costs.tile_parses else 0.0
        return self._sim.costs.tile_s + parse_s / machine.speed

    def _ends_in_s(self, piece: _Piece) -> float:
        tile_s = self._tile_s(piece.machine) if piece.cut else self._sim.costs.exit_s
        return self._left_s(piece, len(piece.costs)) + tile_s

    def _begun(self, piece: _Piece) -> int:
        """Give how many blocks have probably begun by now."""
        ready_at = piece.leased_at + self._begins_in_s(piece.machine)
        since = ready_at if piece.seen_at is None else piece.seen_at
        work = max(0.0, self._sim.now - since) * piece.machine.power / self._factor(piece)
        return max(piece.done, bisect_left(piece.sums, piece.sums[piece.done] + work))

    def _scale_anew(self) -> None:
        """Learn how dear the whole picture is."""
        if self._sim.now < self._scaled_at + AGAIN_S:
            return
        self._scaled_at = self._sim.now
        seen = [piece for piece in self._pieces.values() if piece.seen_at is not None]
        work = sum(piece.sums[piece.done] for piece in seen)
        spent = sum(
            (piece.seen_at - piece.leased_at - self._begins_in_s(piece.machine))
            * piece.machine.power
            for piece in seen
            if piece.seen_at is not None
        )
        if work > 0.005 * self._sim.blocks.total:
            self._scale = max(0.01, spent / work)

    # ---------------------------------------------------------------- what happens

    def phase(self, attempt: int, phase: str) -> None:
        """Of no interest."""

    def progress(self, attempt: int, done: int) -> None:
        """Learn of it, and let those who found nothing look again."""
        piece = self._pieces.get(attempt)
        if piece is None:
            return
        ready_at = piece.leased_at + self._begins_in_s(piece.machine)
        seconds = max(0.0, self._sim.now - (ready_at if piece.seen_at is None else piece.seen_at))
        fades = 2.718 ** (-seconds / MEMORY_S)
        piece.spent = piece.spent * fades + seconds * piece.machine.power
        piece.work = piece.work * fades + piece.sums[done] - piece.sums[piece.done]
        piece.done, piece.seen_at, piece.whole = done, self._sim.now, False
        self._scale_anew()
        if self._dry and self._sim.now >= self._again_at:
            self._again_at = self._sim.now + AGAIN_S
            self._serve_dry()

    def place(self, attempt: int, done: int) -> None:
        """Of no interest: who has done with a band gets the next."""

    def _serve_dry(self) -> None:
        for machine in sorted(self._dry, key=lambda each: -each.power):
            self._dry.remove(machine)
            if not self._serve(machine):
                return

    def rendered(self, attempt: int) -> None:
        """Its machine is dry."""
        piece = self._pieces[attempt]
        piece.over = True
        self._serve(piece.machine)

    def accepted(self, attempt: int) -> None:
        """Done with."""
        del self._pieces[attempt]

    def lost(self, machine: Machine) -> None:
        """What it had is to be done again."""
        for attempt, piece in list(self._pieces.items()):
            if piece.machine is machine and not piece.over:
                del self._pieces[attempt]
                self._back.append(piece.rect)
        self._dry = [each for each in self._dry if each is not machine]
        self._serve_dry()

    def _serve(self, machine: Machine) -> bool:
        """Give a machine something to do; False if there is nothing now."""
        if not machine.alive:
            return True
        if self._back:
            self._lease(machine, self._back.pop())
            return True
        running = [
            (self._ends_in_s(piece), attempt)
            for attempt, piece in self._pieces.items()
            if not (piece.over or piece.asked or piece.whole)
        ]
        for ends_in_s, attempt in sorted(running, reverse=True)[:LOOKED_AT]:
            keep = self._best_keep(machine, self._pieces[attempt], ends_in_s)
            if keep is not None:
                self._pieces[attempt].asked = True
                self._wanted_by[attempt] = machine
                self._sim.cut(attempt, keep)
                return True
        self._dry.append(machine)
        return False

    def _best_keep(self, machine: Machine, piece: _Piece, ends_in_s: float) -> Rect | None:
        """Give what the owner is to keep so that both end together, None if that is no gain."""
        rect, blocks = piece.rect, len(piece.costs)
        keeps = list(_parts(rect, columns=rect.height == 1))
        step = rect.width if rect.height > 1 else 1
        first = -(-(self._begun(piece) + 1) // step) - 1
        tile_s, starts_s = self._tile_s(piece.machine), self._begins_in_s(machine)

        def both_end(index: int) -> tuple[float, float]:
            kept = (index + 1) * step
            thief_s = starts_s + self._span(piece, kept, blocks, machine)
            return self._left_s(piece, kept) + tile_s, thief_s + self._sim.costs.exit_s

        low, high = first, len(keeps) - 1
        if low > high:
            return None
        while low < high:
            middle = (low + high) // 2
            own, other = both_end(middle)
            low, high = (low, middle) if own >= other else (middle + 1, high)
        tried = range(max(first, low - 1), min(len(keeps), low + 2))
        end, index = min((max(both_end(index)), index) for index in tried)
        return keeps[index] if end + LEAST_GAIN_S <= ends_in_s else None

    def was_cut(self, attempt: int, keep: Rect) -> None:
        """Give the rest to who wanted it."""
        machine, piece = self._wanted_by.pop(attempt), self._pieces.get(attempt)
        if piece is None:
            self._serve(machine)
            return
        piece.asked = False
        if keep == piece.rect:
            piece.whole = True
            self._serve(machine)
            return
        rest = _rest(piece.rect, keep)
        piece.rect, piece.cut, piece.done = keep, True, min(piece.done, keep.area)
        piece.believe(piece.costs[: keep.area])
        if machine.alive:
            self._lease(machine, rest)
        else:
            self._back.append(rest)


def _halves(group: list[Machine]) -> list[tuple[list[Machine], list[Machine]]]:
    """Give ways to make two groups of about the same power; ``group`` has the strongest first."""
    one: list[Machine] = []
    two: list[Machine] = []
    balance = 0.0
    for machine in group:
        (one if balance <= 0 else two).append(machine)
        balance += machine.power if balance <= 0 else -machine.power
    ways = [(one, two), (two, one)]
    power, count = 0.0, 0
    while power < 0.4 * sum(each.power for each in group):
        power += group[count].power
        count += 1
    if count < len(group):
        ways += [(group[:count], group[count:]), (group[count:], group[:count])]
    return ways
