"""Partial pictures of tiles that may vanish meanwhile, as their job ends or begins anew."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from clusterray.core.model import FileFormat, JobId, Rect
from clusterray.head.ftp_server import FtpServer
from clusterray.head.letters import PartialPlan
from clusterray.head.partials import Partials, TilesChanged
from clusterray.images.formats import write_tile


@pytest.mark.parametrize("gone_at", [1, 2])
def test_a_tile_that_vanishes_has_the_plan_made_anew(tmp_path: Path, gone_at: int) -> None:
    """Before it is looked at, or when its pixels are to be copied."""
    tile, rect = tmp_path / "tile.png", Rect(0, 0, 6, 4)
    write_tile(tile, (6, 4), FileFormat(), (), (bytes(6 * 4 * 3),))
    plan = PartialPlan(1, JobId("j"), "a.png", Rect(0, 0, 6, 8), FileFormat(), ((tile, rect),))
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == gone_at:
            tile.unlink()

    # Nothing comes so far that the FTP server would have a part in it.
    partials = Partials(tmp_path, cast(FtpServer, None), 1)
    with pytest.raises(TilesChanged, match="tile"):
        partials.make(plan, tick)
    assert ticks >= gone_at
