"""What nodes show of pictures that are still being made, brought to the right frame's preview.

On the task-manager thread, which knows whose attempt is whose. What a node shows is believed only
of its own attempts at a job that is open, and only within the frame.
"""

from __future__ import annotations

from clusterray.core import events as ev
from clusterray.core.costs import CostMap
from clusterray.core.entities import Frame
from clusterray.core.farm import Farm
from clusterray.core.model import AttemptId
from clusterray.head.letters import Glimpsed, ScoutTold
from clusterray.head.stitcher import Stitcher
from clusterray.images.preview import Layer


class Sketches:
    """Passes sketches on to the stitcher."""

    def __init__(self, farm: Farm, stitcher: Stitcher) -> None:
        self._farm = farm
        self._stitcher = stitcher

    def blocks(self, letter: Glimpsed) -> None:
        """Show blocks that a node has finished in an attempt at the picture."""
        frame = self._frame_of(letter.conn, letter.attempt)
        if frame is not None and frame.job.open and frame.area.contains(letter.rect):
            self._stitcher.sketch(
                frame.job.id, frame.index, letter.picture, letter.rect, Layer.BLOCKS
            )

    def scout(self, letter: ScoutTold) -> ev.Scouted | None:
        """Show a scout's picture, and give what the farm is to know of it; None: nothing."""
        frame = self._frame_of(letter.conn, letter.attempt)
        if frame is None:
            return None
        if letter.picture is not None and frame.job.open:
            self._stitcher.sketch(frame.job.id, frame.index, letter.picture, None, Layer.SCOUT)
        costs = _cost_map(frame, letter)
        return ev.Scouted(letter.conn, letter.attempt, costs, letter.parse_s, letter.reason)

    def _frame_of(self, conn: int, attempt_id: AttemptId) -> Frame | None:
        attempt = self._farm.attempts.get(attempt_id)
        if attempt is None or self._farm.nodes[attempt.node].conn != conn:
            return None
        return attempt.band.frame


def _cost_map(frame: Frame, letter: ScoutTold) -> CostMap | None:
    picture = frame.job.request.picture
    try:
        return CostMap.of(picture.width, picture.height, letter.columns, letter.costs)
    except ValueError:
        return None
