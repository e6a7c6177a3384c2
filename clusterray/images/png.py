"""POV-Ray's PNG files: the pixel formats that they have, and how they are written.

POV-Ray 3.7 writes colour with 8 or 16 bits (5 to 7 and 9 to 15 are widened) and grey always with
16, whatever bits are asked for (seen with ``+FNg``, ``+FN8 Grayscale_Output=on``,
``Bits_Per_Color=8``). Pillow reads none of the deep ones whole, but two things help:

- PNG filters see only bytes. A row of 16-bit grey is byte for byte a row of 8-bit grey and alpha,
  one of 16-bit grey and alpha a row of 8-bit RGBA: they are decoded as that and lose nothing.
- Of 16-bit colour Pillow keeps one byte of each value, the upper or, told that the lower comes
  first, the other one. Decoded both ways, the picture is whole.

Runs in whichever thread calls it; keeps nothing. Knows nothing of bands, frames or nodes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Protocol

from PIL import Image

from clusterray.images.rows import Colour, Strips
from clusterray.images.segments import PREAMBLE, Packing, chunk, closing

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

HEADER: Final = struct.Struct(">IIBBBBB")
"""IHDR: width, height, depth, colour type, packing, filtering, interlace."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """One of the pixel formats POV-Ray writes.

    ``mode`` is Pillow's, ``raw_modes`` those under which Pillow's PNG decoder gives all bytes of
    a pixel: one, or one for the upper and one for the lower bytes of 16-bit values.
    """

    name: str
    depth: int
    colour_type: int
    mode: str
    raw_modes: tuple[str, ...]

    @property
    def grey(self) -> bool:
        """Tell whether a pixel is one level of grey instead of three colours."""
        return self.colour_type in (0, 4)

    @property
    def alpha(self) -> bool:
        """Tell whether a pixel has an alpha value."""
        return self.colour_type in (4, 6)

    @property
    def pixel_bytes(self) -> int:
        """Give the bytes of a pixel in a row."""
        return len(self.mode) * len(self.raw_modes)


FORMATS: Final = (
    PixelFormat("RGB, 8 bits", 8, 2, "RGB", ("RGB",)),
    PixelFormat("RGB and alpha, 8 bits", 8, 6, "RGBA", ("RGBA",)),
    PixelFormat("grey, 16 bits", 16, 0, "LA", ("LA",)),
    PixelFormat("grey and alpha, 16 bits", 16, 4, "RGBA", ("RGBA",)),
    PixelFormat("RGB, 16 bits", 16, 2, "RGB", ("RGB;16B", "RGB;16L")),
    PixelFormat("RGB and alpha, 16 bits", 16, 6, "RGBA", ("RGBA;16B", "RGBA;16L")),
)
_FORMAT_OF: Final = {(each.depth, each.grey, each.alpha): each for each in FORMATS}


def pixel_format(bits: int, *, grey: bool, alpha: bool) -> PixelFormat:
    """Give the format that POV-Ray writes when asked for ``bits`` a channel (5 to 16)."""
    return _FORMAT_OF[16 if grey or bits > 8 else 8, grey, alpha]


def as_seen(rows: bytes, width: int, pixels: PixelFormat) -> Image.Image:
    """Turn rows into what a screen shows of them: 8 bits a channel, L, LA, RGB or RGBA."""
    height = len(rows) // (width * pixels.pixel_bytes)
    if pixels.depth == 8:
        return Image.frombytes(pixels.mode, (width, height), rows)
    mode = ("L" if pixels.grey else "RGB") + ("A" if pixels.alpha else "")
    # The high byte of a big-endian value comes first.
    return Image.frombytes(mode, (width, height), rows[0::2])


class Sink(Protocol):
    """Takes the bytes of a file, one piece after another."""

    def write(self, data: bytes, /) -> object:
        """Take ``data``."""


def write_png(
    file: Sink,
    size: tuple[int, int],
    pixels: PixelFormat,
    colour: Colour,
    strips: Strips,
    threads: int,
) -> None:
    """Write a PNG of width and height ``size`` whose pixels are one segment, strip after strip.

    ``colour`` are its colour chunks.
    """
    packing = Packing(size[0] * pixels.pixel_bytes, pixels.pixel_bytes, threads)
    write_head(file, size, pixels, colour)
    for packed in packing.chunks(strips):
        file.write(packed)
    write_tail(file, packing.adler)


def write_head(
    file: Sink,
    size: tuple[int, int],
    pixels: PixelFormat,
    colour: Colour,
    text: tuple[str, str] | None = None,
) -> None:
    """Write what comes before the chunks of segments; ``text``: a keyword and a Latin-1 line."""
    header = HEADER.pack(*size, pixels.depth, pixels.colour_type, 0, 0, 0)
    file.write(SIGNATURE + chunk(b"IHDR", header))
    for kind, body in colour:
        file.write(chunk(kind, body))
    if text is not None:
        file.write(chunk(b"tEXt", "\0".join(text).encode("latin-1")))
    file.write(chunk(b"IDAT", PREAMBLE))


def write_tail(file: Sink, adler: int) -> None:
    """Write what comes behind segments whose rows have this Adler-32 in all."""
    file.write(chunk(b"IDAT", closing(adler)) + chunk(b"IEND", b""))
