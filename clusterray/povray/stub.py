"""A scene of nothing that makes of a real scene's finished blocks the file that it would make.

Once all blocks are finished, the scene decides nothing of the file but how colours are encoded,
and of that POV-Ray's parser tells its front end two things: the assumed_gamma it has come to, or
else whether it ended with a #version below 3.7, where gamma is left alone (POV-Ray v3.7.0.10,
source/backend/parser/parse.cpp and source/frontend/renderfrontend.h; held by
tests/povray/test_stub.py). All else is options, or in the blocks. So ``+C`` on a stub that comes to
the same writes the same file without a parse of the scene.

What a scene comes to is read from its texts, and only believed where these tell for sure: all that
POV-Ray may include is followed, each condition may hold or not, each macro may run at any time, and
what can then come out must be one. Runs at a node; reads files, knows nothing of renders.
"""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from clusterray.povray.lookup import Found, Lookup
from clusterray.povray.option_table import declared_name
from clusterray.povray.spec import RenderSpec
from clusterray.povray.stub_text import (
    NEW,
    OLD,
    UNKNOWN,
    Block,
    Gamma,
    Include,
    Node,
    Save,
    Text,
    Unsure,
    Version,
    read_text,
    side,
)

STUB_NAME = "stub.pov"
MAX_TEXT_BYTES = 64 << 20
"""So much is read of a scene's texts that have one of our words."""
MAX_SOUGHT_BYTES = 4 << 30
"""So much is looked through for words in all: a second or two. A mesh has none of them."""
_MAX_TEXTS = 2000
_MAX_STEPS = 20_000
_MAX_DEPTH = 32
"""POV-Ray nests no more includes."""
_OF_THE_SCENE = frozenset({"Include_Header", "Library_Path", "Declare"})
"""Options that say what a scene reads and means; the stub reads nothing."""
_OWN_FRAMES = frozenset("NPTB")
_DEFAULT_VERSION = 3.7
"""What ``version`` is before any #version; measured with 3.7.0.10."""

_TELLING = (b"assumed_gamma", b"version", b"include")


# ---------------------------------------------------------------- all texts of a scene


@contextmanager
def _mapped(path: Path) -> Iterator[bytes | mmap.mmap]:
    """Give what is in a file; Unsure if it cannot be read."""
    try:
        with path.open("rb") as file:
            if not file.seek(0, 2):
                yield b""
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data
    except OSError:
        raise Unsure from None


@functools.lru_cache(maxsize=64)
def _shipped_text(path: Path) -> Text:
    with _mapped(path) as data:
        return read_text(data[:].decode("latin-1"))


class _Texts:
    """All files that a scene below ``root`` may include, each once."""

    def __init__(self, root: Path, lookup: Lookup) -> None:
        self._root = root
        self._lookup = lookup
        self._left_to_read = MAX_TEXT_BYTES
        self._left_to_seek = MAX_SOUGHT_BYTES
        self.read: dict[Path, Text] = {}

    def add(self, main: Path) -> None:
        """Read a file, and what it includes; Unsure if that is not clear."""
        waiting = [Found(main, None, main.name)]
        while waiting:
            found = waiting.pop()
            if found.path in self.read:
                continue
            if len(self.read) >= _MAX_TEXTS:
                raise Unsure
            text = _shipped_text(found.path) if found.shipped else self._read(found.path)
            self.read[found.path] = text
            for name in set(_included(text.nodes)):
                included = self.find(name)
                if included is not None:
                    waiting.append(included)
                elif not found.shipped:
                    # It may be made while the scene is parsed. What strings.inc makes is text of
                    # the scene's strings.
                    raise Unsure

    def find(self, name: str) -> Found | None:
        """Give the file that an include means."""
        return self._lookup.find(name, "include")

    def _read(self, path: Path) -> Text:
        if not Path(os.path.normpath(path)).is_relative_to(self._root):
            # POV-Ray may not read there, and what lies there may be no file of a finite size.
            raise Unsure
        with _mapped(path) as data:
            if not self._has_any(data, _TELLING):
                return Text(silent=True)
            self._left_to_read -= len(data)
            if self._left_to_read < 0:
                raise Unsure
            # Latin-1 takes any byte, and the words looked for are ASCII.
            return read_text(data[:].decode("latin-1"))

    def assigned_once(self, name: str) -> bool:
        """Tell whether one place in all texts that say something gives ``name`` its value."""
        return sum(text.assigned[name] for text in self.read.values()) == 1

    def silent_of(self, names: Collection[str]) -> bool:
        """Tell whether none of the other texts has any of these names."""
        words = [name.encode("latin-1") for name in names]
        for path, text in self.read.items():
            if text.silent:
                with _mapped(path) as data:
                    if self._has_any(data, words):
                        return False
        return True

    def _has_any(self, data: bytes | mmap.mmap, words: Sequence[bytes]) -> bool:
        self._left_to_seek -= len(words) * len(data)
        if self._left_to_seek < 0:
            raise Unsure
        return any(data.find(word) >= 0 for word in words)


