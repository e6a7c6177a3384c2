"""The thread that owns the farm: takes letters, lets events happen, carries the actions out.

Nobody else touches the Farm, the holds on scenes or the results. Everything that leaves (messages,
grants, tiles) is left in another thread's queue; nothing here waits for a socket. Knows no POV-Ray
but the RenderSpec's own words.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.actions import Action
from clusterray.core.entities import Job
from clusterray.core.farm import Farm
from clusterray.core.model import AttemptId, JobId, Light, Rect, SceneId, Stage
from clusterray.head.bulletin import Bulletin
from clusterray.head.fidelity_file import fidelity_file
from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from clusterray.head.letters import (
    Asked,
    ClientOpened,
    Closed,
    Hold,
    Letter,
    NewJob,
    NodeOpened,
    Outlet,
    PictureWritten,
    Spent,
    Stop,
    TokenRevoked,
)
from clusterray.head.scene_store import SceneStore
from clusterray.head.state_folder import StateFolder
from clusterray.head.stitcher import Pair, Stitcher
from clusterray.head.uploads import Expected, ExpectedLight
from clusterray.head.verdicts import check_views, verdict_lines
from clusterray.head.views import (
    FarmView,
    band_views,
    chance_view,
    light_view,
    probe_view,
    settings_view,
)
from clusterray.images.formats import is_whole_picture, pixel_bytes
from clusterray.povray.light_file import light_limit
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from clusterray.wire.protocol import Grant, Message, PhaseSeconds

SCENE_FILE = "scene.tar"
TILE_FILE = "tile.png"
LIGHT_FILE = "light.rca"

_log = logging.getLogger("clusterray.head.task_manager")


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A finished picture on the head's disk."""

    path: Path
    size: int
    sha256: str


def tile_limit(rect: Rect, spec: RenderSpec) -> int:
    """Give the most bytes a tile can have: its raw rows, packing's worst growth, headers.

    Where a tile is as large as the picture, its black rows are counted too: they pack well, but a
    limit is no estimate.
    """
    width, height = rect.width, rect.height
    if is_whole_picture(spec.file_format):
        width, height = spec.width, spec.height
    raw = height * (width * pixel_bytes(spec.file_format.tile) + 8)
    return raw + raw // 50 + 65_536


