"""The door to every file format: which module and which library does what stays behind it.

POV-Ray's letters: N PNG, P PPM, T Targa, C packed Targa, B BMP, J JPEG, E OpenEXR, H Radiance HDR.
What a file's rows are is its module's business; all of them are bytes as POV-Ray wrote them. Runs
in whichever thread calls it; keeps nothing. Knows nothing of bands or attempts.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from clusterray import __version__
from clusterray.core.errors import SceneFault
from clusterray.core.model import FileFormat
from clusterray.images import exr, hdr, jpeg, plain, png, png_reader
from clusterray.images.rows import Colour, Source, Strips, TileFault

RESULT_KEYWORD: Final = "ClusterRay"
"""Marks our results: keyword of a PNG's text chunk, first word of other files' comments."""
RESULT_TEXT: Final = (RESULT_KEYWORD, __version__)
_MARK: Final = f"{RESULT_KEYWORD} {__version__}"

_SIDES: Final = {"J": (65_500, "JPEG"), "T": (65_535, "Targa"), "C": (65_535, "Targa")}
"""What the formats, and libjpeg, have room for."""
_BMP_BYTES: Final = (1 << 31) - (1 << 24)
"""POV-Ray counts a BMP's bytes in 32 bits with a sign; some are left for headers and padding."""


def check_supported(kind: FileFormat, width: int, height: int) -> None:
    """Raise SceneFault if this machine cannot write such a picture."""
    if kind.letter == "E" and not exr.is_supported():
        raise SceneFault(
            "OpenEXR needs OpenImageIO beside the head: pip install 'clusterray[head]' there, "
            "or choose another format (Radiance HDR, +FH, needs nothing)"
        )
    limit, name = _SIDES.get(kind.letter, (max(width, height), ""))
    if max(width, height) > limit:
        raise SceneFault(
            f"a {name} file has at most {limit} columns and rows, "
            f"not {width}x{height}; choose another format"
        )
    if kind.letter == "B" and width * height * pixel_bytes(kind) > _BMP_BYTES:
        raise SceneFault(f"a BMP file cannot hold {width}x{height} pixels; choose another format")


def pixel_bytes(kind: FileFormat) -> int:
    """Give the bytes that a pixel has in the rows of such a picture."""
    kind = kind.tile
    match kind.letter:
        case "T" | "B":
            return 4 if kind.alpha else 3
        case "P":
            values = 1 if kind.grey else 3
            return values * plain.ppm_value_bytes(kind.bits, grey=kind.grey)
        case "H":
            return hdr.PIXEL_BYTES
        case "E":
            return exr.pixel_bytes(alpha=kind.alpha)
    return png_pixels(kind).pixel_bytes


def png_pixels(kind: FileFormat) -> png.PixelFormat:
    """Give the pixels of such a picture's PNG."""
    return png.pixel_format(kind.bits, grey=kind.grey, alpha=kind.alpha)


def is_whole_picture(kind: FileFormat) -> bool:
    """Tell whether a tile is POV-Ray's own file, as large as the picture and black elsewhere."""
    return kind.letter == "E"


# ---------------------------------------------------------------- reading


def read_tile(path: Path, kind: FileFormat, content: bytes | None = None) -> Source:
    """Open a tile, or the picture of POV-Ray's that it will be cut from; ``content`` is all of it.

    Raises TileFault in words if it is no file of the format's tiles, or not all of one.
    """
    kind = kind.tile
    try:
        if content is None and kind.letter == "N":
            content = png_reader.content_of(path)
        if not (path.stat().st_size if content is None else content):
            raise TileFault("it is empty")
        return _read(path, kind, content)
    except OSError as error:
        raise TileFault(f"it cannot be read: {error.strerror}") from None


def _read(path: Path, kind: FileFormat, content: bytes | None) -> Source:
    match kind.letter:
        case "T":
            return _due(plain.read_tga(path), kind)
        case "B":
            return _due(plain.read_bmp(path), kind)
        case "P":
            return _due_ppm(plain.read_ppm(path), kind)
        case "H":
            return hdr.read_hdr(path)
        case "E":
            return exr.read_exr(path, alpha=kind.alpha)
    found = png_reader.read_png(path, content)
    due = png_pixels(kind)
    if found.format != due:
        raise TileFault(f"its pixels are {found.format.name}, and {due.name} are due")
    return found


def _due(found: plain.PlainFile, kind: FileFormat) -> plain.PlainFile:
    due = pixel_bytes(kind)
    if found.pixel_bytes != due:
        raise TileFault(f"its pixels have {found.pixel_bytes} bytes, and {due} are due")
    return found


def _due_ppm(found: plain.PlainFile, kind: FileFormat) -> plain.PlainFile:
    if found.colour != _ppm_colour(kind):
        said, due = (
            " ".join(value.decode() for _, value in colour)
            for colour in (found.colour, _ppm_colour(kind))
        )
        raise TileFault(f"its pixels are {said}, and {due} are due")
    return found


