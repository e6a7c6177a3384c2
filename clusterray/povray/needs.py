"""Finds the files that a scene needs, before anything is sent.

Every branch of every condition counts, and an identifier may have any of the values that are
assigned to it anywhere, so that the finding errs towards taking a file too many. A name of which
only parsing would tell a part becomes a pattern. Runs at the submitter; reads the scene's texts and
asks the disk what is there. What is done about files that are missing or lie outside the folder is
outside.py's business.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from clusterray.povray.lookup import WILD, Found, Lookup, image_type
from clusterray.povray.option_table import presentable
from clusterray.povray.sdl import Token, token_at
from clusterray.povray.statements import (
    Assignment,
    Kind,
    Statements,
    Use,
    behind_bracket,
    expression_words,
    read_statements,
)

MAX_TEXT_BYTES = 64 << 20
_MAX_TEXTS = 2000
_MAX_VALUES = 64
_MAX_ROUNDS = 20
_MAX_DEPTH = 20
_CASES = {"strlwr": str.lower, "strupr": str.upper}

_Place: TypeAlias = "tuple[_Source, int]"
_Values: TypeAlias = dict[str, _Place]
"""What a string may be, and where each was written."""
_Key: TypeAlias = tuple[str, str]
"""Macro and identifier; the macro is "" for what holds everywhere."""


@dataclass(frozen=True, slots=True)
class Need:
    """One file that a scene names.

    ``name`` is the name as the scene has it, with ``*`` for what is put together while parsing;
    ``file`` and ``line`` say where. ``found`` is the file POV-Ray would take, None if there is
    none. ``certain`` tells that POV-Ray will ask for it whatever happens.
    """

    name: str
    kind: Kind
    file: str
    line: int
    found: Found | None
    certain: bool
    hint: str = ""


@dataclass(slots=True)
class Needs:
    """What ``find_needs`` has found; ``texts`` are the scene's own texts, the main one first."""

    files: list[Need] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)


def find_needs(
    main: Path,
    *,
    start: Path,
    libraries: Sequence[Path] = (),
    headers: Sequence[Path] = (),
    declares: Iterable[tuple[str, str]] = (),
) -> Needs:
    """Find what the scene ``main`` needs that is rendered from the folder ``start``.

    ``libraries`` are the job's own library folders, ``headers`` what is included before the scene,
    ``declares`` the identifiers the job declares, with their values as written.
    """
    finder = _Finder(Lookup(start, libraries), start)
    for name, written in declares:
        finder.declare(name, written)
    for path in (*headers, main):
        finder.add(path, shipped=False, always=True)
    found = finder.find(main)
    found.files += [
        Need(path.name, "include", "Include_Header", 0, Found(path, path.parent, path.name), True)
        for path in headers
    ]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """One text; ``always`` tells that POV-Ray reads it whatever happens."""

    path: Path
    shown: str
    shipped: bool
    always: bool
    said: Statements


@functools.lru_cache(maxsize=64)
def _shipped_statements(path: Path) -> Statements:
    return read_statements(_read(path))


