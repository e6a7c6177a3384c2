"""The ground floor of the farm: the moment, the actions asked for, what changed, bands' stories.

Owned by the task-manager thread, as the farm above it. Pure.
"""

from __future__ import annotations

from clusterray.core import actions as act
from clusterray.core.actions import Action
from clusterray.core.changes import Changes
from clusterray.core.entities import Attempt, Band, FarmState, Frame, Job, Node
from clusterray.core.model import BandId, NodeId, Rect, Stage


class Ledger(FarmState):
    """What every duty of the farm does: notes what happened, and asks for actions."""

    def __init__(self, detached_s: float) -> None:
        super().__init__()
        self._detached_s = detached_s
        self._jobs_made = 0
        self._bands_made = 0
        self._attempts_made = 0
        self._now = 0.0
        self._out: list[Action] = []
        # Who got a place with the present event, and whether anybody with one may find a band now.
        self._fed: dict[NodeId, Node] = {}
        self._stirred = False
        self._changes = Changes()

    def _make_band(self, frame: Frame, rect: Rect, stage: Stage) -> Band:
        """Make a waiting band; who asks for it lists it among its kind."""
        self._bands_made += 1
        band = Band(BandId(f"b{self._bands_made}"), frame, rect, stage)
        self.bands[band.id] = frame.waiting[band.id] = band
        self._stirred = True
        self._tell(band, f"{band.id} made: rows {rect.y0} to {rect.y1} of {frame.job.id}")
        return band

    def _tell(self, band: Band, line: str) -> None:
        """Write a line into the band's story; whatever it tells of the band is to be stored."""
        band.story.append((self._now, line))
        self._note_band(band)

    def _note_band(self, band: Band) -> None:
        self._changes.bands[band.id] = band
        self._note_frame(band.frame)

    def _note_frame(self, frame: Frame) -> None:
        self._changes.frames[frame.job.id, frame.index] = frame
        self._changes.jobs[frame.job.id] = frame.job

    def _note_attempt(self, attempt: Attempt) -> None:
        self._changes.attempts[attempt.id] = attempt

    def _note_node(self, node: Node) -> None:
        self._changes.nodes[node.id] = node

    def _changed(self, job: Job) -> None:
        """Have what people see of the job shown anew, and stored if it differs."""
        self._changes.jobs[job.id] = job
        action = act.JobChanged(job.id)
        if action not in self._out:
            self._out.append(action)
