"""Small pictures that cross the wire, and what a stranger may send instead of one."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from clusterray.images.glimpse import MOST_PIXELS, pack_glimpse, read_glimpse
from clusterray.images.rows import TileFault


def noise(mode: str, side: int) -> Image.Image:
    grey = Image.effect_noise((side, side), 90)
    return Image.merge(mode, [grey] * len(mode))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_picture_comes_through_as_it_was(mode: str) -> None:
    image = noise(mode, 40)
    again = read_glimpse(pack_glimpse(image, 1 << 16))
    assert (again.mode, again.tobytes()) == (mode, image.tobytes())


def test_what_is_too_large_is_made_smaller() -> None:
    packed = pack_glimpse(noise("RGB", 256), 20_000)
    assert len(packed) <= 20_000
    assert read_glimpse(packed).size in {(128, 128), (64, 64)}


def packed(width: int, height: int, channels: int, pixels: int) -> bytes:
    return struct.pack(">HHB", width, height, channels) + zlib.compress(bytes(pixels))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n",
        pack_glimpse(noise("RGB", 20), 1 << 16)[:-20],
        packed(8, 8, 1, 64),
        packed(0, 8, 3, 0),
        packed(8, 8, 3, 191),
        packed(8, 8, 3, 1 << 22),
        packed(MOST_PIXELS // 512 + 1, 512, 3, 3 * (MOST_PIXELS + 512)),
    ],
    ids=["nothing", "a PNG", "torn", "grey", "no pixels", "too few", "too many", "large"],
)
def test_what_is_no_glimpse_is_refused(data: bytes) -> None:
    with pytest.raises(TileFault):
        read_glimpse(data)
