"""Tiles: cutting one out of the full-size picture POV-Ray leaves, and checking one that came in.

Runs in the node's worker (``crop_tile``) and in a connection thread of the head (``check_tile``);
keeps nothing. Knows nothing of attempts, sockets or of how tiles are joined.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from clusterray.core.errors import LocalFault
from clusterray.core.model import FileFormat, Rect
from clusterray.images.formats import is_whole_picture, read_tile, write_tile
from clusterray.images.rows import Source, TileFault

__all__ = ["TileFault", "check_tile", "crop_tile", "open_tile"]


def crop_tile(
    source: Path,
    rect: Rect,
    target: Path,
    kind: FileFormat,
    *,
    size: tuple[int, int] | None = None,
    threads: int = 1,
) -> None:
    """Cut ``rect`` out of a picture of POV-Ray's into the file ``target``.

    ``source`` has the whole picture's ``size``, where that is known, black outside of what was
    rendered. Values, depth and what is said of colour are kept. Where tiles are POV-Ray's own
    files, ``source`` itself becomes ``target``. ``target`` appears by rename; so many ``threads``
    pack it. Raises TileFault if ``source`` is not all there or of another size, LocalFault if
    ``target`` cannot be written.
    """
    if is_whole_picture(kind):
        _move(source, target)
        return
    picture = read_tile(source, kind)
    if size is not None:
        _check_size(picture, size)
    _check_holds(picture, rect)
    partial = target.with_name(f"{target.name}.part")
    try:
        strips, tile_size = picture.strips(rect), (rect.width, rect.height)
        write_tile(partial, tile_size, kind, picture.colour, strips, threads=threads)
        partial.replace(target)
    except TileFault:
        partial.unlink(missing_ok=True)
        raise
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise cannot_write(target, error) from None


def _move(source: Path, target: Path) -> None:
    # A node cannot look into it; the head will.
    try:
        if source.stat().st_size == 0:
            raise TileFault("it is empty")
        source.replace(target)
    except FileNotFoundError:
        raise TileFault("it cannot be read: No such file or directory") from None
    except OSError as error:
        raise cannot_write(target, error) from None


def check_tile(
    path: Path,
    rect: Rect,
    kind: FileFormat,
    *,
    size: tuple[int, int] | None = None,
    content: bytes | None = None,
) -> Source:
    """Read a tile whole: header, size, pixel kind, every row; all its ``content``, where known.

    Gives the tile, and what was found.

    Raises TileFault in words if it is not a tile of ``rect`` for such a picture, which is of
    ``size``, where that is known.
    """
    tile, place = open_tile(path, rect, kind, content)
    if size is not None and is_whole_picture(kind):
        _check_size(tile, size)
    return tile.check(place)


def open_tile(
    path: Path,
    rect: Rect,
    kind: FileFormat,
    content: bytes | None = None,
    opened: Source | None = None,
) -> tuple[Source, Rect]:
    """Open a tile and check all but its pixels; gives where in it the pixels ``rect`` lie.

    It may be ``opened`` already.

    Raises TileFault as ``check_tile``.
    """
    tile = read_tile(path, kind, content) if opened is None else opened
    if is_whole_picture(kind):
        _check_holds(tile, rect)
        return tile, rect
    _check_size(tile, (rect.width, rect.height))
    return tile, Rect(0, 0, rect.width, rect.height)


def _check_size(picture: Source, size: tuple[int, int]) -> None:
    if (picture.width, picture.height) != size:
        raise TileFault(
            f"it has {picture.width}x{picture.height} pixels, and {size[0]}x{size[1]} are due"
        )


def _check_holds(picture: Source, rect: Rect) -> None:
    if rect.x1 > picture.width or rect.y1 > picture.height:
        raise TileFault(
            f"it has {picture.width}x{picture.height} pixels, too few for "
            f"columns {rect.x0} to {rect.x1} and rows {rect.y0} to {rect.y1}"
        )


def cannot_write(path: Path, error: OSError) -> LocalFault:
    """Give the sentence for a picture that this machine could not write."""
    return LocalFault(f"cannot write {path}: {error.strerror or error}")
