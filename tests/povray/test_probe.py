"""What a probe renders: how large, which part, with which settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterray.core.model import Rect
from clusterray.povray.probe import LEAST_PIXELS, MOST_PIXELS, probe_of
from clusterray.povray.spec import RenderSpec, canonical_options


def spec(width: int, height: int, **more: object) -> RenderSpec:
    return RenderSpec("a.pov", width, height, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("width", "height", "small"),
    [
        (800, 600, (80, 60)),
        (1920, 1080, (111, 62)),
        (8000, 6000, (96, 72)),
        (320, 240, (32, 24)),
        (20, 10, (20, 10)),
        (1, 1, (1, 1)),
    ],
)
def test_a_probe_is_a_hundredth_of_the_picture_within_bounds(
    width: int, height: int, small: tuple[int, int]
) -> None:
    found, rect = probe_of(spec(width, height))
    assert (found.width, found.height) == small
    assert rect == Rect(0, 0, *small)


def test_a_probe_shows_the_region_that_is_wanted() -> None:
    found, rect = probe_of(spec(4000, 3000, region=Rect(1000, 0, 3000, 1500)))
    assert (found.width, found.height) == (192, 144)
    assert rect == Rect(48, 0, 144, 72)
    assert found.region is None


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.data())
def test_whatever_is_wanted_the_probe_is_small_and_lies_inside(
    width: int, height: int, data: st.DataObject
) -> None:
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    region = Rect(x0, y0, x1, y1)
    found, rect = probe_of(spec(width, height, region=region))
    assert Rect(0, 0, found.width, found.height).contains(rect)
    assert found.width <= width and found.height <= height
    # Rounding to whole pixels adds a rim of one; a thin strip is nearly all rim.
    most = min(MOST_PIXELS, max(LEAST_PIXELS, region.area // 100))
    assert (rect.width - 2) * (rect.height - 2) <= most * 1.2


def test_what_decides_the_pixels_is_kept_and_antialiasing_is_not() -> None:
    options = canonical_options(
        [
            ("Antialias", True),
            ("Antialias_Threshold", 0.1),
            ("Sampling_Method", 2),
            ("Render_Block_Size", 64),
            ("Quality", 5),
            ("Declare", "night=1"),
        ]
    )
    lit = {"light": ("photons",), "photon_files": ("a.pov",)}
    found, _ = probe_of(spec(800, 600, file_type="H", options=options, **lit))
    assert not found.antialias
    assert found.block_size == 8
    assert found.value("Quality") == 5
    assert found.value("Declare") == "night=1"
    assert (found.file_type, found.bits) == ("N", 8)
    assert (found.light, found.photon_files) == ((), ())
    deep, _ = probe_of(spec(800, 600, file_type="E", bits=16, alpha=True))
    assert (deep.file_type, deep.bits, deep.alpha) == ("N", 16, True)
