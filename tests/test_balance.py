import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from balance import MIXES, Case, measure, recorded, sights  # noqa: E402
from block_costs import CostGrid, read_costs, write_costs  # noqa: E402
from simulated_farm import BLOCK, FarmHead  # noqa: E402
from simulator import Costs, Machine, Simulation  # noqa: E402

from clusterray.core.bands import are_disjoint, covers  # noqa: E402
from clusterray.core.model import Rect  # noqa: E402

EIGHT = next(mix for mix in MIXES if mix.name == "8")


def case() -> Case:
    return Case(recorded(["abyss"])[0], EIGHT, Costs(parse_s=0.3))


def simulation(case: Case) -> Simulation:
    return Simulation(case.blocks, [(cores, 1.0) for cores in case.mix.cores], case.costs)


@pytest.mark.parametrize("mishap", ["", "slow", "dead"])
def test_the_simulated_farm_renders_every_pixel_once(mishap: str) -> None:
    sim = simulation(case())
    head = FarmHead(sim, sights=sights(case()), checked=True)
    ideal_s = sim.ideal_s
    if mishap:
        machine, half_s = sim.machines[0], ideal_s / 2
        sim.after(half_s, lambda: sim.slow(machine, 4.0) if mishap == "slow" else sim.kill(machine))
    makespan_s = sim.run(head, 600.0)
    whole = Rect(0, 0, BLOCK * sim.blocks.columns, BLOCK * sim.blocks.rows)
    assert covers(whole, head.tiles)
    assert are_disjoint(head.tiles)
    assert makespan_s > ideal_s
    assert sim.cuts


def test_the_same_case_gives_the_same_figures() -> None:
    assert measure(case(), "farm") == measure(case(), "farm")


def test_no_policy_beats_the_bound() -> None:
    bound = measure(case(), "bound").makespan_s
    for policy in (
        "blocks as scouted",
        "equal bands",
        "rows of blocks",
        "guided",
        "small pieces",
        "sketch of cutting",
    ):
        assert measure(case(), policy).makespan_s > bound


def test_a_machine_without_a_cut_takes_its_start_its_blocks_and_its_end() -> None:
    costs = Costs(parse_s=1.0, start_s=0.5, exit_s=0.25, upload_s=0.0, wire_s=0.0)
    sim = Simulation(CostGrid(2, 1, (3.0, 4.0)), [(2, 1.0)], costs)
    assert sim.run(FarmHead(sim)) == pytest.approx(0.5 + 1.0 + 4.0 + 0.25)


class TwoBands:
    """A head that has two bands for one machine, and gives the second when there is a place."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._waiting = [Rect(2, 0, 4, 1), Rect(0, 0, 2, 1)]
        self._left = 2
        self.places: list[float] = []

    def begin(self) -> None:
        self._lease()

    def _lease(self) -> None:
        if self._waiting:
            self._sim.lease(self._sim.machines[0], self._waiting.pop())

    def place(self, attempt: int, done: int) -> None:
        self.places.append(self._sim.now)
        self._lease()

    def rendered(self, attempt: int) -> None:
        self._lease()

    def accepted(self, attempt: int) -> None:
        self._left -= 1
        if not self._left:
            self._sim.finish()

    def phase(self, attempt: int, phase: str) -> None:
        pass

    def progress(self, attempt: int, done: int) -> None:
        pass

    def was_cut(self, attempt: int, keep: Rect) -> None:
        pass

    def lost(self, machine: Machine) -> None:
        pass


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_machine_starts_its_next_band_beside_one_that_ends_soon(overlaps: bool) -> None:
    """A core: 2 s of start, 1 s of parse, two blocks of 2 s. The place is told after the first, for
    the second takes no longer than a start: it is done when the other band's parse begins. So it is
    worth the start.
    """
    costs = Costs(1.0, 2.0, exit_s=0.0, overlaps=overlaps, upload_s=0.0, wire_s=0.0)
    sim = Simulation(CostGrid(4, 1, (2.0, 2.0, 2.0, 2.0)), [(1, 1.0)], costs)
    head = TwoBands(sim)
    assert sim.run(head) == pytest.approx(12.0 if overlaps else 14.0)
    assert head.places[:1] == ([pytest.approx(5.0)] if overlaps else [])


def test_recorded_costs_are_read_as_they_were_written(tmp_path: Path) -> None:
    scene = recorded(["abyss"])[0]
    write_costs(tmp_path / "again.json", scene)
    again = read_costs(tmp_path / "again.json")
    assert again.name == scene.name
    assert again.grid.costs == pytest.approx(scene.grid.costs, rel=0.02)


def test_another_grid_has_the_same_costs_in_all() -> None:
    numbers = random.Random(1)
    grid = CostGrid(24, 13, tuple(numbers.random() for _ in range(24 * 13)))
    assert grid.at(7, 5).total == pytest.approx(grid.total)
    assert grid.at(48, 26).at(24, 13).costs == pytest.approx(grid.costs)


def test_the_file_of_the_whole_frame_is_charged_but_where_blocks_are_enough() -> None:
    """A core renders two bands of two blocks, one after the other."""
    sums = []
    for encode_s in (0.0, 0.25, 2.0):
        costs = Costs(
            1.0, 0.5, encode_s, 0.25, tile_s=0.75, overlaps=False, upload_s=0.0, wire_s=0.0
        )
        sim = Simulation(CostGrid(4, 1, (3.0, 3.0, 3.0, 3.0)), [(1, 1.0)], costs)
        sums.append(sim.run(TwoBands(sim)))
    plain_s = 2 * (0.5 + 1.0 + 6.0 + 0.25)
    own_s = 2 * (0.5 + 1.0 + 6.0 + 0.75 + 2.0 / 2)
    assert sums == [pytest.approx(plain_s), pytest.approx(plain_s + 2 * 0.25), pytest.approx(own_s)]