class _Finder:
    """Reads text after text until no value and no file is new; lives for one find_needs."""

    def __init__(self, lookup: Lookup, start: Path) -> None:
        self._lookup = lookup
        self._start = start
        self._sources: dict[Path, _Source] = {}
        self._values: dict[_Key, _Values] = {}
        self._numbers: dict[_Key, set[float]] = {}
        self._unreadable: set[_Key] = set()
        self._wanted: set[str] = set()
        self._asked: set[tuple[Path, int]] = set()
        self._guesses = False
        self._changed = False

    def declare(self, name: str, written: str) -> None:
        """Take an identifier the job declares."""
        if written.startswith('"'):
            text = written.strip('"')
            nowhere = _Source(self._start, "", True, False, read_statements(""))
            self._values.setdefault(("", name), {})[text] = (nowhere, 0)
        else:
            self._numbers.setdefault(("", name), set()).add(float(written))

    def add(self, path: Path, *, shipped: bool, always: bool) -> None:
        """Take a text, once, or again if it is now known to be read for certain."""
        known = self._sources.get(path)
        if known is not None and (known.always or not always):
            return
        if known is None and len(self._sources) >= _MAX_TEXTS:
            return
        if known is not None:
            said = known.said
        else:
            said = _shipped_statements(path) if shipped else read_statements(_read(path))
        self._sources[path] = _Source(path, self._shown(path), shipped, always, said)
        for macro, parameters in said.macros.items():
            for name in parameters:
                self._values.setdefault((macro, name), {})
        self._changed = True

    def find(self, main: Path) -> Needs:
        """Follow everything and give what is needed."""
        for self._guesses in (False, True):
            for _ in range(_MAX_ROUNDS):
                self._changed = False
                self._round()
                if not self._changed:
                    break
        found = Needs(texts=[main])
        found.texts += [p for p, s in self._sources.items() if not s.shipped and p != main]
        written = self._written()
        needs: dict[tuple[str, int, str, Kind], Need] = {}
        for source in self._sources.values():
            for use in source.said.uses:
                for need in self._needs(source, use, written):
                    needs.setdefault((need.file, need.line, need.name, need.kind), need)
        found.files = list(needs.values())
        return found

    # ------------------------------------------------------------ rounds

    def _round(self) -> None:
        self._unreadable = set()
        sources = list(self._sources.values())
        macros: dict[str, list[str]] = {}
        for source in sources:
            macros.update(source.said.macros)
        self._want(sources, macros)
        for source in sources:
            for assignment in source.said.assignments:
                if assignment.name in self._wanted:
                    self._assign(source, assignment)
            for name in source.said.calls.keys() & macros.keys():
                if not self._wanted.isdisjoint(macros[name]):
                    for at, scope in source.said.calls[name]:
                        self._call(source, at, scope, name, macros[name])
        for source in sources:
            for use in source.said.uses:
                if use.kind == "include":
                    self._follow(source, use)

    def _want(self, sources: Sequence[_Source], macros: Mapping[str, Sequence[str]]) -> None:
        """Collect the identifiers on which names of files depend: a scene has many others."""
        for source in sources:
            for at in (
                *(use.at for use in source.said.uses),
                *(at for at, _ in source.said.writes),
            ):
                self._ask(source, at)
        before = -1
        while before < len(self._wanted):
            before = len(self._wanted)
            for source in sources:
                for assignment in source.said.assignments:
                    if assignment.at is not None and assignment.name in self._wanted:
                        self._ask(source, assignment.at)
                for name in source.said.calls.keys() & macros.keys():
                    wanted = [i for i, word in enumerate(macros[name]) if word in self._wanted]
                    for at, _ in source.said.calls[name] if wanted else ():
                        begins = _arguments(source.said.text, at)
                        for index in wanted:
                            if index < len(begins):
                                self._ask(source, begins[index])

    def _ask(self, source: _Source, at: int) -> None:
        if (source.path, at) not in self._asked:
            self._asked.add((source.path, at))
            self._wanted |= expression_words(source.said.text, at)

    def _assign(self, source: _Source, assignment: Assignment) -> None:
        key = (assignment.scope, assignment.name)
        if assignment.at is None:
            self._unreadable.add(key)
            return
        number = _number(source.said.text, assignment.at)
        if number is not None:
            self._numbers.setdefault(key, set()).add(number)
            return
        values, _ = self._string(source, assignment.at, assignment.inside)
        if values is None:
            self._unreadable.add(key)
            return
        self._take(key, values)

    def _call(
        self, source: _Source, at: int, scope: str, macro: str, parameters: Sequence[str]
    ) -> None:
        begins = _arguments(source.said.text, at)
        for name, begin in zip(parameters, begins, strict=False):
            number = _number(source.said.text, begin)
            if number is not None:
                self._numbers.setdefault((macro, name), set()).add(number)
                continue
            values, _ = self._string(source, begin, scope)
            if values is None:
                self._unreadable.add((macro, name))
            else:
                self._take((macro, name), values)

    def _take(self, key: _Key, values: _Values) -> None:
        known = self._values.setdefault(key, {})
        for value, place in values.items():
            if value in known:
                continue
            self._changed = True
            if len(known) >= _MAX_VALUES:
                known[WILD] = place
                return
            known[value] = place

    def _follow(self, source: _Source, use: Use) -> None:
        names = self._names(source, use)
        for name in names:
            always = source.always and use.always and len(names) == 1 and WILD not in name
            for found in self._look(name, "include"):
                if found.path.is_file():
                    self.add(found.path, shipped=found.shipped, always=always)

    # ------------------------------------------------------------ what it comes to

    def _names(self, source: _Source, use: Use) -> _Values:
        """Give the names a use may mean; none if no name stands there."""
        values, _ = self._string(source, use.at, use.scope)
        if values is not None:
            return values
        first = token_at(source.said.text, use.at)
        if first is None or first.kind != "word" or use.kind in ("image", "height field"):
            # An image may also be a function or a pigment.
            return {}
        return {WILD: (source, use.at)} if self._guesses else {}

    def _look(self, name: str, kind: str) -> list[Found]:
        if WILD in name:
            return self._lookup.find_all(name, kind)
        found = self._lookup.find(name, kind)
        return [] if found is None else [found]

    def _written(self) -> set[str]:
        """Give the names of files that the scene writes itself."""
        names: set[str] = set()
        for source in self._sources.values():
            for at, scope in source.said.writes:
                values, _ = self._string(source, at, scope)
                names.update(values or ())
        return names

    def _needs(self, source: _Source, use: Use, written: set[str]) -> Iterator[Need]:
        names = self._names(source, use)
        for name, value_place in names.items():
            if not name or name.lower() in ("stdin", "stdout", "stderr"):
                continue
            place = value_place if source.shipped else (source, use.at)
            always = source.always and use.always and len(names) == 1
            for need in self._need(name, use, place, always):
                # The scene makes the file itself, but may find one that is there.
                if need.found is not None or name not in written:
                    yield need

    def _need(self, name: str, use: Use, place: _Place, always: bool) -> Iterator[Need]:
        look_for = use.kind
        if look_for in ("image", "height field"):
            lookup_kind = use.image_type or image_type(name)
        else:
            lookup_kind = "data" if look_for == "question" else look_for
        file, line = place[0].shown, place[0].said.lines.at(place[1])
        found = self._look(name, lookup_kind)
        shown = _shown_name(name)
        for one in found:
            whole = shown if WILD not in name else _shown_name(one.name)
            yield Need(whole, use.kind, file, line, one, always and WILD not in name)
        # What POV-Ray's own files name and nobody gave them is not the scene's fault.
        if found or use.kind == "question" or place[0].shipped:
            return
        certain = always and WILD not in name and name.isascii()
        yield Need(shown, use.kind, file, line, None, certain, self._hint(name))

    def _hint(self, name: str) -> str:
        if WILD in name:
            return ""
        if not name.isascii():
            return "POV-Ray 3.7 opens no file whose name has letters beyond ASCII; rename it"
        if "\\" in name:
            return "the machines that render want / between folders"
        other = self._lookup.near_misses(name)
        return f"there is {other}, and capital letters count there" if other else ""

    def _shown(self, path: Path) -> str:
        try:
            return presentable(path.relative_to(self._start).as_posix())
        except ValueError:
            return presentable(str(path))

    # ------------------------------------------------------------ string expressions

    def _string(
        self, source: _Source, at: int, scope: str, depth: int = 0
    ) -> tuple[_Values | None, int]:
        """Give what the string expression at ``at`` may be and its end; None if it is none."""
        text = source.said.text
        first = token_at(text, at)
        if first is None or depth > _MAX_DEPTH:
            return None, at
        if first.kind == "text":
            return {first.text: (source, first.at)}, first.end
        if first.kind != "word":
            return None, first.end
        after = token_at(text, first.end)
        if first.text == "array":
            return self._array(source, first, scope, depth)
        if after is not None and after.text == "(":
            return self._function(source, first, after, scope, depth)
        end = first.end
        while after is not None and after.text == "[":
            end = behind_bracket(text, after)
            after = token_at(text, end)
        return self._identifier(source, first, scope), end

    def _function(
        self, source: _Source, name: Token, opening: Token, scope: str, depth: int
    ) -> tuple[_Values | None, int]:
        text = source.said.text
        end = behind_bracket(text, opening)
        place = (source, name.at)
        if name.text == "concat":
            parts = [
                self._string(source, begin, scope, depth + 1)[0] or {WILD: place}
                for begin in _arguments(text, opening.end)
            ]
            return _joined(parts, place), end
        if name.text in _CASES:
            values, _ = self._string(source, opening.end, scope, depth + 1)
            change = _CASES[name.text]
            return {change(v): place for v, place in (values or {WILD: place}).items()}, end
        if name.text == "str":
            return {self._number_text(source, opening.end, scope): place}, end
        if name.text in ("substr", "chr", "vstr", "datetime"):
            return {WILD: place}, end
        return None, end

    def _array(
        self, source: _Source, first: Token, scope: str, depth: int
    ) -> tuple[_Values | None, int]:
        text = source.said.text
        at = first.end
        while (token := token_at(text, at)) is not None and token.text == "[":
            at = behind_bracket(text, token)
        if token is None or token.text != "{":
            return {}, at
        end = behind_bracket(text, token)
        found: _Values = {}
        at = token.end
        while (token := token_at(text, at)) is not None and token.end < end:
            at = token.end
            if token.kind in ("text", "word"):
                values, at = self._string(source, token.at, scope, depth + 1)
                found.update(values or {})
            if len(found) > _MAX_VALUES:
                return {WILD: (source, first.at)}, end
        return found or None, end

    def _identifier(self, source: _Source, name: Token, scope: str) -> _Values | None:
        own = [(scope, name.text), ("", name.text)]
        keys = [key for key in own if key in self._values or key in self._unreadable][:1]
        # A macro sees what is local to the macro that calls it.
        keys = keys or [key for key in self._values if key[1] == name.text]
        if not keys:
            return None
        found: _Values = {}
        for each in keys:
            found.update(self._values.get(each, {}))
            if self._guesses and each in self._unreadable:
                found.setdefault(WILD, (source, name.at))
        return found

    def _number_text(self, source: _Source, at: int, scope: str) -> str:
        """Give what ``str(value, length, digits)`` comes to, WILD if that cannot be read."""
        numbers = [
            self._constant(source, begin, scope) for begin in _arguments(source.said.text, at)
        ]
        if len(numbers) != 3 or None in numbers:
            return WILD
        value, length, digits = (number or 0.0 for number in numbers)
        width = min(abs(int(length)), 64)
        places = 6 if digits < 0 else min(int(digits), 32)
        return f"{value:{'0' if length < 0 else ''}{width or ''}.{places}f}"

    def _constant(self, source: _Source, at: int, scope: str) -> float | None:
        number = _number(source.said.text, at)
        if number is not None:
            return number
        first = token_at(source.said.text, at)
        if first is None or first.kind != "word":
            return None
        after = token_at(source.said.text, first.end)
        if after is None or after.text not in (",", ")"):
            return None
        key = (scope, first.text) if (scope, first.text) in self._numbers else ("", first.text)
        known = self._numbers.get(key, set())
        return next(iter(known)) if len(known) == 1 and key not in self._unreadable else None


