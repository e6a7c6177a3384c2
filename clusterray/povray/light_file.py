"""Files of light: radiosity samples and photon maps checked, samples seated, a frame's joined.

POV-Ray writes a radiosity sample a line: "C<bounce>", a place, a packed normal, colours, distances,
in text that any build reads; lines may stand in any order, and files be put behind each other
(source/backend/support/octree.cpp, lighting/radiosity.cpp). A photon map is the memory of the one
program that wrote it: a count and so many photons, for surfaces and then for media
(lighting/photonsortingtask.cpp). Knows nothing of bands or nodes; any thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from clusterray.core.model import Light, LightKind, Rect

MAX_LINE_BYTES = 98
"""POV-Ray reads no more of a line, its end included (radiosity.cpp)."""
MAX_MAP_BYTES = 2 << 30
"""A hundred million photons."""
_SAMPLE = re.compile(rb"C\d{1,3}(?:[\t ]+[\x21-\x7e]+)+\n")
_FIELDS = 11
_PLACE = slice(1, 4)
_NORMAL, _REACH = 4, 8
_DIGITS = 6
"""To so many digits POV-Ray writes a place."""
_SEAT_UNITS = 4
"""A sample is put this much of the last digit behind where it was taken."""
_SEAT_SHARE = 0.02
"""But never more than this of how far it reaches."""
_BYTES_PER_PIXEL = 2048
_CHUNK = 1 << 20
_LEAST_LIMIT = 64 << 20
_PHOTON_BYTES = 20


class LightFault(Exception):
    """What should hold light does not, and why."""


def light_limit(kind: LightKind, rect: Rect) -> int:
    """Give the most bytes that the light found for a rectangle may have."""
    return MAX_MAP_BYTES if kind == "photons" else _LEAST_LIMIT + rect.area * _BYTES_PER_PIXEL


def check_light(kind: LightKind, path: Path) -> int:
    """Give the number of samples or photons in a file, 0 if it is empty.

    Raises LightFault if something else is in it, OSError.
    """
    if kind == "radiosity":
        return _count_samples(path)
    photons = count_photons(path)
    if photons is None:
        raise LightFault("the light is no whole photon map")
    return photons


def join_light(kind: LightKind, parts: Sequence[Path], target: Path) -> Light | None:
    """Make one file of ``parts``, durable when this returns; a photon map has one part.

    None, and no file, if there is no light in them. Raises LightFault, OSError; then there is no
    new file either. What was at ``target`` before is replaced.
    """
    if kind == "photons" and len(parts) > 1:
        raise LightFault("a photon map has one part")
    made = target.with_suffix(f"{target.suffix}.new")
    digest, size, samples = hashlib.sha256(), 0, 0
    try:
        with made.open("wb") as file:
            for part in parts:
                samples += check_light(kind, part)
                with part.open("rb") as source:
                    while data := source.read(_CHUNK):
                        file.write(data)
                        digest.update(data)
                        size += len(data)
            file.flush()
            os.fsync(file.fileno())
        if not samples:
            return None
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)
    return Light(kind, digest.hexdigest(), size, samples)


# ---------------------------------------------------------------- photon maps


def count_photons(path: Path) -> int | None:
    """Give the number of photons in a file, 0 if it is empty; None if it is no whole map.

    A map that is being written is none until its last byte is there. Raises OSError.
    """
    size = path.stat().st_size
    if size == 0:
        return 0
    with path.open("rb") as file:
        for order in "<>":
            file.seek(0)
            with contextlib.suppress(struct.error, OSError):
                count = _read_counts(file, order)
                if size == 2 * 4 + count * _PHOTON_BYTES:
                    return count
    return None


def _read_counts(file: BinaryIO, order: str) -> int:
    (surface,) = struct.unpack(f"{order}I", file.read(4))
    file.seek(surface * _PHOTON_BYTES, os.SEEK_CUR)
    (media,) = struct.unpack(f"{order}I", file.read(4))
    return int(surface) + int(media)


# ---------------------------------------------------------------- radiosity samples


def _count_samples(path: Path) -> int:
    samples = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            samples += 1
            if len(line) > MAX_LINE_BYTES or not _SAMPLE.fullmatch(line):
                raise LightFault(f"line {samples} of the light is no radiosity sample")
    return samples


def seat_samples(path: Path) -> None:
    """Put each sample of a file a little behind the surface that it was taken on.

    POV-Ray writes a place to six digits, and passes over a sample that lies before the point it
    looks from (lighting/radiosity.cpp, AverageNearBlock). So of samples on curved surfaces every
    third would not serve even where it was taken, and be gathered anew by each band (docs/light.md
    has the figures). Raises OSError.
    """
    seated = path.with_suffix(".seated")
    try:
        with path.open("rb") as source, seated.open("wb") as file:
            file.writelines(map(_seat, source))
        shutil.move(seated, path)
    finally:
        seated.unlink(missing_ok=True)


def _seat(line: bytes) -> bytes:
    """Give the line of a sample that is seated; any other line as it is."""
    fields = line.rstrip(b"\n").split(b"\t")
    if len(fields) != _FIELDS:
        return line
    try:
        place = [float(field) for field in fields[_PLACE]]
        normal = [byte / 127 - 1 for byte in bytes.fromhex(fields[_NORMAL].decode("ascii"))]
        reach = float(fields[_REACH])
        depth = _SEAT_UNITS * 10.0 ** (math.floor(math.log10(max(map(abs, place)))) + 1 - _DIGITS)
        length = math.hypot(*normal)
    except (ValueError, OverflowError):
        return line
    if len(normal) != len(place) or not length or not depth <= _SEAT_SHARE * reach:
        return line
    fields[_PLACE] = [
        f"{at - depth * along / length:.8g}".encode()
        for at, along in zip(place, normal, strict=True)
    ]
    new = b"\t".join(fields) + b"\n"
    return new if len(new) <= MAX_LINE_BYTES else line
