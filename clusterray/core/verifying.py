"""The farm's part that has bands rendered again and compared, and ends a job when all is there.

A floor of ``farm``, whose rules for leases and attempts hold for verify bands as for all. Owned by
the task-manager thread. Pure.
"""

from __future__ import annotations

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core import policy
from clusterray.core.entities import Attempt, Band, Frame, Job
from clusterray.core.lighting import Lighting
from clusterray.core.states import (
    BAND_TABLE,
    JOB_TABLE,
    BandTrigger,
    JobState,
    JobTrigger,
    advance,
)
from clusterray.core.verify import spread


class Verifying(Lighting):
    """Makes the verify bands of a covered picture, and sees to it that each comes to an end."""

    def _begin_verifying(self, frame: Frame) -> None:
        """Choose bands of the picture, which is covered, so that none of them changes any more."""
        bands = sorted(frame.bands.values(), key=lambda band: band.rect.as_tuple()[1::-1])
        for place in spread(len(bands), frame.job.request.verify):
            again = self._make_band(frame, bands[place].rect, "verify")
            again.again = bands[place]
            frame.verify_bands[again.id] = again
            self._tell(again, f"{again.id} is {again.again.id} once more")
        if frame.verify_bands:
            self.verifying[frame.job.id, frame.index] = frame

    def _forget_verifying(self, frame: Frame) -> None:
        """Forget what was compared, none of it at work, and have its tiles deleted."""
        for band in frame.verify_bands:
            frame.waiting.pop(band, None)
        compared = self._forget_bands(list(frame.verify_bands.values()))
        frame.verify_bands = {}
        self._stop_verifying(frame)
        self._out.append(act.DiscardTiles(frame.job.id, (), compared))

    def _compare(self, second: Attempt) -> None:
        """Have an accepted tile of a verify band compared with the one in the picture."""
        band = second.band
        assert band.again is not None
        assert band.again.accepted is not None
        frame, first = band.frame, band.again.accepted.id
        self._out.append(
            act.CompareTiles(frame.job.id, frame.index, band.id, band.rect, first, second.id)
        )

    def _compared(self, event: ev.Compared) -> None:
        job = self.jobs.get(event.job)
        if job is None or not job.open:
            return
        band = job.frames[event.frame].verify_bands.get(event.band)
        if band is None or band.accepted is None:
            # Of a run that is over: the job has been requeued since.
            return
        self._out.append(act.DiscardTile(band.accepted.id))
        if event.comparison is None:
            self._give_up(band, event.reason)
            return
        band.comparison = event.comparison
        band.state = advance(BAND_TABLE, band.state, BandTrigger.COMPARE)
        found = f"{event.comparison.differing} of {event.comparison.pixels} pixels differ"
        self._tell(band, f"{band.id} compared: {found}")
        self._settle(band.frame)

    def _give_up(self, band: Band, reason: str) -> None:
        """Do without this comparison: no fault of the picture, so none of the job's."""
        band.state = advance(BAND_TABLE, band.state, BandTrigger.GIVE_UP)
        band.reason = reason
        band.frame.waiting.pop(band.id, None)
        self._tell(band, f"{band.id} given up: {reason}")
        self._settle(band.frame)

    def _settle(self, frame: Frame) -> None:
        self._changed(frame.job)
        if frame.verified:
            self._stop_verifying(frame)
            self._finish(frame.job)

    def _watch_verifying(self) -> None:
        """Set a deadline to verify bands for which nobody is there, and lift it when one comes."""
        for frame in self.verifying.values():
            if not frame.waiting or policy.has_takers(
                frame, self.nodes.values(), self.patience.band_tries
            ):
                frame.give_up_at = None
            elif frame.give_up_at is None:
                frame.give_up_at = max(self._now + self._detached_s, self.nodes_return_by)

    def _tire_of_verifying(self) -> None:
        """Give up the verify bands whose deadline is over."""
        for frame in list(self.verifying.values()):
            if frame.give_up_at is None or frame.give_up_at > self._now:
                continue
            for band in list(frame.waiting.values()):
                reason = f"no node that may render it was there for {self._detached_s:g} s"
                self._give_up(band, reason)

    def _frame_stitched(self, event: ev.FrameStitched) -> None:
        frame = self._running(event)
        if frame is not None:
            frame.stitched = True
            self._note_frame(frame)
            self._changed(frame.job)
            self._finish(frame.job)

    def _finish(self, job: Job) -> None:
        """Let the job be done if all its pictures are written and nothing is left to verify."""
        if not all(frame.stitched for frame in job.frames):
            return
        written = job.state is JobState.STITCHING
        if not all(frame.verified for frame in job.frames):
            if written:
                job.state = advance(JOB_TABLE, job.state, JobTrigger.UNVERIFIED)
            return
        trigger = JobTrigger.STITCHED if written else JobTrigger.VERIFIED
        job.state = advance(JOB_TABLE, job.state, trigger)
        job.ended_at = self._now
        self.open_jobs.remove(job)
        self.kept[job.id] = job
        self._discard_tiles(job)
        self._close_accounts(job)
        self._out.append(act.JobDone(job.id))
