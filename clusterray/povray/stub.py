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
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from clusterray.povray.lookup import Found, Lookup
from clusterray.povray.option_table import declared_name
from clusterray.povray.sdl import Token, blank_comments, token_at
from clusterray.povray.spec import RenderSpec
from clusterray.povray.statements import behind_bracket

STUB_NAME = "stub.pov"
MAX_TEXT_BYTES = 64 << 20
_MAX_TEXTS = 2000
_MAX_STEPS = 20_000
_MAX_DEPTH = 32
"""POV-Ray nests no more includes."""
_OF_THE_SCENE = frozenset({"Include_Header", "Library_Path", "Declare"})
"""Options that say what a scene reads and means; the stub reads nothing."""

_TELLING = (b"assumed_gamma", b"version", b"include")
_GAMMA_WORD = "assumed_gamma"
# One set of characters is sought many times faster than alternatives: a mesh is megabytes.
_BEGIN = re.compile(r"[\"#]")
_NOTABLE = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*") | \#\s*(?P<directive>[A-Za-z]\w*)""", re.DOTALL | re.VERBOSE
)
_TELLING_TEXT = re.compile(r"\bassumed_gamma\b|#\s*version\b")
_NAME_IN_BRACKETS = re.compile(r"\s*\(\s*([A-Za-z_]\w*)\s*\)")
_NAME = re.compile(r"[\s(]*([A-Za-z_]\w*)")
_BLOCKS = frozenset({"if", "ifdef", "ifndef", "switch", "while", "for", "macro"})
_CONDITIONS = frozenset({"if", "ifdef", "ifndef"})
_BRANCHES = frozenset({"else", "elseif", "case", "range", "default"})
_ASSIGNMENTS = frozenset({"declare", "local", "undef", "for"})

_NEW = 370
"""From this language version on, in hundredths, an assumed_gamma is implied."""
_DEFAULT_VERSION = 3.7
"""What ``version`` is before any #version; measured with 3.7.0.10."""
_UNKNOWN = "?"


class _Unsure(Exception):
    """The texts do not tell for sure."""


# ---------------------------------------------------------------- what a text says


@dataclass(frozen=True, slots=True)
class _Version:
    """``#version``: "old" or "new", the name that it is read from, or _UNKNOWN."""

    value: str


@dataclass(frozen=True, slots=True)
class _Save:
    """``#declare name = version``."""

    name: str


@dataclass(frozen=True, slots=True)
class _Gamma:
    """``assumed_gamma``: a number, "srgb", or _UNKNOWN."""

    value: str


@dataclass(frozen=True, slots=True)
class _Include:
    name: str


@dataclass(frozen=True, slots=True)
class _Block:
    """A condition, a loop or a macro. ``guard``: it is read if that name is not declared yet."""

    kind: Literal["maybe", "macro"]
    guard: str
    branches: tuple[tuple[_Node, ...], ...]


_Node: TypeAlias = _Version | _Save | _Gamma | _Include | _Block


@dataclass(frozen=True, slots=True)
class _Text:
    """One file: what it says of our matters in order, and how often it assigns each name."""

    nodes: tuple[_Node, ...] = ()
    assigned: Counter[str] = field(default_factory=Counter)
    silent: bool = False
    """Nothing of it was looked at, for it has none of our words."""


@dataclass(slots=True)
class _Open:
    directive: str
    guard: str
    branches: list[list[_Node]]

    def closed(self) -> _Block | None:
        """Give the block that it has become, None if nothing of ours is in it."""
        if not any(self.branches):
            return None
        guard = self.guard if len(self.branches) == 1 else ""
        kind: Literal["maybe", "macro"] = "macro" if self.directive == "macro" else "maybe"
        return _Block(kind, guard, tuple(map(tuple, self.branches)))


def _read_text(text: str) -> _Text:
    """Read one file's text; _Unsure if it is not clear what is inside what."""
    bare = blank_comments(text)
    opened = [_Open("", "", [[]])]
    assigned: Counter[str] = Counter()
    for found in _notable(bare):
        nodes = opened[-1].branches[-1]
        directive = found.text if found.kind == "directive" else ""
        if found.kind == "text":
            if _TELLING_TEXT.search(found.text):
                # A scene may write it to a file and include that.
                raise _Unsure
        elif found.kind == "word":
            nodes.append(_Gamma(_gamma_at(bare, found.end)))
        elif directive == "version":
            nodes.append(_Version(_version_at(bare, found.end)))
        elif directive == "include":
            nodes.append(_Include(_included_at(bare, found.end)))
        elif directive == "end":
            block = opened.pop().closed()
            if not opened:
                raise _Unsure
            if block is not None:
                opened[-1].branches[-1].append(block)
        elif directive in _BRANCHES and len(opened) > 1:
            # At worst a #default of textures, which makes less sure.
            opened[-1].branches.append([])
        if directive in _ASSIGNMENTS and (name := _NAME.match(bare, found.end)):
            assigned[name[1]] += 1
            if _is_version(bare, name.end()):
                nodes.append(_Save(name[1]))
        if directive in _BLOCKS:
            guard = _NAME_IN_BRACKETS.match(bare, found.end)
            is_guard = directive == "ifndef" and guard is not None
            opened.append(_Open(directive, guard[1] if is_guard and guard else "", [[]]))
    if len(opened) > 1:
        raise _Unsure
    return _Text(tuple(opened[0].branches[0]), assigned)


