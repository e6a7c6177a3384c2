from __future__ import annotations

from dataclasses import replace

import pytest

from clusterray.core.errors import LocalFault
from clusterray.node.sandbox import (
    NO_WALL,
    Limits,
    Sandbox,
    Wall,
    choose_sandbox,
    look_for_walls,
    memory_for_povray,
)

WALLS = (Wall.LANDLOCK, Wall.BUBBLEWRAP)
LIMITS = Limits(memory_for_povray(0))


def built(wall: Wall | str) -> Sandbox:
    """Build a wall; skips the test where this machine has none of the kind."""
    wall = Wall(wall)
    choice = NO_WALL if wall is Wall.NONE else wall.value
    try:
        return choose_sandbox(choice, look_for_walls(), LIMITS, ())
    except LocalFault as fault:
        pytest.skip(str(fault))


@pytest.fixture(params=WALLS, ids=lambda wall: wall.value)
def wall(request: pytest.FixtureRequest) -> Sandbox:
    """Each wall that a node may have."""
    return built(request.param)


def limited(sandbox: Sandbox, **changes: float) -> Sandbox:
    return replace(sandbox, limits=replace(sandbox.limits, **changes))  # type: ignore[arg-type]
