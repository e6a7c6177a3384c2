"""The photons blocks of a scene's text: whether its bands can share one map, and the text for it.

A map is saved and loaded from inside a photons block of global_settings alone, and a second block
resets what the first one set (POV-Ray v3.7.0.10, source/backend/parser/parse.cpp). So the word for
it goes into the person's own block, behind its opening brace: whatever conditions follow, it is
read if the block is. Where the block saves a map itself it goes before the closing brace instead,
since the last name counts. No line is added, so what POV-Ray says of a line stays true. The reading
is textual; where it cannot be sure, one node renders the scene whole. Pure but for ``save_photons``
and ``load_photons``, which write the copies that a node renders.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from clusterray.core.errors import LocalFault
from clusterray.povray.sdl import Lines, blank_comments
from clusterray.povray.spec import RenderSpec
from clusterray.povray.wire_values import MAX_TEXTS

Way: TypeAlias = Literal["share", "own map", "whole"]

_STRING = re.compile(r'"(?:\\.|[^"\\])*"', re.DOTALL)
_NOTABLE = re.compile(
    r"\b(?P<opener>global_settings|photons|radiosity)\s*\{|\{|\}|\b(?P<file>(?:save|load)_file)\b"
)
_MAP_WORD = re.compile(r"\b(?:save|load)_file\b")
# What only the photons block of global_settings holds; an object's own block has target and the
# like, and does nothing where the global one is missing.
_GLOBAL_WORDS = re.compile(
    r"\b(?:count|spacing|load_file|save_file|gather|autostop|jitter|expand_thresholds)\b"
)
_OBJECT_WORDS = re.compile(r"\b(?:target|reflection|refraction|collect|pass_through)\b")


@dataclass(frozen=True, slots=True)
class Block:
    """One photons block: ``inner``, without comments, up to its closing brace at ``end``.

    ``around`` are the words before the braces around it, the innermost last, "" for those that do
    not matter here. ``files`` are the words save_file and load_file in it, with their places.
    """

    begin: int
    end: int
    around: tuple[str, ...]
    inner: str
    files: tuple[tuple[str, int], ...]

    @property
    def is_global(self) -> bool:
        """Tell whether it is that of global_settings and not an object's, as far as can be seen."""
        return "global_settings" in self.around or self._has_own_words

    @property
    def is_extendable(self) -> bool:
        """Tell whether it is that for certain."""
        # A macro, or a file that global_settings includes, has the block by itself.
        return self.around[-1:] == ("global_settings",) or (not self.around and self._has_own_words)

    @property
    def _has_own_words(self) -> bool:
        inner = self.inner
        return bool(_GLOBAL_WORDS.search(inner)) and not _OBJECT_WORDS.search(inner)

    @property
    def is_plain(self) -> bool:
        """Tell whether no condition or loop in it decides what holds."""
        return "#" not in self.inner


@dataclass(frozen=True, slots=True)
class Photons:
    """What a text has of photons: its blocks, and the maps named outside of any.

    ``paired``: each brace has its partner, which conditions may hide. Places are offsets.
    """

    blocks: tuple[Block, ...] = ()
    strays: tuple[int, ...] = ()
    paired: bool = True

    @property
    def global_blocks(self) -> list[Block]:
        """The blocks of global_settings."""
        return [block for block in self.blocks if block.is_global]


@dataclass(frozen=True, slots=True)
class PhotonPlan:
    """How the bands of a scene come by one photon map.

    "share": it is shot once, ``files`` hold the blocks to extend; "own map": the scene loads one of
    its own; "whole": they cannot, and ``reason`` says why.
    """

    way: Way
    files: tuple[str, ...] = ()
    reason: str = ""


def find_photons(text: str) -> Photons:
    """Find what a text has of photons. Comments and strings do not count, conditions do."""
    if "photons" not in text and not _MAP_WORD.search(text):
        return Photons()
    bare = _STRING.sub(lambda found: f'"{" " * (len(found[0]) - 2)}"', blank_comments(text))
    reader = _Reader(bare)
    for found in _NOTABLE.finditer(bare):
        reader.take(found)
    return reader.finish()


def plan_photons(texts: Mapping[str, str]) -> PhotonPlan:
    """Decide how the bands of a scene share photons; ``texts`` are its own, by their staged paths.

    One of them has a photons block of global_settings.
    """
    found = {name: find_photons(text) for name, text in texts.items()}
    for name, photons in found.items():
        if photons.strays:
            line = Lines(texts[name]).at(photons.strays[0])
            return PhotonPlan("whole", reason=f"{name}:{line} names a photon map outside a block")
    blocks = [(name, block) for name, each in found.items() for block in each.global_blocks]
    if any(word == "load_file" for _, block in blocks for word, _ in block.files):
        return _plan_own_map(texts, blocks)
    for name, block in blocks:
        line = Lines(texts[name]).at(block.begin)
        if not block.is_extendable:
            reason = f"the photons block at {name}:{line} is not plainly that of global_settings"
            return PhotonPlan("whole", reason=reason)
        if block.files and not (block.is_plain and found[name].paired):
            return PhotonPlan("whole", reason=f"{name}:{line} saves a photon map on a condition")
    files = tuple(dict.fromkeys(name for name, _ in blocks))
    if len(files) > MAX_TEXTS:
        return PhotonPlan("whole", reason=f"{len(files)} files of it have photons blocks")
    return PhotonPlan("share", files)


