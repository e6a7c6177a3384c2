"""Files whose rows lie unpacked at fixed places: PPM and PGM, Targa, BMP.

What POV-Ray 3.7 writes, seen with Debian's: ``P`` is P6, or P5 in grey, one byte a value up to 8
bits and two above; ``T`` is uncompressed Targa from top to bottom, 24 or 32 bits, with a Targa 2
extension area that says gamma and kind of alpha; ``B`` is an uncompressed BMP from bottom to top,
24 or 32 bits. Nothing else is read. Runs in whichever thread calls it; keeps nothing.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image, ImageChops

from clusterray.core.model import Rect
from clusterray.images.rows import Colour, Strips, TileFault, broken_off, check_size, pieces

_TGA_HEADER: Final = struct.Struct("<3B5x4H2B")
_TGA_RAW, _TGA_PACKED = 2, 10
_TGA_EXTENSION: Final = 495
_TGA_SIGNATURE: Final = b"TRUEVISION-XFILE.\0"
_TGA_SOFTWARE, _TGA_GAMMA, _TGA_ALPHA = 426, 478, 494
"""Places in the extension area; Truevision TGA File Format Specification 2.0, page 21."""
_BMP_HEADER: Final = struct.Struct("<2sI4sIIiiHHI20x")
_PPM_HEADER: Final = re.compile(
    rb"P([56])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s"
)
_PPM_HEADER_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A file of rows of ``stride`` bytes from byte ``begin`` on."""

    path: Path
    width: int
    height: int
    pixel_bytes: int
    begin: int
    stride: int
    upwards: bool
    colour: Colour

    def rows(self, rect: Rect) -> bytes:
        """Read the rows of ``rect`` from top to bottom."""
        first = self.height - rect.y1 if self.upwards else rect.y0
        with self.path.open("rb") as file:
            file.seek(self.begin + first * self.stride)
            data = file.read(rect.height * self.stride)
        if len(data) < rect.height * self.stride:
            raise broken_off(self.path.stat().st_size)
        left, right = rect.x0 * self.pixel_bytes, rect.x1 * self.pixel_bytes
        if not self.upwards and (left, right) == (0, self.stride):
            return data
        starts = range(0, len(data), self.stride)
        order: Iterable[int] = reversed(starts) if self.upwards else starts
        return b"".join(data[start + left : start + right] for start in order)

    def strips(self, rect: Rect) -> Iterator[bytes]:
        """Read the rows of ``rect`` from top to bottom, some at a time."""
        for piece in pieces(rect, self.stride):
            yield self.rows(piece)

    def check(self, rect: Rect) -> PlainFile:
        """Read the rows of ``rect``."""
        for _strip in self.strips(rect):
            pass
        return self


def _checked(file: PlainFile) -> PlainFile:
    check_size(file.width, file.height)
    size = file.path.stat().st_size
    if size < file.begin + file.height * file.stride:
        raise broken_off(size)
    return file


# ---------------------------------------------------------------- PPM and PGM


def read_ppm(path: Path) -> PlainFile:
    """Read the header of a binary PPM or PGM; raises TileFault in words."""
    with path.open("rb") as file:
        found = _PPM_HEADER.match(file.read(_PPM_HEADER_BYTES))
    if found is None:
        raise TileFault("it is not a PPM file")
    width, height, highest = (int(number[:9]) for number in found.groups()[1:])
    grey = found[1] == b"5"
    step = (1 if grey else 3) * ppm_value_bytes(highest.bit_length(), grey=grey)
    colour = ((b"magic", b"P" + found[1]), (b"maxval", b"%d" % highest))
    return _checked(PlainFile(path, width, height, step, found.end(), width * step, False, colour))


def ppm_value_bytes(bits: int, *, grey: bool) -> int:
    """Give the bytes of a value: POV-Ray writes two in grey, whatever the header says."""
    return 2 if grey or bits > 8 else 1


def write_ppm(
    file: BinaryIO, size: tuple[int, int], colour: Colour, strips: Strips, mark: str
) -> None:
    """Write a binary PPM or PGM as ``colour`` says; ``mark`` goes into a comment."""
    said = dict(colour)
    header = (said[b"magic"], b"# " + mark.encode("ascii"), b"%d %d" % size, said[b"maxval"])
    file.write(b"\n".join(header) + b"\n")
    for strip in strips:
        file.write(strip)