def _notable(text: str) -> Iterator[Token]:
    """Give the strings, the directives, and assumed_gamma as a word."""
    at, gamma_at = 0, text.find(_GAMMA_WORD)
    while True:
        begin = _BEGIN.search(text, at)
        while gamma_at >= 0 and (begin is None or gamma_at < begin.start()):
            end = gamma_at + len(_GAMMA_WORD)
            if gamma_at >= at and _is_word(text, gamma_at, end):
                yield Token("word", _GAMMA_WORD, gamma_at, end)
            gamma_at = text.find(_GAMMA_WORD, end)
        if begin is None:
            return
        found = _NOTABLE.match(text, begin.start())
        at = begin.end() if found is None else found.end()
        if found is not None and found["text"] is not None:
            yield Token("text", found["text"][1:-1], found.start(), at)
        elif found is not None:
            yield Token("directive", found["directive"], found.start(), at)


def _is_word(text: str, begin: int, end: int) -> bool:
    around = text[max(0, begin - 1) : begin] + text[end : end + 1]
    return not any(each.isalnum() or each == "_" for each in around)


def _gamma_at(text: str, at: int) -> str:
    token = token_at(text, at)
    if token is None or not _ends_at(text, token, "}"):
        return _UNKNOWN
    if token.kind == "number":
        return repr(float(token.text))
    return "srgb" if token.text == "srgb" else _UNKNOWN


def _version_at(text: str, at: int) -> str:
    token = token_at(text, at)
    if token is None or not _ends_at(text, token, ";"):
        return _UNKNOWN
    if token.kind == "number":
        return _side(float(token.text))
    return token.text if token.kind == "word" and token.text != "unofficial" else _UNKNOWN


def _is_version(text: str, at: int) -> bool:
    equals = token_at(text, at)
    value = token_at(text, equals.end) if equals is not None and equals.text == "=" else None
    return value is not None and value.text == "version" and _ends_at(text, value, ";")


def _included_at(text: str, at: int) -> str:
    token = token_at(text, at)
    if token is None or token.kind != "text":
        raise _Unsure
    return token.text


def _ends_at(text: str, token: Token, mark: str) -> bool:
    """Tell whether an expression is just this token: with no operator behind it, nor a macro that
    may hold one.
    """
    at = token.end
    while (after := token_at(text, at)) is not None and after.kind == "directive":
        at = after.end
        if after.text in _CONDITIONS:
            opening = token_at(text, at)
            if opening is None or opening.text != "(":
                return False
            at = behind_bracket(text, opening)
        elif after.text not in ("else", "end"):
            return True
    if after is None or after.text == mark:
        return True
    behind = token_at(text, after.end)
    return after.kind == "word" and (behind is None or behind.text != "(")


def _side(version: float) -> str:
    return "new" if int(version * 100 + 0.5) >= _NEW else "old"


# ---------------------------------------------------------------- all texts of a scene


def _read_file(path: Path) -> _Text:
    try:
        with _mapped(path) as data:
            if all(data.find(word) < 0 for word in _TELLING):
                return _Text(silent=True)
            if len(data) > MAX_TEXT_BYTES:
                raise _Unsure
            # Latin-1 takes any byte, and the words looked for are ASCII.
            return _read_text(data[:].decode("latin-1"))
    except OSError:
        raise _Unsure from None


@contextmanager
def _mapped(path: Path) -> Iterator[bytes | mmap.mmap]:
    with path.open("rb") as file:
        if not file.seek(0, 2):
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


@functools.lru_cache(maxsize=64)
def _shipped_text(path: Path) -> _Text:
    return _read_file(path)


