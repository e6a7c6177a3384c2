"""POV-Ray's PNG files, read strictly and written losslessly; the one place that knows the format.

POV-Ray 3.7 writes colour with 8 bits and grey always with 16, whatever bits are asked for (seen
with ``+FNg``, ``+FN8 Grayscale_Output=on``, ``Bits_Per_Color=8``). Pillow reads 16-bit grey with
alpha as 8 bits. But PNG filters see only bytes: a row of 16-bit grey is byte for byte a row of
8-bit grey and alpha, and one of 16-bit grey and alpha is one of 8-bit RGBA. So such pictures go
through Pillow under the header of their 8-bit **carrier** and lose nothing.

Chunks are walked and their checksums compared here, and Pillow sees only a header we wrote and the
pixel data, so that no metadata of a stranger's file reaches it. Runs in whichever thread calls it;
keeps nothing. Knows nothing of bands, frames or nodes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image, PngImagePlugin

from clusterray.core.errors import LocalFault

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
MAX_SIDE: Final = 1_000_000
"""Protocol limit of a pixel coordinate."""

_HEADER = struct.Struct(">IIBBBBB")
_COLOUR_CHUNKS: Final = {b"cHRM": 32, b"gAMA": 4, b"sBIT": 4, b"sRGB": 1}
"""Chunks that say what the values mean, and the largest size of each."""
_CHUNK_FRAME: Final = 12
_INFLATE_BYTES: Final = 1 << 20


class TileFault(Exception):
    """A picture that is not what it should be; the message says in words what is wrong with it."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """One of the pixel formats POV-Ray writes, and Pillow's mode that carries its bytes."""

    name: str
    depth: int
    colour_type: int
    carrier: str
    carrier_type: int

    @property
    def grey(self) -> bool:
        """Tell whether a pixel is one level of grey instead of three colours."""
        return self.colour_type in (0, 4)

    @property
    def alpha(self) -> bool:
        """Tell whether a pixel has an alpha value."""
        return self.colour_type in (4, 6)


FORMATS: Final = (
    PixelFormat("RGB, 8 bits", 8, 2, "RGB", 2),
    PixelFormat("RGB and alpha, 8 bits", 8, 6, "RGBA", 6),
    PixelFormat("grey, 16 bits", 16, 0, "LA", 4),
    PixelFormat("grey and alpha, 16 bits", 16, 4, "RGBA", 6),
)
_BY_HEADER: Final = {(each.depth, each.colour_type): each for each in FORMATS}


def pixel_format(*, grey: bool, alpha: bool) -> PixelFormat:
    """Give the format that POV-Ray writes for a picture that is ``grey`` and has ``alpha``."""
    return next(each for each in FORMATS if (each.grey, each.alpha) == (grey, alpha))


@dataclass(frozen=True, slots=True)
class PngFile:
    """A PNG whose chunks are whole: its size, format, colour chunks and packed pixel data."""

    width: int
    height: int
    format: PixelFormat
    colour: tuple[tuple[bytes, bytes], ...]
    packed: bytes


def read_png(path: Path) -> PngFile:
    """Read and check a PNG's chunks, not yet its pixels.

    Raises TileFault in words if it is no PNG that POV-Ray could have written or not all of one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TileFault(f"it cannot be read: {error.strerror}") from None
    if not data:
        raise TileFault("it is empty")
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
            raise TileFault(f"it ends after {len(data)} bytes, in the middle of the picture")
        (length,) = struct.unpack_from(">I", data, position)
        end = position + _CHUNK_FRAME + length
        if end > len(data):
            raise TileFault(f"it ends after {len(data)} bytes, in the middle of the picture")
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
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise TileFault(f"its header says {width}x{height} pixels")
    pixels = _BY_HEADER.get((depth, colour_type))
    if pixels is None or (packing, filtering, interlace) != (0, 0, 0):
        raise TileFault(f"its pixel format ({depth} bits, colour type {colour_type}) is not ours")
    return width, height, pixels


def decode_rows(png: PngFile, rows: int) -> Image.Image:
    """Decode the topmost ``rows`` rows, every byte; gives them in the carrier's mode.

    Raises TileFault if the pixel data is damaged or is not just as much as the header promises.
    """
    _check_amount(png)
    header = _HEADER.pack(png.width, rows, 8, png.format.carrier_type, 0, 0, 0)
    stream = io.BytesIO(
        SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", png.packed) + _chunk(b"IEND", b"")
    )
    try:
        # Not Image.open: its limit against huge pictures is one global number for the process,
        # and whoever calls us has compared the header's size with the one that is due.
        image = PngImagePlugin.PngImageFile(stream)
        image.load()
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise TileFault(f"its pixels cannot be decoded: {error}") from None
    return image


def _check_amount(png: PngFile) -> None:
    # Pillow takes a packed stream that ends early for a picture whose last rows are black.
    step = len(png.format.carrier)
    due = png.height * (1 + png.width * step)
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


def cut_out(image: Image.Image, x0: int, y0: int, width: int, height: int) -> Image.Image:
    """Copy a rectangle that lies inside ``image``; Image.crop would apply Pillow's global limit."""
    part = Image.new(image.mode, (width, height))
    part.paste(image, (-x0, -y0))
    return part


def as_seen(image: Image.Image, pixels: PixelFormat) -> Image.Image:
    """Turn a carrier into what a screen shows of it: 8 bits a channel, L, LA, RGB or RGBA."""
    if pixels.depth == 8:
        return image
    # The high byte of a big-endian sample comes first.
    if not pixels.alpha:
        return image.getchannel(0)
    return Image.merge("LA", (image.getchannel(0), image.getchannel(2)))


def write_png(
    file: BinaryIO,
    image: Image.Image,
    pixels: PixelFormat,
    colour: Sequence[tuple[bytes, bytes]],
    *,
    text: tuple[str, str] | None = None,
    level: int,
) -> None:
    """Write a carrier ``image`` as a PNG of format ``pixels`` into a seekable ``file``.

    ``colour`` are the chunks of ``PngFile.colour``, ``text`` a keyword and a Latin-1 line;
    ``level`` is zlib's, 1 fast to 9 small.
    """
    extra = PngImagePlugin.PngInfo()
    for kind, body in colour:
        extra.add(kind, body)
    if text is not None:
        extra.add_text(*text)
    start = file.tell()
    image.save(file, "PNG", pnginfo=extra, compress_level=level)
    header = _HEADER.pack(image.width, image.height, pixels.depth, pixels.colour_type, 0, 0, 0)
    file.seek(start + len(SIGNATURE))
    file.write(_chunk(b"IHDR", header))
    file.seek(0, io.SEEK_END)


def cannot_write(path: Path, error: OSError) -> LocalFault:
    """Give the sentence for a picture that this machine could not write."""
    return LocalFault(f"cannot write {path}: {error.strerror or error}")
