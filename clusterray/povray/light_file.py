"""Files of radiosity samples: the check of one that a node sent, and the joining of a frame's.

POV-Ray writes a sample a line: "C<bounce>", a place, colours, a packed normal, in text that any
build reads; lines may stand in any order, and files be put behind each other (source/backend/
support/octree.cpp, lighting/radiosity.cpp). Knows nothing of bands or nodes; any thread.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from clusterray.core.model import Light, Rect

MAX_LINE_BYTES = 98
"""POV-Ray reads no more of a line, its end included (radiosity.cpp)."""
_SAMPLE = re.compile(rb"C\d{1,3}(?:[\t ]+[\x21-\x7e]+)+\n")
_BYTES_PER_PIXEL = 2048
_CHUNK = 1 << 20
_LEAST_LIMIT = 64 << 20


class LightFault(Exception):
    """What should hold radiosity samples does not, and why."""


def light_limit(rect: Rect) -> int:
    """Give the most bytes that the samples of a rectangle may have."""
    return _LEAST_LIMIT + rect.area * _BYTES_PER_PIXEL


def check_light(path: Path) -> int:
    """Give the number of samples in a file; raises LightFault for a line that is none, OSError."""
    samples = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            samples += 1
            if len(line) > MAX_LINE_BYTES or not _SAMPLE.fullmatch(line):
                raise LightFault(f"line {samples} of the light is no radiosity sample")
    return samples


def join_light(parts: Sequence[Path], target: Path) -> Light | None:
    """Put the samples of ``parts`` behind each other into ``target``, durable when this returns.

    None, and no file, if there is no sample in them. Raises LightFault, OSError; then there is no
    file either.
    """
    digest, size, samples = hashlib.sha256(), 0, 0
    try:
        with target.open("xb") as file:
            for part in parts:
                samples += check_light(part)
                with part.open("rb") as source:
                    while data := source.read(_CHUNK):
                        file.write(data)
                        digest.update(data)
                        size += len(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    if not samples:
        target.unlink()
        return None
    return Light(digest.hexdigest(), size, samples)
