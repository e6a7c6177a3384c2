"""Reads POV-Ray's INI files and command-line words into items, in POV-Ray's own grammar.

Says what stands there and where, not what it means: meaning is options.py's business. Pure: takes
text, gives items. Source of the grammar: POV-Ray, source/frontend/processoptions.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from clusterray.core.errors import ClusterRayError, SceneFault, UsageFault
from clusterray.povray.option_table import OPTIONS, find_option, nearest, presentable


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written; ``str()`` is what a person is shown as its source.

    ``words`` names a source without a file ("command line", "--width", "Debian's default");
    otherwise ``file`` and its 1-based ``line``.
    """

    words: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        if self.words:
            return self.words
        return f"{self.file} line {self.line}" if self.line else self.file

    @property
    def is_file(self) -> bool:
        """Whether it was written in a file of the person's."""
        return bool(self.file)

    def fault(self, message: str) -> ClusterRayError:
        """Give the error for something wrong here: a SceneFault of a file, else a UsageFault."""
        message = presentable(message)
        if self.is_file:
            return SceneFault(message, file=self.file, line=self.line or None)
        return UsageFault(message)


COMMAND_LINE = Origin(words="command line")
DEBIAN = Origin(words="Debian's default")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was written.

    ``option``: ``Name=Value``, in ``name`` and ``value``. ``switch``: ``+Key`` or ``-Key``, in
    ``sign`` and ``name``, with a directly following quoted text in ``value``. ``plain``: any other
    word, in ``name``: a scene, an INI file or a library folder.
    """

    kind: Literal["option", "switch", "plain"]
    origin: Origin
    name: str
    value: str | None = None
    sign: str = ""

    def __str__(self) -> str:
        if self.kind == "option":
            return f"{self.name}={self.value}"
        quoted = "" if self.value is None else f'"{self.value}"'
        return f"{self.sign}{self.name}{quoted}"


# Sets, not strings: the empty string, which stands for the end of the text, is in every string.
_SPACE = frozenset(" \t")
_NEWLINE = frozenset("\r\n")
_QUOTES = frozenset("\"'")
_COMMENT = frozenset(";#")
_WORD_END = frozenset(" \t\r\n\v\f,;#\"'")
_NAME_END = _WORD_END | frozenset("[]=")
_AFTER_SPACE = re.compile(
    r"""[ \t]*
    (?: (?P<stop>[;#,\r\n]|\Z) | (?P<switch>[+-][A-Za-z]) | (?P<word>[^\s,;#"'\[\]=]*) )""",
    re.VERBOSE,
)
_SWITCH_STOPS = frozenset("[]=,")
_MAX_VALUE = 65535


def decode(data: bytes) -> str:
    """Give the text of an INI or configuration file: UTF-8, else Latin-1."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_ini(text: str, file: str, section: str | None = None) -> Iterator[Item]:
    """Give the items of an INI file: those before any section, and those of ``section``.

    ``file`` is the name for messages. Raises SceneFault with file and line; also if there is no
    such section, which POV-Ray would pass over in silence.
    """
    return _IniReader(text, file, section).items()


def read_words(text: str, origin: Origin) -> Iterator[Item]:
    """Give the items of a line of options as one would type it, quotes and all."""
    for word in _split_words(text, origin):
        yield _word_item(word, origin)


def read_word(word: str, origin: Origin) -> Iterator[Item]:
    """Give the items of one word from a command line, whose quotes the shell has taken.

    A space inside belongs to a path; elsewhere it parts options, as POV-Ray has it.
    """
    item = _word_item(word, origin)
    if any(char in word for char in " \t") and not _takes_spaces(item):
        yield from read_words(word, origin)
        return
    yield item


def split_section(spec: str) -> tuple[str, str | None]:
    """Part ``scene.ini[low]`` into the file and the section, None if none is named."""
    found = re.fullmatch(r"(.*?)\[([^\[\]]*)\]", spec, re.DOTALL)
    return (found[1], found[2]) if found else (spec, None)


class _IniReader:
    def __init__(self, text: str, file: str, section: str | None) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted_to = 0
        self._file = file
        self._section = None if section is None else section.strip().lower()
        self._asked = section

    def items(self) -> Iterator[Item]:
        active = True
        seen: list[str] = []
        while (char := self._skip_blank()) is not None:
            if char == "[":
                name = self._section_name()
                seen.append(name)
                active = name.lower() == self._section
            elif not active or char in _COMMENT:
                self._skip_line()
            elif char in "+-":
                yield self._switch()
            else:
                yield from self._option_or_plain()
        if self._section is not None and self._section not in (name.lower() for name in seen):
            there = f"there are: {', '.join(seen)}" if seen else "it has no sections"
            raise SceneFault(f"no section [{self._asked}]; {there}", file=self._file)

    def _section_name(self) -> str:
        origin = self._origin()
        end = self._text.find("]", self._at)
        if end < 0:
            raise origin.fault("a section name has no closing bracket ]")
        name = self._text[self._at + 1 : end].strip()
        self._at = end + 1
        return name

    def _switch(self) -> Item:
        origin = self._origin()
        sign = self._text[self._at]
        self._at += 1
        key = self._take_until(_NAME_END)
        quoted = self._quoted() if self._peek() in _QUOTES else None
        # What ends a key without being blank, as in +A=0.3, would be read for ever.
        if quoted is None and self._peek() in _SWITCH_STOPS:
            rest = self._take_until(_NEWLINE)
            raise origin.fault(f"{sign}{key}{rest} is not a POV-Ray switch")
        return Item("switch", origin, key, quoted, sign)

    def _option_or_plain(self) -> Iterator[Item]:
        origin = self._origin()
        begin = self._at
        if self._peek() in _QUOTES:
            yield Item("plain", origin, self._quoted())
            return
        name = self._take_until(_NAME_END)
        self._skip_space()
        if self._peek() == "=":
            if find_option(name) is None:
                raise origin.fault(unknown_option(name))
            self._at += 1
            yield from self._values(name, origin)
            self._skip_line()
            return
        if find_option(name) is not None:
            raise origin.fault(f"{name} has no value; write {name}=...")
        self._at = begin
        word = self._value()
        if not word:
            raise origin.fault(f"{self._text[begin]!r} is not a POV-Ray option")
        yield Item("plain", origin, word)

    def _values(self, name: str, origin: Origin) -> Iterator[Item]:
        """Give an item for each of the values, which commas part."""
        self._skip_space()
        if name.lower().endswith("_command"):
            # Shell-outs hold quotes and commas of their own.
            yield Item("option", origin, name, self._take_until(_NEWLINE | _COMMENT).strip())
            return
        while True:
            yield Item("option", origin, name, self._value())
            self._skip_space()
            if self._peek() != ",":
                return
            self._at += 1
            self._skip_space()

    def _value(self) -> str:
        if self._peek() in _QUOTES:
            return self._quoted()
        value = self._take_until(_WORD_END)
        if self._peek() in _SPACE and self._goes_on():
            value += self._take_until(_NEWLINE | _COMMENT)
        return value.rstrip()

    def _goes_on(self) -> bool:
        """Tell whether the text after a space still belongs to an unquoted value.

        POV-Ray's rule: it does unless a comment, a list, a switch or an option's name follows.
        """
        found = _AFTER_SPACE.match(self._text, self._at)
        assert found is not None
        if found["stop"] is not None or found["switch"] is not None:
            return False
        return find_option(found["word"]) is None

    def _quoted(self) -> str:
        origin = self._origin()
        quote = self._text[self._at]
        end = self._text.find(quote, self._at + 1)
        value = self._text[self._at + 1 : end]
        if end < 0 or any(char in value for char in _NEWLINE):
            raise origin.fault(f"a quoted text has no closing {quote}")
        self._at = end + 1
        return value

    def _take_until(self, ends: frozenset[str]) -> str:
        begin = self._at
        while self._at < len(self._text) and self._text[self._at] not in ends:
            self._at += 1
        if self._at - begin > _MAX_VALUE:
            raise self._origin().fault(f"a value is longer than {_MAX_VALUE} characters")
        return self._text[begin : self._at]

    def _skip_blank(self) -> str | None:
        """Go to the next character that means something and give it, None at the end."""
        while self._at < len(self._text):
            char = self._text[self._at]
            # \x1a ends DOS files.
            if not char.isspace() and char not in "\x00\x1a":
                return char
            self._at += 1
        return None

    def _skip_space(self) -> None:
        while self._peek() in _SPACE:
            self._at += 1

    def _skip_line(self) -> None:
        while self._peek() and self._peek() not in _NEWLINE:
            self._at += 1

    def _peek(self) -> str:
        """Give the character here, "" at the end."""
        return self._text[self._at] if self._at < len(self._text) else ""

    def _origin(self) -> Origin:
        passed = self._text[self._counted_to : self._at]
        self._line += passed.count("\n") + passed.count("\r") - passed.count("\r\n")
        self._counted_to = self._at
        return Origin(file=self._file, line=self._line)


def unknown_option(name: str) -> str:
    """Give the sentence for a name that no option has."""
    if not name:
        return "before = must stand the name of an option"
    near = nearest(name, (option.name for option in OPTIONS))
    hint = f"; did you mean {near}?" if near else ""
    return f"POV-Ray has no option {name}{hint}"


def _split_words(text: str, origin: Origin) -> list[str]:
    """Part a line at blanks outside quotes; quotes stay."""
    words: list[str] = []
    current = ""
    quote = ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in _QUOTES:
            quote = char
        elif char.isspace():
            if current:
                words.append(current)
            current = ""
            continue
        current += char
    if quote:
        raise origin.fault(f"a quoted text has no closing {quote}: {text.strip()}")
    return [*words, current] if current else words


def _word_item(word: str, origin: Origin) -> Item:
    if word[:1] in ("+", "-") and word[1:]:
        found = re.fullmatch(r"([^\"']*)([\"'])(.*)\2", word[1:], re.DOTALL)
        if found:
            return Item("switch", origin, found[1], found[3], word[0])
        return Item("switch", origin, word[1:], None, word[0])
    name, equals, value = word.partition("=")
    if equals and re.fullmatch(r"[A-Za-z_0-9]+", name):
        return Item("option", origin, name, _unquoted(value))
    return Item("plain", origin, _unquoted(word))


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in _QUOTES:
        return text[1:-1]
    return text


_SPACED = {"input_file_name", "output_file_name", "library_path", "include_header", "declare"}


def _takes_spaces(item: Item) -> bool:
    """Tell whether a blank inside this word can only be part of a path or text."""
    if item.kind == "option":
        return item.name.lower() in _SPACED
    if item.kind == "switch":
        if item.value is not None:
            return True
        upper = item.name.upper()
        return upper.startswith(("L", "I", "O", "HI"))
    return True
