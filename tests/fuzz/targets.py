"""What is fuzzed: the readers of what strangers wrote, and what may come out of each.

A target takes any bytes. It lets nothing out but AssertionError, where a promise of the reader does
not hold, and what the reader raises without saying so: both are findings. So is taking too long,
which the one who calls measures. Files lie in memory, below a folder that the caller names.
"""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clusterray.core.blocks import BlockGrid
from clusterray.core.errors import NoHead, SceneFault, UsageFault
from clusterray.core.model import FileFormat, Rect
from clusterray.images.formats import write_tile
from clusterray.images.glimpse import MOST_PIXELS, read_glimpse
from clusterray.images.png import FORMATS, write_head, write_tail
from clusterray.images.png_reader import read_png
from clusterray.images.segments import EMPTY_FINAL, chunk
from clusterray.images.stitch import FrameWriter
from clusterray.images.tile import TileFault, check_tile
from clusterray.povray.ini import Origin, decode, read_ini, read_word, read_words
from clusterray.povray.job_file import read_job_yaml, read_params_cfg
from clusterray.povray.light_file import LightFault, check_light, seat_samples
from clusterray.povray.options import Options
from clusterray.povray.photons import find_photons, plan_photons
from clusterray.povray.progress import MAX_TEXT_BYTES, ProgressParser
from clusterray.povray.sdl import blank_comments, notable_tokens, strip, tokens
from clusterray.povray.spec import RenderSpec
from clusterray.povray.state_file import (
    NoStateFile,
    keep_blocks,
    read_blocks,
    read_origin,
)
from clusterray.povray.statements import read_statements
from clusterray.wire.archive import index_tar, unpack_tar
from clusterray.wire.packing import unpack
from clusterray.wire.protocol import (
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    AnyMessage,
    FrameDecoder,
    ProtocolError,
    encode,
)
from clusterray.wire.scene_names import ArchiveFault, ArchiveLimits
from clusterray.wire.trust import JoinToken

_LIMITS: Final = ArchiveLimits(max_bytes=1 << 16, max_files=20, max_depth=8, max_name=300)
_LENGTH: Final = struct.Struct(">I")
_PLACE: Final = Origin(file="job.yaml", line=1)
_TILE_RECT: Final = Rect(0, 0, 8, 6)
TILES: Final = (
    FileFormat("N"),
    FileFormat("N", 16, alpha=True),
    FileFormat("N", 16, grey=True),
    FileFormat("P"),
    FileFormat("P", 16, grey=True),
    FileFormat("T"),
    FileFormat("T", alpha=True),
    FileFormat("B"),
    FileFormat("H"),
)
MOST_PIECES: Final = 256
"""What is no longer comes byte by byte, too."""
_GRID: Final = BlockGrid(Rect(0, 0, 16, 16), 8)


@dataclass(frozen=True, slots=True)
class Target:
    """A reader under attack: ``try_one`` takes bytes and a folder that it may use.

    ``longest`` is the longest input in bytes.
    """

    name: str
    try_one: Callable[[bytes, Path], None]
    longest: int = 4096


# ---------------------------------------------------------------- the wire


