from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterray.core.errors import SceneFault, UsageFault
from clusterray.povray.ini import (
    COMMAND_LINE,
    decode,
    read_ini,
    read_word,
    read_words,
    split_section,
)


def items(text: str, section: str | None = None) -> list[tuple[str, int]]:
    return [(str(item), item.origin.line) for item in read_ini(text, "a.ini", section)]


def test_options_comments_and_line_numbers() -> None:
    text = '; comment\n\nWidth=640 ; behind\nheight = 480\n# more\nLibrary_Path = "my dir"\n'
    assert items(text) == [("Width=640", 3), ("height=480", 4), ("Library_Path=my dir", 6)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_counts_lines(end: str) -> None:
    assert items(end.join(["Width=1", "", "Height=2"])) == [("Width=1", 1), ("Height=2", 3)]


def test_a_line_of_switches() -> None:
    assert items('+W640 +H480 -J\n+L"my dir" +A0.3') == [
        ("+W640", 1),
        ("+H480", 1),
        ("-J", 1),
        ('+L"my dir"', 2),
        ("+A0.3", 2),
    ]


def test_only_one_option_a_line_as_in_povray() -> None:
    assert items("Width=640 +A0.3\nHeight=2") == [("Width=640", 1), ("Height=2", 2)]


def test_an_unquoted_value_goes_on_over_spaces_unless_an_option_follows() -> None:
    assert items("Input_File_Name=my room.pov ; x") == [("Input_File_Name=my room.pov", 1)]
    assert items("Width=640 Height=3") == [("Width=640", 1)]


def test_lists_of_values() -> None:
    assert items("Declare=X=5, Y=6") == [("Declare=X=5", 1), ("Declare=Y=6", 1)]


def test_plain_words() -> None:
    assert items('room.pov\n"my room.pov"\nother.ini\ninc/') == [
        ("room.pov", 1),
        ("my room.pov", 2),
        ("other.ini", 3),
        ("inc/", 4),
    ]


def test_sections() -> None:
    text = "Width=1\n[Low]\nWidth=2\n[high res]\nWidth=3\n[low]\nHeight=4\n"
    assert items(text) == [("Width=1", 1)]
    assert items(text, "LOW") == [("Width=1", 1), ("Width=2", 3), ("Height=4", 7)]
    assert items(text, "high res") == [("Width=1", 1), ("Width=3", 5)]


def test_a_missing_section_names_those_there_are() -> None:
    with pytest.raises(SceneFault, match=r"a\.ini: no section \[mid\]; there are: low, high"):
        items("[low]\n[high]\n", "mid")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Width=1\nHieght=2", "a.ini:2: POV-Ray has no option Hieght; did you mean Height"),
        ("\n\nWidth", "a.ini:3: Width has no value"),
        ("Title='abc\n", "a.ini:1: POV-Ray has no option Title"),
        ('Input_File_Name="abc\nWidth=3"', 'a.ini:1: a quoted text has no closing "'),
        ("[low\n", "a.ini:1: a section name has no closing bracket"),
        ("+A=0.3", "a.ini:1: .A=0.3 is not a POV-Ray switch"),
        ("\n=3", "a.ini:2"),
        ("\n,", "a.ini:2"),
    ],
)
def test_faults_name_file_and_line(text: str, message: str) -> None:
    with pytest.raises(SceneFault, match=message):
        items(text)


@given(st.text("+-=AaWidth0123 \t\r\n,;#\"'[].pov/\x1a\x00é", max_size=60))
def test_any_text_gives_items_or_a_fault(text: str) -> None:
    with contextlib.suppress(SceneFault):
        for item in read_ini(text, "a.ini"):
            assert 1 <= item.origin.line <= text.count("\n") + text.count("\r") + 1
    with contextlib.suppress(UsageFault):
        list(read_word(text, COMMAND_LINE))


def test_a_long_list_on_one_line_is_read_in_one_go() -> None:
    assert len(items("Declare=a=1" + " , a=1" * 50_000)) == 50_001


def test_shell_outs_are_taken_as_they_stand() -> None:
    assert items("Pre_Scene_Command=echo 'a', \"b c\" ; no\nWidth=2") == [
        ("Pre_Scene_Command=echo 'a', \"b c\"", 1),
        ("Width=2", 2),
    ]


def test_text_is_utf8_or_else_latin1() -> None:
    assert decode("é".encode()) == "é"
    assert decode(b"\xef\xbb\xbfWidth=1") == "Width=1"
    assert decode("é".encode("latin-1")) == "é"


def test_words_keep_quoted_spaces() -> None:
    found = [str(item) for item in read_words("+L\"my dir\"  Declare=x=1 'a b.pov'", COMMAND_LINE)]
    assert found == ['+L"my dir"', "Declare=x=1", "a b.pov"]
    with pytest.raises(UsageFault, match="no closing"):
        list(read_words('+L"my dir', COMMAND_LINE))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("+Lmy dir", ["+Lmy dir"]),
        ('+L"my dir"', ['+L"my dir"']),
        ("Library_Path=my dir", ["Library_Path=my dir"]),
        ("+W640 +H480", ["+W640", "+H480"]),
        ("my room.pov", ["my room.pov"]),
        ("Width=640", ["Width=640"]),
    ],
)
def test_one_word_of_a_command_line(word: str, expected: list[str]) -> None:
    assert [str(item) for item in read_word(word, COMMAND_LINE)] == expected


def test_sections_in_names() -> None:
    assert split_section("a/scene.ini[low]") == ("a/scene.ini", "low")
    assert split_section("a/scene.ini") == ("a/scene.ini", None)
