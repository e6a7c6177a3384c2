"""Small pictures for people to look at while the real one is made: how they cross the wire.

A glimpse is five bytes, its width and height (two each, the upper one first) and the number of
channels, and then its rows, packed by zlib: red, green, blue, with a fourth channel that is 0 where
there is nothing yet. The head reads one as what a stranger made: its size first, and nothing beyond
what is due. Any thread; keeps nothing. Knows nothing of scenes or frames.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from PIL import Image

from clusterray.images.rows import TileFault

MOST_PIXELS: Final = 1 << 18
"""No glimpse has more."""
_HEAD: Final = struct.Struct(">HHB")
_MODES: Final = {3: "RGB", 4: "RGBA"}
_LEVEL: Final = 4


def pack_glimpse(image: Image.Image, most_bytes: int) -> bytes:
    """Pack an RGB or RGBA picture, made smaller until it takes no more bytes."""
    packed = _packed(image)
    while len(packed) > most_bytes and image.size != (1, 1):
        width, height = (max(1, side // 2) for side in image.size)
        image = image.resize((width, height), Image.Resampling.NEAREST)
        packed = _packed(image)
    return packed


def _packed(image: Image.Image) -> bytes:
    return _HEAD.pack(*image.size, len(image.mode)) + zlib.compress(image.tobytes(), _LEVEL)


def read_glimpse(data: bytes) -> Image.Image:
    """Read a glimpse of a stranger's making, RGB or RGBA; raises TileFault in words."""
    if len(data) < _HEAD.size:
        raise TileFault("it is no picture")
    width, height, channels = _HEAD.unpack_from(data)
    mode, due = _MODES.get(channels), width * height * channels
    if mode is None or not 0 < width * height <= MOST_PIXELS:
        raise TileFault(f"its head says {width}x{height} pixels of {channels} channels")
    inflater = zlib.decompressobj()
    try:
        rows = inflater.decompress(data[_HEAD.size :], due + 1)
    except zlib.error as error:
        raise TileFault(f"its pixels cannot be unpacked: {error}") from None
    if len(rows) != due:
        raise TileFault(f"it holds {len(rows)} bytes of pixels, and {due} are due")
    return Image.frombytes(mode, (width, height), rows)
