"""The real Farm in the simulator: it gets the events, its actions are carried out at once.

Blocks are 32 pixels. What the head does besides the Farm (checks of tiles, the store) takes no
time here but the simulation's ``upload_s``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from simulator import Machine, Simulation

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.costs import CostMap
from clusterray.core.farm import Farm
from clusterray.core.model import (
    AttemptId,
    JobRequest,
    NodeId,
    Picture,
    PovrayClass,
    Rect,
    SceneId,
)

BLOCK = 32
POVRAY = PovrayClass("3.7.0.10", "make-believe")
TOLD_GONE_S = 0.05
"""Until a broken connection is noticed; a machine that falls silent is another matter."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a scout believes after a glance, which took ``work_s`` of one thread of speed 1."""

    costs: CostMap
    work_s: float


class FarmHead:
    """A head of one Farm with one job. ``checked`` has its invariants looked at after each event.

    ``sights`` are what a scout tells, one glance after the other; none: there is no scout.
    """

    def __init__(
        self, sim: Simulation, *, sights: Sequence[Sight] = (), checked: bool = False
    ) -> None:
        self._sim = sim
        self._checked = checked
        self._sights = list(sights)
        self.farm = Farm(random.Random(1))
        self._ours: dict[AttemptId, int] = {}
        self._theirs: dict[int, AttemptId] = {}
        self._rects: dict[int, Rect] = {}
        self._tick_at: float | None = None
        self.tiles: list[Rect] = []
        blocks = sim.blocks
        self._size = BLOCK * blocks.columns, BLOCK * blocks.rows

    def request(self) -> JobRequest:
        """The job: the whole picture, antialiased so that it is cut at blocks."""
        width, height = self._size
        return JobRequest(
            key="k",
            title="a scene",
            owner="ann@desk",
            priority=0,
            scene=SceneId("0" * 64),
            spec={},
            spec_hash="h",
            picture=Picture(width, height, Rect(0, 0, width, height), BLOCK),
            wish_bands=None,
            output_name="a.png",
        )

    # ---------------------------------------------------------------- what the simulator tells

    def begin(self) -> None:
        """Let all nodes join, and submit."""
        for machine in self._sim.machines:
            name = f"n{machine.number}"
            self._happen(
                ev.NodeJoined(machine.number, NodeId(name), name, machine.cores, POVRAY, cuts=True)
            )
        self._happen(ev.JobSubmitted(1, self.request()))

    def phase(self, attempt: int, phase: str) -> None:
        """POV-Ray parses, or renders."""
        self._happen(ev.AttemptProgress(self._conn(attempt), self._theirs[attempt], phase, 0))

    def progress(self, attempt: int, done: int) -> None:
        """Pixels for blocks."""
        pixels = min(done * BLOCK * BLOCK, self._pixels(self._rects[attempt]).area)
        self._happen(
            ev.AttemptProgress(self._conn(attempt), self._theirs[attempt], "rendering", pixels)
        )

    def place(self, attempt: int, done: int) -> None:
        """The node has a place for another band already."""
        pixels = min(done * BLOCK * BLOCK, self._pixels(self._rects[attempt]).area)
        conn, theirs = self._conn(attempt), self._theirs[attempt]
        self._happen(ev.AttemptProgress(conn, theirs, "rendering", pixels, place=True))

    def was_cut(self, attempt: int, keep: Rect) -> None:
        """The node has agreed to it."""
        self._rects[attempt] = keep
        conn, theirs = self._conn(attempt), self._theirs[attempt]
        self._happen(ev.AttemptCut(conn, theirs, self._pixels(keep), self._sim.costs.tile_parses))

    def rendered(self, attempt: int) -> None:
        """The node has the tile."""
        self._happen(ev.AttemptRendered(self._conn(attempt), self._theirs[attempt], 1, "1" * 64))

    def accepted(self, attempt: int) -> None:
        """The tile is at the head and right."""
        self._happen(ev.TileVerified(self._theirs[attempt]))

    def lost(self, machine: Machine) -> None:
        """Its connection breaks."""
        self._sim.after(
            TOLD_GONE_S, lambda: self._happen(ev.NodeGone(machine.number, "connection lost"))
        )

    # ---------------------------------------------------------------- what the Farm wants

    def _happen(self, event: ev.Event) -> None:
        for action in self.farm.handle(event, self._sim.now):
            self._perform(action)
        if self._checked:
            self.farm.check()
        self._set_clock()

    def _perform(self, action: act.Action) -> None:
        match action:
            case act.SendLease():
                machine = self._sim.machines[action.conn]
                rect = self._blocks(action.rect)
                attempt = self._sim.lease(machine, rect)
                self._ours[action.attempt] = attempt
                self._theirs[attempt] = action.attempt
                self._rects[attempt] = rect
                if action.scout and self._sights:
                    self._scout(machine, action.attempt)
            case act.SendCut():
                self._sim.cut(self._ours[action.attempt], self._blocks(action.keep))
            case act.SendDrop():
                self._sim.drop(self._ours[action.attempt])
            case act.AddTile():
                self.tiles.append(action.rect)
            case act.FinishFrame():
                self._sim.finish()
            case act.RefuseSubmit() | act.AbandonJob():
                raise RuntimeError(f"the farm gives up: {action}")
            case _:
                pass

    def _set_clock(self) -> None:
        due = self.farm.next_deadline()
        if due is None or due == self._tick_at:
            return
        self._tick_at = due

        def tick() -> None:
            if self._tick_at == due:
                self._tick_at = None
                self._happen(ev.Tick())

        self._sim.after(max(0.0, due - self._sim.now), tick)

    def _scout(self, machine: Machine, attempt: AttemptId) -> None:
        """Have a machine look once more, with one thread beside its band."""
        sight = self._sights.pop(0)
        parse_s = self._sim.costs.parse_s

        def told() -> None:
            if machine.alive:
                self._happen(ev.Scouted(machine.number, attempt, sight.costs, parse_s))
                if self._sights:
                    self._scout(machine, attempt)

        self._sim.beside(machine, sight.work_s, told)

    def _conn(self, attempt: int) -> int:
        return int(self.farm.nodes[self.farm.attempts[self._theirs[attempt]].node].id[1:])

    def _pixels(self, rect: Rect) -> Rect:
        return Rect(BLOCK * rect.x0, BLOCK * rect.y0, BLOCK * rect.x1, BLOCK * rect.y1)

    def _blocks(self, rect: Rect) -> Rect:
        return Rect(rect.x0 // BLOCK, rect.y0 // BLOCK, rect.x1 // BLOCK, rect.y1 // BLOCK)