def _plan_own_map(texts: Mapping[str, str], blocks: list[tuple[str, Block]]) -> PhotonPlan:
    """Plan a scene that loads a map: every block must do so for certain, or nothing is."""
    for name, block in blocks:
        word, at = block.files[-1] if block.files else ("", block.begin)
        named = re.match(r'\w+\s*"', texts[name][at:])
        if word != "load_file" or named is None or not block.is_plain:
            line = Lines(texts[name]).at(at)
            reason = f"the photons block at {name}:{line} may load a photon map or not"
            return PhotonPlan("whole", reason=reason)
    return PhotonPlan("own map")


def extend_text(text: str, words: str) -> str:
    """Give the text with ``words`` in each of its photons blocks of global_settings.

    Raises ValueError if it has none that can be extended.
    """
    blocks = find_photons(text).global_blocks
    if not blocks or not all(block.is_extendable for block in blocks):
        raise ValueError("there is no photons block that can be extended")
    for block in reversed(blocks):
        at = block.end if block.files else block.begin
        text = f"{text[:at]} {words} {text[at:]}"
    return text


def save_photons(scene: Path, spec: RenderSpec, target: Path) -> None:
    """Have the scene below ``scene``, made of links, save the map that it shoots to ``target``.

    Raises LocalFault if a file lacks the block that the spec says it has, OSError.
    """
    _extend(scene, spec, f'save_file "{target}"')


def load_photons(scene: Path, spec: RenderSpec, source: Path) -> None:
    """Have the scene below ``scene`` load the map ``source`` and shoot none; raises as above."""
    _extend(scene, spec, f'load_file "{source}"')


def _extend(scene: Path, spec: RenderSpec, words: str) -> None:
    for name in spec.photon_files:
        path = scene / name
        # Latin-1 takes any byte and gives it back, and the words looked for are ASCII.
        text = path.read_bytes().decode("latin-1")
        try:
            extended = extend_text(text, words)
        except ValueError as fault:
            raise LocalFault(f"{name} of the scene cannot be lit: {fault}") from None
        # A copy in place of the link.
        path.unlink()
        path.write_bytes(extended.encode("latin-1"))


@dataclass(slots=True)
class _Open:
    """A brace that waits for its partner, and what stands before it."""

    name: str
    begin: int
    files: list[tuple[str, int]] = field(default_factory=list)


_MOST_AROUND = 64
"""Words around a block that are kept; and photons blocks within each other that are read."""


class _Reader:
    """Goes through the braces of one text; lives for one find_photons."""

    def __init__(self, bare: str) -> None:
        self._bare = bare
        self._open: list[_Open] = []
        self._depth = Counter[str]()
        self._blocks: list[Block] = []
        self._strays: list[int] = []
        self._paired = True

    def take(self, found: re.Match[str]) -> None:
        """Take the next notable place."""
        if found["file"]:
            self._take_file(found["file"], found.start())
        elif found[0] != "}":
            name = found["opener"] or ""
            self._open.append(_Open(name, found.end()))
            self._depth[name] += 1
        elif self._open:
            self._close(found.start())
        else:
            self._paired = False

    def finish(self) -> Photons:
        """Give what was found; a block that nothing closes goes on to the end."""
        self._paired = self._paired and not self._open
        while self._open:
            self._close(len(self._bare))
        blocks = sorted(self._blocks, key=lambda block: block.begin)
        return Photons(tuple(blocks), tuple(self._strays), self._paired)

    def _take_file(self, word: str, at: int) -> None:
        for brace in reversed(self._open):
            if brace.name == "radiosity":
                # There it does nothing in POV-Ray 3.7.
                return
            if brace.name == "photons":
                brace.files.append((word, at))
                return
        self._strays.append(at)

    def _close(self, at: int) -> None:
        brace = self._open.pop()
        self._depth[brace.name] -= 1
        # A text of nothing but opening braces must not cost its length for each of them.
        if brace.name != "photons" or self._depth["photons"] >= _MOST_AROUND:
            return
        around = tuple(outer.name for outer in self._open[-_MOST_AROUND:])
        if self._depth["global_settings"] and "global_settings" not in around:
            around = ("global_settings", *around)
        inner = self._bare[brace.begin : at]
        self._blocks.append(Block(brace.begin, at, around, inner, tuple(brace.files)))
