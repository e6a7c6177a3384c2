"""Every pixel once, every edge where POV-Ray's blocks allow it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterray.core.bands import (
    are_disjoint,
    covers,
    cut_columns,
    cut_rows,
    equal_bands,
    may_cut,
    render_area,
    rest_of,
    row_step,
)
from clusterray.core.model import Picture, Rect


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    width, height = draw(st.integers(1, 700)), draw(st.integers(1, 700))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    region = Rect(x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))
    block = draw(st.one_of(st.none(), st.integers(4, 900)))
    return Picture(width, height, region, block)


@given(pictures())
def test_area_holds_the_region_and_lies_on_whole_blocks(shape: Picture) -> None:
    area = render_area(shape)
    assert area.contains(shape.region)
    assert Rect(0, 0, shape.width, shape.height).contains(area)
    if shape.block is None:
        assert area == shape.region
        return
    assert area.x0 % shape.block == area.y0 % shape.block == 0
    assert area.x1 % shape.block == 0 or area.x1 == shape.width
    assert area.y1 % shape.block == 0 or area.y1 == shape.height


@given(pictures(), st.integers(1, 80))
def test_equal_bands_cover_every_pixel_once_on_allowed_rows(shape: Picture, count: int) -> None:
    area, step = render_area(shape), row_step(shape)
    bands = equal_bands(area, step, count)
    assert are_disjoint(bands)
    assert covers(area, bands)
    assert len(bands) == min(count, len(cut_rows(area, step)) + 1)
    assert all((band.y0 - area.y0) % step == 0 for band in bands[1:])
    assert shape.block is None or all(band.y0 % step == 0 for band in bands)


@given(pictures(), st.integers(2, 40))
def test_equal_bands_differ_by_little(shape: Picture, count: int) -> None:
    area, step = render_area(shape), row_step(shape)
    heights = [band.height for band in equal_bands(area, step, count)]
    inner = heights[1:-1]
    assert not inner or max(inner) - min(inner) <= step


@given(st.data(), pictures())
def test_a_cut_leaves_two_rectangles_on_allowed_lines(data: st.DataObject, shape: Picture) -> None:
    area, step = render_area(shape), row_step(shape)
    keeps = [Rect(area.x0, area.y0, area.x1, row) for row in cut_rows(area, step)]
    keeps += [Rect(area.x0, area.y0, x, area.y1) for x in cut_columns(area, step)]
    if not keeps:
        return
    keep = data.draw(st.sampled_from(keeps))
    rest = rest_of(area, keep)
    assert rest is not None and may_cut(area, keep, step)
    assert are_disjoint([keep, rest]) and covers(area, [keep, rest])
    assert shape.block is None or (rest.x0 % step, rest.y0 % step) == (0, 0)


@pytest.mark.parametrize(
    "keep",
    [
        Rect(0, 0, 96, 96),
        Rect(0, 0, 96, 40),
        Rect(0, 0, 40, 96),
        Rect(0, 0, 64, 64),
        Rect(0, 32, 96, 96),
        Rect(0, 0, 96, 128),
    ],
)
def test_what_is_no_cut(keep: Rect) -> None:
    assert not may_cut(Rect(0, 0, 96, 96), keep, 32)


def test_overlaps_and_holes_are_seen() -> None:
    upper, lower = Rect(0, 0, 8, 32), Rect(0, 32, 8, 64)
    assert not are_disjoint([upper, Rect(7, 31, 8, 40), lower])
    assert are_disjoint([lower, upper])
    assert not covers(Rect(0, 0, 8, 65), [upper, lower])
