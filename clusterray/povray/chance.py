"""Finds in a scene's text what POV-Ray draws lots for, and what it makes of light beforehand.

The numbers that POV-Ray draws while it renders come from one sequence for each thread, which runs
on from pixel to pixel, so that the picture depends on threads and on the order of blocks. The
reading is textual: conditions and macros are taken as if they all ran, and what is declared as if
it were used, so that it explains and suspects but proves nothing. Runs at the submitter; reads
files, knows nothing of jobs. Source: POV-Ray v3.7.0.10, source/backend/render/trace.cpp and
source/backend/lighting/media.cpp; tests hold it against the real program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from clusterray.core.model import Chance
from clusterray.povray.light import light_in_text, read_text
from clusterray.povray.sdl import Lines, blank_comments

MAX_FOUND = 50
"""So many places are told of; whoever wants more has the scene."""
SHIPPED: Mapping[str, frozenset[str]] = {
    "stones1.inc": frozenset(
        [
            *("T_Grnt19", "T_Grnt19a", "T_Grnt20", "T_Grnt20a", "T_Grnt21", "T_Grnt21a"),
            *("T_Grnt22", "T_Grnt26", "T_Grnt28", "T_Stone6", "T_Stone8"),
            *(f"T_Stone{number}" for number in range(11, 23)),
        ]
    ),
    "stones2.inc": frozenset(f"T_Stone{number}" for number in range(36, 44)),
    "textures.inc": frozenset({"EMBWood1"}),
}
"""The textures of POV-Ray's own include files that have crand, by the file."""
_MAX_WORD = 40
_OLD = 3.5
"""Before this ``#version`` media were sampled by method 1 unless the scene said otherwise."""

# A literal zero turns the thing off.
_NOT_ZERO = r"(?!\s*(?:0+\.?0*|\.0+)(?![\w.]))"
_CRAND = re.compile(rf"\bcrand\b{_NOT_ZERO}")
_JITTER = re.compile(rf"\bjitter\b{_NOT_ZERO}")
_AREA_LIGHT = re.compile(r"\barea_light\b")
_MEDIA = re.compile(r"\bmedia\s*\{")
_METHOD = re.compile(r"\bmethod\b\s*(\w+)")
_RAINBOW = re.compile(r"\brainbow\s*\{")
_SUBSURFACE = re.compile(r"\bsubsurface\s*\{")
_TRANSLUCENCY = re.compile(r"\btranslucency\b")
_LIGHT = re.compile(r"\b(?P<word>radiosity|photons)\s*\{")
_VERSION = re.compile(r"#\s*version\s+(\d+(?:\.\d+)?)")
_SHIPPED_NAMES = {name: file for file, names in SHIPPED.items() for name in names}
_SHIPPED_NAME = re.compile(rf"\b(?:{'|'.join(_SHIPPED_NAMES)})\b")
# Where a piece of a block ends: its own brace, or what cannot stand inside it.
_EDGE = re.compile(r"[{}]|#\s*(?:declare|local|macro)\b")


def find_chance(files: Iterable[tuple[str, Path]]) -> list[Chance]:
    """Give what is found in ``files``, each with its name for people; unreadable ones are empty."""
    texts = [(name, blank_comments(read_text(path), keep_strings=False)) for name, path in files]
    old = any(float(found[1]) < _OLD for _, text in texts for found in _VERSION.finditer(text))
    found: dict[tuple[str, str], Chance] = {}
    for name, text in texts:
        for chance in _in_text(name, text, old_media=old):
            found.setdefault((chance.feature, chance.file), chance)
    return list(found.values())[:MAX_FOUND]


def _in_text(name: str, text: str, *, old_media: bool) -> Iterator[Chance]:
    lines = Lines(text)
    for feature, at in (
        *_lit(text),
        *_drawn(text),
        *(_media(text, old=old_media)),
    ):
        yield Chance(feature, name, lines.at(at))


def _lit(text: str) -> Iterator[tuple[str, int]]:
    """Find the light that POV-Ray gathers or shoots before it renders."""
    used = light_in_text(text)
    for found in _LIGHT.finditer(text):
        if found["word"] in used:
            yield found["word"], found.start()


def _drawn(text: str) -> Iterator[tuple[str, int]]:
    """Find what random numbers are drawn for, but for media."""
    for found in _CRAND.finditer(text):
        yield "crand", found.start()
    for found in _SHIPPED_NAME.finditer(text):
        yield f"crand in {_SHIPPED_NAMES[found[0]]}", found.start()
    for feature, begin, holds in _BLOCKS:
        for found in begin.finditer(text):
            if holds(_block(text, found.end())):
                yield feature, found.start()


def _media(text: str, *, old: bool) -> Iterator[tuple[str, int]]:
    for found in _MEDIA.finditer(text):
        block = _block(text, found.end())
        method = _METHOD.search(block)
        if method is None and old:
            yield f"media of method 1, as before #version {_OLD}", found.start()
        elif method is not None and method[1] != "3":
            yield f"media of method {method[1][:_MAX_WORD]}", found.start()
        elif _JITTER.search(block):
            yield "media with jitter", found.start()


_BLOCKS: tuple[tuple[str, re.Pattern[str], Callable[[str], object]], ...] = (
    ("area_light with jitter", _AREA_LIGHT, _JITTER.search),
    ("rainbow with jitter", _RAINBOW, _JITTER.search),
    ("subsurface", _SUBSURFACE, _TRANSLUCENCY.search),
)
"""What it is called, where it begins, and what the rest of its block must hold."""


def _block(text: str, at: int) -> str:
    """Give the rest of the block that ``at`` lies in."""
    depth = 1
    for edge in _EDGE.finditer(text, at):
        depth += {"{": 1, "}": -1}.get(edge[0], -depth)
        if depth <= 0:
            return text[at : edge.start()]
    return text[at:]
