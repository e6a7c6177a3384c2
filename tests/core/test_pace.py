"""How far an attempt is follows POV-Ray's order of blocks; how fast, what it did of late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterray.core.costs import CostMap
from clusterray.core.ends import Ends
from clusterray.core.model import AttemptId, Rect
from clusterray.core.pace import MOST_RATIO, Pace, learned, seconds_for, work_of_first

BAND = Rect(0, 32, 96, 96)
"""Two rows of three blocks."""


@pytest.mark.parametrize(
    ("blocks", "work"), [(0, 0.0), (1, 1.0), (3, 3.0), (4, 5.0), (6, 9.0), (7, 9.0)]
)
def test_the_first_pixels_are_those_of_the_first_blocks(blocks: int, work: float) -> None:
    """The lower row costs twice as much."""
    costs = CostMap.of(96, 96, 1, [1.0, 1.0, 2.0])
    unit = costs.cost(Rect(0, 32, 32, 64))
    done = work_of_first(costs, BAND, 32, blocks * 1024)
    assert done == pytest.approx(work * unit)


@given(st.integers(0, 96 * 64))
def test_where_nothing_is_known_whole_blocks_cost_their_pixels(pixels: int) -> None:
    done = work_of_first(None, BAND, 32, pixels)
    assert pixels - 32 * 32 < done <= pixels


def test_a_pace_follows_what_was_done_of_late() -> None:
    pace = Pace()
    for second in range(100):
        pace.hear(10.0 * second, float(second))
    assert pace.rate(1.0, 99.0) == pytest.approx(10.0, rel=0.2)
    for second in range(100, 200):
        pace.hear(990.0 + 2.0 * (second - 99), float(second))
    assert pace.rate(10.0, 199.0) == pytest.approx(2.0, rel=0.6)
    assert pace.rate(10.0, 260.0) < 1.2, "it has not been heard of for a minute"


def test_what_was_done_before_it_began_says_nothing_of_its_pace() -> None:
    pace = Pace()
    pace.hear(1000.0, 5.0)
    assert pace.rate(3.0, 5.0) == 3.0


@given(st.floats(0.01, 100), st.floats(1e-6, 1e6), st.floats(0, 1e6))
def test_what_is_learned_lies_between_what_was_believed_and_what_was_seen(
    speed: float, ratio: float, seconds: float
) -> None:
    speed = min(max(speed, 1 / MOST_RATIO), MOST_RATIO)
    now = learned(speed, ratio, seconds)
    assert 1 / MOST_RATIO <= now <= MOST_RATIO
    assert (now - speed) * (ratio - 1) >= -1e-9


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.floats(0, 100)))))
def test_the_latest_end_is_found_whatever_changed(steps: list[tuple[int, float | None]]) -> None:
    ends, known = Ends(), dict[AttemptId, float]()
    for number, end in steps * 20:
        attempt = AttemptId(f"a{number}")
        if end is None:
            ends.drop(attempt)
            known.pop(attempt, None)
        else:
            ends.put(attempt, end)
            known[attempt] = end
        assert len(ends) == len(known)
        found = ends.latest(3)
        assert len(set(found)) == len(found) == min(3, len(known))
        assert [known[each] for each in found] == sorted(known.values(), reverse=True)[:3]


def one_by_one(work: list[float], threads: int, rate: float) -> float:
    """Deal all blocks out."""
    free = [0.0] * threads
    for each in work:
        free[free.index(min(free))] += each * threads / rate
    return max(free)


@given(
    st.lists(st.floats(0.5, 40), min_size=6, max_size=6),
    st.integers(1, 5),
    st.floats(0.1, 100),
)
def test_the_last_blocks_are_dealt_out_to_threads(
    cells: list[float], threads: int, rate: float
) -> None:
    """As few as these are all looked at."""
    costs = CostMap.of(96, 64, 3, cells)
    rect = Rect(0, 0, 96, 64)
    blocks = [Rect(x, y, x + 32, y + 32) for y in (0, 32) for x in (0, 32, 64)]
    took = seconds_for(costs, rect, 32, costs.cost(rect) * (1 + 1e-9), threads, rate)
    assert took == pytest.approx(
        one_by_one([costs.cost(block) for block in blocks], threads, rate), rel=1e-6
    )


def test_a_thread_that_has_the_last_block_alone_is_waited_for() -> None:
    """A hundred blocks on four threads, of which the last costs as much as 40."""
    costs = CostMap.of(3200, 32, 100, [*([1.0] * 99), 40.0])
    rect = Rect(0, 0, 3200, 32)
    unit = costs.cost(Rect(0, 0, 32, 32))
    took = seconds_for(costs, rect, 32, costs.cost(rect), 4, 4 * unit)
    assert took == pytest.approx(24.75 + 40, abs=1.0)
    assert seconds_for(costs, rect, 32, 0.0, 4, unit) == 0.0