def _included(nodes: Sequence[Node]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Include):
            yield node.name
        elif isinstance(node, Block):
            for branch in node.branches:
                yield from _included(branch)


# ---------------------------------------------------------------- what parsing may come to


@dataclass(frozen=True, slots=True)
class _State:
    """What may be at one place: versions ("": none was set), and gammas ("": none was named)."""

    versions: frozenset[str]
    gammas: frozenset[str] = frozenset({""})

    def or_else(self, other: _State) -> _State:
        return _State(self.versions | other.versions, self.gammas | other.gammas)


class _Parse:
    """Goes through the texts as POV-Ray does; lives for one scene.

    ``trusting``: a name that one place assigns has its value from there. ``relied_on`` are these.
    """

    def __init__(self, texts: _Texts, declares: Collection[str], *, trusting: bool) -> None:
        self._texts = texts
        self._trusting = trusting
        self._declared = set(declares)
        self._macros: list[Block] = []
        self._steps = 0
        self.relied_on: set[str] = set()

    def run(self, files: Sequence[Path], state: _State) -> _State:
        """Give what may come out where these files are read one after the other."""
        for path in files:
            state = self._walk(self._texts.read[path].nodes, state, 0)
        while self._macros:
            # It may have run last of all, or earlier, or never.
            block = self._macros.pop()
            state = self._branches(block, state, 0)
        return state

    def _walk(self, nodes: Sequence[Node], state: _State, depth: int) -> _State:
        self._steps += 1 + len(nodes)
        if self._steps > _MAX_STEPS or depth > _MAX_DEPTH:
            raise Unsure
        saved: dict[str, frozenset[str]] = {}
        for node in nodes:
            if isinstance(node, Save):
                saved[node.name] = _set(state.versions)
                if self._is_once(node.name):
                    self._declared.add(node.name)
            elif isinstance(node, Version):
                state = replace(state, versions=self._versions(node.value, state, saved))
            elif isinstance(node, Gamma):
                # POV-Ray heeds only the first of several; here they must agree.
                state = replace(state, gammas=(state.gammas - {""}) | {node.value})
            elif isinstance(node, Include):
                found = self._texts.find(node.name)
                if found is not None:
                    state = self._walk(self._texts.read[found.path].nodes, state, depth + 1)
            elif node.kind == "macro":
                self._macros.append(node)
            else:
                state = self._block(node, state, depth)
        return state

    def _versions(
        self, value: str, state: _State, saved: dict[str, frozenset[str]]
    ) -> frozenset[str]:
        if value == "version":
            return _set(state.versions)
        if value in (OLD, NEW):
            return frozenset({value})
        if value in saved and self._is_once(value):
            # Whatever lies between is as if it had not been.
            return saved[value]
        return frozenset({UNKNOWN})

    def _block(self, block: Block, state: _State, depth: int) -> _State:
        guard = block.guard
        if guard and self._guards(block):
            if guard in self._declared:
                return state
            return self._walk(block.branches[0], state, depth)
        return self._branches(block, state, depth)

    def _branches(self, block: Block, state: _State, depth: int) -> _State:
        declared = set(self._declared)
        may_be = state
        for branch in block.branches:
            may_be = may_be.or_else(self._walk(branch, state, depth))
            self._declared = set(declared)
        return may_be

    def _guards(self, block: Block) -> bool:
        """Tell whether a block is read just once, the first time: it declares its guard."""
        saves = any(
            isinstance(node, Save) and node.name == block.guard for node in block.branches[0]
        )
        return saves and self._is_once(block.guard)

    def _is_once(self, name: str) -> bool:
        if not self._trusting or not self._texts.assigned_once(name):
            return False
        self.relied_on.add(name)
        return True


