"""The ground floor of the farm: the moment, the actions asked for, and the stories of bands.

Owned by the task-manager thread, as the farm above it. Pure.
"""

from __future__ import annotations

from clusterray.core import actions as act
from clusterray.core import probing
from clusterray.core.actions import Action
from clusterray.core.entities import Attempt, Band, FarmState, Frame, Job, Node
from clusterray.core.model import AttemptId, BandId, Rect, Stage
from clusterray.core.states import (
    ATTEMPT_TABLE,
    BAND_TABLE,
    AttemptState,
    AttemptTrigger,
    BandState,
    BandTrigger,
    advance,
)


class Ledger(FarmState):
    """What every duty of the farm does: notes what happened, and asks for actions."""

    def __init__(self, detached_s: float) -> None:
        super().__init__()
        self._detached_s = detached_s
        self._bands_made = 0
        self._by_conn: dict[int, Node] = {}
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

    # ---------------------------------------------------------------- nodes and their attempts

    def _feed(self, node: Node) -> None:
        """Let the node stand in the queue of those with a place, if it has one."""
        if node.has_place:
            self.hungry.setdefault(node.id, node)
        else:
            self.hungry.pop(node.id, None)

    def _answer_stale(self, conn: int, held: AttemptId, *, rendered: bool = False) -> None:
        """Answer a node that holds an attempt which is no longer its own live one."""
        attempt = self.attempts.get(held)
        if attempt is not None and attempt.state is AttemptState.ACCEPTED:
            self._out.append(act.SendAccepted(conn, held))
            return
        if attempt is not None and rendered:
            self._count_late(attempt)
        reason = "unknown here" if attempt is None else (attempt.reason or str(attempt.state))
        self._out.append(act.SendDrop(conn, held, reason))

    def _count_late(self, attempt: Attempt) -> None:
        """Count a whole tile that came when nobody wanted it any more, once."""
        if attempt.late or attempt.live:
            return
        job, area = attempt.band.frame.job, attempt.band.rect.area
        attempt.late = True
        job.dropped_results += 1
        job.wasted_pixels += area - attempt.done
        attempt.done = area
        self._changed(job)

    def _end(self, attempt: Attempt, trigger: AttemptTrigger, reason: str) -> None:
        """Take a live attempt out of the running; its band waits again if it was the last."""
        attempt.state = advance(ATTEMPT_TABLE, attempt.state, trigger)
        attempt.detached_until = attempt.again_at = None
        attempt.reason = reason
        self.detached.pop(attempt.id, None)
        node = self.nodes[attempt.node]
        del node.attempts[attempt.id]
        self._out.append(act.RevokeGrants(attempt.id))
        if trigger is AttemptTrigger.DROP and node.conn is not None:
            self._out.append(act.SendDrop(node.conn, attempt.id, reason))
        self._feed(node)
        if trigger is AttemptTrigger.ACCEPT:
            return
        band = attempt.band
        band.frame.job.wasted_pixels += attempt.done
        self._tell(band, f"{attempt.id} {attempt.state} on {attempt.node_name}: {reason}")
        probing.lose(
            self,
            attempt.id,
            f"the band that it came with was {attempt.state} ({attempt.node_name})",
        )
        if band.state is BandState.RUNNING and not band.live_attempts:
            band.state = advance(BAND_TABLE, band.state, BandTrigger.RETURN)
            band.frame.waiting[band.id] = band
            self._changed(band.frame.job)
        if not band.frame.has_pixels:
            band.frame.povray_class = None

    def _close_accounts(self, job: Job) -> None:
        """Hold nothing against a node on a job that has ended."""
        for node in self.nodes.values():
            node.standings.pop(job.id, None)
