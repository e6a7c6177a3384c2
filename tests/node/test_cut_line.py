"""What a node agrees to keep: never less than it has begun, always what the head may cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterray.core.bands import may_cut, row_step
from clusterray.core.model import Rect
from clusterray.node.cut_line import CutLine
from clusterray.povray.spec import RenderSpec
from tests.node.doubles import SPHERES, make_scene

WHOLE = Rect(0, 0, 96, 320)
"""Ten rows of three blocks."""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RenderSpec:
    return make_scene(tmp_path_factory.mktemp("scene"), SPHERES, width=96, height=320).spec


def told(line: CutLine, keep: Rect) -> Rect:
    heard: list[Rect] = []
    line.cut(keep, heard.append)
    (agreed,) = heard
    assert agreed == line.rect
    return agreed


@pytest.mark.parametrize(
    ("begun", "asked", "kept"),
    [(0, 32, 32), (3, 32, 32), (4, 32, 64), (7, 96, 96), (12, 96, 128), (28, 32, 320)],
)
def test_rows_that_have_begun_are_kept(spec: RenderSpec, begun: int, asked: int, kept: int) -> None:
    line = CutLine(WHOLE, spec)
    line.begins(lambda: begun)
    assert told(line, Rect(0, 0, 96, asked)) == Rect(0, 0, 96, kept)


@pytest.mark.parametrize(("begun", "asked", "kept"), [(1, 32, 32), (2, 32, 64), (3, 32, 96)])
def test_in_a_single_row_of_blocks_columns_are(
    spec: RenderSpec, begun: int, asked: int, kept: int
) -> None:
    line = CutLine(Rect(0, 32, 96, 64), spec)
    line.begins(lambda: begun)
    assert told(line, Rect(0, 32, asked, 64)) == Rect(0, 32, kept, 64)


def test_it_is_cut_again_and_again_until_it_is_closed(spec: RenderSpec) -> None:
    line = CutLine(WHOLE, spec)
    assert told(line, Rect(0, 0, 96, 256)).y1 == 256
    assert told(line, Rect(0, 0, 96, 128)).y1 == 128
    assert line.close() == Rect(0, 0, 96, 128)
    assert told(line, Rect(0, 0, 96, 64)).y1 == 128


@pytest.mark.parametrize(
    "keep", [Rect(0, 32, 96, 64), Rect(0, 0, 32, 320), Rect(0, 0, 64, 64), Rect(0, 0, 96, 320)]
)
def test_what_is_no_cut_changes_nothing(spec: RenderSpec, keep: Rect) -> None:
    assert told(CutLine(WHOLE, spec), keep) == WHOLE


@given(
    st.integers(0, 40),
    st.integers(1, 19),
    st.integers(4, 100),
    st.booleans(),
)
def test_the_head_may_cut_where_the_node_says(
    tmp_path_factory: pytest.TempPathFactory, begun: int, step: int, block: int, smooth: bool
) -> None:
    """Also where the blocks are not those of 32 pixels, and the pixels do not depend on them."""
    options = (("Antialias", smooth), ("Render_Block_Size", block))
    spec = replace(_spec(tmp_path_factory), options=options, width=96, height=320)
    line = CutLine(WHOLE, spec)
    line.begins(lambda: begun)
    lines = row_step(spec.picture())
    if step * lines >= WHOLE.height:
        return
    kept = told(line, Rect(0, 0, 96, step * lines))
    assert kept == WHOLE or may_cut(WHOLE, kept, lines)


_MADE: list[RenderSpec] = []


def _spec(folders: pytest.TempPathFactory) -> RenderSpec:
    if not _MADE:
        folder: Path = folders.mktemp("scene")
        _MADE.append(make_scene(folder, SPHERES, width=96, height=320).spec)
    return _MADE[0]
