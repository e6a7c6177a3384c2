"""Finds in one text of a scene the statements that decide which files it needs.

Says what stands there (uses of files, assignments, macros and their calls), not what it means:
values are needs.py's business. Conditions are noted, not decided. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from clusterray.povray.lookup import IMAGE_TYPES
from clusterray.povray.sdl import (
    Lines,
    Token,
    blank_comments,
    notable_tokens,
    token_at,
    tokens,
)

Kind: TypeAlias = Literal[
    "include", "image", "height field", "font", "density", "data", "photon map", "question"
]
"""What a scene needs a file for; a question is a file_exists."""

_IMAGE_WORDS: dict[str, Kind] = {
    "image_map": "image",
    "bump_map": "image",
    "material_map": "image",
    "image_pattern": "image",
    "height_field": "height field",
}
_BLOCKS = frozenset({"if", "ifdef", "ifndef", "switch", "while", "for"})
_MAX_SKIPPED = 100_000
_MAX_LOOKS = 8
"""So many times the text's length is looked ahead in all; brackets that nothing closes cost it."""


@dataclass(frozen=True, slots=True)
class Use:
    """A place that names a file: ``at`` is where the name's expression begins.

    ``image_type`` is the word before an image's name, "" if there is none. ``scope`` is the macro
    it stands in. ``always`` tells that no condition, loop or macro is around it.
    """

    kind: Kind
    at: int
    image_type: str
    scope: str
    always: bool


@dataclass(frozen=True, slots=True)
class Assignment:
    """``#declare`` or ``#local``: ``at`` is where its value begins; None means never readable."""

    name: str
    scope: str
    at: int | None
    inside: str


@dataclass(slots=True)
class Statements:
    """What one text says; ``text`` is without comments, and all offsets are in it."""

    text: str
    lines: Lines
    uses: list[Use] = field(default_factory=list)
    writes: list[tuple[int, str]] = field(default_factory=list)
    """Where the name of a file that the scene writes begins, and in which macro."""
    assignments: list[Assignment] = field(default_factory=list)
    macros: dict[str, list[str]] = field(default_factory=dict)
    """Name -> parameters."""
    calls: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Name of what may be a macro -> where the arguments begin, and in which macro it stands."""


def read_statements(text: str) -> Statements:
    """Read one file's text."""
    bare = blank_comments(text)
    return _Reader(Statements(bare, Lines(bare))).read()