class TaskManager:
    """The farm's keeper. ``post`` and ``view`` are for any thread, all else for its own.

    ``on_crash`` is called if the thread dies of a fault of ours: the head must not go on then.
    """

    def __init__(
        self,
        farm: Farm,
        folder: StateFolder,
        ftp: FtpServer,
        scenes: SceneStore,
        stitcher: Stitcher,
        *,
        on_crash: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._farm = farm
        self._folder = folder
        self._ftp = ftp
        self._scenes = scenes
        self._stitcher = stitcher
        self._on_crash = on_crash
        self._clock = clock
        self._bulletin = Bulletin(farm, clock, self._send)
        self._inbox: queue.SimpleQueue[Letter] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="task-manager")
        self._outlets: dict[int, Outlet] = {}
        self._tokens: dict[int, str] = {}
        self._specs: dict[JobId, RenderSpec] = {}
        self._results: dict[JobId, StoredResult] = {}
        self._seconds: dict[str, PhaseSeconds] = {}
        self._gathers: dict[str, int] = {}
        self._held: dict[int, set[SceneId]] = {}
        self._fetch_grants: dict[int, list[str]] = {}
        self._submits: dict[int, NewJob] = {}
        self._next_reply = 0
        self._node_conns: set[int] = set()
        self._actions: dict[type, Callable[[Any], None]] = {
            act.SendLease: self._send_lease,
            act.SendKeep: self._send_keep,
            act.SendDrop: lambda a: self._send(a.conn, msg.Drop(a.attempt, a.reason)),
            act.SendAccepted: lambda a: self._send(a.conn, msg.Accepted(a.attempt)),
            act.CloseConnection: self._close_connection,
            act.RevokeGrants: self._revoke_grants,
            act.DiscardTile: lambda a: folder.discard_attempt(a.attempt),
            act.BeginFrame: self._begin_frame,
            act.JoinLight: self._join_light,
            act.AddTile: self._add_tile,
            act.CompareTiles: self._compare_tiles,
            act.FinishFrame: lambda a: stitcher.finish(a.job, a.frame),
            act.JobDone: self._job_done,
            act.AbandonJob: self._abandon_job,
            act.ForgetJob: self._forget_job,
            act.JobChanged: lambda a: self._bulletin.job_changed(a.job),
            act.NoteFidelity: lambda a: self._note_fidelity(self._farm.jobs[a.job]),
            act.AnswerSubmit: self._answer_submit,
            act.RefuseSubmit: self._refuse_submit,
        }
        self._letters: dict[type, Callable[[Any], None]] = {
            ClientOpened: self._client_opened,
            NodeOpened: self._node_opened,
            Closed: self._closed,
            Spent: self._spent,
            Asked: self._asked,
            NewJob: self._new_job,
            Hold: self._hold,
            PictureWritten: self._picture_written,
            ev.LightJoined: self._light_joined,
            TokenRevoked: self._token_revoked,
        }
        self._questions: dict[type, Callable[[Asked, Any], Message]] = {
            msg.Follow: self._follow,
            msg.Fetch: self._fetch,
            msg.Cancel: self._cancel,
            msg.ListJobs: lambda _, q: msg.Jobs(q.request, list(self._bulletin.refresh().jobs)),
            msg.ListNodes: lambda _, q: msg.Nodes(q.request, list(self._bulletin.refresh().nodes)),
            msg.Forgive: self._forgive,
            msg.Show: self._show,
        }

    # ---------------------------------------------------------------- any thread

    @property
    def view(self) -> FarmView:
        """What the status page shows: an immutable value, replaced as a whole."""
        return self._bulletin.farm_view

    def post(self, letter: Letter) -> None:
        """Leave a letter; they are taken in order."""
        self._inbox.put(letter)

    def start(self) -> None:
        """Start the thread ``task-manager``."""
        self._thread.start()

    def stop(self) -> None:
        """Take what is in the inbox, then end the thread."""
        if self._thread.is_alive():
            self.post(Stop())
            self._thread.join()

    # ---------------------------------------------------------------- the loop

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except Exception:  # noqa: BLE001 - without its thread the head must not go on
            _log.critical("the task manager has a fault; the head stops", exc_info=True)
            self._on_crash()

    def _step(self) -> bool:
        """Take one letter, or let a deadline pass; False after Stop."""
        try:
            letter = self._inbox.get(timeout=self._wait_s())
        except queue.Empty:
            self._happen(ev.Tick())
        else:
            if isinstance(letter, Stop):
                return False
            self._bulletin.anything_changed()
            handler = self._letters.get(type(letter))
            if handler is not None:
                handler(letter)
            else:
                self._happen(letter)  # type: ignore[arg-type]  # the table has all other letters
        self._bulletin.publish()
        return True

    def _wait_s(self) -> float | None:
        """Give the seconds until the next deadline or view, None if neither is due."""
        moments = (self._bulletin.next_due(), self._farm.next_deadline())
        due = [moment for moment in moments if moment is not None]
        return max(0.0, min(due) - self._clock()) if due else None

    def _happen(self, event: ev.Event) -> None:
        for action in self._farm.handle(event, self._clock()):
            self._perform(action)

    def _perform(self, action: Action) -> None:
        self._actions[type(action)](action)

    def _send(self, conn: int, message: Message, expected: Expected | None = None) -> None:
        outlet = self._outlets.get(conn)
        if outlet is not None:
            outlet.post(message, expected)

    # ---------------------------------------------------------------- actions

    def _send_lease(self, action: act.SendLease) -> None:
        scene = action.request.scene
        read = self._grant_scene(action.attempt, scene)
        write, expected = self._grant_tile(action.attempt, action.job, action.rect, action.stage)
        lease = msg.Lease(
            attempt=action.attempt,
            band=action.band,
            job=action.job,
            frame=action.frame,
            rect=action.rect.as_tuple(),
            scene=msg.SceneRef(scene, self._scenes.tar_bytes(scene)),
            spec=dict(action.request.spec),
            read=read,
            write=write,
            # A node is not told that a band is compared, so that it renders it as any other.
            stage="light" if action.stage == "light" else "final",
            light=self._grant_light(action, action.light) if action.light else None,
            probe=action.probe,
        )
        node = self._farm.attempts[action.attempt].node_name
        rect = action.rect
        rows = f"rows {rect.y0} to {rect.y1 - 1}"
        _log.info("%s of %s goes to %s: %s", action.band, action.job, node, rows)
        self._send(action.conn, lease, expected)

    def _send_keep(self, action: act.SendKeep) -> None:
        job = self._farm.attempts[action.attempt].band.frame.job
        write, expected = self._grant_tile(action.attempt, job.id, action.rect, action.stage)
        self._send(action.conn, msg.Keep(action.attempt, write), expected)

    def _grant_scene(self, attempt: AttemptId, scene: SceneId) -> Grant:
        grant = Grant(f"r-{attempt}", secrets.token_hex(16), SCENE_FILE)
        path = self._scenes.tar_path(scene)
        self._ftp.grant(FileGrant(grant.user, grant.password, grant.path, path, "read"))
        return grant

    def _grant_light(self, action: act.SendLease, light: Light) -> msg.LightRef:
        grant = Grant(f"l-{action.attempt}", secrets.token_hex(16), LIGHT_FILE)
        path = self._folder.light_of(action.job, action.frame)
        self._ftp.grant(FileGrant(grant.user, grant.password, grant.path, path, "read"))
        return msg.LightRef(light.sha256, light.size, grant)

    def _grant_tile(
        self, attempt: AttemptId, job: JobId, rect: Rect, stage: Stage
    ) -> tuple[Grant, Expected]:
        spec = self._specs[job]
        upload = self._folder.upload_of(attempt)
        grant = Grant(f"w-{attempt}", secrets.token_hex(16), TILE_FILE)
        kind = ExpectedLight if stage == "light" else Expected
        limit = light_limit(rect) if stage == "light" else tile_limit(rect, spec)
        self._ftp.grant(FileGrant(grant.user, grant.password, grant.path, upload, "write", limit))
        kept = (self._folder.samples_of if stage == "light" else self._folder.tile_of)(attempt)
        return grant, kind(rect, spec.file_format, upload, kept, (spec.width, spec.height))

    def _revoke_grants(self, action: act.RevokeGrants) -> None:
        self._ftp.revoke(f"l-{action.attempt}")
        self._ftp.revoke(f"r-{action.attempt}")
        self._ftp.revoke(f"w-{action.attempt}")

    def _close_connection(self, action: act.CloseConnection) -> None:
        outlet = self._outlets.get(action.conn)
        if outlet is not None:
            outlet.leave(action.reason)

    def _begin_frame(self, action: act.BeginFrame) -> None:
        spec = RenderSpec.from_wire(action.request.spec)
        self._specs[action.job] = spec
        self._bulletin.job_made(action.job)
        target = self._folder.result_of(action.job, action.request.output_name)
        region = action.request.picture.region
        self._stitcher.begin(action.job, action.frame, region, spec.file_format, target)

    def _join_light(self, action: act.JoinLight) -> None:
        parts = tuple(self._folder.samples_of(attempt) for attempt in action.attempts)
        target = self._folder.light_of(action.job, action.frame)
        self._stitcher.join(action.job, action.frame, parts, target)

    def _add_tile(self, action: act.AddTile) -> None:
        tile = self._folder.tile_of(action.attempt)
        self._stitcher.add(action.job, action.frame, tile, action.rect)

    def _compare_tiles(self, action: act.CompareTiles) -> None:
        tiles = self._folder.tile_of(action.first), self._folder.tile_of(action.second)
        kind = self._specs[action.job].file_format
        self._stitcher.compare(
            action.job, action.frame, Pair(action.band, tiles, action.rect, kind)
        )

    def _job_done(self, action: act.JobDone) -> None:
        job = self._farm.jobs[action.job]
        self._discard_tiles(job)
        self._evict_scenes()
        _log.info("job %s is %s: %s", job.id, job.state, self._results[job.id].path)
        for line in verdict_lines(job):
            _log.info("job %s: %s", job.id, line)
        self._note_fidelity(job)

    def _abandon_job(self, action: act.AbandonJob) -> None:
        self._stitcher.abandon(action.job)
        self._discard_tiles(self._farm.jobs[action.job])
        self._folder.discard_result(action.job)

    def _forget_job(self, action: act.ForgetJob) -> None:
        self._folder.discard_result(action.job)
        self._results.pop(action.job, None)
        self._specs.pop(action.job, None)
        for attempt in action.attempts:
            self._seconds.pop(attempt, None)
            self._gathers.pop(attempt, None)
        self._bulletin.forget(action.job, action.attempts)

    def _note_fidelity(self, job: Job) -> None:
        """Write beside a picture, once it is written, how true it is by what is known now."""
        result = self._results.get(job.id)
        if result is None or not result.path.is_file():
            return
        fidelity = self._bulletin.fidelity_of(job)
        _log.info("%s of %s: %s: %s", result.path.name, job.id, fidelity.kind, fidelity.reason)
        try:
            self._folder.write_beside(
                result.path, fidelity_file(job, fidelity, result.sha256, self._gathers)
            )
        except OSError as error:
            _log.warning("what is known of %s cannot be kept: %s", result.path, error.strerror)

    def _discard_tiles(self, job: Job) -> None:
        for frame in job.frames:
            self._folder.discard_light(job.id, frame.index)
            for band in frame.all_bands:
                for attempt in band.attempts:
                    self._folder.discard_attempt(attempt.id)

    def _answer_submit(self, action: act.AnswerSubmit) -> None:
        letter = self._submits.pop(action.reply)
        request = letter.request
        self._folder.remember_job_number(self._farm.jobs[action.job].number)
        _log.info("job %s from %s: %s", action.job, request.owner, request.title)
        answer = msg.Submitted(letter.request_id, action.job, action.existing)
        self._send(letter.conn, answer)

    def _refuse_submit(self, action: act.RefuseSubmit) -> None:
        letter = self._submits.pop(action.reply)
        self._send(letter.conn, msg.Refused(letter.request_id, 3, action.message))

    # ---------------------------------------------------------------- letters

    def _client_opened(self, letter: ClientOpened) -> None:
        self._outlets[letter.conn] = letter.outlet
        self._tokens[letter.conn] = letter.token

    def _node_opened(self, letter: NodeOpened) -> None:
        self._outlets[letter.conn] = letter.outlet
        self._tokens[letter.conn] = letter.token
        self._node_conns.add(letter.conn)
        _log.info("node %s joined from %s", letter.joined.name, letter.card.address)
        self._happen(letter.joined)
        if self._farm.nodes[letter.joined.node].conn == letter.conn:
            self._bulletin.node_met(letter.joined.node, letter.card)

    def _closed(self, letter: Closed) -> None:
        self._outlets.pop(letter.conn, None)
        self._tokens.pop(letter.conn, None)
        for user in self._fetch_grants.pop(letter.conn, ()):
            self._ftp.revoke(user)
        self._bulletin.unfollow(letter.conn)
        if self._held.pop(letter.conn, None):
            self._evict_scenes()
        if letter.conn in self._node_conns:
            self._node_conns.discard(letter.conn)
            self._happen(ev.NodeGone(letter.conn, letter.reason, letter.silent))
            self._bulletin.nodes_changed()

    def _spent(self, letter: Spent) -> None:
        self._seconds[letter.attempt] = letter.seconds
        self._gathers[letter.attempt] = letter.gathers
        if letter.used is not None:
            self._bulletin.light_used(letter.attempt, letter.used)

    def _hold(self, letter: Hold) -> None:
        self._held.setdefault(letter.conn, set()).add(letter.scene)
        letter.done.set()

    def _evict_scenes(self) -> None:
        in_use = {job.request.scene for job in self._farm.open_jobs}
        self._scenes.evict(in_use.union(*self._held.values()))

    def _new_job(self, letter: NewJob) -> None:
        self._next_reply += 1
        self._submits[self._next_reply] = letter
        self._happen(ev.JobSubmitted(self._next_reply, letter.request))

    def _light_joined(self, event: ev.LightJoined) -> None:
        self._happen(event)
        job = self._farm.jobs.get(event.job)
        if job is None or not job.open:
            self._folder.discard_light(event.job, event.frame)
            return
        for band in job.frames[event.frame].light_bands.values():
            for attempt in band.attempts:
                self._folder.discard_attempt(attempt.id)
        _log.info("light of %s: %s", job.id, light_view(job, self._gathers))

    def _picture_written(self, letter: PictureWritten) -> None:
        self._results[letter.job] = StoredResult(letter.path, letter.size, letter.sha256)
        self._happen(ev.FrameStitched(letter.job, letter.frame))
        job = self._farm.jobs.get(letter.job)
        if job is not None and job.open:
            # Its bands are still being rendered again; but the picture can be fetched.
            self._note_fidelity(job)

    def _token_revoked(self, letter: TokenRevoked) -> None:
        for conn, token in self._tokens.items():
            if token == letter.token:
                self._outlets[conn].leave("its token was revoked")

    # ---------------------------------------------------------------- questions

    def _asked(self, letter: Asked) -> None:
        answer = self._questions[type(letter.question)]
        self._send(letter.conn, answer(letter, letter.question))

    def _no_job(self, question: Any) -> Message:
        text = f"there is no job {question.job}; `clusterray jobs` lists them"
        return msg.Refused(question.request, 3, text)

    def _follow(self, letter: Asked, question: msg.Follow) -> Message:
        job = self._farm.jobs.get(JobId(question.job))
        if job is None:
            return self._no_job(question)
        self._bulletin.follow(job, letter.conn, question.request)
        return msg.JobStatus(question.request, self._bulletin.view_of(job))

    def _fetch(self, letter: Asked, question: msg.Fetch) -> Message:
        job = self._farm.jobs.get(JobId(question.job))
        if job is None:
            return self._no_job(question)
        result = self._results.get(job.id)
        if result is None or job.open:
            text = f"job {job.id} is {job.state}: there is no finished picture to fetch"
            return msg.Refused(question.request, 3, text)
        user = f"f-{letter.conn}-{question.request}"
        grant = Grant(user, secrets.token_hex(16), result.path.name)
        self._ftp.grant(FileGrant(user, grant.password, grant.path, result.path, "read"))
        self._fetch_grants.setdefault(letter.conn, []).append(user)
        name = job.request.output_name
        return msg.Result(question.request, name, result.size, result.sha256, grant)

    def _cancel(self, letter: Asked, question: msg.Cancel) -> Message:
        job = self._farm.jobs.get(JobId(question.job))
        if job is None:
            return self._no_job(question)
        if not job.open:
            return msg.Refused(question.request, 3, f"job {job.id} is {job.state} already")
        self._happen(ev.JobCancelled(job.id, letter.by))
        return msg.Ok(question.request, f"job {job.id} is cancelled")

    def _forgive(self, letter: Asked, question: msg.Forgive) -> Message:
        nodes = list(self._farm.nodes.values())
        named = [node for node in nodes if question.node in (node.name, node.id)]
        if not named:
            text = f"there is no node {question.node!r}; `clusterray nodes` lists them"
            return msg.Refused(question.request, 3, text)
        for node in named:
            self._happen(ev.NodeForgiven(node.id, letter.by))
        self._bulletin.nodes_changed()
        return msg.Ok(question.request, f"nothing is held against node {question.node} any more")

    def _show(self, letter: Asked, question: msg.Show) -> Message:
        job = self._farm.jobs.get(JobId(question.job))
        if job is None:
            return self._no_job(question)
        return msg.JobDetail(
            question.request,
            self._bulletin.view_of(job),
            settings_view(self._specs[job.id]),
            band_views(job.frames, self._seconds),
            job.request.note,
            light_view(job, self._gathers),
            check_views(job),
            chance_view(job),
            probe_view(job),
        )
