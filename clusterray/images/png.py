"""POV-Ray's PNG files, read strictly and written losslessly; the one place that knows the format.

POV-Ray 3.7 writes colour with 8 or 16 bits (5 to 7 and 9 to 15 are widened) and grey always with
16, whatever bits are asked for (seen with ``+FNg``, ``+FN8 Grayscale_Output=on``,
``Bits_Per_Color=8``). Pillow reads none of the deep ones whole, but two things help:

- PNG filters see only bytes. A row of 16-bit grey is byte for byte a row of 8-bit grey and alpha,
  one of 16-bit grey and alpha a row of 8-bit RGBA: they are decoded as that and lose nothing.
- Of 16-bit colour Pillow keeps one byte of each value, the upper or, told that the lower comes
  first, the other one. Decoded both ways, the picture is whole.

Chunks are walked and their checksums compared here, and Pillow sees only pixel data, so that no
metadata of a stranger's file reaches it. Runs in whichever thread calls it; keeps nothing. Knows
nothing of bands, frames or nodes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image, ImageChops

from clusterray.core.model import Rect
from clusterray.images.rows import Colour, Strips, TileFault, broken_off, check_size

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_HEADER = struct.Struct(">IIBBBBB")
_COLOUR_CHUNKS: Final = {b"cHRM": 32, b"gAMA": 4, b"sBIT": 4, b"sRGB": 1}
"""Chunks that say what the values mean, and the largest size of each."""
_CHUNK_FRAME: Final = 12
_INFLATE_BYTES: Final = 1 << 20
_AVERAGE: Final = 3
"""PNG's number of the filter that foretells a byte by the mean of its left and upper neighbour."""


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
_BY_HEADER: Final = {(each.depth, each.colour_type): each for each in FORMATS}


def pixel_format(bits: int, *, grey: bool, alpha: bool) -> PixelFormat:
    """Give the format that POV-Ray writes when asked for ``bits`` a channel (5 to 16)."""
    wanted = (16 if grey or bits > 8 else 8, grey, alpha)
    return next(each for each in FORMATS if (each.depth, each.grey, each.alpha) == wanted)


@dataclass(frozen=True, slots=True)
class PngFile:
    """A PNG whose chunks are whole: its size, format, colour chunks and packed pixel data."""

    width: int
    height: int
    format: PixelFormat
    colour: Colour
    packed: bytes

    def rows(self, rect: Rect) -> bytes:
        """Decode the rows of ``rect``, every byte.

        Raises TileFault if the pixel data is damaged or not just as much as the header promises.
        """
        _check_amount(self)
        planes = [self._plane(raw_mode, rect) for raw_mode in self.format.raw_modes]
        if len(planes) == 1:
            return planes[0]
        upper, lower = planes
        both = bytearray(2 * len(upper))
        both[0::2], both[1::2] = upper, lower
        return bytes(both)

    def _plane(self, raw_mode: str, rect: Rect) -> bytes:
        try:
            # Not Image.open: its limit against huge pictures is one global number for the process,
            # and whoever calls us has compared the header's size with the one that is due.
            # Rows below the rectangle need no decoding; that they are there has been counted.
            size = (self.width, rect.y1)
            image = Image.frombytes(self.format.mode, size, self.packed, "zip", raw_mode)
        except (OSError, ValueError) as error:
            raise TileFault(f"its pixels cannot be decoded: {error}") from None
        return _cut_out(image, rect).tobytes()


