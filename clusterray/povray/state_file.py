"""POV-Ray's .pov-state files: the finished blocks of a render, read, kept, moved and joined.

While POV-Ray 3.7 renders into a file it appends each finished block to ``<output>.pov-state``
beside it, and deletes that when the last one is done, before it writes the picture. With ``+C``
it takes the blocks it finds there for done. So a stopped or killed render can be gone on with,
cut, or joined with others. Any thread; one reader belongs to one thread. Knows nothing of attempts
or of who stopped what.

Measured with Debian's povray 3.7.0.10, and held by tests/povray/test_state_file.py:

- The file is a header of 512 bytes (32 of signature and version, the rest uninitialised) and
  records, big-endian: ``POVRAYMS``, version 0x370, length, ``RAWS``, ``OBJE``, the number of
  attributes, then attributes of key, type and size. A block of 32x32 takes 20,724 bytes: 244, and
  five floats for each pixel: red, green, blue, filter, transmit. They are encoded with the
  scene's assumed_gamma, which nothing in the file tells: 1 where a scene of #version 3.7 names
  none, sRGB where it has no #version either.
- A block's serial is its place, row by row, in the grid that begins at the top-left of the
  rectangle rendered; blocks at the right and the lower edge are cut off by it. With several
  threads the records are out of order.
- A record that is not whole, and all after it, POV-Ray drops without a word, and writes the next
  ones over it.
- ``+C`` counts a serial that comes twice as two blocks and leaves a hole for the other one, with
  return code 0. Hence ``keep_blocks`` before each.
- ``+C`` with the output file there renders nothing and ends with 0; with no record in the state
  file it renders everything.

With ``+C`` POV-Ray reports as rendered only what it renders itself: of 1200x900 with 594 of 1,102
blocks there, 479,424 of 1,080,000 pixels at the end, and nothing where all are there.

Nothing in the file says which scene, settings or program made it, and none of it is forced to the
disk: that is what ``Origin`` is for, in a file beside it. Radiosity samples and photon maps are not
in it either (POV-Ray issue 138).
"""

from __future__ import annotations

import functools
import json
import mmap
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from clusterray.core.blocks import BlockGrid
from clusterray.core.model import Rect

HEADER_BYTES = 512
PIXEL_BYTES = 20
"""Bytes of one pixel in a record (POVRAY.md 11)."""
RECORD_BYTES = 244
"""Bytes of a record besides its pixels."""
STATE_SUFFIX = ".pov-state"

_SIGNATURE = b"POV-Ray Render State File\0\0\0" + b"0001"
_RECORD = struct.Struct(">8sII4s")
"""Magic, version, length of what follows, encoding."""
_OBJECT = struct.Struct(">4sI")
_ATTRIBUTE = struct.Struct(">4s4sI")
_INT = struct.Struct(">i")
_MAGIC = b"POVRAYMS"
_MOST_ATTRIBUTES = 64
_PLACE = (b"Left", b"Top ", b"Righ", b"Bott")
_ORIGIN_KEYS = {"scene", "spec", "frame", "povray", "light", "boot", "rect"}
_MOST_ORIGIN_BYTES = 1 << 16


