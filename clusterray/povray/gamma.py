"""Finds the assumed_gamma of a scene in its text, for previews made of POV-Ray's own floats.

Textual, and of the main file's beginning alone: the first one named counts, as in POV-Ray, but
conditions are not looked at. A preview that is too dark or too bright is all that can come of an
error. Knows nothing of pictures.
"""

from __future__ import annotations

import re
from pathlib import Path

from clusterray.povray.sdl import strip

_GAMMA = re.compile(r"\bassumed_gamma\s+(srgb\b|\d+\.?\d*|\.\d+)")
_VERSION = re.compile(r"#\s*version\s+(\d+\.?\d*)")
_LEAST, _MOST = 0.1, 10.0
_LOOKED_AT_BYTES = 1 << 18


def read_assumed_gamma(main: Path) -> float | None:
    """Give the assumed_gamma of the scene file ``main`` as ``assumed_gamma_of`` does."""
    try:
        with main.open("rb") as file:
            # Latin-1 takes any byte, and the words looked for are ASCII.
            return assumed_gamma_of(file.read(_LOOKED_AT_BYTES).decode("latin-1"))
    except OSError:
        return 1.0


def assumed_gamma_of(text: str) -> float | None:
    """Give the assumed_gamma of a scene of this text, None for sRGB.

    Where none is named it is 1 from #version 3.7 on; before, POV-Ray leaves colours as they are.
    """
    bare = strip(text, keep_strings=False)
    if found := _GAMMA.search(bare):
        gamma = found[1]
        return None if gamma == "srgb" else min(max(float(gamma), _LEAST), _MOST)
    version = _VERSION.search(bare)
    return 1.0 if version is not None and float(version[1]) >= 3.7 else None
