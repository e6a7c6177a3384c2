"""Stand-in heads for the simulator: how work might be shared out, without a Farm."""

from __future__ import annotations

from dataclasses import dataclass, field

from block_costs import CostGrid
from simulator import Machine, Simulation, Sums

from clusterray.core.model import Rect


class Queue:
    """A list of bands, made before; who has a place takes the next."""

    def __init__(self, sim: Simulation, bands: list[Rect]) -> None:
        self.sim, self.bands = sim, list(reversed(bands))
        self.back: dict[int, tuple[Machine, Rect]] = {}

    def begin(self) -> None:
        for machine in sorted(self.sim.machines, key=lambda m: -m.power):
            self._next(machine)

    def _next(self, machine: Machine) -> None:
        if self.bands and machine.alive:
            rect = self.bands.pop()
            self.back[self.sim.lease(machine, rect)] = machine, rect

    def progress(self, attempt: int, done: int) -> None: ...
    def was_cut(self, attempt: int, keep: Rect) -> None: ...
    def accepted(self, attempt: int) -> None:
        del self.back[attempt]

    def rendered(self, attempt: int) -> None:
        self._next(self.back[attempt][0])

    def lost(self, machine: Machine) -> None:
        for attempt, (owner, rect) in list(self.back.items()):
            if owner is machine:
                del self.back[attempt]
                self.bands.append(rect)


@dataclass
class Rules:
    aspect: float = 0.25
    """Pieces are split by columns while wider than this times their height."""
    share: float = 1.0
    """Part of the picture handed out at first; the rest is a reserve."""
    least_gain_s: float = 0.3
    thief_least_s: float = 0.0
    """A thief's piece must take it that long (beyond its start)."""
    prior: float = 0.1
    """Weight of the belief against what was seen of a band, in shares of its whole."""
    parse_known: bool = True
    early: bool = False
    """Ask before the band ends, so that the parse is done beside its last blocks."""
    tile_aside: bool = False
    retry: bool = True


@dataclass(eq=False)
class Piece:
    machine: Machine
    rect: Rect
    at: float
    done: int = 0
    seen_at: float | None = None
    first_seen: float | None = None
    cut: bool = False
    cutting: bool = False
    stuck: bool = False
    over: bool = False
    factor: float = 1.0


