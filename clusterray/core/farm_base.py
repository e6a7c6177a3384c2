"""What the rules of every duty of the farm share: the settings, what is said, attempts that end.

Each duty is a class of its own above this one, and ``farm.Farm`` is all of them. Pure.
"""

from __future__ import annotations

from typing import Protocol

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core import probing, scouting
from clusterray.core.blame import clocks_of
from clusterray.core.entities import Attempt, Band, Frame, Job, Node, Problem
from clusterray.core.ledger import Ledger
from clusterray.core.model import AttemptId
from clusterray.core.states import (
    ATTEMPT_TABLE,
    BAND_TABLE,
    JOB_TABLE,
    AttemptState,
    AttemptTrigger,
    BandState,
    BandTrigger,
    JobState,
    JobTrigger,
    advance,
)


class RandomBits(Protocol):
    """Where ids get what makes them unguessable and unlike those of another farm."""

    def getrandbits(self, k: int, /) -> int:
        """Give ``k`` random bits."""


class FarmBase(Ledger):
    """What the rules of the farm share; ``_now`` and ``_out`` are those of the present event."""

    def __init__(self, random: RandomBits, *, detached_s: float, max_jobs: int) -> None:
        super().__init__(detached_s)
        self._random = random
        self._max_jobs = max_jobs
        self._by_key: dict[str, Job] = {}
        self._by_conn: dict[int, Node] = {}

    # ---------------------------------------------------------------- attempts

    def _feed(self, node: Node) -> None:
        """Let the node stand in the queue of those with a place, if it has one."""
        if node.has_place:
            self._fed[node.id] = node
            if node.id not in self.hungry:
                self.hungry[node.id], self.seek_at = node, self._now
        else:
            self.hungry.pop(node.id, None)

    def _end(self, attempt: Attempt, trigger: AttemptTrigger, reason: str) -> None:
        """Take a live attempt out of the running; its band waits again if it was the last."""
        attempt.state = advance(ATTEMPT_TABLE, attempt.state, trigger)
        attempt.detached_until = attempt.again_at = None
        attempt.reason, attempt.ended_at = reason, self._now
        self._note_attempt(attempt)
        self.detached.pop(attempt.id, None)
        self._expect_no_end(attempt)
        node = self.nodes[attempt.node]
        del node.attempts[attempt.id]
        self._out.append(act.RevokeGrants(attempt.id))
        if trigger is AttemptTrigger.DROP and node.conn is not None:
            self._out.append(act.SendDrop(node.conn, attempt.id, reason))
        self._feed(node)
        if trigger is AttemptTrigger.ACCEPT:
            return
        band = attempt.band
        self._stirred = True
        band.frame.job.wasted_pixels += attempt.done
        self._tell(band, f"{attempt.id} {attempt.state} on {attempt.node_name}: {reason}")
        probing.lose(
            self,
            attempt.id,
            f"the band that it came with was {attempt.state} ({attempt.node_name})",
        )
        scouting.lose(self, attempt.id)
        if band.state is BandState.RUNNING and not band.live_attempts:
            band.state = advance(BAND_TABLE, band.state, BandTrigger.RETURN)
            self._wait_again(band)
        if not band.frame.has_pixels:
            band.frame.povray_class = None
        self._note_band(band)

    def _expect_no_end(self, attempt: Attempt) -> None:
        """An attempt renders no more: there is nothing to cut or to wait for."""
        self.asks.pop(attempt.id, None)
        attempt.band.frame.job.ends.drop(attempt.id)

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
        self._note_attempt(attempt)
        self._changed(job)

    def _add_tile(self, band: Band, attempt: Attempt) -> None:
        frame = band.frame
        self._out.append(act.AddTile(frame.job.id, frame.index, attempt.id, band.rect))

    def _wait_again(self, band: Band) -> None:
        band.frame.waiting[band.id] = band
        self._stirred = True
        self._changed(band.frame.job)

    # ---------------------------------------------------------------- jobs

    def _start(self, job: Job) -> None:
        """Note that a band of the job is at work."""
        if job.started_at is None:
            job.started_at, job.counted_from = self._now, job.pixels_covered
        if job.state is JobState.QUEUED:
            job.state = advance(JOB_TABLE, job.state, JobTrigger.LEASED)
        self._changed(job)

    def _end_job(self, job: Job, trigger: JobTrigger, reason: str, problem: Problem | None) -> None:
        """End a job before its picture is there; what is rendered of it stays."""
        job.state = advance(JOB_TABLE, job.state, trigger)
        job.reason, job.problem, job.ended_at = reason, problem, self._now
        self.open_jobs.remove(job)
        self.kept[job.id] = job
        for frame in job.frames:
            for band in frame.all_bands:
                for attempt in band.live_attempts:
                    self._end(attempt, AttemptTrigger.DROP, f"job {job.id} {job.state}")
                rendered = band.state is BandState.COVERED and band.stage != "verify"
                if band.state is not BandState.VOID and not rendered:
                    band.state = advance(BAND_TABLE, band.state, BandTrigger.JOB_ENDED)
                    self._note_band(band)
            frame.waiting.clear()
            self._stop_verifying(frame)
            self._stop_probe(frame)
            if frame.scout is not None:
                scouting.lose(self, frame.scout)
        self._close_accounts(job)
        self._out.append(act.AbandonJob(job.id))
        self._changed(job)

    def _close_accounts(self, job: Job) -> None:
        """Hold nothing against a node on a job that has ended, and wait for nothing of it."""
        for node in self.nodes.values():
            node.standings.pop(job.id, None)
        moments = (moment for node in self.nodes.values() for moment in clocks_of(node))
        self.look_at = min(moments, default=None)

    def _stop_verifying(self, frame: Frame) -> None:
        self.verifying.pop((frame.job.id, frame.index), None)
        frame.give_up_at = None

    def _stop_probe(self, frame: Frame) -> None:
        """Have a node that probes for a band it has delivered leave that; nobody wants to know."""
        asked = frame.probe.attempt if frame.probe is not None else None
        if asked is None:
            return
        reason = f"job {frame.job.id} {frame.job.state}"
        probing.lose(self, asked, reason)
        self._note_frame(frame)
        conn = self.nodes[self.attempts[asked].node].conn
        if conn is not None:
            self._out.append(act.SendDrop(conn, asked, reason))

    def _running(self, event: ev.LightJoined | ev.FrameStitched | ev.FrameFailed) -> Frame | None:
        """Give the frame that the event is about, None if it comes from a run that is over."""
        job = self.jobs.get(event.job)
        if job is None or not job.open:
            return None
        frame = job.frames[event.frame]
        return frame if frame.run == event.run else None

    def _discard_tiles(self, job: Job) -> None:
        bands = [band for frame in job.frames for band in frame.all_bands]
        attempts = tuple(attempt.id for band in bands for attempt in band.attempts)
        frames = tuple(frame.index for frame in job.frames)
        self._out.append(act.DiscardTiles(job.id, frames, attempts))

    def _forget_bands(self, bands: list[Band]) -> tuple[AttemptId, ...]:
        """Have bands that have no live attempt be gone; gives the attempts that went with them."""
        gone = [attempt.id for band in bands for attempt in band.attempts]
        for attempt_id in gone:
            del self.attempts[attempt_id]
            self.probing.pop(attempt_id, None)
            scouting.lose(self, attempt_id)
        for band in bands:
            del self.bands[band.id]
            band.take_apart()
        self._changes.gone_attempts.update(gone)
        self._changes.gone_bands.update(band.id for band in bands)
        return tuple(gone)
