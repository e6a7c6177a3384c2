"""The ground floor of the farm: the moment, the actions asked for, and the stories of bands.

Owned by the task-manager thread, as the farm above it. Pure.
"""

from __future__ import annotations

from clusterray.core import actions as act
from clusterray.core.actions import Action
from clusterray.core.entities import Band, FarmState, Frame, Job
from clusterray.core.model import BandId, Rect, Stage


class Ledger(FarmState):
    """What every duty of the farm does: notes what happened, and asks for actions."""

    def __init__(self, detached_s: float) -> None:
        super().__init__()
        self._detached_s = detached_s
        self._bands_made = 0
        self._now = 0.0
        self._out: list[Action] = []

    def _make_band(self, frame: Frame, rect: Rect, stage: Stage) -> Band:
        """Make a waiting band; who asks for it lists it among its kind."""
        self._bands_made += 1
        band = Band(BandId(f"b{self._bands_made}"), frame, rect, stage)
        self.bands[band.id] = frame.waiting[band.id] = band
        self._tell(band, f"{band.id} made: rows {rect.y0} to {rect.y1} of {frame.job.id}")
        return band

    def _tell(self, band: Band, line: str) -> None:
        band.story.append((self._now, line))

    def _changed(self, job: Job) -> None:
        action = act.JobChanged(job.id)
        if action not in self._out:
            self._out.append(action)
