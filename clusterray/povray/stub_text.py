"""What one text of a scene says of #version and assumed_gamma, and what is inside what.

For povray.stub: only what decides how POV-Ray encodes the colours of a picture, as a tree of
conditions, loops and macros. Nothing is decided here, but that what is not plain is UNKNOWN. Pure.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from clusterray.povray.sdl import Token, blank_comments, tokens

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

MAX_SAID = 2000
"""So much a text may say of our matters, and it may have 500 times as many directives and
strings: a stranger wrote it."""
_MAX_NOTABLE = 500 * MAX_SAID
_AHEAD = 2048
"""So many characters are looked at for what a statement's words are."""
_FIRST_NEW = 370
"""From this language version on, in hundredths, an assumed_gamma is implied."""
OLD, NEW, UNKNOWN = "below 3.7", "3.7 or above", "?"
"""What no identifier is called."""


class Unsure(Exception):
    """The texts do not tell for sure."""


@dataclass(frozen=True, slots=True)
class Version:
    """``#version``: OLD or NEW, the name that it is read from, or UNKNOWN."""

    value: str


@dataclass(frozen=True, slots=True)
class Save:
    """``#declare name = version``."""

    name: str


@dataclass(frozen=True, slots=True)
class Gamma:
    """``assumed_gamma``: a number, "srgb", or UNKNOWN."""

    value: str


@dataclass(frozen=True, slots=True)
class Include:
    """``#include``."""

    name: str


@dataclass(frozen=True, slots=True)
class Block:
    """A condition, a loop or a macro. ``guard``: it is read if that name is not declared yet."""

    kind: Literal["maybe", "macro"]
    guard: str
    branches: tuple[tuple[Node, ...], ...]


Node: TypeAlias = Version | Save | Gamma | Include | Block


@dataclass(frozen=True, slots=True)
class Text:
    """One file: what it says of our matters in order, and how often it assigns each name."""

    nodes: tuple[Node, ...] = ()
    assigned: Counter[str] = field(default_factory=Counter)
    silent: bool = False
    """Nothing of it was looked at, for it has none of our words."""


@dataclass(slots=True)
class _Open:
    directive: str
    guard: str
    branches: list[list[Node]]

    def closed(self) -> Block | None:
        """Give the block that it has become, None if nothing of ours is in it."""
        if not any(self.branches):
            return None
        guard = self.guard if len(self.branches) == 1 else ""
        kind: Literal["maybe", "macro"] = "macro" if self.directive == "macro" else "maybe"
        return Block(kind, guard, tuple(map(tuple, self.branches)))


def read_text(text: str) -> Text:
    """Read one file's text; Unsure if it is not clear what is inside what."""
    bare = blank_comments(text)
    opened = [_Open("", "", [[]])]
    assigned: Counter[str] = Counter()
    said = 0
    for count, found in enumerate(_notable(bare)):
        if count > _MAX_NOTABLE or said > MAX_SAID:
            raise Unsure
        nodes = opened[-1].branches[-1]
        before = len(nodes)
        directive = found.text if found.kind == "directive" else ""
        if found.kind == "text":
            if _TELLING_TEXT.search(found.text):
                # A scene may write it to a file and include that.
                raise Unsure
        elif found.kind == "word":
            nodes.append(Gamma(_gamma_at(bare, found.end)))
        elif directive == "version":
            nodes.append(Version(_version_at(bare, found.end)))
        elif directive == "include":
            nodes.append(Include(_included_at(bare, found.end)))
        elif directive == "end":
            block = opened.pop().closed()
            if not opened:
                raise Unsure
            if block is not None:
                opened[-1].branches[-1].append(block)
        elif directive in _BRANCHES and len(opened) > 1:
            # At worst a #default of textures, which makes less sure.
            opened[-1].branches.append([])
        if directive in _ASSIGNMENTS and (name := _NAME.match(bare, found.end)):
            assigned[name[1]] += 1
            if _is_version(bare, name.end()):
                nodes.append(Save(name[1]))
        if directive in _BLOCKS:
            guard = _NAME_IN_BRACKETS.match(bare, found.end)
            is_guard = directive == "ifndef" and guard is not None
            opened.append(_Open(directive, guard[1] if is_guard and guard else "", [[]]))
        said += len(nodes) - before
    if len(opened) > 1:
        raise Unsure
    return Text(tuple(opened[0].branches[0]), assigned)


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
        if found is None and begin[0] == '"':
            raise Unsure
        at = begin.end() if found is None else found.end()
        if found is not None and found["text"] is not None:
            yield Token("text", found["text"][1:-1], found.start(), at)
        elif found is not None:
            yield Token("directive", found["directive"], found.start(), at)


def _is_word(text: str, begin: int, end: int) -> bool:
    around = text[max(0, begin - 1) : begin] + text[end : end + 1]
    return not any(each.isalnum() or each == "_" for each in around)


def _gamma_at(text: str, at: int) -> str:
    token = _token_at(text, at)
    if token is None or not _ends_at(text, token, "}"):
        return UNKNOWN
    if token.kind == "number" and math.isfinite(float(token.text)):
        return repr(float(token.text))
    return "srgb" if token.text == "srgb" else UNKNOWN


def _version_at(text: str, at: int) -> str:
    token = _token_at(text, at)
    if token is None or not _ends_at(text, token, ";"):
        return UNKNOWN
    if token.kind == "number":
        return side(float(token.text))
    return token.text if token.kind == "word" and token.text != "unofficial" else UNKNOWN


def _is_version(text: str, at: int) -> bool:
    equals = _token_at(text, at)
    value = _token_at(text, equals.end) if equals is not None and equals.text == "=" else None
    return value is not None and value.text == "version" and _ends_at(text, value, ";")


def _included_at(text: str, at: int) -> str:
    token = _token_at(text, at)
    if token is None or token.kind != "text":
        raise Unsure
    return token.text


def _ends_at(text: str, token: Token, mark: str) -> bool:
    """Tell whether an expression is just this token: with no operator behind it, nor a macro that
    may hold one. Conditions are looked past.
    """
    ahead = tokens(text, token.end, min(len(text), token.end + _AHEAD))
    depth, condition = 0, False
    for after in ahead:
        if depth or condition:
            depth += (after.text == "(") - (after.text == ")")
            if condition and not depth:
                return False
            condition = False
        elif after.kind == "directive":
            condition = after.text in _CONDITIONS
            if not condition and after.text not in ("else", "end"):
                return True
        elif after.kind == "word":
            behind = next(ahead, None)
            return behind is None or behind.text != "("
        else:
            return after.kind == "mark" and after.text == mark
    return token.end + _AHEAD >= len(text) and not depth


def _token_at(text: str, at: int) -> Token | None:
    return next(tokens(text, at, min(len(text), at + _AHEAD)), None)


def side(version: float) -> str:
    """Give on which side of 3.7 a language version is: OLD or NEW."""
    return NEW if version * 100 + 0.5 >= _FIRST_NEW else OLD
