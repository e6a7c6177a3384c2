"""What a scout renders, how far it goes, and what it makes of the times of blocks."""

from __future__ import annotations

import pytest

from clusterray.core.costs import CostMap
from clusterray.core.model import Rect
from clusterray.povray import scout
from clusterray.povray.scout import (
    BlockTimes,
    Seen,
    cost_grid,
    finer_scale,
    first_scale,
    glance_of,
    is_too_dear,
)
from clusterray.povray.spec import RenderSpec

HD = RenderSpec(input="a.pov", width=1920, height=1080)


@pytest.mark.parametrize(
    ("width", "height"), [(1920, 1080), (800, 600), (160, 120), (20, 4000), (20_000, 20_000)]
)
def test_the_first_picture_is_tiny_but_can_be_made_out(width: int, height: int) -> None:
    spec = RenderSpec(input="a.pov", width=width, height=height)
    rect = glance_of(spec, first_scale(spec)).rect
    assert min(16, width) <= rect.width
    assert rect.area <= 1.1 * max(scout.FIRST_PIXELS, 16 * 16 * height / width)
    assert rect.width / rect.height == pytest.approx(width / height, rel=0.2)


def test_a_region_alone_is_looked_at() -> None:
    spec = RenderSpec(input="a.pov", width=1920, height=1080, region=Rect(960, 540, 1920, 1080))
    glance = glance_of(spec, 1 / 16)
    assert glance.rect == Rect(60, 34, 120, 68)
    assert (glance.spec.width, glance.spec.height) == (120, 68)


def test_a_finer_picture_costs_no_more_than_was_left_of_the_budget() -> None:
    # 0.1 ms a pixel: the frame should take 207 s, of which 0.8 % are 1.66 s.
    seen = Seen(spent_s=0.15, traced_s=0.12, pixels=1200)
    scale = finer_scale(HD, 0.15, seen)
    assert scale is not None
    rect = glance_of(HD, scale).rect
    assert rect.area * 1e-4 + scout.START_S + 0.15 == pytest.approx(0.008 * 207.36, rel=0.03)


@pytest.mark.parametrize(
    ("spec", "seen"),
    [
        pytest.param(HD, Seen(1.2, 0.012, 1200), id="parsing takes a second each time"),
        pytest.param(HD, Seen(0.04, 0.0012, 1200), id="the frame takes two seconds"),
        pytest.param(HD, Seen(60.0, 59.0, 1200), id="a pixel is dear"),
        pytest.param(HD, Seen(0.05, 0.0, 1200), id="too quick to be timed"),
        pytest.param(
            RenderSpec(input="a.pov", width=200, height=150),
            Seen(0.5, 0.48, 1200),
            id="the frame itself is small",
        ),
    ],
)
def test_where_a_finer_picture_promises_to_be_dear_there_is_none(
    spec: RenderSpec, seen: Seen
) -> None:
    assert finer_scale(spec, seen.spent_s, seen) is None


def test_the_first_picture_goes_on_while_its_share_is_small_and_ends_where_nothing_comes() -> None:
    assert not is_too_dear(HD, Seen(1.9, 0.0, 0)), "parsing, or photons, within the budget"
    assert is_too_dear(HD, Seen(2.1, 0.0, 0))
    assert not is_too_dear(HD, Seen(30.0, 29.0, 600)), "a frame of hours"
    assert is_too_dear(HD, Seen(30.0, 0.1, 600)), "nearly all of it went elsewhere"


def test_blocks_found_together_share_the_time_since_the_ones_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scout, "LEAST_LOOKS", 2)
    times = BlockTimes()
    left, right, below = Rect(0, 0, 4, 4), Rect(4, 0, 8, 4), Rect(0, 4, 8, 8)
    times.note([], 4.0, begun=False)
    times.note([], 4.5, begun=True)
    times.note([left], 4.75, begun=True)
    assert times.traced_s == 0.0, "of one look nothing is known"
    times.note([], 6.0, begun=True)
    times.note([right, below], 7.75, begun=True)
    assert times.pixels == 64
    assert dict(times.costs()) == {left: 0.75, right: 1.0, below: 2.0}
    assert times.traced_s == 3.75
    monkeypatch.setattr(scout, "LEAST_LOOKS", 3)
    assert times.costs() == [], "what is over in a moment tells nothing of its parts"


def test_light_that_is_made_before_the_first_block_is_not_its_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scout, "LEAST_LOOKS", 2)
    times = BlockTimes()
    first, second = Rect(0, 0, 4, 4), Rect(4, 0, 8, 4)
    times.note([], 1.0, begun=False)
    times.note([first], 60.0, begun=True)
    times.note([second], 61.0, begun=True)
    assert dict(times.costs()) == {first: 1.0, second: 1.0}


def test_the_grid_keeps_dear_parts_in_their_place_and_knows_no_holes() -> None:
    found = cost_grid(
        (8, 12), [(Rect(0, 0, 4, 4), 1.0), (Rect(4, 0, 8, 4), 9.0), (Rect(0, 4, 4, 8), 2.0)]
    )
    assert found is not None
    columns, costs = found
    assert columns == 2
    assert costs == pytest.approx([1.0, 9.0, 2.0, 4.0, 4.0, 4.0])
    assert cost_grid((8, 8), []) is None


def test_a_large_grid_is_folded_into_64_cells_each_way() -> None:
    blocks = [Rect(x, y, x + 4, y + 4) for y in range(0, 400, 4) for x in range(0, 400, 4)]
    found = cost_grid((400, 400), [(block, 2.0 if block.y0 >= 200 else 1.0) for block in blocks])
    assert found is not None
    columns, costs = found
    assert (columns, len(costs)) == (64, 64 * 64)
    whole = CostMap.of(1600, 1200, columns, costs)
    lower, upper = whole.cost(Rect(0, 600, 1600, 1200)), whole.cost(Rect(0, 0, 1600, 600))
    assert lower == pytest.approx(2 * upper, rel=1e-6)


def test_the_scene_is_told_the_size_of_the_frame_unless_the_job_tells_it_one() -> None:
    spec = RenderSpec(input="a.pov", width=80, height=72, options=(("Declare", "image_width=7"),))
    assert glance_of(spec, 0.25).words == ("Declare=image_height=72",)
