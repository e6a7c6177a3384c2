"""When a band's finished blocks are given away, and that nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterray.core.model import Rect
from clusterray.images.glimpse import read_glimpse
from clusterray.node import live
from clusterray.node.live import EVERY_S, MOST_S, LiveBlocks
from clusterray.povray.live import SmallCanvas
from clusterray.povray.state_file import HEADER_BYTES
from tests.povray.test_state_file import HEIGHT, WHOLE, WIDTH, Bench, pytestmark

__all__ = ["pytestmark"]


class Watched:
    """A LiveBlocks whose clock is the test's, and what it gave away."""

    def __init__(self, state: Path) -> None:
        self.now = 0.0
        self.given: list[tuple[Rect, bytes]] = []
        canvas = SmallCanvas(WHOLE, (WIDTH, HEIGHT), 2, 1.0)
        self.live = LiveBlocks(
            state, canvas, 1 << 16, lambda *seen: self.given.append(seen), lambda: self.now
        )

    def look(self, after_s: float) -> int:
        """Look, and tell how often something was given away so far."""
        self.now += after_s
        self.live.look()
        return len(self.given)


def test_new_blocks_are_given_away_once_a_second_at_most(tmp_path: Path) -> None:
    rendered = Bench(tmp_path, ("-A",)).fresh()
    whole = rendered.state.read_bytes()
    state = tmp_path / "growing"
    watched = Watched(state)
    assert watched.look(10.0) == 0, "there is no file yet"
    first = HEADER_BYTES + len(rendered.blocks[0].record)
    state.write_bytes(whole[: first + 100])
    assert watched.look(MOST_S) == 1
    assert watched.given[0][0] == rendered.blocks[0].rect
    state.write_bytes(whole)
    assert watched.look(0.9 * EVERY_S) == 1
    assert watched.look(MOST_S) == 2
    assert watched.look(MOST_S) == 2, "nothing is new"
    assert read_glimpse(watched.given[0][1]).size == (16, 16)


def test_what_is_too_much_for_one_time_waits_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "DRAW_S", 0.0)
    rendered = Bench(tmp_path, ("-A",)).fresh()
    watched = Watched(rendered.state)
    for number in range(1, len(rendered.blocks) + 1):
        assert watched.look(MOST_S) == number
    assert {rect for rect, _ in watched.given} == {block.rect for block in rendered.blocks}


def test_a_file_that_is_no_state_file_harms_nobody(tmp_path: Path) -> None:
    state = tmp_path / "other"
    state.write_bytes(b"x" * 4096)
    assert Watched(state).look(MOST_S) == 0
