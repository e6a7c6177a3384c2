"""Rectangles found again by where they lie: as if each were held against all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clusterray.core.model import Rect
from clusterray.images.cover import Cover


@st.composite
def rects(draw: st.DrawFn) -> Rect:
    x, y = draw(st.integers(0, 60)), draw(st.integers(0, 300))
    return Rect(x, y, x + draw(st.integers(1, 40)), y + draw(st.integers(1, 200)))


@given(st.lists(rects(), max_size=30))
def test_a_rectangle_is_taken_if_it_shares_no_pixel_with_one_before(wanted: list[Rect]) -> None:
    cover, taken = Cover(), list[Rect]()
    for rect in wanted:
        overlapped = [other for other in taken if other.intersection(rect) is not None]
        found = cover.overlapped_by(rect)
        assert (found in overlapped) if overlapped else found is None
        if found is None:
            cover.add(rect)
            taken.append(rect)
    assert cover.rects == taken
    assert cover.area == sum(rect.area for rect in taken)