def ppm_as_seen(rows: bytes, width: int, bits: int, *, grey: bool) -> Image.Image:
    """Turn rows into what a screen shows of them: 8 bits a channel."""
    mode = "L" if grey else "RGB"
    values = ppm_value_bytes(bits, grey=grey)
    size = (width, len(rows) // (width * len(mode) * values))
    if values == 1:
        image = Image.frombytes(mode, size, rows)
        brighter = [min(255, value << (8 - bits)) for value in range(256)]
        return image if bits == 8 else image.point(brighter * 3)
    upper = Image.frombytes(mode, size, rows[0::2])
    if bits == 16:
        return upper
    lower = Image.frombytes(mode, size, rows[1::2])
    up, down = 16 - bits, bits - 8
    bands = len(mode)
    return ImageChops.add(
        upper.point([min(255, value << up) for value in range(256)] * bands),
        lower.point([value >> down for value in range(256)] * bands),
    )


# ---------------------------------------------------------------- Targa


def read_tga(path: Path) -> PlainFile:
    """Read header and extension area of an uncompressed Targa of POV-Ray's; raises TileFault."""
    with path.open("rb") as file:
        header = file.read(_TGA_HEADER.size)
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - _TGA_EXTENSION - 8 - len(_TGA_SIGNATURE)))
        tail = file.read()
    if len(header) < _TGA_HEADER.size:
        raise TileFault("it is not a Targa file")
    identity, palette, kind, _, _, width, height, bits, descriptor = _TGA_HEADER.unpack(header)
    if (identity, palette, kind) != (0, 0, _TGA_RAW) or (bits, descriptor) not in (
        (24, 0x20),
        (32, 0x28),
    ):
        raise TileFault("it is not a Targa file as POV-Ray writes it")
    begin, stride = _TGA_HEADER.size, width * bits // 8
    if length < begin + height * stride + len(tail) or not tail.endswith(_TGA_SIGNATURE):
        raise broken_off(length)
    colour = (
        (b"alpha", tail[_TGA_ALPHA : _TGA_ALPHA + 1]),
        (b"gamma", tail[_TGA_GAMMA : _TGA_GAMMA + 4]),
    )
    return _checked(PlainFile(path, width, height, bits // 8, begin, stride, False, colour))


def write_tga(
    file: BinaryIO,
    size: tuple[int, int],
    colour: Colour,
    strips: Strips,
    mark: str,
    *,
    alpha: bool,
    packed: bool,
) -> None:
    """Write a Targa 2 file, its rows run-length ``packed`` or not; ``mark`` names the software."""
    width, height = size
    kind = _TGA_PACKED if packed else _TGA_RAW
    depth = (32, 0x28) if alpha else (24, 0x20)
    file.write(_TGA_HEADER.pack(0, 0, kind, 0, 0, width, height, *depth))
    for strip in strips:
        file.write(_tga_packed(strip, width, alpha) if packed else strip)
    area = bytearray(_TGA_EXTENSION)
    area[0:2] = _TGA_EXTENSION.to_bytes(2, "little")
    area[_TGA_SOFTWARE : _TGA_SOFTWARE + 40] = mark.encode("ascii")[:40].ljust(40, b"\0")
    # A space for the letter of a version means that there is none.
    area[_TGA_SOFTWARE + 43] = 0x20
    said = dict(colour)
    area[_TGA_GAMMA : _TGA_GAMMA + 4] = said[b"gamma"]
    area[_TGA_ALPHA : _TGA_ALPHA + 1] = said[b"alpha"]
    file.write(area + file.tell().to_bytes(4, "little") + bytes(4) + _TGA_SIGNATURE)


def _tga_packed(strip: bytes, width: int, alpha: bool) -> bytes:
    """Pack rows; the bytes are blue, green, red, but runs do not care."""
    mode = "RGBA" if alpha else "RGB"
    height = len(strip) // (width * len(mode))
    raw_mode = "BGRA" if alpha else "BGR"
    image = Image.frombytes(mode, (width, height), strip, "raw", raw_mode)
    return image.tobytes("tga_rle", raw_mode)


# ---------------------------------------------------------------- BMP


def read_bmp(path: Path) -> PlainFile:
    """Read the header of an uncompressed BMP of POV-Ray's; raises TileFault."""
    with path.open("rb") as file:
        header = file.read(_BMP_HEADER.size)
    if len(header) < _BMP_HEADER.size or header[:2] != b"BM":
        raise TileFault("it is not a BMP file")
    _, _, _, begin, _, width, height, planes, bits, packing = _BMP_HEADER.unpack(header)
    if (begin, planes, packing) != (_BMP_HEADER.size, 1, 0) or bits not in (24, 32):
        raise TileFault("it is not a BMP file as POV-Ray writes it")
    stride = _bmp_stride(width, bits // 8)
    return _checked(PlainFile(path, width, height, bits // 8, begin, stride, True, ()))


def write_bmp(file: BinaryIO, size: tuple[int, int], strips: Strips, *, alpha: bool) -> None:
    """Write a BMP from bottom to top into a seekable file."""
    width, height = size
    step = 4 if alpha else 3
    stride = _bmp_stride(width, step)
    total = _BMP_HEADER.size + height * stride
    fields = (b"BM", total, bytes(4), _BMP_HEADER.size, 40, width, height, 1, 8 * step, 0)
    header = bytearray(_BMP_HEADER.pack(*fields))
    header[34:38] = (height * stride).to_bytes(4, "little")
    file.write(header)
    padding = bytes(stride - width * step)
    end = total
    for strip in strips:
        starts = range(0, len(strip), width * step)
        rows = b"".join(strip[at : at + width * step] + padding for at in reversed(starts))
        end -= len(rows)
        file.seek(end)
        file.write(rows)
    file.seek(0, io.SEEK_END)


def _bmp_stride(width: int, pixel_bytes: int) -> int:
    """Give the bytes of a row, which is padded to whole groups of four."""
    return (width * pixel_bytes + 3) // 4 * 4


def blue_first_as_seen(rows: bytes, width: int, *, alpha: bool) -> Image.Image:
    """Turn rows of Targa or BMP, blue first, into what a screen shows of them."""
    mode, raw_mode = ("RGBA", "BGRA") if alpha else ("RGB", "BGR")
    size = (width, len(rows) // (width * len(mode)))
    return Image.frombytes(mode, size, rows, "raw", raw_mode)
