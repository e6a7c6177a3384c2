from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterray.povray.sdl import Lines, blank_comments, notable_tokens, strip, token_at, tokens

# Pieces of the language, put together in any order, and any text at all.
PIECES = st.lists(
    st.sampled_from(
        ["//", "/*", "*/", '"', "\\", "\n", "\r", "\r\n", "a", "#", "#include", "0.5e-3", " ", "{é"]
    ),
    max_size=30,
).map("".join)
TEXTS = PIECES | st.text(max_size=60)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("a // b\nc", "a     \nc"),
        ("a // b\rc", "a     \rc"),
        ("a /* b\r\n/* c */ d */ e", "a     \r\n" + " " * 13 + "e"),
        ('"// no" // yes', '"// no"       '),
        ('"/*" a "*/"', '"/*" a "*/"'),
        ('"a\\"//b" c // d', '"a\\"//b" c     '),
        ("a /* never closed", "a                "),
        ("*/ a", "*/ a"),
        ("a /", "a /"),
    ],
)
def test_comments_become_spaces(text: str, bare: str) -> None:
    assert blank_comments(text) == bare


@given(TEXTS)
def test_no_comment_moves_anything(text: str) -> None:
    bare = blank_comments(text)
    assert len(bare) == len(text)
    assert [c for c in bare if c in "\r\n"] == [c for c in text if c in "\r\n"]
    assert blank_comments(bare) == bare
    assert all(new in (old, " ") for old, new in zip(text, bare, strict=True))


@given(TEXTS)
def test_stripping_leaves_the_same_tokens(text: str) -> None:
    kept = [(t.kind, t.text) for t in tokens(strip(text, keep_strings=True))]
    bare = [(t.kind, t.text) for t in tokens(blank_comments(text))]
    # A comment that is cut out may join what stood on both its sides, as // does at an end.
    if "//" not in text:
        assert kept == bare


@given(TEXTS)
def test_tokens_are_what_stands_there(text: str) -> None:
    end = 0
    for token in tokens(text):
        assert not text[end : token.at].strip()
        assert token.text in text[token.at : token.end]
        assert token_at(text, token.at) == token
        end = token.end
    assert not text[end:].strip()


@given(TEXTS)
def test_notable_tokens_are_the_strings_directives_and_words(text: str) -> None:
    # The exponent of a number is a word here; without digits the two agree.
    text = "".join(c for c in text if not c.isdigit())
    notable = [t for t in tokens(text) if t.kind in ("text", "directive", "word")]
    assert [t for t in notable_tokens(text) if t.kind != "mark"] == notable


@given(TEXTS)
def test_lines_are_those_of_an_editor(text: str) -> None:
    lines = Lines(text)
    for at in range(len(text)):
        before = text[:at].replace("\r\n", "\n").replace("\r", "\n")
        inside_pair = text[at - 1 : at + 1] == "\r\n"
        assert lines.at(at) == before.count("\n") + 1 - inside_pair


def test_kinds_of_tokens() -> None:
    found = [(t.kind, t.text) for t in tokens('# declare X_1 = concat("a\\"b", -1.5e3);')]
    assert found == [
        ("directive", "declare"),
        ("word", "X_1"),
        ("mark", "="),
        ("word", "concat"),
        ("mark", "("),
        ("text", 'a\\"b'),
        ("mark", ","),
        ("mark", "-"),
        ("number", "1.5e3"),
        ("mark", ")"),
        ("mark", ";"),
    ]
