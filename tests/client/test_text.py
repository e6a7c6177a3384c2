"""Nothing that steers a terminal gets through, and numbers read well."""

from __future__ import annotations

import pytest

from clusterray.client.text import (
    count_of,
    duration_text,
    plain,
    plain_lines,
    rate_text,
    size_text,
)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;new title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        ("a\x00b\x08c\x7fd", "abcd"),
        ("two\nlines\r\n", "two lines"),
        ("right\u202eleft", "rightleft"),
        ("bad\udcffbyte", "badbyte"),
        ("Räume, 部屋 🙂", "Räume, 部屋 🙂"),
    ],
)
def test_plain(raw: str, clean: str) -> None:
    assert plain(raw) == clean


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_no_control_character_survives(code: int) -> None:
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in plain(f"x{chr(code)}y"))


def test_plain_lines_keep_their_shape() -> None:
    assert plain_lines("  File 'a'\r\n\tline\x1b[1m 2\x1b[m \rlast") == [
        "  File 'a'",
        "    line 2",
        "last",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (-1, "0.0 s"),
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (512, "512 B"), (1500, "1.5 kB"), (123_456_789, "123 MB"), (3e12, "3.0 TB")],
)
def test_sizes(size: float, text: str) -> None:
    assert size_text(size) == text


def test_rates_and_counts() -> None:
    assert [rate_text(n) for n in (950, 12_300, 4.1e6, 5e9)] == [
        "950 px/s",
        "12.3 kpx/s",
        "4.1 Mpx/s",
        "5 Gpx/s",
    ]
    assert [count_of(n, "node") for n in (0, 1, 1200)] == ["no nodes", "1 node", "1,200 nodes"]