class Cutting:
    """One large piece per machine; who runs dry takes the lower part of what would end last."""

    def __init__(self, sim: Simulation, belief: CostGrid, rules: Rules, unit: float | None = None) -> None:
        self.sim, self.rules = sim, rules
        total = sim.blocks.total if unit is None else unit
        self.belief = belief.at(sim.blocks.columns, sim.blocks.rows).scaled(total)
        self.sums = Sums(self.belief)
        self.pieces: dict[int, Piece] = {}
        self.dry: list[Machine] = []
        self.reserve: list[Rect] = []
        self.pending: dict[int, Machine] = {}
        self.scale = 1.0
        self.log: list = []

    # ---- begin
    def begin(self) -> None:
        machines = sorted(self.sim.machines, key=lambda m: -m.power)
        area = self.sim.area
        for machine, rect in self.partition(area, machines):
            self.lease(machine, rect)

    def partition(self, rect: Rect, machines: list[Machine]) -> list[tuple[Machine, Rect]]:
        if len(machines) == 1 or rect.area == 1:
            return [(machines[0], rect)]
        # Two halves of like power.
        a: list[Machine] = []; b: list[Machine] = []
        pa = pb = 0.0
        for m in machines:
            if pa <= pb: a.append(m); pa += m.power
            else: b.append(m); pb += m.power
        best = None
        for by_columns in (True, False):
            n = rect.width if by_columns else rect.height
            if n < 2: continue
            for k in range(1, n):
                r1 = Rect(rect.x0, rect.y0, rect.x0 + k, rect.y1) if by_columns else Rect(rect.x0, rect.y0, rect.x1, rect.y0 + k)
                c1 = self.cost(r1); c = self.cost(rect)
                for (g1, p1, g2, p2) in ((a, pa, b, pb), (b, pb, a, pa)):
                    want = c * p1 / (pa + pb)
                    off = abs(c1 - want) / (c * min(p1,p2) / (pa + pb) + 1e-12)
                    want_cols = rect.width > self.rules.aspect * rect.height
                    pen = 0 if by_columns == want_cols else 0.25
                    key = off + pen
                    if best is None or key < best[0]:
                        best = (key, by_columns, k, g1, g2)
        _, by_columns, k, g1, g2 = best
        if by_columns:
            r1, r2 = Rect(rect.x0, rect.y0, rect.x0 + k, rect.y1), Rect(rect.x0 + k, rect.y0, rect.x1, rect.y1)
        else:
            r1, r2 = rect.split_at_row(rect.y0 + k)
        return self.partition(r1, g1) + self.partition(r2, g2)

    def cost(self, r: Rect) -> float:
        return self.sums(r.x0, r.y0, r.x1, r.y1)

    def prefix(self, rect: Rect, n: int) -> float:
        rows, rest = divmod(n, rect.width)
        c = self.sums(rect.x0, rect.y0, rect.x1, rect.y0 + rows)
        if rest:
            c += self.sums(rect.x0, rect.y0 + rows, rect.x0 + rest, rect.y0 + rows + 1)
        return c

    def lease(self, machine: Machine, rect: Rect) -> None:
        attempt = self.sim.lease(machine, rect)
        self.pieces[attempt] = Piece(machine, rect, self.sim.now)

    # ---- estimates
    def start_s(self, m: Machine) -> float:
        return self.sim.costs.start_s + self.sim.costs.parse_s / m.speed

    def tile_extra(self, m: Machine) -> float:
        return self.sim.costs.tile_s + self.sim.costs.parse_s / m.speed

    def speed(self, p: Piece) -> float:
        return p.machine.power

    def rest(self, p: Piece, rect: Rect | None = None) -> float:
        """Core-seconds left of it by belief and by what was seen."""
        rect = rect or p.rect
        total = self.cost(rect)
        factor = self.factor(p)
        ready = p.at + self.start_s(p.machine)
        if p.seen_at is None:
            gone = max(0.0, self.sim.now - ready) * p.machine.power
            return max(total * factor - gone, 0.02 * total)
        gone = (self.sim.now - p.seen_at) * p.machine.power
        left = (total - self.prefix(p.rect, p.done)) * factor
        return max(left - gone, 0.0)

    def factor(self, p: Piece) -> float:
        whole = self.cost(p.rect)
        if p.seen_at is None or p.done == 0:
            return self.scale
        spent = (p.seen_at - p.at - self.start_s(p.machine)) * p.machine.power
        bel = self.prefix(p.rect, p.done)
        k = self.rules.prior * whole
        return (spent + k * self.scale) / (bel + k)

    def rescale(self) -> None:
        spent = bel = 0.0
        for p in self.pieces.values():
            if p.seen_at is not None and p.done:
                spent += (p.seen_at - p.at - self.start_s(p.machine)) * p.machine.power
                bel += self.prefix(p.rect, p.done)
        if bel > 0.005 * self.sim.blocks.total:
            self.scale = spent / bel

    def end_at(self, p: Piece) -> float:
        t = self.sim.now + self.rest(p) / p.machine.power
        return t + (self.tile_extra(p.machine) if p.cut else self.sim.costs.exit_s)

    # ---- events
    def progress(self, attempt: int, done: int) -> None:
        p = self.pieces.get(attempt)
        if p is None: return
        p.done, p.seen_at = done, self.sim.now
        p.stuck = False
        self.rescale()
        if self.dry and self.rules.retry:
            for m in list(self.dry):
                if m in self.dry:
                    self.dry.remove(m)
                    self.feed(m)

    def rendered(self, attempt: int) -> None:
        p = self.pieces[attempt]
        p.over = True
        self.log.append((self.sim.now, p.machine.number, 'dry', p.rect))
        self.feed(p.machine)

    def accepted(self, attempt: int) -> None:
        p = self.pieces.pop(attempt)

    def lost(self, machine: Machine) -> None:
        for a, p in list(self.pieces.items()):
            if p.machine is machine and not p.over:
                del self.pieces[a]
                self.reserve.append(p.rect)
        if machine in self.dry: self.dry.remove(machine)
        for m in list(self.dry):
            self.dry.remove(m); self.feed(m)

    # ---- stealing
    def feed(self, machine: Machine) -> None:
        if not machine.alive: return
        if self.reserve:
            self.lease(machine, self.reserve.pop())
            return
        victims = [(self.end_at(p), a, p) for a, p in self.pieces.items() if not p.over and not p.cutting and not p.stuck and p.machine.alive]
        victims.sort(key=lambda v: -v[0])
        for end, a, p in victims:
            keep = self.best_cut(machine, p, end)
            if keep is not None:
                p.cutting = True
                self.pending[a] = machine
                self.sim.cut(a, keep)
                return
        self.dry.append(machine)

    def best_cut(self, m: Machine, p: Piece, end: float) -> Rect | None:
        rect = p.rect
        now = self.sim.now
        # guess how far it has begun by now
        factor = self.factor(p)
        rate = p.machine.power / max(factor, 1e-9)
        t0 = p.seen_at if p.seen_at is not None else p.at + self.start_s(p.machine)
        bel_now = self.prefix(rect, p.done) + max(0.0, now - t0) * rate
        best = None
        total = self.cost(rect)
        if rect.height > 1:
            options = [Rect(rect.x0, rect.y0, rect.x1, y) for y in range(rect.y1 - 1, rect.y0, -1)]
        else:
            options = [Rect(rect.x0, rect.y0, x, rect.y1) for x in range(rect.x1 - 1, rect.x0, -1)]
        for keep in options:
            kept = self.cost(keep)
            if kept < bel_now: break
            e1 = now + (kept - bel_now) * factor / p.machine.power + self.tile_extra(p.machine)
            work = (total - kept) * factor
            e2 = now + self.start_s(m) + work / m.power + self.sim.costs.exit_s
            if work / m.power < self.rules.thief_least_s: continue
            e = max(e1, e2)
            if best is None or e < best[0]:
                best = (e, keep)
        if best is None or end - best[0] < self.rules.least_gain_s:
            return None
        return best[1]

    def was_cut(self, attempt: int, keep: Rect) -> None:
        m = self.pending.pop(attempt)
        p = self.pieces.get(attempt)
        if p is None:
            self.feed(m); return
        p.cutting = False
        old = p.rect
        if keep == old:
            p.stuck = True
            self.feed(m)
            return
        p.rect, p.cut = keep, True
        p.done = min(p.done, keep.area)
        if keep.width == old.width:
            rest = Rect(old.x0, keep.y1, old.x1, old.y1)
        else:
            rest = Rect(keep.x1, old.y0, old.x1, old.y1)
        self.log.append((self.sim.now, m.number, 'takes', rest, p.machine.number))
        if m.alive: self.lease(m, rest)
        else: self.reserve.append(rest)
