"""Finds out from a scene's text what light its bands have to share, and how they can.

Radiosity samples and photon maps are made anew, and differently, for each band, which would show
as steps of light at the cuts. The reading is textual and errs towards finding light: a pass that
finds none costs little, and a scene cut wrongly is wrong. Runs at the submitter; reads the scene's
files, knows nothing of jobs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterray.core.model import LIGHT_KINDS, LightKind
from clusterray.povray.photons import find_photons, plan_photons
from clusterray.povray.sdl import strip

MAX_TEXT_BYTES = 16 << 20
_MAX_FILES = 2000

_INCLUDE = re.compile(r"#\s*include\b\s*(\"(?:\\.|[^\"\\])*\")?")
_RADIOSITY = re.compile(r"\bradiosity\s*\{")


@dataclass(frozen=True, slots=True)
class LightPlan:
    """How the bands of a scene share its light.

    ``passes`` come before the bands, in order; ``photon_files`` have the photons blocks to extend.
    ``own_map``: the scene loads its photons from a file. ``whole``: its bands cannot share them,
    one node renders it all. ``note`` is for the person, "" for nothing.
    """

    passes: tuple[LightKind, ...] = ()
    photon_files: tuple[str, ...] = ()
    own_map: bool = False
    whole: bool = False
    note: str = ""


def plan_light(texts: Mapping[str, Path]) -> LightPlan:
    """Decide how the bands of a scene share light; ``texts`` are its own, by their staged paths."""
    read = {name: read_text(path) for name, path in texts.items()}
    found = frozenset[LightKind]().union(*map(light_in_text, read.values()))
    passes = tuple(kind for kind in LIGHT_KINDS if kind in found)
    files: tuple[str, ...] = ()
    own_map = False
    if "photons" in passes:
        photons = plan_photons(read)
        if photons.way == "whole":
            note = f"One node renders this scene whole, because {photons.reason}; "
            return LightPlan(whole=True, note=note + "its bands could not share one photon map.")
        own_map = photons.way == "own map"
        if own_map:
            passes = tuple(kind for kind in passes if kind != "photons")
        files = photons.files
    if not passes:
        return LightPlan(own_map=own_map)
    uses = " and ".join(passes)
    note = f"This scene may use {uses}; its light is made first, once for all bands."
    return LightPlan(passes, files, own_map, note=note)


def wants_shared_light(files: Iterable[Path]) -> frozenset[LightKind]:
    """Give which of radiosity and photons the text of ``files`` turns on; unreadable ones do not.

    Comments and strings do not count; conditions and macros are taken as if they all ran.
    """
    found: set[LightKind] = set()
    for file in files:
        found |= light_in_text(read_text(file))
    return frozenset(found)


def light_in_text(text: str) -> frozenset[LightKind]:
    """Give which of radiosity and photons one file's text turns on."""
    found: set[LightKind] = set()
    if _RADIOSITY.search(strip(text, keep_strings=False)):
        found.add("radiosity")
    if find_photons(text).global_blocks:
        found.add("photons")
    return frozenset(found)


def scene_texts(root: Path, start: Path, main: Path, library_paths: Sequence[Path]) -> list[Path]:
    """Give the scene's own files of text that ``main`` includes, itself first.

    Followed as POV-Ray looks for them: from ``start``, then on ``library_paths``. If an include's
    name is put together while parsing, every ``.inc`` below ``root`` is taken.
    """
    found: dict[Path, None] = {}
    waiting = [main]
    while waiting and len(found) < _MAX_FILES:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = None
        for name in _included_names(read_text(path)):
            if name is None:
                waiting += [inc for inc in _all_includes(root) if inc not in found]
                continue
            for folder in (start, *library_paths):
                candidate = Path(os.path.normpath(folder / name))
                if candidate.is_relative_to(root) and candidate.is_file():
                    waiting.append(candidate)
                    break
    return list(found)


def _included_names(text: str) -> Iterator[str | None]:
    for match in _INCLUDE.finditer(strip(text, keep_strings=True)):
        yield None if match[1] is None else match[1][1:-1]


def _all_includes(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() == ".inc")[:_MAX_FILES]


def read_text(path: Path) -> str:
    """Give the beginning of a file as text, "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            # Latin-1 takes any byte, and the words looked for are ASCII.
            return file.read(MAX_TEXT_BYTES).decode("latin-1")
    except OSError:
        return ""