class NoStateFile(Exception):
    """It is no state file of POV-Ray 3.7's, or of a form that this version does not know."""


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Block:
    """One finished block: its serial in the render that made it, its pixels' place, its record.

    ``serial_at`` and ``pixels_at`` are where in ``record`` these stand.
    """

    serial: int
    rect: Rect
    record: bytes
    serial_at: int
    pixels_at: int

    def renumbered(self, serial: int) -> Block:
        """Give the same block with another serial."""
        if serial == self.serial:
            return self
        head, tail = self.record[: self.serial_at], self.record[self.serial_at + _INT.size :]
        return replace(self, serial=serial, record=head + _INT.pack(serial) + tail)

    def rgb(self, assumed_gamma: float | None = 1.0) -> bytes:
        """Give the pixels for a preview: rows of red, green, blue with 8 bits, encoded as sRGB.

        At most one level away from POV-Ray's own file of File_Gamma sRGB, where nothing is
        transparent and the scene has this ``assumed_gamma`` (None: srgb).
        """
        halves = array("H")
        halves.frombytes(
            self.record[self.pixels_at : self.pixels_at + PIXEL_BYTES * self.rect.area]
        )
        table = _srgb_table(assumed_gamma)
        # The upper half of each float has all that 8 bits need, and is an index for a table.
        step = PIXEL_BYTES // halves.itemsize
        rgb = bytearray(3 * self.rect.area)
        for channel in range(3):
            rgb[channel::3] = bytes(map(table.__getitem__, halves[2 * channel :: step]))
        return bytes(rgb)

    def sampled(self, columns: range, rows: range, assumed_gamma: float | None = 1.0) -> bytearray:
        """Give the pixels at some columns and rows of the block, with the colours of ``rgb``.

        Row by row, each pixel its red, green and blue and 255. No range is empty.
        """
        length = PIXEL_BYTES * len(columns) * columns.step
        parts = []
        for row in rows:
            begin = self.pixels_at + PIXEL_BYTES * (row * self.rect.width + columns.start)
            # The last row may end before the last step does.
            parts.append(self.record[begin : begin + length].ljust(length, b"\0"))
        halves = array("H", b"".join(parts))
        table = _srgb_table(assumed_gamma)
        step = PIXEL_BYTES // halves.itemsize * columns.step
        rgba = bytearray(b"\xff" * (4 * len(columns) * len(rows)))
        for channel in range(3):
            rgba[channel::4] = bytes(map(table.__getitem__, halves[2 * channel :: step]))
        return rgba


def finished_pixels(path: Path, block_size: int) -> int:
    """Count the pixels in a state file by its size alone; 0 if there is none.

    Blocks cut off at an edge count for a dozen pixels too many each.
    """
    try:
        size = path.stat().st_size - HEADER_BYTES
    except OSError:
        return 0
    area = block_size * block_size
    return max(0, size) * area // (RECORD_BYTES + PIXEL_BYTES * area)


def has_bytes_of(path: Path, grid: BlockGrid) -> bool:
    """Tell whether a state file is as large as one with all blocks of ``grid``."""
    whole = HEADER_BYTES + RECORD_BYTES * grid.count + PIXEL_BYTES * grid.rect.area
    try:
        return path.stat().st_size >= whole
    except OSError:
        return False


class StateReader:
    """Reads the blocks of a state file that POV-Ray may still be writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def new_blocks(self) -> Iterator[Block]:
        """Give each whole record that was not given before, in the file's order.

        A torn record is left for the next call. Gives nothing if there is no file, or no header
        yet. Raises NoStateFile if it is no such file, OSError if it cannot be read.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            end = file.seek(0, 2)
            if self._at == 0:
                if end < HEADER_BYTES:
                    return
                _check_header(file)
                self._at = HEADER_BYTES
            while (block := _read_block(file, self._at, end)) is not None:
                self._at += len(block.record)
                yield block

    @property
    def read_bytes(self) -> int:
        """How much of the file was header and whole records so far."""
        return self._at


def read_blocks(path: Path) -> Iterator[Block]:
    """Give the whole records of a state file; NoStateFile and OSError as ``new_blocks``."""
    return StateReader(path).new_blocks()


def _check_header(file: IO[bytes]) -> None:
    file.seek(0)
    head = file.read(len(_SIGNATURE))
    if head != _SIGNATURE:
        raise NoStateFile(f"{file.name} is not a state file of POV-Ray 3.7")


def _read_block(file: IO[bytes], at: int, end: int) -> Block | None:
    """Read the record at ``at``; None if what is there up to ``end`` is not a whole one."""
    if end - at < _RECORD.size:
        return None
    file.seek(at)
    head = file.read(_RECORD.size)
    if len(head) < _RECORD.size:
        return None
    magic, _version, length, encoding = _RECORD.unpack(head)
    if magic != _MAGIC or encoding != b"RAWS" or length > end - at - _RECORD.size:
        return None
    record = head + file.read(length)
    if len(record) < _RECORD.size + length:
        return None
    try:
        return _parse(record)
    except (struct.error, KeyError, ValueError):
        return None


