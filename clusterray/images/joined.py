"""The rows of a PNG that is still being made: tiles' segments, which are only copied.

A tile as wide as the picture stays in its own file. Rows of narrower tiles wait on a canvas until
they are all there; then they are packed, as are tiles that hold no segment, into a file without a
name. So the last tile is followed by copying, whichever it is. Owned by one thread. Knows nothing
of attempts; the files of tiles must stay until the picture is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Final

from clusterray.core.model import Rect
from clusterray.images.canvas import Canvas
from clusterray.images.formats import RESULT_TEXT
from clusterray.images.measured import Measured, Written
from clusterray.images.nameless import NamelessFile
from clusterray.images.png import PixelFormat, write_head, write_tail
from clusterray.images.png_reader import PngFile, Reading
from clusterray.images.rows import Colour, Seen, Source, Strips, TileGone, broken_off, placed
from clusterray.images.segments import BLOCK_BYTES, Packing, Segment, adler32_combine

_COPY_BYTES: Final = 1 << 20
_NEAR_THE_END: Final = 0.1
"""The missing part of a picture from which on somebody waits for what is packed."""


@dataclass(frozen=True, slots=True)
class _Joint:
    """A segment whose first row is row ``top`` of the picture: in a tile's file, or in our own."""

    top: int
    segment: Segment
    tile: Path | None = None

    @property
    def bottom(self) -> int:
        """The row below its last one."""
        return self.top + self.segment.height


