"""Mixes of machines, and how well their work is balanced: real scenes' costs, simulated.

``measure`` renders one scene on one mix with one policy and gives a row of results. The ideal is
all work over all speed, with no overhead at all; efficiency is the ideal over the makespan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from pathlib import Path

import sharing
from block_costs import CostGrid, SceneCosts, Scout, read_costs
from simulated_farm import BLOCK, FarmHead, Sight
from simulator import Costs, Head, Simulation

from clusterray.core.costs import CostMap

DATA = Path(__file__).resolve().parents[1] / "bench" / "data"
HD, UHD = (60, 34), (240, 135)
"""Blocks of 32 pixels that 1920x1080 and 7680x4320 have."""
FILE_S = 0.08e-6
"""CPU seconds for each pixel of a frame, which POV-Ray takes to write its file, empty or not."""
LOOK_S = 0.004
"""How often a scout looks what is done."""
GLANCES = (2, 1)
"""Of the recorded scouts, those that a node makes one after the other."""
SCOUT_BUDGET_S = 2.0
"""The second glance is left if both would parse and render for longer than that, on one core."""

_SIXTEEN = (4,) * 4 + (2,) * 6 + (1,) * 6


@dataclass(frozen=True, slots=True)
class Mix:
    """Machines by their cores, the picture's grid of blocks, and all its work in core-seconds.

    ``speeds`` are those of each machine's cores; 1 where none are given.
    """

    name: str
    cores: tuple[int, ...]
    grid: tuple[int, int]
    work_s: float
    speeds: tuple[float, ...] = ()

    @property
    def machines(self) -> list[tuple[int, float]]:
        """Cores and their speed."""
        return list(zip(self.cores, self.speeds or (1.0,) * len(self.cores), strict=True))

    @property
    def file_s(self) -> float:
        """CPU seconds that POV-Ray takes to write the whole frame's file."""
        columns, rows = self.grid
        return FILE_S * columns * rows * BLOCK * BLOCK


MIXES = (
    Mix("4", (1,) * 4, HD, 1200.0),
    Mix("8", (4, 4, 2, 2, 1, 1, 1, 1), HD, 1200.0),
    Mix("8 long", (4, 4, 2, 2, 1, 1, 1, 1), HD, 12_000.0),
    Mix("16", _SIXTEEN, HD, 1200.0),
    Mix("64", 4 * _SIXTEEN, HD, 4800.0),
    Mix("256", 16 * _SIXTEEN, HD, 20_000.0),
    Mix("256 at 8K", 16 * _SIXTEEN, UHD, 20_000.0),
)
MISHAPS = ("slow", "dead")
"""What may befall the first machine, half way: it becomes four times slower, or dies."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: a scene, machines, what their POV-Ray costs, what befalls them."""

    scene: SceneCosts
    mix: Mix
    costs: Costs
    mishap: str = ""

    @property
    def blocks(self) -> CostGrid:
        """The true costs."""
        return blocks_of(self.scene, self.mix)

    @property
    def unit(self) -> float:
        """Core-seconds of this case for each recorded one."""
        return self.mix.work_s / self.scene.grid.total


@lru_cache(256)
def blocks_of(scene: SceneCosts, mix: Mix) -> CostGrid:
    """Give the costs of a scene's blocks on a mix's grid, scaled to its work."""
    return scene.grid.at(*mix.grid).scaled(mix.work_s)


@lru_cache(256)
def seen_by(scout: Scout, unit: float, look_s: float) -> CostGrid:
    """Give what a scout of one thread believes that looks every ``look_s`` seconds.

    Blocks found together share the time since the look before.
    """
    believed: list[float] = []
    at, looked_at, fresh = 0.0, 0.0, 0
    for cost in scout.grid.costs:
        if fresh and at + cost * unit > (now := ceil(at / look_s) * look_s):
            believed += [(now - looked_at) / fresh] * fresh
            looked_at, fresh = now, 0
        at += cost * unit
        fresh += 1
    believed += [(at - looked_at) / fresh] * fresh
    return CostGrid(scout.grid.columns, scout.grid.rows, tuple(believed))


def glances(case: Case) -> list[tuple[CostGrid, float]]:
    """Give what the scout of a case believes after each glance, and its core-seconds of tracing."""
    found: list[tuple[CostGrid, float]] = []
    spent_s = 0.0
    for index in GLANCES:
        scout = case.scene.scouts[index]
        work_s = scout.grid.total * case.unit
        spent_s += case.costs.parse_s + work_s
        if found and spent_s > SCOUT_BUDGET_S:
            break
        found.append((seen_by(scout, case.unit, LOOK_S), work_s))
    return found