def _ppm_colour(kind: FileFormat) -> Colour:
    highest = b"%d" % ((1 << kind.bits) - 1)
    return ((b"magic", b"P5" if kind.grey else b"P6"), (b"maxval", highest))


# ---------------------------------------------------------------- writing


def write_tile(
    path: Path,
    size: tuple[int, int],
    kind: FileFormat,
    colour: Colour,
    strips: Strips,
    *,
    threads: int = 1,
) -> None:
    """Write rows as a tile; ``threads`` pack them, where packing takes time. Raises OSError."""
    kind = kind.tile
    if kind.letter != "N":
        write_picture(path, size, kind, colour, strips)
        return
    with path.open("wb") as file:
        png.write_png(file, size, png_pixels(kind), colour, strips, threads)


def write_picture(
    path: Path, size: tuple[int, int], kind: FileFormat, colour: Colour, strips: Strips
) -> None:
    """Write a picture of any format but PNG, the tiles of which are joined (images.joined).

    Raises OSError, TileFault if the format has no room for it.
    """
    if kind.letter == "E":
        exr.write_exr(path, size, strips, _MARK, alpha=kind.alpha)
        return
    with path.open("wb") as file:
        match kind.letter:
            case "T" | "C":
                packed, alpha = kind.letter == "C", kind.alpha
                plain.write_tga(file, size, colour, strips, _MARK, alpha=alpha, packed=packed)
            case "B":
                plain.write_bmp(file, size, strips, alpha=kind.alpha)
            case "P":
                plain.write_ppm(file, size, colour, strips, _MARK)
            case "H":
                hdr.write_hdr(file, size, strips, _MARK)
            case _:
                jpeg.write_jpeg(file, size, strips, kind.quality, _MARK)


def colour_of_none(kind: FileFormat) -> Colour:
    """Give the colours that a picture without a single tile is written with."""
    match kind.tile.letter:
        case "P":
            return _ppm_colour(kind.tile)
        case "T":
            # Of the extension area: gamma not given; alpha there and to be used, or none.
            return ((b"alpha", b"\3" if kind.alpha else b"\0"), (b"gamma", bytes(4)))
    return ()


# ---------------------------------------------------------------- measuring


def channel_names(kind: FileFormat) -> tuple[str, ...]:
    """Give the names of a pixel's values, in the order in which they lie in a row."""
    kind = kind.tile
    names: tuple[str, ...] = ("red", "green", "blue")
    if kind.letter in "TB":
        names = names[::-1]
    elif kind.grey and kind.letter in "NP":
        names = ("grey",)
    return (*names, "alpha") if kind.alpha and kind.letter not in "PH" else names


def white(kind: FileFormat) -> float:
    """Give the value that is white: the highest of whole numbers, 1 in files of light."""
    kind = kind.tile
    match kind.letter:
        case "E" | "H":
            return 1
        case "P":
            return (1 << kind.bits) - 1
        case "N":
            return (1 << png_pixels(kind).depth) - 1
    return 255


def channel_values(rows: bytes, kind: FileFormat) -> list[Sequence[float]]:
    """Turn rows into numbers, a sequence of all pixels for each of ``channel_names``."""
    if kind.letter == "H":
        return hdr.channel_values(rows)
    if kind.letter == "E":
        return exr.channel_values(rows, alpha=kind.alpha)
    count = len(channel_names(kind))
    values: Sequence[int] = rows
    if pixel_bytes(kind) > count:
        # Two bytes a value, in PNG and PPM alike the upper one first.
        wide = array("H", rows)
        if sys.byteorder == "little":
            wide.byteswap()
        values = wide
    return [values[channel::count] for channel in range(count)]


# ---------------------------------------------------------------- seeing


def as_seen(rows: bytes, width: int, kind: FileFormat, step: int = 1) -> Image.Image:
    """Turn rows into what a screen shows of them: 8 bits a channel, L, LA, RGB or RGBA.

    Of formats whose values are dear to turn only every ``step``-th pixel.
    """
    kind = kind.tile
    match kind.letter:
        case "T" | "B":
            return plain.blue_first_as_seen(rows, width, alpha=kind.alpha)
        case "P":
            return plain.ppm_as_seen(rows, width, kind.bits, grey=kind.grey)
        case "H":
            return hdr.as_seen(rows, width, step)
        case "E":
            return exr.as_seen(rows, width, step, alpha=kind.alpha)
    return png.as_seen(rows, width, png_pixels(kind))


def preview_colour(colour: Colour, kind: FileFormat) -> Colour:
    """Give the PNG chunks that say the same of 8-bit values as ``colour`` does of the picture's."""
    return colour if kind.tile.letter == "N" else ()
