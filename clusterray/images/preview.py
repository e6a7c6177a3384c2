"""What a person sees of a picture that is still being made: small, with its holes hatched.

Where no tile is yet, sketches are shown: blocks of bands that are being rendered, and below them a
scout's picture of the whole. A tile is scaled once, when it comes; the whole picture is never
scaled again. Owned by the thread that owns the FrameWriter. Knows nothing of files or of what the
pixels cost.
"""

from __future__ import annotations

import io
import math
from enum import IntEnum
from typing import Final

from PIL import Image, ImageChops, PngImagePlugin

from clusterray.core.model import FileFormat, Rect
from clusterray.images.hatch import hatch_rows

MAX_SIDE: Final = 1024
"""Longer side of the kept preview, in pixels; asking for more gives this much."""
LIVE_SIDE: Final = 400
"""Longer side of a picture in which nodes show their blocks: not sharper than one needs to see what
comes, for their sake."""


class Layer(IntEnum):
    """What a pixel of the preview shows; nothing is drawn over what is higher."""

    HATCH = 0
    SCOUT = 1
    BLOCKS = 2
    TILE = 3


_HIDDEN_BY: Final = {
    layer: [255 if shown <= layer else 0 for shown in range(256)] for layer in Layer
}
"""By what is drawn: the mask for each value of the layer that is there."""
_KINDLY: Final = {False: Image.Resampling.BILINEAR, True: Image.Resampling.NEAREST}
"""How a picture is scaled that has holes or none: what lies in a hole must not shine out."""


class Preview:
    """The small picture of a ``width`` x ``height`` frame, filled in tile by tile."""

    def __init__(self, width: int, height: int) -> None:
        """Begin with nothing but the hatch."""
        self._scale = min(1.0, MAX_SIDE / max(width, height))
        size = (self._shrunk(width), self._shrunk(height))
        self._alpha = False
        self._canvas = _hatch(size)
        self._layers = Image.new("L", size, Layer.HATCH)

    def _shrunk(self, length: int) -> int:
        return max(1, round(length * self._scale))

    def add(self, tile: Image.Image, rect: Rect) -> None:
        """Draw ``tile``, an 8-bit picture of the frame's pixels ``rect``."""
        place = self._place(rect)
        self._alpha = self._alpha or "A" in tile.getbands()
        size = (place[2] - place[0], place[3] - place[1])
        if size != tile.size:
            # Whole multiples first: an average over all pixels, at a tenth of a filter's cost.
            tile = tile.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
        self._canvas.paste(tile.convert("RGBA"), place)
        self._layers.paste(Layer.TILE, place)

    def sketch(self, picture: Image.Image, rect: Rect, layer: Layer) -> None:
        """Draw what the frame's pixels ``rect`` will be like, where nothing better is shown.

        ``picture`` is RGB, or RGBA whose transparent pixels are not drawn.
        """
        place = self._place(rect)
        size = (place[2] - place[0], place[3] - place[1])
        mask = self._layers.crop(place).point(_HIDDEN_BY[layer])
        if picture.mode == "RGBA":
            drawn = picture.getchannel("A").resize(size, Image.Resampling.NEAREST)
            mask = ImageChops.darker(mask, drawn)
        # Soft where it is made larger, so that it is seen to be no picture yet.
        soft = picture.convert("RGB").resize(size, _KINDLY[picture.mode == "RGBA"])
        self._canvas.paste(soft.convert("RGBA"), place, mask)
        self._layers.paste(layer, place, mask)

    def _place(self, rect: Rect) -> tuple[int, int, int, int]:
        width, height = self._canvas.size
        x0, x1 = self._span(rect.x0, rect.x1, width)
        y0, y1 = self._span(rect.y0, rect.y1, height)
        return x0, y0, x1, y1

    def _span(self, start: int, end: int, length: int) -> tuple[int, int]:
        """Give the preview's pixels that the frame's pixels start..end touch; at least one."""
        first = min(math.floor(start * self._scale), length - 1)
        return first, max(first + 1, min(math.ceil(end * self._scale), length))

    def png(self, max_side: int, colour: tuple[tuple[bytes, bytes], ...]) -> bytes:
        """Give the preview as a PNG no side of which is over ``max_side`` pixels.

        ``colour`` are the frame's colour chunks: the values mean here what they mean there.
        """
        image = self._canvas if self._alpha else self._canvas.convert("RGB")
        shrink = min(1.0, max(1, max_side) / max(image.size))
        if shrink < 1.0:
            width, height = (max(1, round(side * shrink)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BOX)
        extra = PngImagePlugin.PngInfo()
        for kind, body in colour:
            if kind != b"sBIT":
                extra.add(kind, body)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", pnginfo=extra, compress_level=1)
        return buffer.getvalue()


def _hatch(size: tuple[int, int]) -> Image.Image:
    return Image.frombytes("RGBA", size, hatch_rows(Rect(0, 0, *size), FileFormat(alpha=True)))
