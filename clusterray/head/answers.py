"""What clients ask of jobs and nodes, and what they are told: one function for each question.

On the task-manager thread. An order to a job becomes an event of the farm's, if the job's state
allows it. Knows nothing of sockets; nothing here waits for anything.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from clusterray.core import events as ev
from clusterray.core.entities import Attempt, Band, Job
from clusterray.core.errors import JobCancelled, SceneFault
from clusterray.core.farm import Farm
from clusterray.core.model import AttemptId, JobId, Rect
from clusterray.core.orders import Order, refusal
from clusterray.core.states import BandState, FrameState, JobState
from clusterray.head.bulletin import Bulletin
from clusterray.head.disk_room import DiskRoom, room_for
from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from clusterray.head.job_logs import JobLogs
from clusterray.head.letters import Asked, PartialPlan
from clusterray.head.memory import Known
from clusterray.head.ownership import may_touch, seen_by
from clusterray.head.scene_store import SceneStore
from clusterray.head.state_folder import StateFolder
from clusterray.head.verdicts import check_views
from clusterray.head.views import (
    MAX_LONG_TEXT,
    MAX_TEXT,
    STAGES,
    band_views,
    chance_view,
    light_view,
    probe_view,
    settings_view,
)
from clusterray.wire import protocol as msg
from clusterray.wire.protocol import Grant, Message

_log = logging.getLogger("clusterray.head.answers")

MAX_LOGS = 2000
"""The most attempts whose texts one answer gives."""


class Refused(Exception):
    """The question gets no answer but this: an exit code and a sentence."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Answers:
    """The questions of clients. ``happen`` lets an event happen; ``send`` posts to a connection.

    ``plan`` has a connection's own thread put a partial picture together and answer.
    """

    def __init__(
        self,
        farm: Farm,
        folder: StateFolder,
        ftp: FtpServer,
        scenes: SceneStore,
        bulletin: Bulletin,
        logs: JobLogs,
        room: DiskRoom,
        known: Known,
        *,
        happen: Callable[[ev.Event], None],
        send: Callable[[int, Message], None],
        plan: Callable[[int, PartialPlan], None],
    ) -> None:
        self._farm = farm
        self._folder = folder
        self._ftp = ftp
        self._scenes = scenes
        self._bulletin = bulletin
        self._logs_of = logs
        self._room = room
        self._known = known
        self._happen = happen
        self._send = send
        self._plan = plan
        self._grants: dict[int, list[str]] = {}
        self._answers: dict[type, Callable[[Asked, Any], Message | None]] = {
            msg.ListJobs: self._list_jobs,
            msg.ListNodes: self._list_nodes,
            msg.Forgive: self._forgive,
            msg.Show: self._show,
            msg.Follow: self._follow,
            msg.Fetch: self._fetch,
            msg.Logs: self._logs,
            msg.Cancel: self._cancel,
            msg.Pause: self._pause,
            msg.Resume: self._resume,
            msg.Requeue: self._requeue,
            msg.SetPriority: self._set_priority,
            msg.Delete: self._delete,
        }

    def asked(self, letter: Asked) -> None:
        """Answer a question, or refuse it in words."""
        question = letter.question
        try:
            answer = self._answers[type(question)](letter, question)
        except Refused as refused:
            answer = msg.Refused(question.request, refused.code, str(refused))
        if answer is not None:
            self._send(letter.conn, answer)

    def closed(self, conn: int) -> None:
        """End the logins that a connection got to fetch pictures."""
        for user in self._grants.pop(conn, ()):
            self._ftp.revoke(user)

    # ---------------------------------------------------------------- whose job

    def _job(self, letter: Asked) -> Job:
        """Give the job that a client asks for: the one place that says who may do what with it.

        An admin token opens every job, a submit token those that came with it. Others' jobs are to
        it as if there were none.
        """
        job_id = JobId(letter.question.job)  # type: ignore[union-attr]  # all that come here have
        job = self._farm.jobs.get(job_id)
        if job is not None and not may_touch(letter.who, job.request.token):
            raise _never_heard_of(job_id)
        if job is None:
            raise self._no_job(job_id, follows=isinstance(letter.question, msg.Follow))
        return job

    def _no_job(self, job: JobId, *, follows: bool) -> Refused:
        deleted = self._farm.deleted.get(job)
        if deleted is None and self._farm.was_made(job):
            deleted = f"job {job} was deleted or forgotten"
        if deleted is not None:
            # Who waits for it is told as if it were cancelled, and does not submit it again.
            return Refused(JobCancelled.exit_code if follows else SceneFault.exit_code, deleted)
        return _never_heard_of(job)

    # ---------------------------------------------------------------- orders

    def _obey(self, letter: Asked, job: Job, order: Order, done: Callable[[], str]) -> Message:
        """Let the order happen and say what came of it, or say why the job's state forbids it."""
        words = refusal(job, order)
        if words:
            raise Refused(SceneFault.exit_code, words)
        self._happen(order)
        text = done()
        _log.info("%s, says %s", text, letter.by)
        return msg.Ok(letter.question.request, text)

    def _cancel(self, letter: Asked, question: msg.Cancel) -> Message:
        job = self._job(letter)
        order = ev.JobCancelled(job.id, letter.by)
        return self._obey(letter, job, order, lambda: f"job {job.id} is cancelled")

    def _pause(self, letter: Asked, question: msg.Pause) -> Message:
        job = self._job(letter)
        order = ev.JobPaused(job.id, letter.by, question.now)
        return self._obey(letter, job, order, lambda: f"job {job.id} is paused{_still(job)}")

    def _resume(self, letter: Asked, question: msg.Resume) -> Message:
        job = self._job(letter)
        order = ev.JobResumed(job.id, letter.by)
        return self._obey(letter, job, order, lambda: f"job {job.id} goes on")

    def _requeue(self, letter: Asked, question: msg.Requeue) -> Message:
        job = self._job(letter)
        if not job.open and not self._scenes.has(job.request.scene):
            text = f"the scene of job {job.id} is no longer at the head: submit it again"
            raise Refused(SceneFault.exit_code, text)
        if not job.open and (words := self._no_room_for(job)):
            raise Refused(SceneFault.exit_code, words)
        order = ev.JobRequeued(job.id, letter.by, question.everything)
        return self._obey(letter, job, order, lambda: f"job {job.id} {_to_render(job)}")

    def _no_room_for(self, job: Job) -> str:
        wanted = room_for(job.request, self._known.specs[job.id])
        return self._room.make_room(wanted, f"job {job.id}", keep=job)

    def _set_priority(self, letter: Asked, question: msg.SetPriority) -> Message:
        job = self._job(letter)
        order = ev.PriorityChanged(job.id, letter.by, question.priority)
        return self._obey(letter, job, order, lambda: f"job {job.id} {self._place(job)}")

    def _place(self, job: Job) -> str:
        before = sum(other.rank < job.rank for other in self._farm.open_jobs)
        place = f"{before} job{'s' if before > 1 else ''} before it" if before else "none before it"
        return f"has priority {job.priority}, {place}"

    def _delete(self, letter: Asked, question: msg.Delete) -> Message:
        job = self._job(letter)
        order = ev.JobDeleted(job.id, letter.by, question.force)
        return self._obey(letter, job, order, lambda: f"job {job.id} is deleted")

    # ---------------------------------------------------------------- questions

    def _list_jobs(self, letter: Asked, question: msg.ListJobs) -> Message:
        if letter.who.role == "admin":
            return msg.Jobs(question.request, list(self._bulletin.refresh().jobs))
        return msg.Jobs(question.request, self._bulletin.jobs_of(letter.who.id))

    def _list_nodes(self, letter: Asked, question: msg.ListNodes) -> Message:
        seen = seen_by(letter.who, self._bulletin.refresh())
        return msg.Nodes(question.request, list(seen.nodes))

    def _forgive(self, letter: Asked, question: msg.Forgive) -> Message:
        nodes = list(self._farm.nodes.values())
        named = [node for node in nodes if question.node in (node.name, node.id)]
        if not named:
            text = f"there is no node {question.node!r}; `clusterray nodes` lists them"
            raise Refused(SceneFault.exit_code, text)
        for node in named:
            self._happen(ev.NodeForgiven(node.id, letter.by))
        self._bulletin.nodes_changed()
        text = f"nothing is held against node {question.node} any more"
        _log.info("%s, says %s", text, letter.by)
        return msg.Ok(question.request, text)

    def _follow(self, letter: Asked, question: msg.Follow) -> Message:
        job = self._job(letter)
        self._bulletin.follow(job, letter.conn, question.request)
        return msg.JobStatus(question.request, self._bulletin.view_of(job))

    def _show(self, letter: Asked, question: msg.Show) -> Message:
        job = self._job(letter)
        return msg.JobDetail(
            question.request,
            self._bulletin.view_of(job),
            settings_view(self._known.specs[job.id]),
            band_views(job.frames, self._known.seconds),
            job.request.note,
            light_view(job, self._known.gathers),
            check_views(job),
            chance_view(job),
            probe_view(job),
        )

    def _logs(self, letter: Asked, question: msg.Logs) -> Message:
        job = self._job(letter)
        bands = [band for frame in job.frames for band in frame.all_bands]
        if question.band is not None:
            bands = [band for band in bands if band.id == question.band]
            if not bands:
                text = f"job {job.id} has no band {question.band}; `clusterray show {job.id}` "
                raise Refused(SceneFault.exit_code, text + "lists them")
        bands.sort(key=lambda band: (band.frame.index, STAGES.index(band.stage), band.rect.y0))
        attempts = [(band, attempt) for band in bands for attempt in band.attempts]
        for band, attempt in attempts[-MAX_LOGS:]:
            text = self._logs_of.read(job.id, attempt.id)
            self._send(letter.conn, _attempt_log(question.request, band, attempt, text))
        return msg.Ok(question.request, f"{len(attempts)} attempts")

    # ---------------------------------------------------------------- pictures

    def _fetch(self, letter: Asked, question: msg.Fetch) -> Message | None:
        job = self._job(letter)
        if job.gone:
            text = f"{job.gone}; clusterray requeue --all {job.id} renders it again"
            raise Refused(SceneFault.exit_code, f"there is no picture of job {job.id}: {text}")
        if question.partial and job.state is not JobState.DONE:
            self._plan(letter.conn, self._partial_plan(job, question.request))
            return None
        result = self._known.results.get(job.id)
        if result is None or job.state is not JobState.DONE:
            text = f"job {job.id} is {job.state}: there is no finished picture to fetch"
            raise Refused(SceneFault.exit_code, f"{text}; --partial fetches what is there of it")
        user = f"f-{letter.conn}-{question.request}"
        grant = Grant(user, secrets.token_hex(16), result.path.name)
        self._ftp.grant(FileGrant(user, grant.password, grant.path, result.path, "read"))
        self._grants.setdefault(letter.conn, []).append(user)
        pixels = job.request.picture.region.area
        return msg.Result(
            question.request,
            job.request.output_name,
            result.size,
            result.sha256,
            grant,
            pixels_done=pixels,
            pixels_total=pixels,
        )

    def _partial_plan(self, job: Job, request: int) -> PartialPlan:
        return PartialPlan(
            request=request,
            job=job.id,
            name=job.request.output_name,
            region=job.request.picture.region,
            kind=self._known.specs[job.id].file_format,
            tiles=tuple((self._folder.tile_of(attempt), rect) for attempt, rect in _tiles(job)),
        )


