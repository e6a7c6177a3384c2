"""How the farm goes on after it was read back from where it was stored.

Every live attempt's node is away then and on its way back; what it still renders counts when it
is. The files on the disk decide what is covered: a band whose tile is gone waits again. The store
holds no clocks, so all of them begin anew. A floor of ``farm``. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core import probing
from clusterray.core.changes import Changes
from clusterray.core.entities import Attempt, Band, FarmState, Frame, Job, Node
from clusterray.core.life_rules import LifeRules
from clusterray.core.model import JobId
from clusterray.core.patience import RETURN_S
from clusterray.core.states import (
    ATTEMPT_TABLE,
    BAND_TABLE,
    FRAME_TABLE,
    JOB_TABLE,
    OPEN_BAND,
    AttemptState,
    AttemptTrigger,
    BandState,
    BandTrigger,
    FrameState,
    FrameTrigger,
    JobState,
    JobTrigger,
    advance,
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A farm as it was stored: jobs in the order of their numbers, whole; nodes; who deleted what.

    ``jobs_made`` is the last number that a job was given.
    """

    jobs: tuple[Job, ...] = ()
    nodes: tuple[Node, ...] = ()
    deleted: Mapping[JobId, str] | None = None
    jobs_made: int = 0


class RestartRules(LifeRules):
    """Takes a stored farm over, and mends what its files or its nodes lost meanwhile."""

    def _take_tile(self, attempt: Attempt) -> None:
        """Accept the tile of a live attempt that is rendered; how is the farm's to say."""
        raise NotImplementedError

    def adopt(self, stored: Stored) -> None:
        """Be the farm that was stored, whatever it is now. Restarted must come next."""
        self._forget_all()
        self._jobs_made = stored.jobs_made
        self.deleted.update(stored.deleted or {})
        self.nodes.update((node.id, node) for node in stored.nodes)
        for job in stored.jobs:
            self._adopt_job(job)
        for node in stored.nodes:
            node.attempts = dict(sorted(node.attempts.items(), key=lambda each: number_of(each[0])))
            node.assume_older_ends()
        ended = [job for job in stored.jobs if not job.open and not job.gone]
        ended.sort(key=lambda job: job.ended_at or 0.0)
        self.kept.update((job.id, job) for job in ended)

    def _forget_all(self) -> None:
        indexes = (self._by_key, self._by_conn, self._out)
        for held in (*(getattr(self, each.name) for each in fields(FarmState)), *indexes):
            if isinstance(held, dict | list):
                held.clear()
        self.look_at = self.seek_at = None
        self.nodes_return_by = -math.inf
        self._jobs_made = self._bands_made = self._attempts_made = 0
        self._changes = Changes()

    def _adopt_job(self, job: Job) -> None:
        self.jobs[job.id] = self._by_key[job.request.key] = job
        if job.open:
            self._into_queue(job)
        for frame in job.frames:
            for band in frame.all_bands:
                self.bands[band.id] = band
                self._bands_made = max(self._bands_made, number_of(band.id))
                for attempt in band.attempts:
                    self._adopt_attempt(attempt)
            if frame.probe is not None and frame.probe.attempt is not None:
                self.probing[frame.probe.attempt] = frame

    def _adopt_attempt(self, attempt: Attempt) -> None:
        self.attempts[attempt.id] = attempt
        self._attempts_made = max(self._attempts_made, number_of(attempt.id))
        if attempt.live:
            self.nodes[attempt.node].attempts[attempt.id] = attempt

    # ---------------------------------------------------------------- what the disk holds

    def _restarted(self, event: ev.Restarted) -> None:
        if self.nodes:
            self.nodes_return_by = self._now + RETURN_S
        for node in self.nodes.values():
            for attempt in node.attempts.values():
                attempt.detached_until = self.nodes_return_by
                self.detached[attempt.id] = attempt
        for attempt_id in list(self.probing):
            if not self.attempts[attempt_id].live:
                self._note_frame(self.probing[attempt_id])
                probing.lose(self, attempt_id, "the head was started again")
        for job in list(self.jobs.values()):
            if job.open:
                self._take_up(job, event)
            elif not job.gone:
                self._look_through(job, event)
        self._accept_arrived(event.arrived)

    def _look_through(self, job: Job, event: ev.Restarted) -> None:
        """Find out whether the files of a job that has ended are there still."""
        if job.state is JobState.DONE:
            if job.id not in event.pictures:
                self._discard_files(job, "its picture was gone when the head was started")
            return
        for frame in job.frames:
            if self._lacks_light(frame, event):
                self._discard_files(job, "its light was gone when the head was started")
                return
            lacking = self._lacking(frame.bands.values(), event)
            if lacking and frame.state is FrameState.JOINING:
                frame.state = advance(FRAME_TABLE, frame.state, FrameTrigger.GONE)
            for band in lacking:
                self._void(band)

    def _take_up(self, job: Job, event: ev.Restarted) -> None:
        for frame in job.frames:
            self._take_up_frame(frame, event)
        if job.state in (JobState.STITCHING, JobState.VERIFYING):
            # What is still to be done of it says where it stands.
            whole = all(frame.complete for frame in job.frames)
            written = whole and all(frame.stitched for frame in job.frames)
            if not whole or (job.state is JobState.VERIFYING and not written):
                job.state = advance(JOB_TABLE, job.state, JobTrigger.GONE)
                if whole:
                    job.state = advance(JOB_TABLE, job.state, JobTrigger.COVERED)
        job.started_at = self._now if job.state is JobState.RUNNING else None
        job.counted_from = job.pixels_covered
        self._changed(job)
        if job.state in (JobState.STITCHING, JobState.VERIFYING):
            self._finish(job)

    def _take_up_frame(self, frame: Frame, event: ev.Restarted) -> None:
        job = frame.job
        lacking = self._lacking(frame.bands.values(), event)
        if self._lacks_light(frame, event) and (lacking or not frame.complete):
            self._lose_frame(frame)
            return
        if lacking and frame.state is FrameState.JOINING:
            frame.state = advance(FRAME_TABLE, frame.state, FrameTrigger.GONE)
        for band in lacking:
            self._lose_tile(band)
        if lacking or job.id not in event.pictures:
            frame.stitched = False
        self._take_up_verifying(frame, event)
        self._note_frame(frame)
        if frame.stitched:
            return
        frame.run += 1
        self._out.append(act.BeginFrame(job.id, frame.index, job.request, frame.run))
        self._hand_over(frame)

    def _take_up_verifying(self, frame: Frame, event: ev.Restarted) -> None:
        """Go on comparing, where what it takes is there."""
        again = list(frame.verify_bands.values())
        if again and not frame.complete:
            for band in again:
                self._drop_all(band, "the picture it is compared with has lost a tile")
            self._forget_verifying(frame)
            return
        if self._lacks_light(frame, event):
            for band in [band for band in again if band.state in OPEN_BAND]:
                self._drop_all(band, "the light of its frame is gone")
                self._give_up(band, "the light of its frame was gone when the head was started")
            return
        for band in self._lacking(again, event):
            self._lose_tile(band)
        for band in again:
            if band.state is BandState.COVERED and band.accepted is not None:
                self._compare(band.accepted)
        if again and not frame.verified:
            self.verifying[frame.job.id, frame.index] = frame

    def _lacks_light(self, frame: Frame, event: ev.Restarted) -> bool:
        lights = ((frame.job.id, frame.index, light.kind) for light in frame.lights)
        return any(light not in event.lights for light in lights)

    def _lacking(self, bands: Iterable[Band], event: ev.Restarted) -> list[Band]:
        """Give the covered bands whose tiles are gone."""
        covered = (band for band in bands if band.state is BandState.COVERED)
        return [
            band
            for band in covered
            if band.accepted is not None and band.accepted.id not in event.tiles
        ]

    def _lose_tile(self, band: Band) -> None:
        """Have a band rendered again whose tile is gone."""
        band.state = advance(BAND_TABLE, band.state, BandTrigger.GONE)
        band.accepted = None
        if band.stage != "verify":
            band.frame.uncovered += band.rect.area
        self._tell(band, f"{band.id} waits again: its tile was gone when the head was started")
        self._wait_again(band)
        if not band.frame.has_pixels:
            band.frame.povray_class = None

    def _lose_frame(self, frame: Frame) -> None:
        """Begin a frame anew: without its light no tile would fit those that are there."""
        attempts = tuple(attempt.id for band in frame.all_bands for attempt in band.attempts)
        for band in frame.all_bands:
            self._drop_all(band, "the light of its frame is gone")
        self._stop_verifying(frame)
        self._stop_probe(frame)
        self._out.append(act.DiscardTiles(frame.job.id, (frame.index,), attempts))
        self._begin_frame_anew(frame)

    def _drop_all(self, band: Band, reason: str) -> None:
        for attempt in band.live_attempts:
            self._end(attempt, AttemptTrigger.DROP, reason)

    def _accept_arrived(self, arrived: Iterable[ev.Arrived]) -> None:
        """Let files count that lie here whole, though their acceptance was not stored."""
        for file in arrived:
            attempt = self.attempts.get(file.attempt)
            if attempt is None or not attempt.live:
                self._out.append(act.DiscardTile(file.attempt))
                continue
            if attempt.state is AttemptState.RENDERING:
                attempt.state = advance(ATTEMPT_TABLE, attempt.state, AttemptTrigger.RENDERED)
                attempt.done, attempt.rendered_at = attempt.band.rect.area, self._now
            attempt.size, attempt.sha256 = file.size, file.sha256
            self._take_tile(attempt)


def number_of(name: str) -> int:
    """Give the number in the id of a job, band or attempt."""
    return int(name[1:].partition("-")[0])
