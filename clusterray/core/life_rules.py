"""What people do to a job between its submission and its oblivion, and what room and time do to it.

Pause, resume, requeue, priority, cancel, delete; the files of jobs that have ended, which go when
they are old or their room is needed. Pure.
"""

from __future__ import annotations

from bisect import insort

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.entities import Band, Frame, Job
from clusterray.core.model import JobId
from clusterray.core.orders import Order, refusal
from clusterray.core.states import (
    BAND_TABLE,
    JOB_TABLE,
    AttemptState,
    AttemptTrigger,
    BandState,
    BandTrigger,
    FrameState,
    JobState,
    JobTrigger,
    advance,
)
from clusterray.core.verifying import Verifying

MAX_DELETED = 1000
"""Of so many deleted jobs it is still known that they are deleted, and by whom."""


class LifeRules(Verifying):
    """The farm's rules for the whole life of a job. ``_keep_s``: so long files are kept."""

    _keep_s: float | None = None

    def _asked(self, order: Order) -> Job | None:
        """Give the job that the order is for, None if there is none or its state forbids it."""
        job = self.jobs.get(order.job)
        return None if job is None or refusal(job, order) else job

    def _into_queue(self, job: Job) -> None:
        insort(self.open_jobs, job, key=lambda other: other.rank)

    # ---------------------------------------------------------------- while it is open

    def _job_cancelled(self, event: ev.JobCancelled) -> None:
        job = self._asked(event)
        if job is not None:
            self._end_job(job, JobTrigger.CANCEL, f"cancelled by {event.by}", None)

    def _job_paused(self, event: ev.JobPaused) -> None:
        """Lease nothing more of the job.

        What is rendered already is uploaded and counts, also when the rest is taken back.
        """
        job = self._asked(event)
        if job is None:
            return
        if job.state is not JobState.PAUSED:
            job.state = advance(JOB_TABLE, job.state, JobTrigger.PAUSE)
            job.paused_by = event.by
        if event.now:
            bands = [band for frame in job.frames for band in frame.all_bands]
            for attempt in [each for band in bands for each in band.live_attempts]:
                if attempt.state is AttemptState.RENDERING:
                    self._end(attempt, AttemptTrigger.DROP, f"job {job.id} is paused")
        self._changed(job)

    def _job_resumed(self, event: ev.JobResumed) -> None:
        job = self._asked(event)
        if job is None:
            return
        job.state = advance(JOB_TABLE, job.state, JobTrigger.QUEUE)
        job.paused_by, job.started_at = "", None
        if any(band.live_attempts for frame in job.frames for band in frame.bands.values()):
            self._start(job)
        self._changed(job)

    def _priority_changed(self, event: ev.PriorityChanged) -> None:
        job = self._asked(event)
        if job is None:
            return
        self.open_jobs.remove(job)
        job.priority = event.priority
        self._into_queue(job)
        self._changed(job)

    # ---------------------------------------------------------------- run again

    def _job_requeued(self, event: ev.JobRequeued) -> None:
        """Run a job again: what is not covered, or everything.

        From the start also where its files are gone.
        """
        job = self._asked(event)
        if job is None:
            return
        job.state = advance(JOB_TABLE, job.state, JobTrigger.QUEUE)
        job.problem, job.reason, job.ended_at = None, "", None
        job.queued_at, job.started_at = self._now, None
        self.kept.pop(job.id, None)
        self._into_queue(job)
        if event.everything or job.gone:
            self._begin_anew(job)
        else:
            self._go_on(job)
        self._changed(job)

    def _begin_anew(self, job: Job) -> None:
        self._discard_tiles(job)
        self._out.append(act.DiscardResult(job.id))
        job.gone = ""
        for frame in job.frames:
            self._begin_frame_anew(frame)

    def _go_on(self, job: Job) -> None:
        for frame in job.frames:
            frame.run += 1
            frame.stitched = False
            self._note_frame(frame)
            for band in frame.bands.values():
                if band.state is BandState.VOID:
                    self._revive(band, f"job {job.id} is requeued")
            if not frame.has_pixels:
                frame.povray_class = None
            # What was compared is compared anew once the picture is there.
            self._forget_verifying(frame)
            self._out.append(act.BeginFrame(job.id, frame.index, job.request, frame.run))
            self._hand_over(frame)
        if all(frame.complete for frame in job.frames):
            job.state = advance(JOB_TABLE, job.state, JobTrigger.COVERED)

    def _revive(self, band: Band, why: str) -> None:
        """Let a band wait again, its failures forgiven: what made it fail may be mended."""
        band.state = advance(BAND_TABLE, band.state, BandTrigger.REQUEUE)
        band.failed_on, band.stalls = (), 0
        self._tell(band, f"{band.id} waits again: {why}")
        self._wait_again(band)

    def _hand_over(self, frame: Frame) -> None:
        """Give the shells that begin a frame what there is of it."""
        if frame.state is FrameState.JOINING:
            self._join(frame)
        if frame.state is not FrameState.FINAL:
            return
        for band in frame.bands.values():
            if band.accepted is not None:
                self._add_tile(band, band.accepted)
        if frame.complete:
            self._out.append(act.FinishFrame(frame.job.id, frame.index))
            if not frame.verify_bands:
                self._begin_verifying(frame)

    # ---------------------------------------------------------------- gone

    def _job_deleted(self, event: ev.JobDeleted) -> None:
        job = self._asked(event)
        if job is None:
            return
        reason = f"job {job.id} was deleted by {event.by}"
        if job.open:
            self._end_job(job, JobTrigger.CANCEL, reason, None)
        self._forget(job, reason)
        self._note_deleted(job.id, reason)

    def _note_deleted(self, job: JobId, reason: str) -> None:
        self.deleted[job] = self._changes.deleted[job] = reason
        while len(self.deleted) > MAX_DELETED:
            oldest = next(iter(self.deleted))
            del self.deleted[oldest]
            self._changes.deleted[oldest] = None

    def _forget_oldest(self) -> bool:
        """Forget the oldest job that has ended, its picture too; False if none has."""
        job = next((job for job in self.jobs.values() if not job.open), None)
        if job is None:
            return False
        self._forget(job, f"job {job.id} was forgotten to make room for others")
        return True

    def _forget(self, job: Job, reason: str) -> None:
        self._discard_tiles(job)
        self.kept.pop(job.id, None)
        del self.jobs[job.id], self._by_key[job.request.key]
        for frame in job.frames:
            self._forget_bands(frame.all_bands)
        job.take_apart()
        self._changes.gone_jobs.add(job.id)
        self._out.append(act.ForgetJob(job.id, reason))

    def _files_unwanted(self, event: ev.FilesUnwanted) -> None:
        job = self.kept.get(event.job)
        if job is not None:
            self._discard_files(job, event.reason)

    def _keep_until(self, job: Job) -> float | None:
        """Give when the files of a job that has ended are to go, None for never."""
        if self._keep_s is None or job.ended_at is None:
            return None
        return job.ended_at + self._keep_s

    def _discard_old_files(self) -> None:
        days = (self._keep_s or 0.0) / 86_400
        after = f"{days:g} day{'' if days == 1 else 's'}"
        reason = f"its files were deleted after {after} (setting keep_results_days)"
        for job in list(self.kept.values()):
            until = self._keep_until(job)
            if until is None or until > self._now:
                return
            self._discard_files(job, reason)

    def _discard_files(self, job: Job, reason: str) -> None:
        """Have picture, tiles and logs of a job that has ended deleted; what is known of it stays.

        A job that is done stays done: its picture was there.
        """
        del self.kept[job.id]
        job.gone = reason
        self._discard_tiles(job)
        self._out.append(act.DiscardResult(job.id))
        if job.state is not JobState.DONE:
            for frame in job.frames:
                self._uncover(frame)
        self._changed(job)

    def _uncover(self, frame: Frame) -> None:
        for band in frame.bands.values():
            if band.state is BandState.COVERED:
                self._void(band)
        for band in frame.verify_bands.values():
            band.accepted = None
            self._note_band(band)
        frame.povray_class = None
        self._note_frame(frame)

    def _void(self, band: Band) -> None:
        """The tile of a band of a job that has ended is gone."""
        band.state = advance(BAND_TABLE, band.state, BandTrigger.DISCARD)
        band.accepted = None
        band.frame.uncovered += band.rect.area
        self._tell(band, f"{band.id} is void: its tile is gone from the disk")