def try_wire(data: bytes, _folder: Path) -> None:
    """Decode a stream at once and in pieces; the first byte says how it is cut and framed."""
    how, stream = (data[0], data[1:]) if data else (0, b"")
    if how & 1:
        # Frames that are whole, so that what is inside gets its share.
        stream = b"".join(_LENGTH.pack(len(body)) + body for body in stream.split(b"\n"))
    limit = MAX_FRAME_BYTES if how & 2 else MAX_HELLO_BYTES
    whole, fault = _decode(iter([stream]), limit)
    step = max(1 + (how >> 2) * (how >> 2), len(stream) // MOST_PIECES)
    pieces = (stream[at : at + step] for at in range(0, len(stream), step))
    cut, cut_fault = _decode(pieces, limit)
    assert fault == cut_fault, "cutting the stream changes the fault"
    assert not fault or len(cut) >= len(whole), "cutting the stream loses messages"
    assert fault or cut == whole, "cutting the stream changes the messages"
    for message in cut:
        _check_round_trip(message)


def _decode(pieces: Iterator[bytes], limit: int) -> tuple[list[AnyMessage], str]:
    decoder = FrameDecoder(limit)
    found: list[AnyMessage] = []
    try:
        for piece in pieces:
            found += decoder.feed(piece)
    except ProtocolError as error:
        return found, str(error)
    return found, ""


def _check_round_trip(message: AnyMessage) -> None:
    with suppress(ProtocolError):
        # What was taken may be longer when written again: then it is over the limit, and said so.
        again, fault = _decode(iter([encode(message)]), MAX_FRAME_BYTES)
        assert not fault
        assert again == [message], "a message is another one when sent on"


def try_spec(data: bytes, _folder: Path) -> None:
    """Read the settings of a submitted job."""
    try:
        wire = json.loads(data)
    except (ValueError, RecursionError):
        return
    with suppress(SceneFault):
        spec = RenderSpec.from_wire(wire)
        assert RenderSpec.from_wire(spec.to_wire()) == spec
        spec.digest()
        spec.picture()
        spec.settings()


def try_token(data: bytes, _folder: Path) -> None:
    """Read a join token, as pasted or sent to the page."""
    with suppress(NoHead):
        token = JoinToken.decode(data.decode("utf-8", "replace"))
        assert JoinToken.decode(token.encode()) == token


# ---------------------------------------------------------------- what a submitter reads


def _options(folder: Path) -> Options:
    options = Options(folder, folder)
    options.add_debian_defaults()
    return options


def _finish(options: Options) -> None:
    spec = options.spec("main.pov", None, "the fuzzer")
    assert RenderSpec.from_wire(spec.to_wire()) == spec


def try_job_yaml(data: bytes, folder: Path) -> None:
    """Read a job.yaml, and what becomes of its options."""
    path = folder / "job.yaml"
    path.write_bytes(data)
    options = _options(folder)
    with suppress(SceneFault):
        read_job_yaml(path, options)
        _finish(options)


def try_params_cfg(data: bytes, folder: Path) -> None:
    """Read a params.cfg of 2010."""
    path = folder / "params.cfg"
    path.write_bytes(data)
    options = _options(folder)
    with suppress(SceneFault):
        read_params_cfg(path, options)
        _finish(options)


def try_ini(data: bytes, folder: Path) -> None:
    """Read an INI file with and without a section, and its text as words of a command line."""
    text = decode(data)
    for section in (None, "low"):
        with suppress(SceneFault):
            _check_items(text, section)
    path = folder / "scene.ini"
    path.write_bytes(data)
    options = _options(folder)
    with suppress(SceneFault, UsageFault):
        options.add_ini(path)
        _finish(options)
    with suppress(SceneFault):
        list(read_words(text, _PLACE))
    with suppress(SceneFault):
        list(read_word(text, _PLACE))


def _check_items(text: str, section: str | None) -> None:
    last = 1
    for item in read_ini(text, "scene.ini", section):
        assert item.origin.line >= last, "the lines go backwards"
        last = item.origin.line


def try_sdl(data: bytes, _folder: Path) -> None:
    """Read a scene's text: its words, its statements, its photons."""
    text = data.decode("latin-1")
    blank = blank_comments(text)
    assert len(blank) == len(text), "blanking moves what follows"
    strip(text, keep_strings=True)
    for token in tokens(blank):
        assert 0 <= token.at < token.end <= len(text)
    list(notable_tokens(blank))
    find_photons(text)
    if "photons" in text:
        plan_photons({"main.pov": text})
    read_statements(text)


# ---------------------------------------------------------------- what POV-Ray writes


def try_progress(data: bytes, _folder: Path) -> None:
    """Follow POV-Ray's words at once and in pieces; the first byte says how they are cut."""
    how, text = (data[0], data[1:]) if data else (0, b"")
    whole, cut = ProgressParser(), ProgressParser()
    whole.feed(text)
    whole.finish()
    step = max(1 + how, len(text) // MOST_PIECES)
    for at in range(0, len(text), step):
        cut.feed(text[at : at + step])
    cut.finish()
    for name in ("phase", "done", "total", "warnings", "fatal", "text_tail", "used", "moves"):
        assert getattr(whole, name) == getattr(cut, name), f"cutting the text changes {name}"
    assert len(whole.text_tail.encode()) <= MAX_TEXT_BYTES


def try_state(data: bytes, folder: Path) -> None:
    """Read, and tidy, a state file and the note beside it."""
    path, kept, note = folder / "x.pov-state", folder / "kept", folder / "origin"
    path.write_bytes(data)
    note.write_bytes(data)
    read_origin(note)
    with suppress(NoStateFile):
        for block in read_blocks(path):
            block.rgb()
        serials = keep_blocks([path], kept, _GRID)
        assert {block.serial for block in read_blocks(kept)} == serials
        assert keep_blocks([path], path, _GRID) == serials


def try_light(data: bytes, folder: Path) -> None:
    """Check a file of samples and a photon map, and seat the samples."""
    path = folder / "light"
    path.write_bytes(data)
    with suppress(LightFault):
        check_light("photons", path)
    samples = None
    with suppress(LightFault):
        samples = check_light("radiosity", path)
    seat_samples(path)
    if samples is not None:
        assert check_light("radiosity", path) == samples, "seating breaks a sample"


def try_glimpse(data: bytes, folder: Path) -> None:
    """Read a small picture of a node's making: it is of a kind that can be drawn, and no larger."""
    with suppress(TileFault):
        image = read_glimpse(data)
        assert image.mode in ("RGB", "RGBA")
        assert image.width * image.height <= MOST_PIXELS


def try_tile(data: bytes, folder: Path) -> None:
    """Check a tile; the first byte says of which format it is to be."""
    how, body = (data[0], data[1:]) if data else (0, b"")
    path = folder / "tile"
    path.write_bytes(body)
    with suppress(TileFault):
        check_tile(path, _TILE_RECT, TILES[how % len(TILES)])


def try_segment(data: bytes, folder: Path) -> None:
    """Check a tile whose packed pixels are these, and join it between two others.

    What is copied must unpack in the picture as it does alone.
    """
    size = (_TILE_RECT.width, _TILE_RECT.height)
    tile, good, out = folder / "tile", folder / "good", folder / "out"
    write_tile(good, size, TILES[0], (), (bytes(range(24)) * size[1],))
    _write_segment(tile, data)
    try:
        check_tile(tile, _TILE_RECT, TILES[0])
    except TileFault:
        return
    places = [Rect(0, top, 8, top + size[1]) for top in range(0, 3 * size[1], size[1])]
    writer = FrameWriter(Rect(0, 0, 8, 3 * size[1]), TILES[0], folder)
    for path, place in zip((good, tile, good), places, strict=True):
        writer.add(path, place)
    writer.finish(out)
    writer.close()
    rows = [read_png(path).rows(_TILE_RECT) for path in (good, tile, good)]
    assert read_png(out).rows(Rect(0, 0, 8, 3 * size[1])) == b"".join(rows)


def _write_segment(path: Path, data: bytes) -> None:
    """Write a tile with all checksums right, as far as the pixels can be unpacked."""
    inflater, found = zlib.decompressobj(-15), b""
    with suppress(zlib.error):
        found = inflater.decompress(data + EMPTY_FINAL, 1 << 12)
    with path.open("wb") as file:
        write_head(file, (_TILE_RECT.width, _TILE_RECT.height), FORMATS[0], ())
        file.write(chunk(b"IDAT", data))
        write_tail(file, zlib.adler32(found))


# ---------------------------------------------------------------- archives


def try_archive(data: bytes, folder: Path) -> None:
    """Index and unpack a tar; both say the same, and nothing lies outside."""
    source, room = folder / "scene.tar", folder / "room"
    target = room / "scene"
    source.write_bytes(_mended(data))
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir()
    try:
        members, refusal = index_tar(source, _LIMITS), ""
    except ArchiveFault as fault:
        members, refusal = [], str(fault)
        if data[:1] != b"a":
            # That both refuse the same need not be seen each time: the disk costs most of it.
            return
    try:
        entries = unpack_tar(source, target, _LIMITS)
    except ArchiveFault as fault:
        assert str(fault) == refusal, "the readers differ in what they refuse"
    else:
        assert not refusal, f"unpacked what is refused: {refusal}"
        assert sorted((m.path, m.size) for m in members) == [(e.path, e.size) for e in entries]
        assert sum(entry.size for entry in entries) <= min(_LIMITS.max_bytes, len(data))
        assert len(entries) <= _LIMITS.max_files
    assert [each.name for each in room.iterdir()] == ["scene"]


def try_packed(data: bytes, folder: Path) -> None:
    """Unpack what came packed; it never gives more than it may."""
    source, target = folder / "packed", folder / "plain"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    with suppress(ArchiveFault):
        unpack(source, target, _LIMITS.max_bytes, lambda: None)
    assert target.stat().st_size <= _LIMITS.max_bytes


def _mended(data: bytes) -> bytes:
    """Mend the checksum of each block that looks like a header, or few inputs would pass it.

    A block whose first letter is "!" keeps the sum that it has.
    """
    mended = bytearray(data)
    for at in range(0, len(mended) - 511, 512):
        block = mended[at : at + 512]
        if block[257:262] == b"ustar" and block[0:1] != b"!":
            block[148:156] = b" " * 8
            mended[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(mended)


TARGETS: Final = {
    target.name: target
    for target in (
        Target("wire", try_wire),
        Target("job_yaml", try_job_yaml, 2048),
        Target("params_cfg", try_params_cfg, 2048),
        Target("ini", try_ini, 2048),
        Target("progress", try_progress),
        Target("archive", try_archive, 8192),
        Target("packed", try_packed),
        Target("spec", try_spec),
        Target("token", try_token, 1024),
        Target("sdl", try_sdl),
        Target("state", try_state, 8192),
        Target("light", try_light),
        Target("tile", try_tile),
        Target("segment", try_segment, 512),
        Target("glimpse", try_glimpse, 2048),
    )
}
