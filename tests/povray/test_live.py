"""Finished blocks made small: the right pixels, in the right place, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from clusterray.core.model import Rect
from clusterray.povray.live import SmallCanvas
from clusterray.povray.state_file import BlockCanvas
from tests.povray.test_state_file import HEIGHT, WHOLE, WIDTH, Bench, pytestmark

__all__ = ["pytestmark"]

SIZE = (WIDTH, HEIGHT)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("rect", [WHOLE, Rect(0, 32, WIDTH, HEIGHT), Rect(32, 32, 64, 64)])
def test_each_pixel_is_the_middle_of_its_square(tmp_path: Path, step: int, rect: Rect) -> None:
    blocks = Bench(tmp_path, ("-A",)).fresh(rect).blocks
    large, small = BlockCanvas(WHOLE), SmallCanvas(rect, SIZE, step, 1.0)
    for block in blocks:
        large.draw(block)
        small.draw(block)
    drawn = small.take()
    assert drawn is not None
    place, size, rgba = drawn
    assert (place.x0 % step, place.y0 % step) == (0, 0)
    seen = Image.frombytes("RGBA", size, rgba)
    picture = Image.frombytes("RGB", SIZE, bytes(large.rgb))
    for y in range(size[1]):
        for x in range(size[0]):
            middle = (place.x0 + x * step + step // 2, place.y0 + y * step + step // 2)
            assert seen.getpixel((x, y)) == (*picture.getpixel(middle), 255)  # type: ignore[misc]
    assert small.take() is None


def test_only_what_is_new_is_given_and_the_rest_is_a_hole(tmp_path: Path) -> None:
    blocks = sorted(Bench(tmp_path, ("-A",)).fresh().blocks, key=lambda block: block.serial)
    canvas = SmallCanvas(WHOLE, SIZE, 2, 1.0)
    canvas.draw(blocks[0])
    assert canvas.take() is not None
    canvas.draw(blocks[1])
    canvas.draw(blocks[3])
    drawn = canvas.take()
    assert drawn is not None
    place, size, rgba = drawn
    assert place == Rect(0, 0, 64, 64)
    holes = Image.frombytes("RGBA", size, rgba).getchannel("A")
    assert [holes.getpixel(at) for at in ((0, 0), (16, 0), (0, 16), (16, 16))] == [0, 255, 255, 0]


def test_a_block_of_elsewhere_is_passed_over(tmp_path: Path) -> None:
    canvas = SmallCanvas(Rect(0, 64, WIDTH, HEIGHT), SIZE, 2, 1.0)
    for block in Bench(tmp_path, ("-A",)).fresh(Rect(0, 0, WIDTH, 32)).blocks:
        canvas.draw(block)
    assert canvas.take() is None
