"""OpenEXR with half floats as POV-Ray 3.7 writes it, by OpenImageIO, which only a head needs.

OpenImageIO is an optional dependency (the extra ``head``): nodes pass POV-Ray's own file on, whose
black rest packs to almost nothing. Nothing here is imported before it is needed. A row holds the
halves as this machine orders their bytes; they are never turned into other numbers. Runs in
whichever thread calls it; keeps nothing.
"""

from __future__ import annotations

import importlib.util
import math
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from clusterray.core.model import Rect
from clusterray.images.rows import Colour, Strips, TileFault, check_size, pieces

if TYPE_CHECKING:
    import OpenImageIO

_MAGIC: Final = b"\x76\x2f\x31\x01"
_VALUE_BYTES: Final = 2


def is_supported() -> bool:
    """Tell whether OpenImageIO is installed here."""
    return importlib.util.find_spec("OpenImageIO") is not None


def pixel_bytes(*, alpha: bool) -> int:
    """Give the bytes of a pixel in a row."""
    return _VALUE_BYTES * len(_names(alpha=alpha))


def _names(*, alpha: bool) -> tuple[str, ...]:
    return ("R", "G", "B", "A") if alpha else ("R", "G", "B")


@dataclass(frozen=True, slots=True)
class ExrFile:
    """An EXR file whose header has been read."""

    path: Path
    width: int
    height: int
    colour: Colour = ()

    def rows(self, rect: Rect) -> bytes:
        """Give the rows of ``rect``; raises TileFault where they are damaged."""
        source = _open(self.path)
        spec = source.spec()
        top = spec.y
        pixels: Any = source.read_scanlines(
            0, 0, top + rect.y0, top + rect.y1, spec.z, 0, spec.nchannels, spec.format
        )
        fault = source.geterror()
        source.close()
        if pixels is None or fault:
            raise TileFault(f"its pixels cannot be decoded: {fault}")
        part: bytes = pixels[:, rect.x0 : rect.x1].tobytes()
        return part

    def strips(self, rect: Rect) -> Iterator[bytes]:
        """Give the rows of ``rect``, some at a time; raises TileFault where they are damaged."""
        # Four channels at most, and whole rows are unpacked.
        for piece in pieces(rect, 4 * _VALUE_BYTES * self.width):
            yield self.rows(piece)

    def check(self, rect: Rect) -> ExrFile:
        """Decode the rows of ``rect``; raises TileFault where they are damaged."""
        for _strip in self.strips(rect):
            pass
        return self


def _open(path: Path) -> OpenImageIO.ImageInput:
    import OpenImageIO

    source = OpenImageIO.ImageInput.open(str(path))
    if source is None:
        raise TileFault(f"it cannot be read: {OpenImageIO.geterror()}")
    if source.format_name() != "openexr":
        raise TileFault("it is not an OpenEXR file")
    return source


def read_exr(path: Path, *, alpha: bool) -> ExrFile:
    """Read an EXR's header; raises TileFault if it is none as POV-Ray writes it."""
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise TileFault("it is not an OpenEXR file")
    source = _open(path)
    spec = source.spec()
    found = tuple(spec.channelnames), str(spec.format), spec.tile_width, spec.deep
    width, height = spec.width, spec.height
    # Its spec goes with it.
    source.close()
    if found != (_names(alpha=alpha), "half", 0, False):
        raise TileFault(f"its pixels are {' '.join(found[0])} {found[1]}, which are not due")
    check_size(width, height)
    return ExrFile(path, width, height)


def write_exr(path: Path, size: tuple[int, int], strips: Strips, mark: str, *, alpha: bool) -> None:
    """Write an EXR file, packed as POV-Ray packs it; ``mark`` names the software.

    Raises OSError if it cannot be written.
    """
    import numpy as np
    import OpenImageIO

    width, height = size
    names = _names(alpha=alpha)
    spec = OpenImageIO.ImageSpec(width, height, len(names), "half")
    spec.channelnames = names
    spec.attribute("compression", "zip")
    spec.attribute("Software", mark)
    target = OpenImageIO.ImageOutput.create("openexr")
    if target is None or not target.open(str(path), spec):
        raise OSError(0, OpenImageIO.geterror() if target is None else target.geterror())
    row = 0
    for strip in strips:
        pixels = np.frombuffer(strip, np.float16).reshape(-1, width, len(names))
        if not target.write_scanlines(row, row + len(pixels), 0, pixels):
            raise OSError(0, target.geterror())
        row += len(pixels)
    if not target.close():
        raise OSError(0, target.geterror())


def channel_values(rows: bytes, *, alpha: bool) -> list[Sequence[float]]:
    """Turn rows into numbers, a sequence for each channel.

    So that differences stay numbers, an infinity counts as the first power of two beyond a half
    float, and what is no number as the second.
    """
    table, halves = _half_values(), array("H", rows)
    count = len(_names(alpha=alpha))
    return [[table[half] for half in halves[channel::count]] for channel in range(count)]


@cache
def _half_values() -> list[float]:
    found = struct.unpack("=65536e", array("H", range(1 << 16)).tobytes())
    beyond = [math.copysign(65_536.0, value) if math.isinf(value) else value for value in found]
    return [131_072.0 if math.isnan(value) else value for value in beyond]


def as_seen(rows: bytes, width: int, step: int, *, alpha: bool) -> Image.Image:
    """Turn every ``step``-th pixel into what a screen shows of it.

    That is sRGB, 8 bits, what is brighter than white cut.
    """
    import numpy as np

    channels = len(_names(alpha=alpha))
    halves = np.frombuffer(rows, np.float16).reshape(-1, width, channels)
    values = halves[::step, ::step].astype(np.float32)
    opacity = values[..., 3:] if alpha else np.ones_like(values[..., :1])
    with np.errstate(all="ignore"):
        # OpenEXR's colours are multiplied by alpha, a screen's are not.
        colour = np.nan_to_num(values[..., :3] / np.where(opacity > 0, opacity, 1))
    colour = np.clip(colour, 0, 1)
    bent = np.where(colour <= 0.0031308, 12.92 * colour, 1.055 * colour ** (1 / 2.4) - 0.055)
    seen = np.concatenate((bent, np.clip(np.nan_to_num(opacity), 0, 1)), axis=2)[..., :channels]
    size = (values.shape[1], values.shape[0])
    data = (seen * 255 + 0.5).astype(np.uint8).tobytes()
    return Image.frombytes("RGBA" if alpha else "RGB", size, data)
