"""Tiles: cutting one out of the full-size picture POV-Ray leaves, and checking one that came in.

Runs in the node's worker (``crop_tile``) and in a connection thread of the head (``check_tile``);
keeps nothing. Knows nothing of attempts, sockets or of how tiles are joined.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from clusterray.core.model import Rect
from clusterray.images.png import (
    PngFile,
    TileFault,
    cannot_write,
    cut_out,
    decode_rows,
    pixel_format,
    read_png,
    write_png,
)

__all__ = ["TileFault", "check_tile", "crop_tile"]

_LEVEL: Final = 3
"""zlib's: 3 % larger than level 6 on a busy picture, in half the time."""


def crop_tile(source: Path, rect: Rect, target: Path) -> None:
    """Cut ``rect`` out of a picture of POV-Ray's into the file ``target``.

    ``source`` has the whole picture's size, black outside of what was rendered. Pixels, depth and
    colour chunks are kept. ``target`` appears by rename. Raises TileFault if ``source`` is not all
    there or too small for ``rect``, LocalFault if ``target`` cannot be written.
    """
    png = read_png(source)
    if rect.x1 > png.width or rect.y1 > png.height:
        raise TileFault(f"it has {png.width}x{png.height} pixels, too few for {_words(rect)}")
    # Rows below the rectangle are black and need no decoding; that they are there at all is known
    # from the chunks, which were whole.
    image = decode_rows(png, rect.y1)
    tile = cut_out(image, rect.x0, rect.y0, rect.width, rect.height)
    partial = target.with_name(f"{target.name}.part")
    try:
        with partial.open("wb") as file:
            write_png(file, tile, png.format, png.colour, level=_LEVEL)
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise cannot_write(target, error) from None


def check_tile(path: Path, rect: Rect, *, grey: bool, alpha: bool) -> None:
    """Read a tile whole: chunks, size, pixel format, every row.

    Raises TileFault in words if it is not a tile of ``rect`` for such a picture.
    """
    png = read_tile(path, rect, grey=grey, alpha=alpha)
    decode_rows(png, png.height)


def read_tile(path: Path, rect: Rect, *, grey: bool, alpha: bool) -> PngFile:
    """Read a tile and check all but its pixels; raises TileFault as ``check_tile``."""
    png = read_png(path)
    wanted = pixel_format(grey=grey, alpha=alpha)
    if png.format != wanted:
        raise TileFault(f"its pixels are {png.format.name}, and {wanted.name} are due")
    if (png.width, png.height) != (rect.width, rect.height):
        raise TileFault(
            f"it has {png.width}x{png.height} pixels, and {rect.width}x{rect.height} are due"
        )
    return png


def _words(rect: Rect) -> str:
    return f"columns {rect.x0} to {rect.x1} and rows {rect.y0} to {rect.y1}"