def _parse(record: bytes) -> Block:
    """Take a record apart; struct.error, KeyError or ValueError if it is not of a block."""
    places, end = _attributes(record)
    if end != len(record) or record[slice(*places[b"MIDE"])] != b"PxBS":
        raise ValueError("not a message of a block")
    x0, y0, x1, y1 = (_int_at(record, places[key]) for key in _PLACE)
    rect = Rect(x0, y0, x1 + 1, y1 + 1)
    pixels_at, pixels_end = places[b"PBlo"]
    if pixels_end - pixels_at != PIXEL_BYTES * rect.area or _int_at(record, places[b"PiSi"]) != 1:
        raise ValueError("not one value for each pixel")
    serial = _int_at(record, places[b"PiId"])
    return Block(serial, rect, record, places[b"PiId"][0], pixels_at)


def _attributes(record: bytes) -> tuple[dict[bytes, tuple[int, int]], int]:
    """Give where the value of each attribute begins and ends, and where the last one ends."""
    tag, count = _OBJECT.unpack_from(record, _RECORD.size)
    if tag != b"OBJE" or count > _MOST_ATTRIBUTES:
        raise ValueError("not an object")
    at = _RECORD.size + _OBJECT.size
    places: dict[bytes, tuple[int, int]] = {}
    for _ in range(count):
        key, kind, size = _ATTRIBUTE.unpack_from(record, at)
        begin = at + _ATTRIBUTE.size
        # Of a vector POV-Ray gives the number of values.
        at = begin + (4 * size if kind == b"VFL4" else size)
        places[key] = (begin, at)
    return places, at


def _int_at(record: bytes, place: tuple[int, int]) -> int:
    (value,) = _INT.unpack_from(record, place[0])
    return int(value)


@functools.lru_cache(8)
def _srgb_table(assumed_gamma: float | None) -> bytes:
    """Give the 8-bit sRGB value for each upper half of a 32-bit float, by its bytes as they lie.

    The halves are looked up as this machine reads two big-endian bytes, so that no copy of the
    pixels need be turned round.
    """
    table = bytearray(1 << 16)
    for half in range(1 << 16):
        # The middle of all floats with this upper half.
        (value,) = struct.unpack(">f", struct.pack(">HH", half, 0x8000))
        (index,) = array("H", struct.pack(">H", half))
        table[index] = _srgb(value, assumed_gamma)
    return bytes(table)


def _srgb(value: float, assumed_gamma: float | None) -> int:
    if not value > 0.0:  # not a number, too
        return 0
    if value >= 1.0:
        return 255
    if assumed_gamma is None:
        return int(255 * value + 0.5)
    light = value**assumed_gamma
    encoded = 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
    return int(255 * encoded + 0.5)


# ---------------------------------------------------------------- writing


