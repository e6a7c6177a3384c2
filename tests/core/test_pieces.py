"""A band that would last for hours is rendered in pieces, so that a node that dies takes little
along.
"""

from __future__ import annotations

from clusterray.core.model import AttemptId, Rect
from clusterray.core.pieces import MORE, PARSES, PIECE_BLOCKS, PIECE_S
from clusterray.core.states import JobState
from tests.core.world import World, picture, request

ROWS = 128
PIECE_ROWS = 8
ROW = 64 * 32
"""Pixels of a row of blocks of ``long_band``."""


def long_band(
    *, row_s: float = PIECE_S / PIECE_ROWS, parse_s: float = 0.0, threads: int = 1, **job: object
) -> tuple[World, int, AttemptId]:
    """A node "pi" that has rendered the two upper rows of a picture, ``row_s`` each.

    A row has two blocks, so a piece six rows at least.
    """
    world = World()
    pi = world.join("pi", threads=threads)
    world.submit(request(shape=picture(64, 32 * ROWS), **job))  # type: ignore[arg-type]
    (attempt,) = world.rendering(pi)
    (frame,) = next(iter(world.farm.jobs.values())).frames
    frame.parse_s = parse_s
    world.renders(pi, attempt, 0)
    world.now += 2 * row_s
    world.renders(pi, attempt, 2 * ROW)
    return world, pi, attempt


def rows_of(world: World, attempt: AttemptId) -> tuple[int, int]:
    rect = world.farm.attempts[attempt].band.rect
    return rect.y0 // 32, rect.y1 // 32


def test_a_band_of_an_hour_is_shortened_to_a_piece_and_the_rest_waits() -> None:
    world, pi, attempt = long_band()
    assert world.asked(pi) == [attempt]
    assert world.answer(pi, attempt) == Rect(0, 0, 64, 32 * (2 + PIECE_ROWS))
    (frame,) = next(iter(world.farm.jobs.values())).frames
    assert [band.rect for band in frame.waiting.values()] == [
        Rect(0, 32 * (2 + PIECE_ROWS), 64, 32 * ROWS)
    ]


def test_from_then_on_every_node_takes_a_piece() -> None:
    world, pi, attempt = long_band()
    world.answer(pi, attempt)
    desk = world.join("desk")
    begin = 2 + PIECE_ROWS
    theirs, own = (begin, begin + PIECE_ROWS), (begin + PIECE_ROWS, begin + 2 * PIECE_ROWS)
    assert [rows_of(world, each) for each in world.rendering(desk)] == [theirs]
    world.finish(pi, attempt)
    assert [rows_of(world, each) for each in world.rendering(pi)] == [own]
    world.work_off()
    (job,) = world.farm.jobs.values()
    assert job.state is JobState.DONE
    assert sum(rect.area for rect in world.tiles[job.id]) == ROW * ROWS


def test_what_a_node_that_dies_has_cost_is_a_piece_at_most() -> None:
    world, pi, attempt = long_band()
    world.answer(pi, attempt)
    world.gone(pi, killed=True, silent=True)
    world.join("desk")
    lost = world.farm.attempts[attempt]
    assert not lost.live and lost.band.rect == Rect(0, 0, 64, 32 * (2 + PIECE_ROWS))
    world.work_off()
    (job,) = world.farm.jobs.values()
    assert sum(rect.area for rect in world.tiles[job.id]) == ROW * ROWS


def test_a_band_that_is_soon_over_is_left_whole() -> None:
    world, pi, _ = long_band(row_s=PIECE_S * MORE / ROWS)
    assert world.asked(pi) == []


def test_a_piece_has_much_more_work_than_the_parse() -> None:
    """Thirty rows for one thread, which is too much of this band to make pieces; 15 for two."""
    parse_s = 30 * PIECE_S / PIECE_ROWS / PARSES
    world, pi, _ = long_band(parse_s=parse_s)
    assert world.asked(pi) == []
    world, pi, attempt = long_band(parse_s=parse_s, threads=2)
    assert world.answer(pi, attempt).y1 == 32 * (2 + 15)


def test_where_blocks_are_dear_a_piece_is_a_dozen_for_each_thread() -> None:
    """And not two minutes, which would be a block."""
    world, pi, attempt = long_band(row_s=2 * PIECE_S)
    assert world.answer(pi, attempt).y1 == 32 * (2 + PIECE_BLOCKS // 2)


def test_a_job_of_a_wished_number_of_bands_is_rendered_in_these() -> None:
    world, pi, _ = long_band(wish_bands=1)
    assert world.asked(pi) == []


def test_a_node_that_does_not_shorten_its_band_keeps_it() -> None:
    world, pi, attempt = long_band()
    world.answer(pi, attempt, world.farm.attempts[attempt].band.rect)
    world.now += PIECE_S / PIECE_ROWS
    world.renders(pi, attempt, 3 * ROW)
    assert world.asked(pi) == [], "and is not asked again"
