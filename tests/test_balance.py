import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from balance import MIXES, Case, measure, recorded, sights  # noqa: E402
from block_costs import CostGrid, read_costs, write_costs  # noqa: E402
from simulated_farm import BLOCK, FarmHead  # noqa: E402
from simulator import Costs, Simulation  # noqa: E402

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
    for policy in ("equal bands", "rows of blocks", "guided", "small pieces", "sketch of cutting"):
        assert measure(case(), policy).makespan_s > bound


def test_a_machine_without_a_cut_takes_its_start_its_blocks_and_its_end() -> None:
    costs = Costs(parse_s=1.0, start_s=0.5, exit_s=0.25, upload_s=0.0, wire_s=0.0)
    sim = Simulation(CostGrid(2, 1, (3.0, 4.0)), [(2, 1.0)], costs)
    assert sim.run(FarmHead(sim)) == pytest.approx(0.5 + 1.0 + 4.0 + 0.25)


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