def keep_blocks(sources: Sequence[Path], target: Path, grid: BlockGrid) -> frozenset[int]:
    """Make ``target`` the state file of a render of ``grid``, of all blocks in ``sources``.

    That cuts (a lower grid than the source's), moves (another rectangle) or joins (several
    sources), and leaves out torn records and blocks that come twice. A block counts if the grid
    has one of exactly its pixels; where only a part of it is wanted, POV-Ray renders that anew.
    ``target`` may be one of the sources; it appears by rename, and is not touched if it is right
    already but for a torn end, which is cut off. Gives the serials it holds. Raises NoStateFile,
    OSError.
    """
    if list(sources) == [target] and (serials := _tidied(target, grid)) is not None:
        return serials
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("wb") as file:
            file.write(_SIGNATURE.ljust(HEADER_BYTES, b"\0"))
            serials = frozenset(_copy_blocks(sources, file, grid))
        part.replace(target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    return serials


def _copy_blocks(sources: Sequence[Path], file: IO[bytes], grid: BlockGrid) -> set[int]:
    written: set[int] = set()
    for source in sources:
        for block in read_blocks(source):
            serial = grid.serial(block.rect)
            if serial is not None and serial not in written:
                written.add(serial)
                file.write(block.renumbered(serial).record)
    return written


def _tidied(path: Path, grid: BlockGrid) -> frozenset[int] | None:
    """Cut off a torn end; None if there is more wrong than that."""
    serials: set[int] = set()
    reader = StateReader(path)
    for block in reader.new_blocks():
        if grid.serial(block.rect) != block.serial or block.serial in serials:
            return None
        serials.add(block.serial)
    if reader.read_bytes < HEADER_BYTES:
        return None
    with path.open("r+b") as file:
        file.truncate(reader.read_bytes)
    return frozenset(serials)


def move_blocks(path: Path, right: int, down: int) -> None:
    """Have all blocks of a state file lie so many pixels further right and down, in place.

    The file holds whole records of blocks and nothing else. Their serials stay. After an error some
    may have moved. Raises NoStateFile, OSError.
    """
    steps = dict(zip(_PLACE, (right, down, right, down), strict=True))
    with path.open("r+b") as file:
        _check_header(file)
        with mmap.mmap(file.fileno(), 0) as data:
            try:
                _move(data, steps)
            except (struct.error, KeyError, ValueError) as error:
                raise NoStateFile(f"{path.name} has a record of another form: {error}") from None


def _move(data: mmap.mmap, steps: Mapping[bytes, int]) -> None:
    at = HEADER_BYTES
    # Records of one length have all their values in the same places.
    layouts: dict[int, list[tuple[int, bytes, int]]] = {}
    while at < len(data):
        _magic, _version, length, _encoding = _RECORD.unpack_from(data, at)
        end = at + _RECORD.size + length
        if length not in layouts:
            places, _end = _attributes(data[at:end])
            layouts[length] = [
                (places[key][0], _ATTRIBUTE.pack(key, b"INT4", _INT.size), step)
                for key, step in steps.items()
            ]
        for place, attribute, step in layouts[length]:
            value_at = at + place
            if data[value_at - _ATTRIBUTE.size : value_at] != attribute:
                raise ValueError("not a block's")
            (value,) = _INT.unpack_from(data, value_at)
            _INT.pack_into(data, value_at, value + step)
        at = end


# ---------------------------------------------------------------- pictures of what is there


class BlockCanvas:
    """A picture of ``rect`` in which finished blocks are drawn as they come; one thread owns it."""

    def __init__(self, rect: Rect, assumed_gamma: float | None = 1.0) -> None:
        self.rect = rect
        self._assumed_gamma = assumed_gamma
        self.rgb = bytearray(3 * rect.area)
        """Rows of red, green and blue; black where nothing is drawn yet."""

    def draw(self, block: Block) -> Rect | None:
        """Draw what of a block lies in the picture; give that part, None if there is none."""
        part = self.rect.intersection(block.rect)
        if part is None:
            return None
        pixels = memoryview(block.rgb(self._assumed_gamma))
        for row in range(part.y0, part.y1):
            source = 3 * ((row - block.rect.y0) * block.rect.width + part.x0 - block.rect.x0)
            target = 3 * ((row - self.rect.y0) * self.rect.width + part.x0 - self.rect.x0)
            size = 3 * part.width
            self.rgb[target : target + size] = pixels[source : source + size]
        return part


# ---------------------------------------------------------------- whose blocks they are


@dataclass(frozen=True, slots=True)
class Origin:
    """All that decides the pixels in a state file, and where they lie.

    ``scene`` and ``spec`` are digests, ``povray`` is the version and build (the floats of another
    build may differ), ``light`` names the shared radiosity cache and photon map, "" if there is
    none. ``boot`` is the machine's boot in which it was written: nothing was flushed, so that
    after a power failure records may be zeros that look whole.
    """

    scene: str
    spec: str
    frame: int
    povray: tuple[str, str]
    light: str
    boot: str
    rect: Rect

    def agrees(self, other: Origin) -> bool:
        """Tell whether blocks of the one are blocks of the other wherever both have them."""
        return replace(self, rect=other.rect) == other

    def write(self, path: Path) -> None:
        """Write it for ``read_origin``; OSError if that cannot be done."""
        part = path.with_name(f"{path.name}.part")
        fields = {**asdict(self), "rect": self.rect.as_tuple()}
        part.write_text(json.dumps(fields) + "\n", encoding="utf-8")
        part.replace(path)


def read_origin(path: Path) -> Origin | None:
    """Read what ``Origin.write`` wrote; None if there is none, or none of this version's."""
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(_MOST_ORIGIN_BYTES))
        if not isinstance(fields, dict) or set(fields) != _ORIGIN_KEYS:
            return None
        version, build = fields["povray"]
        texts = (fields["scene"], fields["spec"], version, build, fields["light"], fields["boot"])
        if not all(isinstance(text, str) for text in texts) or not isinstance(fields["frame"], int):
            return None
        return Origin(**{**fields, "povray": (version, build), "rect": Rect(*fields["rect"])})
    except (OSError, ValueError, TypeError):
        return None
