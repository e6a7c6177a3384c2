"""The words of POV-Ray's scene language: comments, strings, lines and tokens.

Pure: takes text, gives text and tokens; knows no statement. Text is read as Latin-1, which takes
any byte, and what is looked for is ASCII. Source of the rules: POV-Ray v3.7.0.10,
source/backend/parser/tokenize.cpp: block comments nest, a string ends at the first quote that no
backslash precedes, and a line ends at CR, LF or both.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

TokenKind: TypeAlias = Literal["text", "directive", "word", "number", "mark"]

_SPAN = re.compile(
    r"""(?P<line>//[^\r\n]*)|(?P<open>/\*)|(?P<text>"(?:\\.|[^"\\])*")""", re.DOTALL | re.VERBOSE
)
# One set of characters is sought many times faster than the alternatives that begin with them.
_SPAN_BEGIN = re.compile(r"[/\"]")
_NOTABLE_BEGIN = re.compile(r"[\"#A-Za-z_]")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_LINE_END = re.compile(r"\r\n?|\n")
_NOT_LINE_END = re.compile(r"[^\r\n]")
_TOKEN = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*")
    | \#\s*(?P<directive>[A-Za-z]\w*)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
    | (?P<mark>\S)""",
    re.DOTALL | re.VERBOSE,
)

_NOTABLE = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*")
    | \#\s*(?P<directive>[A-Za-z]\w*)
    | (?P<word>[A-Za-z_]\w*)""",
    re.DOTALL | re.VERBOSE,
)


class Token(NamedTuple):
    """One token: ``text`` without quotes or ``#``, from ``at`` up to ``end`` in the file's text."""

    kind: TokenKind
    text: str
    at: int
    end: int


def strip(text: str, *, keep_strings: bool) -> str:
    """Give the text without comments, and without or with its strings."""
    kept: list[str] = []
    at = 0
    for kind, begin, end in _spans(text):
        kept.append(text[at:begin])
        at = end
        if kind == "open":
            kept.append(" ")
        elif kind == "text":
            kept.append(text[begin:end] if keep_strings else '""')
    kept.append(text[at:])
    return "".join(kept)


def blank_comments(text: str, *, keep_strings: bool = True) -> str:
    """Give the text with comments as spaces: every place keeps its offset and its line."""
    kept: list[str] = []
    at = 0
    for kind, begin, end in _spans(text):
        if kind == "text" and keep_strings:
            continue
        kept.append(text[at:begin])
        kept.append(_NOT_LINE_END.sub(" ", text[begin:end]))
        at = end
    kept.append(text[at:])
    return "".join(kept)


def token_at(text: str, at: int) -> Token | None:
    """Give the first token from ``at`` on of a text without comments, None at its end."""
    found = _TOKEN.search(text, at)
    return None if found is None else _token(found)


def tokens(text: str, at: int = 0, end: int | None = None) -> Iterator[Token]:
    """Give the tokens from ``at`` on, and before ``end``, of a text without comments."""
    stop = len(text) if end is None else end
    return (_token(found) for found in _TOKEN.finditer(text, at, stop))


def notable_tokens(text: str) -> Iterator[Token]:
    """Give the strings, directives and words alone, quickly: a mesh is megabytes of the others.

    The exponent of a number comes out as a word.
    """
    at = 0
    while (begin := _NOTABLE_BEGIN.search(text, at)) is not None:
        found = _NOTABLE.match(text, begin.start())
        at = begin.end() if found is None else found.end()
        if found is not None:
            yield _token(found)


class Lines:
    """Finds the 1-based line of an offset."""

    def __init__(self, text: str) -> None:
        self._ends = [match.end() for match in _LINE_END.finditer(text)]

    def at(self, offset: int) -> int:
        """Give the line that ``offset`` lies in."""
        return bisect.bisect_right(self._ends, offset) + 1


def _token(found: re.Match[str]) -> Token:
    kind = found.lastgroup
    text = found[kind or 0]
    if kind == "text":
        return Token("text", text[1:-1], found.start(), found.end())
    if kind == "directive":
        return Token("directive", text, found.start(), found.end())
    if kind == "word":
        return Token("word", text, found.start(), found.end())
    if kind == "number":
        return Token("number", text, found.start(), found.end())
    return Token("mark", text, found.start(), found.end())


def _spans(text: str) -> Iterator[tuple[str, int, int]]:
    """Give what is a comment ("line", "open") or a string ("text"), with its begin and end."""
    at = 0
    while (begin := _SPAN_BEGIN.search(text, at)) is not None:
        match = _SPAN.match(text, begin.start())
        if match is None:
            if begin[0] == '"':
                # It never ends, so POV-Ray stops here. To look behind each further quotation mark
                # for one that ends it would take a text of them for ever.
                return
            at = begin.end()
            continue
        kind = match.lastgroup or ""
        at = _comment_end(text, match.end()) if kind == "open" else match.end()
        yield kind, match.start(), at


def _comment_end(text: str, at: int) -> int:
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, at):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)