def read_png(path: Path) -> PngFile:
    """Read and check a PNG's chunks, not yet its pixels.

    Raises TileFault in words if it is no PNG that POV-Ray could have written or not all of one.
    """
    data = path.read_bytes()
    if not data.startswith(SIGNATURE):
        raise TileFault("it is not a PNG file")
    chunks = _chunks(data)
    kind, body = next(chunks)
    if kind != b"IHDR" or len(body) != _HEADER.size:
        raise TileFault("it does not begin with a PNG header")
    width, height, pixels = _parse_header(body)
    colour: dict[bytes, bytes] = {}
    packed: list[memoryview] = []
    for kind, body in chunks:
        if kind == b"IDAT":
            packed.append(body)
        elif not packed and len(body) <= _COLOUR_CHUNKS.get(kind, -1):
            colour[kind] = bytes(body)
    return PngFile(width, height, pixels, tuple(sorted(colour.items())), b"".join(packed))


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Give each chunk up to IEND; raises TileFault where the file breaks off."""
    view, position = memoryview(data), len(SIGNATURE)
    while True:
        if position + _CHUNK_FRAME > len(data):
            raise broken_off(len(data))
        (length,) = struct.unpack_from(">I", data, position)
        end = position + _CHUNK_FRAME + length
        if end > len(data):
            raise broken_off(len(data))
        checked = view[position + 4 : end - 4]
        if zlib.crc32(checked) != int.from_bytes(view[end - 4 : end], "big"):
            raise TileFault(f"its bytes {position} to {end} are damaged")
        kind = bytes(checked[:4])
        if kind == b"IEND":
            return
        yield kind, checked[4:]
        position = end


def _parse_header(body: memoryview) -> tuple[int, int, PixelFormat]:
    width, height, depth, colour_type, packing, filtering, interlace = _HEADER.unpack(body)
    check_size(width, height)
    pixels = _BY_HEADER.get((depth, colour_type))
    if pixels is None or (packing, filtering, interlace) != (0, 0, 0):
        raise TileFault(f"its pixel format ({depth} bits, colour type {colour_type}) is not ours")
    return width, height, pixels


def _check_amount(png: PngFile) -> None:
    # Pillow takes a packed stream that ends early for a picture whose last rows are black.
    due = png.height * (1 + png.width * png.format.pixel_bytes)
    inflater, found, packed = zlib.decompressobj(), 0, png.packed
    try:
        while not inflater.eof and found <= due and packed:
            found += len(inflater.decompress(packed, _INFLATE_BYTES))
            packed = inflater.unconsumed_tail
    except zlib.error as error:
        raise TileFault(f"its pixels cannot be unpacked: {error}") from None
    if found != due or not inflater.eof:
        raise TileFault(f"it holds {found} bytes of pixels, and {due} are due")


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return len(body).to_bytes(4, "big") + kind + body + checksum.to_bytes(4, "big")


def _cut_out(image: Image.Image, rect: Rect) -> Image.Image:
    """Copy a rectangle that lies inside ``image``; Image.crop would apply Pillow's global limit."""
    if (rect.x0, rect.y0, rect.width, rect.height) == (0, 0, *image.size):
        return image
    part = Image.new(image.mode, (rect.width, rect.height))
    part.paste(image, (-rect.x0, -rect.y0))
    return part


def as_seen(rows: bytes, width: int, pixels: PixelFormat) -> Image.Image:
    """Turn rows into what a screen shows of them: 8 bits a channel, L, LA, RGB or RGBA."""
    height = len(rows) // (width * pixels.pixel_bytes)
    if pixels.depth == 8:
        return Image.frombytes(pixels.mode, (width, height), rows)
    mode = ("L" if pixels.grey else "RGB") + ("A" if pixels.alpha else "")
    # The high byte of a big-endian value comes first.
    return Image.frombytes(mode, (width, height), rows[0::2])


def write_png(
    file: BinaryIO,
    size: tuple[int, int],
    pixels: PixelFormat,
    colour: Colour,
    strips: Strips,
    *,
    text: tuple[str, str] | None = None,
    level: int,
) -> None:
    """Write a PNG of width and height ``size``, strip after strip.

    ``colour`` are the chunks of ``PngFile.colour``, ``text`` a keyword and a Latin-1 line;
    ``level`` is zlib's, 1 fast to 9 small.
    """
    header = _HEADER.pack(*size, pixels.depth, pixels.colour_type, 0, 0, 0)
    file.write(SIGNATURE + _chunk(b"IHDR", header))
    for kind, body in colour:
        file.write(_chunk(kind, body))
    if text is not None:
        file.write(_chunk(b"tEXt", "\0".join(text).encode("latin-1")))
    squeeze = zlib.compressobj(level, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
    for filtered in _filter_all(strips, size[0], pixels):
        if packed := squeeze.compress(filtered):
            file.write(_chunk(b"IDAT", packed))
    file.write(_chunk(b"IDAT", squeeze.flush()) + _chunk(b"IEND", b""))


def _filter_all(strips: Strips, width: int, pixels: PixelFormat) -> Iterator[bytes]:
    """Give the strips as PNG stores them, each row by the one above it."""
    row_bytes = width * pixels.pixel_bytes
    above = bytes(row_bytes)
    choose = _filter_best if len(pixels.raw_modes) == 1 else _filter_average
    for strip in strips:
        yield choose(above, strip, width, pixels)
        above = strip[-row_bytes:]


def _filter_best(above: bytes, strip: bytes, width: int, pixels: PixelFormat) -> bytes:
    """Let Pillow choose each row's filter; the row above goes along as the first one."""
    height = len(strip) // len(above) + 1
    image = Image.frombytes(pixels.mode, (width, height), above + strip)
    stored = image.tobytes("zip", pixels.mode, False, 0, -1, b"")
    return zlib.decompress(stored)[len(above) + 1 :]


def _filter_average(above: bytes, strip: bytes, width: int, pixels: PixelFormat) -> bytes:
    """Filter rows that Pillow has no mode for, as if their bytes were grey pixels."""
    row_bytes = len(above)
    size = (row_bytes, len(strip) // row_bytes)
    rows = Image.frombytes("L", size, strip)
    upper = Image.frombytes("L", size, above + strip[: len(strip) - row_bytes])
    left = Image.new("L", size)
    left.paste(rows, (pixels.pixel_bytes, 0))
    guess = ImageChops.add(left, upper, scale=2)
    numbered = Image.new("L", (row_bytes + 1, size[1]), _AVERAGE)
    numbered.paste(ImageChops.subtract_modulo(rows, guess), (1, 0))
    return numbered.tobytes()
