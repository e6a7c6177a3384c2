"""When a node says that a band ends soon, and whether two POV-Rays fit: decided without either."""

from __future__ import annotations

import pytest

from clusterray.node.overlap import (
    KEEN_S,
    LEAST_SHARE,
    MOST_FETCH_S,
    START_S,
    Outlook,
    has_room,
    is_scarce,
    until_first_idle,
)

MIB = 1 << 20
BLOCK = 1024


def rendering(parse_s: float = 0.0, fetch_s: float = 0.0, threads: int = 2) -> Outlook:
    """Give an attempt that has parsed at 100 s, and begins to render then."""
    outlook = Outlook()
    outlook.fetched(fetch_s)
    outlook.begins(100.0 - START_S - parse_s, threads)
    outlook.note(100.0, 0)
    return outlook


def said_at(outlook: Outlook, wanted: int, block_s: float, until_s: float = 1000.0) -> float:
    """Let blocks be finished one after the other; give the seconds until it ends soon."""
    done = 0
    while done < wanted:
        done += BLOCK
        now = 100.0 + done // BLOCK * block_s
        assert now - 100.0 <= until_s, "it is never said"
        outlook.note(now, done)
        if outlook.ends_soon(now, wanted):
            return now - 100.0
    raise AssertionError("it is never said")


def test_a_band_ends_soon_when_the_rest_takes_no_longer_than_a_start() -> None:
    """100 blocks of 0.1 s: said when 0.4 s are left, or with a parse of 2 s when 2.4 s are."""
    assert said_at(rendering(), 100 * BLOCK, 0.1) == pytest.approx(9.6)
    assert said_at(rendering(parse_s=2.0), 100 * BLOCK, 0.1) == pytest.approx(7.6)


def test_a_lone_thread_parses_nothing_beside_its_band() -> None:
    """It would lose what the parse takes: only the sleep of 0.4 s is hidden."""
    assert said_at(rendering(parse_s=2.0, threads=1), 100 * BLOCK, 0.1) == pytest.approx(9.6)


def test_where_threads_will_be_idle_before_a_band_ends_that_is_what_counts() -> None:
    """Of 20 blocks for four threads the first finds none left when 17 are finished."""
    assert until_first_idle(20 * BLOCK, 32, 1) == 20 * BLOCK
    wanted = until_first_idle(20 * BLOCK, 32, 4)
    outlook = rendering()
    for number in range(1, 17):
        outlook.note(100.0 + number * 5, number * BLOCK)
        assert not outlook.ends_soon(100.0 + number * 5, wanted)
    outlook.note(185.0, 17 * BLOCK)
    assert outlook.ends_soon(185.0, wanted), "the other three may last for long"


def test_a_band_with_no_more_blocks_than_threads_ends_soon_from_the_first() -> None:
    assert rendering().ends_soon(100.0, until_first_idle(3 * BLOCK, 32, 4))


def test_fetching_counts_as_part_of_a_start_up_to_a_bound() -> None:
    assert said_at(rendering(fetch_s=1.0), 100 * BLOCK, 0.1) == pytest.approx(8.6)
    most = said_at(rendering(fetch_s=500.0), 100 * BLOCK, 0.1)
    assert most == pytest.approx(10.0 - START_S - MOST_FETCH_S)


def test_of_a_short_band_it_is_said_almost_at_once() -> None:
    assert said_at(rendering(), 20 * BLOCK, 0.01) <= LEAST_SHARE * 0.2 + 0.01


def test_it_is_the_recent_pace_that_counts() -> None:
    """Sky, and then rows that take long: what the sky took says nothing of them."""
    outlook = rendering()
    for number in range(1, 51):
        outlook.note(100.0 + number * 0.001, number * BLOCK)
    at, done = 100.05, 50
    while done < 90:
        at, done = at + 1.0, done + 1
        outlook.note(at, done * BLOCK)
    assert not outlook.ends_soon(at, 100 * BLOCK)


def test_a_band_that_stands_still_does_not_end_soon() -> None:
    outlook = rendering()
    outlook.note(104.0, 40 * BLOCK)
    assert not outlook.ends_soon(104.0, 44 * BLOCK - 1 + BLOCK)
    outlook.note(150.0, 40 * BLOCK)
    assert not outlook.ends_soon(150.0, 41 * BLOCK)


def test_nothing_is_known_before_a_block_is_finished_nor_in_a_pretrace() -> None:
    outlook = Outlook()
    outlook.begins(99.0, 2)
    assert not outlook.ends_soon(99.5, BLOCK) and not outlook.is_keen(99.5, BLOCK)
    for at in range(100, 200):
        outlook.note(float(at), 0)
        assert not outlook.ends_soon(float(at), BLOCK)


def test_when_all_that_is_left_of_a_band_is_done_it_ends_soon() -> None:
    outlook = rendering()
    outlook.note(200.0, 30 * BLOCK)
    assert not outlook.ends_soon(200.0, 40 * BLOCK)
    assert outlook.ends_soon(200.0, 30 * BLOCK), "it was cut there"


def test_blocks_kept_from_before_say_nothing_of_the_pace() -> None:
    outlook = Outlook()
    outlook.begins(99.0, 2)
    outlook.note(100.0, 90 * BLOCK)
    assert not outlook.ends_soon(100.1, 100 * BLOCK)
    outlook.note(110.0, 91 * BLOCK)
    assert not outlook.ends_soon(110.0, 100 * BLOCK)


def test_it_is_looked_at_often_at_its_beginning_and_before_its_end() -> None:
    outlook = rendering()
    wanted = 1000 * BLOCK
    assert outlook.is_keen(100.1, wanted) and not outlook.is_keen(100.0 + KEEN_S, wanted)
    for number in range(1, 991):
        outlook.note(100.0 + number * 0.1, number * BLOCK)
        if number == 500:
            assert not outlook.is_keen(150.0, wanted)
    assert outlook.is_keen(199.0, wanted)


@pytest.mark.parametrize(
    ("largest", "left", "fits"),
    [
        (100 * MIB, 1100 * MIB, True),
        (800 * MIB, 1100 * MIB, True),
        (900 * MIB, 1100 * MIB, False),
        (100 * MIB, 150 * MIB, False),
        (0, 1600 * MIB, False),
    ],
    ids=["small", "just", "large", "little is left", "of unknown size"],
)
def test_a_second_povray_must_fit_beside_the_first(largest: int, left: int, fits: bool) -> None:
    """On a machine of 1,600 MiB, of which 100 stay free."""
    assert has_room(largest, left, 1600 * MIB) is fits


def test_memory_is_scarce_long_after_it_had_no_room() -> None:
    assert not is_scarce(51 * MIB, 1600 * MIB) and is_scarce(49 * MIB, 1600 * MIB)
    assert not has_room(1, 51 * MIB, 1600 * MIB)
