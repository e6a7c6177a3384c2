"""Believed costs: a rectangle costs what its pixels do, however it lies on the grid."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterray.core.costs import LEAST_SHARE, MAX_CELLS, CostMap
from clusterray.core.model import Rect


@st.composite
def maps(draw: st.DrawFn) -> CostMap:
    columns, rows = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    costs = draw(st.lists(st.floats(1, 9), min_size=columns * rows, max_size=columns * rows))
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    return CostMap.of(*size, columns, costs)


@st.composite
def rects(draw: st.DrawFn, costs: CostMap) -> Rect:
    x0 = draw(st.integers(0, costs.width - 1))
    y0 = draw(st.integers(0, costs.height - 1))
    x1 = draw(st.integers(x0 + 1, costs.width))
    return Rect(x0, y0, x1, draw(st.integers(y0 + 1, costs.height)))


@given(st.data())
def test_a_rectangle_costs_what_its_parts_do(data: st.DataObject) -> None:
    costs = data.draw(maps())
    rect = data.draw(rects(costs))
    pixels = sum(
        costs.cost(Rect(x, y, x + 1, y + 1))
        for y in range(rect.y0, rect.y1)
        for x in range(rect.x0, rect.x1)
    )
    assert costs.cost(rect) == pytest.approx(pixels, rel=1e-6)
    assert costs.cost(rect) > 0


@given(st.data())
def test_the_mean_pixel_of_a_picture_costs_1(data: st.DataObject) -> None:
    costs = data.draw(maps())
    whole = Rect(0, 0, costs.width, costs.height)
    assert costs.cost(whole) == pytest.approx(whole.area)


def test_cells_lie_where_they_are_in_the_picture() -> None:
    costs = CostMap.of(64, 64, 2, [1.0, 2.0, 3.0, 4.0])
    unit = 64 * 64 / 10
    assert costs.cost(Rect(32, 0, 64, 32)) == pytest.approx(2.0 * unit)
    assert costs.cost(Rect(0, 32, 32, 64)) == pytest.approx(3.0 * unit)
    assert costs.cost(Rect(0, 48, 16, 64)) == pytest.approx(0.75 * unit)


def test_nothing_is_free() -> None:
    costs = CostMap.of(2, 1, 2, [0.0, 2.0])
    dark, bright = costs.cost(Rect(0, 0, 1, 1)), costs.cost(Rect(1, 0, 2, 1))
    assert dark == pytest.approx(bright * LEAST_SHARE / 2)


@pytest.mark.parametrize(
    ("columns", "cells"),
    [
        (0, [1.0]),
        (2, [1.0, 1.0, 1.0]),
        (1, []),
        (1, [0.0]),
        (1, [-1.0, 3.0]),
        (1, [float("nan")]),
        (1, [float("inf")]),
        (1, [1.0] * (MAX_CELLS + 1)),
    ],
)
def test_what_is_no_map_is_refused(columns: int, cells: list[float]) -> None:
    with pytest.raises(ValueError, match="cost"):
        CostMap.of(8, 8, columns, cells)