def _never_heard_of(job: JobId) -> Refused:
    text = f"there is no job {job}; `clusterray jobs` lists them"
    return Refused(SceneFault.exit_code, text)


def _tiles(job: Job) -> Iterator[tuple[AttemptId, Rect]]:
    """Give the accepted tiles of a job's first frame."""
    frame = job.frames[0]
    if frame.state is not FrameState.FINAL:
        return
    for band in frame.bands.values():
        if band.state is BandState.COVERED and band.accepted is not None:
            yield band.accepted.id, band.rect


def _still(job: Job) -> str:
    bands = [band for frame in job.frames for band in frame.all_bands if band.live_attempts]
    if not bands:
        return ""
    return f"; {len(bands)} band{'' if len(bands) == 1 else 's'} at work will end"


def _to_render(job: Job) -> str:
    bands = [band for frame in job.frames for band in frame.bands.values()]
    left = [band for band in bands if band.state is not BandState.COVERED]
    if not left:
        return "is joined again: all its bands are there"
    return f"is queued again: {len(left)} of {len(bands)} bands are to be rendered"


def _attempt_log(request: int, band: Band, attempt: Attempt, text: str) -> msg.AttemptLog:
    return msg.AttemptLog(
        request,
        band.id,
        band.rect.as_tuple(),
        band.stage,
        attempt.id,
        attempt.node_name,
        attempt.state.value,
        attempt.reason[:MAX_TEXT],
        text[-MAX_LONG_TEXT:],
    )