class _Texts:
    """All files that a scene may include, each once."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self.read: dict[Path, _Text] = {}

    def add(self, main: Path) -> None:
        """Read a file, and what it includes; _Unsure if that is not clear."""
        waiting = [Found(main, None, main.name)]
        while waiting:
            found = waiting.pop()
            if found.path in self.read:
                continue
            if len(self.read) >= _MAX_TEXTS:
                raise _Unsure
            text = _shipped_text(found.path) if found.shipped else _read_file(found.path)
            self.read[found.path] = text
            for name in _included(text.nodes):
                included = self.find(name)
                if included is not None:
                    waiting.append(included)
                elif not found.shipped:
                    # It may be made while the scene is parsed. What strings.inc makes is text of
                    # the scene's strings.
                    raise _Unsure

    def find(self, name: str) -> Found | None:
        """Give the file that an include means."""
        return self._lookup.find(name, "include")

    def assigned_once(self, name: str) -> bool:
        """Tell whether one place in all texts gives ``name`` its value."""
        word = re.compile(rb"\b" + re.escape(name.encode("latin-1")) + rb"\b")
        if sum(text.assigned[name] for text in self.read.values()) != 1:
            return False
        return not any(text.silent and _has(path, word) for path, text in self.read.items())


def _has(path: Path, word: re.Pattern[bytes]) -> bool:
    try:
        with _mapped(path) as data:
            return word.search(data) is not None
    except OSError:
        raise _Unsure from None


def _included(nodes: Sequence[_Node]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, _Include):
            yield node.name
        elif isinstance(node, _Block):
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
    """Goes through the texts as POV-Ray does; lives for one scene."""

    def __init__(self, texts: _Texts, declares: Collection[str]) -> None:
        self._texts = texts
        self._declared = set(declares)
        self._macros: list[_Block] = []
        self._steps = 0
        self._once: dict[str, bool] = {}

    def run(self, files: Sequence[Path], state: _State) -> _State:
        """Give what may come out where these files are read one after the other."""
        for path in files:
            state = self._walk(self._texts.read[path].nodes, state, 0)
        while self._macros:
            # It may have run last of all, or earlier, or never.
            block = self._macros.pop()
            state = self._branches(block, state, 0)
        return state

    def _walk(self, nodes: Sequence[_Node], state: _State, depth: int) -> _State:
        self._steps += 1 + len(nodes)
        if self._steps > _MAX_STEPS or depth > _MAX_DEPTH:
            raise _Unsure
        saved: dict[str, frozenset[str]] = {}
        for node in nodes:
            if isinstance(node, _Save):
                saved[node.name] = _set(state.versions)
                if self._is_once(node.name):
                    self._declared.add(node.name)
            elif isinstance(node, _Version):
                state = replace(state, versions=self._versions(node.value, state, saved))
            elif isinstance(node, _Gamma):
                # POV-Ray heeds only the first of several; here they must agree.
                state = replace(state, gammas=(state.gammas - {""}) | {node.value})
            elif isinstance(node, _Include):
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
        if value in ("old", "new"):
            return frozenset({value})
        if value in saved and self._is_once(value):
            # Whatever lies between is as if it had not been.
            return saved[value]
        return frozenset({_UNKNOWN})

    def _block(self, block: _Block, state: _State, depth: int) -> _State:
        guard = block.guard
        if guard and self._guards(block):
            if guard in self._declared:
                return state
            return self._walk(block.branches[0], state, depth)
        return self._branches(block, state, depth)

    def _branches(self, block: _Block, state: _State, depth: int) -> _State:
        declared = set(self._declared)
        may_be = state
        for branch in block.branches:
            may_be = may_be.or_else(self._walk(branch, state, depth))
            self._declared = set(declared)
        return may_be

    def _guards(self, block: _Block) -> bool:
        """Tell whether a block is read just once, the first time: it declares its guard."""
        saves = any(
            isinstance(node, _Save) and node.name == block.guard for node in block.branches[0]
        )
        return saves and self._is_once(block.guard)

    def _is_once(self, name: str) -> bool:
        if name not in self._once:
            self._once[name] = self._texts.assigned_once(name)
        return self._once[name]


def _set(versions: frozenset[str]) -> frozenset[str]:
    """Give what ``#version version`` makes of what may be."""
    return frozenset(version or _side(_DEFAULT_VERSION) for version in versions)


# ---------------------------------------------------------------- for others


@functools.lru_cache(maxsize=64)
def scene_stub(root: Path, spec: RenderSpec) -> str | None:
    """Give the text of a stub for the scene below ``root``, None where its texts do not tell.

    The scene's files do not change while it is known by this ``root``. The stub is for
    ``stub_spec(spec)``.
    """
    start = root / spec.start
    values = [(name, str(value)) for name, value in spec.options]
    version = spec.value("Version")
    try:
        texts = _Texts(Lookup(start, [root / path for path in spec.library_paths]))
        headers = [root / value for name, value in values if name == "Include_Header"]
        files = [*headers, root / spec.input]
        for path in files:
            texts.add(path)
        declares = [declared_name(value) for name, value in values if name == "Declare"]
        at_first = "" if version is None else _side(float(version))
        came_to = _Parse(texts, declares).run(files, _State(frozenset({at_first})))
    except (_Unsure, RecursionError):
        return None
    return _stub(came_to)


def stub_spec(spec: RenderSpec) -> RenderSpec:
    """Give the spec with which the stub makes the file that the scene would make with ``spec``."""
    options = tuple(pair for pair in spec.options if pair[0] not in _OF_THE_SCENE)
    return replace(
        spec, input=STUB_NAME, start=".", options=options, light=(), photon_files=(), sources={}
    )


def _stub(came_to: _State) -> str | None:
    if len(came_to.gammas) > 1 or _UNKNOWN in came_to.gammas:
        return None
    (gamma,) = came_to.gammas
    if gamma:
        # Then the version decides nothing.
        return f"#version 3.7;\nglobal_settings {{ assumed_gamma {gamma} }}\ncamera {{ }}\n"
    if len(came_to.versions) > 1 or _UNKNOWN in came_to.versions:
        return None
    (version,) = came_to.versions
    first = {"": "", "old": "#version 3.6;\n", "new": "#version 3.7;\n"}[version]
    return f"{first}camera {{ }}\n"
