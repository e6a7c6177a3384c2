"""Radiance HDR as POV-Ray 3.7 writes it: four bytes a pixel, three mantissas and their exponent.

Rows of 8 to 32,767 pixels are packed, each for itself and each of its four channels for itself, in
runs and pieces of at most 127 and 128 bytes; narrower and wider rows lie flat (POV-Ray,
source/base/image/hdr.cpp). A row of ours is flat: red, green, blue, exponent, pixel after pixel. No
value is ever decoded to a number and back. Runs in whichever thread calls it; keeps nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image

from clusterray.core.model import Rect
from clusterray.images.rows import STRIP_BYTES, Colour, Strips, TileFault, broken_off, check_size

PIXEL_BYTES: Final = 4
_HEADER: Final = re.compile(
    rb"#\?RADIANCE\n(?:[^\n]{0,200}\n){0,20}?\n-Y (\d{1,7}) \+X (\d{1,7})\n"
)
_HEADER_BYTES: Final = 4096
_FORMAT: Final = b"FORMAT=32-bit_rle_rgbe"
_PACKED_WIDTHS: Final = range(8, 0x8000)
_RUN: Final = re.compile(rb"(.)\1{3,126}", re.DOTALL)
_PIECE: Final = 128
_UNITS: Final = (0.0, *(2.0 ** (exponent - 136) for exponent in range(1, 256)))
"""What a mantissa counts in, by its exponent; without one it is black."""


@dataclass(frozen=True, slots=True)
class HdrFile:
    """An HDR file in memory, its pixels from byte ``begin`` of ``data`` on."""

    width: int
    height: int
    begin: int
    data: bytes
    colour: Colour = ()

    def rows(self, rect: Rect) -> bytes:
        """Give the flat rows of ``rect``; raises TileFault where they are damaged."""
        return b"".join(self.strips(rect))

    def strips(self, rect: Rect) -> Iterator[bytes]:
        """Give the flat rows of ``rect``, some at a time; raises as ``rows``."""
        position, strip = self.begin, bytearray()
        for number in range(rect.y1):
            row, position = self._row(position)
            if number >= rect.y0:
                strip += row[rect.x0 * PIXEL_BYTES : rect.x1 * PIXEL_BYTES]
            if len(strip) >= STRIP_BYTES or (strip and number == rect.y1 - 1):
                yield bytes(strip)
                strip.clear()

    def check(self, rect: Rect) -> HdrFile:
        """Unpack the rows of ``rect``; raises TileFault where they are damaged."""
        for _strip in self.strips(rect):
            pass
        return self

    def _row(self, position: int) -> tuple[bytes, int]:
        """Give the flat row that begins at ``position``, and where the next one does."""
        if self.width not in _PACKED_WIDTHS:
            end = position + self.width * PIXEL_BYTES
            if end > len(self.data):
                raise broken_off(len(self.data))
            return self.data[position:end], end
        begin = bytes((2, 2)) + self.width.to_bytes(2, "big")
        if self.data[position : position + 4] != begin:
            raise TileFault(f"its row at byte {position} does not begin as a row")
        row = bytearray(self.width * PIXEL_BYTES)
        position += len(begin)
        for channel in range(PIXEL_BYTES):
            row[channel::PIXEL_BYTES], position = self._channel(position)
        return bytes(row), position

    def _channel(self, position: int) -> tuple[bytes, int]:
        found = bytearray()
        while len(found) < self.width:
            count = self.data[position] if position < len(self.data) else 0
            if count > _PIECE:
                found += self.data[position + 1 : position + 2] * (count - _PIECE)
                position += 2
            else:
                piece = self.data[position + 1 : position + 1 + count]
                if not piece or len(piece) < count:
                    raise broken_off(len(self.data))
                found += piece
                position += 1 + count
        if len(found) != self.width:
            raise TileFault(f"its row before byte {position} is too long")
        return bytes(found), position


def read_hdr(path: Path) -> HdrFile:
    """Read an HDR file, not yet its pixels; raises TileFault in words."""
    data = path.read_bytes()
    found = _HEADER.match(data[:_HEADER_BYTES])
    if found is None or _FORMAT not in found[0]:
        raise TileFault("it is not a Radiance HDR file as POV-Ray writes it")
    height, width = int(found[1]), int(found[2])
    check_size(width, height)
    return HdrFile(width, height, found.end(), data)


def write_hdr(file: BinaryIO, size: tuple[int, int], strips: Strips, mark: str) -> None:
    """Write an HDR file; ``mark`` names the software."""
    width, height = size
    software = b"SOFTWARE=" + mark.encode("ascii")
    lines = (b"#?RADIANCE", software, _FORMAT, b"", b"-Y %d +X %d" % (height, width))
    file.write(b"\n".join(lines) + b"\n")
    for strip in strips:
        if width not in _PACKED_WIDTHS:
            file.write(strip)
            continue
        row_bytes = width * PIXEL_BYTES
        for at in range(0, len(strip), row_bytes):
            file.write(_packed(strip[at : at + row_bytes], width))


def _packed(row: bytes, width: int) -> bytes:
    parts = [bytes((2, 2)), width.to_bytes(2, "big")]
    for channel in range(PIXEL_BYTES):
        values, position = row[channel::PIXEL_BYTES], 0
        for run in _RUN.finditer(values):
            parts += _pieces(values[position : run.start()])
            parts.append(bytes((_PIECE + len(run[0]), run[0][0])))
            position = run.end()
        parts += _pieces(values[position:])
    return b"".join(parts)


def _pieces(values: bytes) -> list[bytes]:
    starts = range(0, len(values), _PIECE)
    cut = [values[at : at + _PIECE] for at in starts]
    return [bytes((len(piece),)) + piece for piece in cut]


def channel_values(rows: bytes) -> list[Sequence[float]]:
    """Turn flat rows into the light of red, green and blue."""
    units = [_UNITS[exponent] for exponent in rows[3::PIXEL_BYTES]]
    return [list(map(mul, rows[channel::PIXEL_BYTES], units)) for channel in range(3)]


def as_seen(rows: bytes, width: int, step: int) -> Image.Image:
    """Turn every ``step``-th pixel into what a screen shows of it.

    That is sRGB, 8 bits, what is brighter than white cut.
    """
    row_bytes = width * PIXEL_BYTES
    starts = range(0, len(rows), row_bytes * step)
    red, green, blue, exponents = (
        b"".join(rows[at + channel : at + row_bytes : PIXEL_BYTES * step] for at in starts)
        for channel in range(PIXEL_BYTES)
    )
    size = (len(red) // len(starts), len(starts))
    mantissas = Image.merge(
        "RGB", [Image.frombytes("L", size, values) for values in (red, green, blue)]
    )
    mask = Image.frombytes("L", size, exponents)
    seen = Image.new("RGB", size)
    for exponent in set(exponents):
        there = mask.point([255 * (value == exponent) for value in range(256)])
        table = [_screen_value(value, exponent) for value in range(256)]
        seen.paste(mantissas.point(table * 3), (0, 0), there)
    return seen


def _screen_value(mantissa: int, exponent: int) -> int:
    linear = min(1.0, mantissa * 2.0 ** (exponent - 136))
    bent = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return round(255 * bent)
