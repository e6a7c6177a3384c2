"""Pictures with holes, made for one client of the tiles that are there, and gone with it.

Runs on the client's own thread, so that a large picture keeps nobody else waiting. Meanwhile tiles
may vanish: their job may end. Knows nothing of the farm.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from clusterray.core.bands import holes
from clusterray.core.model import Rect
from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from clusterray.head.letters import PartialPlan
from clusterray.images.measured import Written
from clusterray.images.rows import TileGone
from clusterray.images.stitch import FrameWriter
from clusterray.wire.protocol import Grant, Result


class TilesChanged(Exception):
    """A tile is not there any more: the plan is out of date."""


class Partials:
    """The partial pictures of one connection, in ``folder``; ``owner`` tells it from others."""

    def __init__(self, folder: Path, ftp: FtpServer, owner: int) -> None:
        self._folder = folder
        self._ftp = ftp
        self._owner = owner
        self._made: list[tuple[str, Path]] = []

    def make(self, plan: PartialPlan, tick: Callable[[], None]) -> Result:
        """Put the picture together and let the client read it; ``tick`` is called meanwhile.

        Raises TilesChanged, TileFault for a tile that is damaged, OSError.
        """
        path = self._folder / f"{self._owner}-{plan.request}.{plan.kind.extension}"
        user = f"p-{self._owner}-{plan.request}"
        self._made.append((user, path))
        written = _write(plan, path, tick)
        grant = Grant(user, secrets.token_hex(16), path.name)
        self._ftp.grant(FileGrant(user, grant.password, grant.path, path, "read"))
        missing = sum(hole.area for hole in holes(plan.region, [rect for _, rect in plan.tiles]))
        return Result(
            plan.request,
            plan.name,
            written.size,
            written.sha256,
            grant,
            partial=True,
            pixels_done=plan.region.area - missing,
            pixels_total=plan.region.area,
        )

    def discard(self) -> None:
        """Delete what was made and end the logins that read it."""
        for user, path in self._made:
            self._ftp.revoke(user)
            path.unlink(missing_ok=True)
        self._made.clear()


def _write(plan: PartialPlan, path: Path, tick: Callable[[], None]) -> Written:
    writer = FrameWriter(plan.region, plan.kind, path.parent)
    try:
        for tile, rect in plan.tiles:
            tick()
            _add(writer, tile, rect, plan.region)
        return writer.write_partial(path, tick)
    except TileGone as fault:
        raise TilesChanged(str(fault)) from None
    finally:
        writer.close()


def _add(writer: FrameWriter, tile: Path, rect: Rect, region: Rect) -> None:
    if region.intersection(rect) is None:
        # Of the blocks that a region was grown to.
        return
    if not tile.exists():
        raise TilesChanged(str(tile))
    writer.add(tile, rect)