def _set(versions: frozenset[str]) -> frozenset[str]:
    """Give what ``#version version`` makes of what may be."""
    return frozenset(version or side(_DEFAULT_VERSION) for version in versions)


# ---------------------------------------------------------------- for others


@functools.lru_cache(maxsize=64)
def scene_stub(root: Path, spec: RenderSpec) -> str | None:
    """Give the text of a stub for the scene below ``root``, None where its texts do not tell.

    The scene's files do not change while it is known by this ``root``. The stub is for
    ``stub_spec(spec)``.
    """
    start = root / spec.start
    try:
        texts = _Texts(root, Lookup(start, [root / path for path in spec.library_paths]))
        files = [*(root / path for path in _values(spec, "Include_Header")), root / spec.input]
        for path in files:
            texts.add(path)
        # Mostly a gamma is named for all to see, and nothing hangs on who assigns what.
        return _come_to(spec, texts, files, trusting=False) or _come_to(
            spec, texts, files, trusting=True
        )
    except (Unsure, RecursionError):
        return None


def _come_to(
    spec: RenderSpec, texts: _Texts, files: Sequence[Path], *, trusting: bool
) -> str | None:
    version = spec.value("Version")
    at_first = _State(frozenset({"" if version is None else side(float(version))}))
    declares = [declared_name(value) for value in _values(spec, "Declare")]
    parse = _Parse(texts, declares, trusting=trusting)
    stub = _stub(parse.run(files, at_first))
    return stub if stub is not None and texts.silent_of(parse.relied_on) else None


def _values(spec: RenderSpec, name: str) -> list[str]:
    return [str(value) for key, value in spec.options if key == name]


def has_own_frame(spec: RenderSpec) -> bool:
    """Tell whether a band's pixels are the same in a picture of the band alone.

    Dithering looks at where in the picture a pixel lies, and the rows of other files than these are
    not pixels side by side.
    """
    return spec.file_format.tile.letter in _OWN_FRAMES and spec.value("Dither") is not True


def stub_spec(spec: RenderSpec, size: tuple[int, int] | None = None) -> RenderSpec:
    """Give the spec with which the stub makes the file that the scene would make with ``spec``.

    ``size`` is that of the band, where the picture is to have no more (``has_own_frame``).
    """
    width, height = size or (spec.width, spec.height)
    options = tuple(pair for pair in spec.options if pair[0] not in _OF_THE_SCENE)
    return replace(
        spec,
        input=STUB_NAME,
        start=".",
        width=width,
        height=height,
        region=None,
        options=options,
        light=(),
        photon_files=(),
        sources={},
    )


def _stub(came_to: _State) -> str | None:
    if len(came_to.gammas) > 1 or UNKNOWN in came_to.gammas:
        return None
    (gamma,) = came_to.gammas
    if gamma:
        # Then the version decides nothing.
        return f"#version 3.7;\nglobal_settings {{ assumed_gamma {gamma} }}\ncamera {{ }}\n"
    if len(came_to.versions) > 1 or UNKNOWN in came_to.versions:
        return None
    (version,) = came_to.versions
    first = {"": "", OLD: "#version 3.6;\n", NEW: "#version 3.7;\n"}[version]
    return f"{first}camera {{ }}\n"