def _joined(parts: Sequence[_Values], place: _Place) -> _Values:
    count = 1
    for part in parts:
        count *= max(1, len(part))
    if count > _MAX_VALUES:
        return {WILD: place}
    return {"".join(words): place for words in itertools.product(*parts)}


def _arguments(text: str, at: int) -> list[int]:
    """Give where each argument begins, ``at`` being behind the opening bracket."""
    begins = [at]
    while (token := token_at(text, at)) is not None:
        at = token.end
        if token.kind == "mark":
            if token.text in "([{":
                at = behind_bracket(text, token)
            elif token.text in ")]}":
                break
            elif token.text == ",":
                begins.append(at)
        if len(begins) > _MAX_VALUES:
            break
    return begins


def _number(text: str, at: int) -> float | None:
    """Give the number at ``at`` if nothing is reckoned with it."""
    token = token_at(text, at)
    sign = 1.0
    if token is not None and token.text == "-":
        sign, token = -1.0, token_at(text, token.end)
    if token is None or token.kind != "number":
        return None
    after = token_at(text, token.end)
    alone = after is None or after.text in (";", ",", ")") or after.kind == "directive"
    return sign * float(token.text) if alone else None


def _shown_name(name: str) -> str:
    """Give a name for a person: its bytes are perhaps UTF-8, though they were read as Latin-1."""
    name = name.replace(WILD, "*")
    with contextlib.suppress(UnicodeError):
        name = name.encode("latin-1").decode()
    return presentable(name)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_TEXT_BYTES).decode("latin-1")
    except OSError:
        return ""
