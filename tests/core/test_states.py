"""The tables: no way that is not written down, and no state that cannot be reached."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest

from clusterray.core import states
from clusterray.core.states import (
    ATTEMPT_TABLE,
    BAND_TABLE,
    FRAME_TABLE,
    JOB_TABLE,
    IllegalTransition,
    advance,
)

TABLES: list[tuple[Mapping[Any, Mapping[Any, Any]], type[StrEnum], type[StrEnum]]] = [
    (JOB_TABLE, states.JobState, states.JobTrigger),
    (FRAME_TABLE, states.FrameState, states.FrameTrigger),
    (BAND_TABLE, states.BandState, states.BandTrigger),
    (ATTEMPT_TABLE, states.AttemptState, states.AttemptTrigger),
]


@pytest.mark.parametrize(("table", "kind", "triggers"), TABLES)
def test_every_state_has_a_row_and_can_be_reached(
    table: Mapping[Any, Mapping[Any, Any]], kind: type[StrEnum], triggers: type[StrEnum]
) -> None:
    assert list(table) == list(kind)
    reached, todo = set(), [next(iter(kind))]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += table[state].values()
    assert reached == set(kind)
    assert {trigger for ways in table.values() for trigger in ways} == set(triggers)


@pytest.mark.parametrize(("table", "kind", "triggers"), TABLES)
def test_a_missing_way_is_refused(
    table: Mapping[Any, Mapping[Any, Any]], kind: type[StrEnum], triggers: type[StrEnum]
) -> None:
    refused = 0
    for state in kind:
        for trigger in triggers:
            if trigger in table[state]:
                assert advance(table, state, trigger) is table[state][trigger]
                continue
            refused += 1
            with pytest.raises(IllegalTransition, match=str(state)):
                advance(table, state, trigger)
    assert refused


def test_live_and_open_are_the_states_that_end_by_themselves_or_when_resumed() -> None:
    assert set(states.LIVE_ATTEMPT) == {"rendering", "uploading"}
    assert set(states.OPEN_JOB) == {"queued", "running", "paused", "stitching", "verifying"}
