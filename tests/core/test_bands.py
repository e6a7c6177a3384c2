"""Every pixel once, every edge where POV-Ray's blocks allow it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterray.core.bands import (
    are_disjoint,
    covers,
    cut_row_for_share,
    cut_rows,
    equal_bands,
    render_area,
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
    assert all(band.y0 % step == 0 for band in bands[1:])


@given(pictures(), st.integers(2, 40))
def test_equal_bands_differ_by_little(shape: Picture, count: int) -> None:
    area, step = render_area(shape), row_step(shape)
    heights = [band.height for band in equal_bands(area, step, count)]
    inner = heights[1:-1]
    assert not inner or max(inner) - min(inner) <= step


@given(pictures(), st.floats(0, 2))
def test_a_share_is_cut_on_an_allowed_row_strictly_inside(shape: Picture, share: float) -> None:
    area, step = render_area(shape), row_step(shape)
    row = cut_row_for_share(area, step, share)
    if row is None:
        return
    assert area.y0 < row < area.y1
    assert row % step == 0
    if row != cut_rows(area, step)[0]:
        assert abs(row - area.y0 - share * area.height) <= step


@pytest.mark.parametrize(
    ("rect", "share", "row"),
    [
        (Rect(0, 0, 10, 320), 0.5, 160),
        (Rect(0, 0, 10, 320), 0.0, 32),
        (Rect(0, 0, 10, 320), 1.0, None),
        (Rect(0, 0, 10, 320), 0.96, None),
        (Rect(0, 0, 10, 32), 0.5, None),
        (Rect(0, 0, 10, 33), 0.1, 32),
        (Rect(0, 64, 10, 96), 0.5, None),
        (Rect(0, 0, 1, 1), 0.5, None),
    ],
)
def test_shares_by_table(rect: Rect, share: float, row: int | None) -> None:
    assert cut_row_for_share(rect, 32, share) == row


def test_overlaps_and_holes_are_seen() -> None:
    upper, lower = Rect(0, 0, 8, 32), Rect(0, 32, 8, 64)
    assert not are_disjoint([upper, Rect(7, 31, 8, 40), lower])
    assert are_disjoint([lower, upper])
    assert not covers(Rect(0, 0, 8, 65), [upper, lower])