def sights(case: Case) -> list[Sight]:
    """Give what the Farm is told by a scout."""
    columns, rows = case.mix.grid
    return [
        Sight(CostMap.of(BLOCK * columns, BLOCK * rows, grid.columns, grid.costs), work_s)
        for grid, work_s in glances(case)
    ]


# ---------------------------------------------------------------- policies

Policy = Callable[[Simulation, Case], Head]


def _small(sim: Simulation, case: Case) -> Head:
    return sharing.small_pieces(sim, glances(case)[-1][0])


def _sketch(sim: Simulation, case: Case) -> Head:
    found = glances(case)
    costs = case.costs
    each_s = costs.start_s + costs.parse_s + costs.exit_s
    told_at = sum(each_s + work_s for _, work_s in found)
    return sharing.CuttingSketch(sim, found[-1][0], told_at)


POLICIES: dict[str, Policy] = {
    "equal bands": lambda sim, _case: sharing.equal(sim),
    "rows of blocks": lambda sim, _case: sharing.single_rows(sim),
    "guided": lambda sim, _case: sharing.guided(sim),
    "small pieces": _small,
    "sketch of cutting": _sketch,
    "sketch, all known": lambda sim, case: sharing.CuttingSketch(sim, case.blocks),
    "farm, no scout": lambda sim, _case: FarmHead(sim),
    "farm": lambda sim, case: FarmHead(sim, sights=sights(case)),
}


def _as_scouted(case: Case) -> list[float]:
    """Give the true costs of the blocks, those first which a scout believes to be the dearest."""
    believed = glances(case)[-1][0].at(*case.mix.grid).costs
    order = sorted(range(len(believed)), key=lambda at: -believed[at])
    return [case.blocks.costs[at] for at in order]


DEALT: dict[str, Callable[[Case], Sequence[float]]] = {
    "bound": lambda case: sorted(case.blocks.costs, reverse=True),
    "blocks as scouted": _as_scouted,
    "blocks in order": lambda case: case.blocks.costs,
}
"""No policies: what single blocks at no cost would allow, with perfect knowledge, with a scout's,
and with none.
"""


@dataclass(frozen=True, slots=True)
class Result:
    """One run: seconds, and how often POV-Ray was started and bands were cut."""

    policy: str
    scene: str
    mix: str
    parse_s: float
    mishap: str
    makespan_s: float
    ideal_s: float
    starts: int
    cuts: int

    @property
    def efficiency(self) -> float:
        """The ideal over the makespan."""
        return self.ideal_s / self.makespan_s


def measure(case: Case, policy: str) -> Result:
    """Let one case happen. Raises RuntimeError if the picture is never whole."""
    sim = Simulation(case.blocks, case.mix.machines, case.costs)
    if policy in DEALT:
        makespan_s = sharing.dealt_out(sim, DEALT[policy](case))
    else:
        if case.mishap:
            befall(sim, case.mishap, sim.ideal_s / 2)
        makespan_s = sim.run(POLICIES[policy](sim, case), 1000 * sim.ideal_s)
    return Result(
        policy,
        case.scene.name,
        case.mix.name,
        case.costs.parse_s,
        case.mishap,
        makespan_s,
        mishap_ideal_s(case, sim) if case.mishap else sim.ideal_s,
        sim.starts,
        sim.cuts,
    )


def befall(sim: Simulation, mishap: str, at_s: float) -> None:
    """Have the first machine slow down or die at that time."""
    machine = sim.machines[0]
    if mishap == "slow":
        sim.after(at_s, lambda: sim.slow(machine, 4.0))
    else:
        sim.after(at_s, lambda: sim.kill(machine))


def mishap_ideal_s(case: Case, sim: Simulation) -> float:
    """Give all work over the speed that there is, with that of half way from then on.

    What a machine that dies had in hand is done again: that is loss, not the ideal's.
    """
    cores = sum(case.mix.cores)
    first = case.mix.cores[0]
    left = cores - (0.75 if case.mishap == "slow" else 1.0) * first
    half_s = case.mix.work_s / cores / 2
    return half_s + (case.mix.work_s - half_s * cores) / left


def recorded(names: list[str] | None = None) -> list[SceneCosts]:
    """Read the recorded scenes, all or those named; FileNotFoundError for one that is not."""
    paths = [DATA / f"{name}.json" for name in names] if names else sorted(DATA.glob("*.json"))
    return [read_costs(path) for path in paths]


def with_parse(costs: Costs, parse_s: float) -> Costs:
    """Give the same costs with another parse."""
    return replace(costs, parse_s=parse_s)
