"""How far two classes are apart, and how that is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clusterray.core.likeness import Difference, are_close, difference, difference_in_words
from clusterray.core.model import PovrayClass
from tests.core.world import povray

DEBIAN = replace(povray("3.7.0.10", *[50] * 12), includes="ab")


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ([0, 0, 0], [0, 0, 0], Difference(0, 0)),
        ([0, 0, 0], [0, 255, 0], Difference(1, 255)),
        ([5, 5, 5, 9, 9, 9], [4, 5, 6, 9, 9, 7], Difference(2, 2)),
        ([1] * 9, [1] * 6 + [2, 2, 2], Difference(1, 1)),
    ],
)
def test_differences_are_counted_by_pixel_and_measured_by_channel(
    one: list[int], other: list[int], found: Difference
) -> None:
    assert difference(bytes(one), bytes(other)) == found
    assert difference(bytes(other), bytes(one)) == found


def test_what_cannot_be_compared_is_not_close() -> None:
    assert difference(b"", b"") is None
    assert difference(bytes(3), bytes(6)) is None
    assert not are_close(PovrayClass("a"), PovrayClass("b"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"version": "3.7.0.8"}, "other POV-Ray 3.7.0.8"),
        ({"build": "clang"}, "other build of POV-Ray: clang"),
        ({"includes": "cd"}, "other include files"),
        ({"includes": ""}, ""),
        (
            {"canary": "x", "pixels": bytes([50] * 9 + [50, 53, 51])},
            "canary differs by up to 3/255 in 1 pixel",
        ),
        (
            {"version": "4", "canary": "x", "pixels": bytes([51] * 12), "includes": "cd"},
            "other POV-Ray 4, canary differs by up to 1/255 in 4 pixels, other include files",
        ),
        ({"canary": "", "pixels": b""}, "no canary to compare"),
    ],
)
def test_a_person_is_told_how(changes: dict[str, object], words: str) -> None:
    other = replace(DEBIAN, **changes)  # type: ignore[arg-type]
    assert difference_in_words(other, DEBIAN) == words
    assert (other == DEBIAN) is (not changes)