class JoinedRows:
    """Rows of a PNG of width and height ``size``, packed where they must be by ``threads``.

    What is in no tile's file is on the disk of ``folder``. Methods raise OSError where it fails.
    Near the end, and for a picture with holes, rows are packed quickly, since somebody waits.
    """

    def __init__(
        self, size: tuple[int, int], pixels: PixelFormat, folder: Path | None, threads: int
    ) -> None:
        self._width, self._height = size
        self._pixels = pixels
        self._folder = folder
        self._threads = threads
        self._missing = self._width * self._height
        self._joints: list[_Joint] = []
        self._narrow: list[Rect] = []
        self._canvas: Canvas | None = None
        self._own: NamelessFile | None = None

    # ------------------------------------------------------------ taking

    def take(self, tile: Source, part: Rect, place: Rect, seen: Seen) -> None:
        """Take a tile's pixels ``part`` as the pixels ``place``; ``seen`` is shown all its rows.

        Raises TileFault if the tile is damaged.
        """
        missing = self._missing - place.area
        quick = missing < _NEAR_THE_END * self._width * self._height
        if place.width < self._width:
            self._take_narrow(tile, part, place, seen, quick=quick)
        elif not self._take_segment(tile, part, place, seen):
            strips = _shown(self._placed(tile.strips(part), place), seen)
            self._joints.append(self._packed(strips, place, quick=quick))
        self._missing = missing

    def _placed(self, strips: Strips, place: Rect) -> Iterator[tuple[Rect, bytes]]:
        return placed(strips, place, place.width * self._pixels.pixel_bytes)

    def _take_segment(self, tile: Source, part: Rect, place: Rect, seen: Seen) -> bool:
        """Take all of a tile, in its own file; tells whether it holds a segment."""
        whole = part == Rect(0, 0, tile.width, tile.height)
        if not (whole and isinstance(tile, PngFile) and tile.packed.like_segment):
            return False
        reading = Reading(tile)
        for rect, strip in self._placed(reading.strips(part), place):
            seen(rect, strip)
        segment = reading.segment
        if segment is not None:
            self._joints.append(_Joint(place.y0, segment, tile.path))
        return segment is not None

    def _take_narrow(
        self, tile: Source, part: Rect, place: Rect, seen: Seen, *, quick: bool
    ) -> None:
        for rect, strip in self._placed(tile.strips(part), place):
            self.put(rect, strip)
            seen(rect, strip)
        self._narrow.append(place)
        for rows in self._filled(place):
            strips = self._on_canvas().strips(rows)
            self._joints.append(self._packed(strips, rows, quick=quick))

    def _filled(self, place: Rect) -> Iterator[Rect]:
        """Give those rows of ``place``, in their whole width, that narrow tiles cover by now."""
        near = [rect for rect in self._narrow if rect.y0 < place.y1 and place.y0 < rect.y1]
        edges = {min(max(y, place.y0), place.y1) for rect in near for y in (rect.y0, rect.y1)}
        for top, bottom in pairwise(sorted(edges)):
            there = sum(rect.width for rect in near if rect.y0 <= top and bottom <= rect.y1)
            if there == self._width:
                yield Rect(0, top, self._width, bottom)

    def put(self, place: Rect, rows: bytes) -> None:
        """Put rows in their place that no tile has; they are packed when the picture is written."""
        self._on_canvas().put(place, rows)

    def _on_canvas(self) -> Canvas:
        if self._canvas is None:
            step = self._pixels.pixel_bytes
            self._canvas = Canvas(self._width, self._height, step, self._folder)
        return self._canvas

    def _packed(self, strips: Strips, place: Rect, *, quick: bool) -> _Joint:
        """Pack the rows ``place`` into our own file."""
        if self._own is None:
            self._own = NamelessFile(self._folder)
        step = self._pixels.pixel_bytes
        row_bytes = self._width * step
        # Threads for a few rows would take longer to start than the rows.
        threads = min(self._threads, -(-place.height * row_bytes // BLOCK_BYTES))
        packing = Packing(row_bytes, step, threads, quick=quick)
        start = self._own.end
        for packed in packing.chunks(strips):
            self._own.append(packed)
        end = self._own.end
        segment = Segment(place.height, packing.stored_bytes, packing.adler, start, end)
        return _Joint(place.y0, segment)

    # ------------------------------------------------------------ writing

    def write(self, path: Path, colour: Colour, tick: Callable[[], None]) -> Written:
        """Write the picture; ``tick`` is called between portions.

        Raises TileGone if a tile's file is not there any more.
        """
        adler = 1
        with path.open("wb", buffering=0) as file:
            target = Measured(file)
            write_head(target, (self._width, self._height), self._pixels, colour, RESULT_TEXT)
            for joint in self._in_order():
                segment = joint.segment
                for piece in self._pieces(joint):
                    target.write(piece)
                    tick()
                adler = adler32_combine(adler, segment.adler, segment.stored_bytes)
            write_tail(target, adler)
        return target.written

    def _in_order(self) -> Iterator[_Joint]:
        """Give the segments of all rows from top to bottom; what only the canvas has is packed."""
        row = 0
        for joint in sorted(self._joints, key=attrgetter("top")):
            yield from self._between(row, joint.top)
            yield joint
            row = joint.bottom
        yield from self._between(row, self._height)

    def _between(self, top: int, bottom: int) -> Iterator[_Joint]:
        if top < bottom:
            rows = Rect(0, top, self._width, bottom)
            yield self._packed(self._on_canvas().strips(rows), rows, quick=True)

    def _pieces(self, joint: _Joint) -> Iterator[bytes]:
        start, end = joint.segment.start, joint.segment.end
        if joint.tile is not None:
            return _of_tile(joint.tile, start, end)
        assert self._own is not None, "a segment that is in no tile's file has been packed"
        return self._own.pieces(start, end)

    def close(self) -> None:
        """Give the disk space back; nothing can be taken or written any more."""
        for file in (self._canvas, self._own):
            if file is not None:
                file.close()


def _shown(strips: Iterator[tuple[Rect, bytes]], seen: Seen) -> Iterator[bytes]:
    for rect, strip in strips:
        seen(rect, strip)
        yield strip


def _of_tile(tile: Path, start: int, end: int) -> Iterator[bytes]:
    try:
        with tile.open("rb", buffering=0) as file:
            file.seek(start)
            while start < end:
                piece = file.read(min(end - start, _COPY_BYTES))
                if not piece:
                    raise broken_off(start)
                yield piece
                start += len(piece)
    except FileNotFoundError:
        raise TileGone(f"the tile {tile.name} is not there any more") from None
