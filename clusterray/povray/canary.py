"""The canary: our small scene whose picture tells one POV-Ray from another, and what belongs to it.

Also reads POV-Ray's include files and fonts, of which the same scene makes another picture if they
differ. Reads disk, writes nothing, runs nothing; any thread. How the picture is made is node's
business, what follows from it core.likeness's.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from clusterray.core.model import Rect
from clusterray.povray.option_table import DEBIAN_LIBRARY_PATHS
from clusterray.povray.spec import RenderSpec

CANARY_FILE = "canary.pov"
CANARY_AREA = Rect(0, 0, 64, 48)
INCLUDE_FOLDER = Path(DEBIAN_LIBRARY_PATHS[-1])
"""Where POV-Ray's include files, maps and fonts are, as every node tells it."""


def canary_text() -> bytes:
    """Give the scene, which travels in this package."""
    return Path(__file__).with_name(CANARY_FILE).read_bytes()


def canary_spec() -> RenderSpec:
    """Give its settings: antialiased by method 2, so that no pixel depends on another."""
    return RenderSpec(
        input=CANARY_FILE,
        width=CANARY_AREA.width,
        height=CANARY_AREA.height,
        options=(
            ("Antialias", True),
            ("Antialias_Threshold", 0.3),
            ("Antialias_Depth", 2),
            ("Sampling_Method", 2),
        ),
    )


def library_stamp(folder: Path = INCLUDE_FOLDER) -> list[tuple[str, int, int]]:
    """Give name, size and time of change (ns) of every include file and font, cheaply.

    While this is the same, so is ``library_digest``. A folder that is not there has none.
    """
    return [
        (name, info.st_size, info.st_mtime_ns)
        for name, path in _library_files(folder)
        for info in (path.stat(),)
    ]


def library_digest(folder: Path = INCLUDE_FOLDER) -> str:
    """Give the hex SHA-256 over the names and contents of all include files and fonts."""
    digest = hashlib.sha256()
    for name, path in _library_files(folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _library_files(folder: Path) -> list[tuple[str, Path]]:
    found = []
    for base, _folders, files in os.walk(folder):
        for file in files:
            path = Path(base, file)
            # A font may be a link; one that leads nowhere is as good as none.
            if path.is_file():
                found.append((path.relative_to(folder).as_posix(), path))
    return sorted(found)