class _Reader:
    def __init__(self, found: Statements) -> None:
        self._found = found
        self._text = found.text
        self._left_ahead = _MAX_LOOKS * len(found.text)
        self._blocks: list[str] = []

    def read(self) -> Statements:
        passed = 0
        for token in notable_tokens(self._text):
            if token.at < passed or token.kind == "text":
                continue
            if token.kind == "directive":
                passed = self._directive(token)
            elif token.kind == "word":
                passed = self._word(token)
        return self._found

    @property
    def _scope(self) -> str:
        return next((name for name in reversed(self._blocks) if name), "")

    # ------------------------------------------------------------ directives

    def _directive(self, token: Token) -> int:
        """Take a directive and give the offset up to which it is read."""
        match token.text:
            case "include":
                self._use("include", token.end)
            case "declare" | "local":
                return self._assignment(token)
            case "macro":
                return self._macro(token)
            case "fopen":
                return self._fopen(token)
            case "read":
                self._read(token)
            case "end":
                if self._blocks:
                    self._blocks.pop()
            case word if word in _BLOCKS:
                self._blocks.append("")
        return token.end

    def _assignment(self, token: Token) -> int:
        name = token_at(self._text, token.end)
        if name is None or name.kind != "word":
            return token.end
        after = token_at(self._text, name.end)
        while after is not None and after.text == "[":
            after = token_at(self._text, self._behind(after))
        if after is None or after.text != "=":
            return name.end
        scope = self._scope
        own = scope if token.text == "local" else ""
        self._found.assignments.append(Assignment(name.text, own, after.end, scope))
        return after.end

    def _macro(self, token: Token) -> int:
        name = token_at(self._text, token.end)
        if name is None or name.kind != "word":
            self._blocks.append("")
            return token.end
        self._blocks.append(name.text)
        parameters: list[str] = []
        end = name.end
        opening = token_at(self._text, end)
        if opening is not None and opening.text == "(":
            end = self._behind(opening)
            inside = tokens(self._text, opening.end, end)
            parameters = [t.text for t in inside if t.kind == "word" and t.text != "optional"]
        self._found.macros[name.text] = parameters
        return end

    def _fopen(self, token: Token) -> int:
        handle = token_at(self._text, token.end)
        if handle is None:
            return token.end
        end = self._behind_text(handle.end)
        mode = token_at(self._text, end)
        if mode is not None and mode.text == "read":
            self._use("data", handle.end)
        elif mode is not None and mode.text == "append":
            self._use("question", handle.end)
            self._found.writes.append((handle.end, self._scope))
        else:
            self._found.writes.append((handle.end, self._scope))
        return handle.end

    def _read(self, token: Token) -> None:
        opening = token_at(self._text, token.end)
        if opening is None or opening.text != "(":
            return
        end = self._behind(opening)
        for index, name in enumerate(tokens(self._text, opening.end, end)):
            if index and name.kind == "word":
                self._found.assignments.append(Assignment(name.text, "", None, self._scope))

    # ------------------------------------------------------------ words

    def _word(self, token: Token) -> int:
        word = token.text
        if word in _IMAGE_WORDS:
            return self._image(token)
        if word == "ttf":
            self._use("font", token.end)
        elif word == "load_file":
            self._use("photon map", token.end)
        elif word in ("density_file", "file_exists"):
            after = token_at(self._text, token.end)
            if word == "density_file" and after is not None and after.text == "df3":
                self._use("density", after.end)
            elif word == "file_exists" and after is not None and after.text == "(":
                self._use("question", after.end)
        elif self._text[token.end : token.end + 1] in ("(", " "):
            after = token_at(self._text, token.end)
            if after is not None and after.text == "(":
                self._found.calls.setdefault(word, []).append((after.end, self._scope))
        return token.end

    def _image(self, token: Token) -> int:
        opening = token_at(self._text, token.end)
        if opening is None or opening.text != "{":
            return token.end
        at, image_type = opening.end, ""
        first = token_at(self._text, at)
        if first is not None and first.kind == "word" and first.text in IMAGE_TYPES:
            at, image_type = first.end, first.text
        self._use(_IMAGE_WORDS[token.text], at, image_type)
        return at

    def _use(self, kind: Kind, at: int, image_type: str = "") -> None:
        self._found.uses.append(Use(kind, at, image_type, self._scope, not self._blocks))

    # ------------------------------------------------------------ places

    def _behind(self, opening: Token) -> int:
        if self._left_ahead <= 0:
            return opening.end
        end = behind_bracket(self._text, opening)
        self._left_ahead -= end - opening.at
        return end

    def _behind_text(self, at: int) -> int:
        """Give the end of a string expression without knowing what it means."""
        first = token_at(self._text, at)
        if first is None:
            return at
        end = first.end
        after = token_at(self._text, end)
        if first.kind == "word" and after is not None and after.text in ("(", "["):
            end = self._behind(after)
        return end


def expression_words(text: str, at: int) -> set[str]:
    """Give the words of the expression at ``at`` as far as a string could depend on them."""
    words: set[str] = set()
    token = token_at(text, at)
    if token is None or token.kind != "word":
        return words
    words.add(token.text)
    after = token_at(text, token.end)
    while after is not None and after.text in ("(", "[", "{"):
        end = behind_bracket(text, after)
        words.update(inner.text for inner in tokens(text, after.end, end) if inner.kind == "word")
        after = token_at(text, end)
    return words


def behind_bracket(text: str, opening: Token) -> int:
    """Give the offset behind the bracket that closes ``opening``."""
    depth, end = 0, opening.end
    for count, token in enumerate(tokens(text, opening.at)):
        if token.kind == "mark":
            depth += (token.text in "([{") - (token.text in ")]}")
        end = token.end
        if depth == 0 or count > _MAX_SKIPPED:
            return end
    return end
