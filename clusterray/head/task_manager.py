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
from typing import Any

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.actions import Action
from clusterray.core.entities import Job
from clusterray.core.farm import Farm
from clusterray.core.model import (
    LIGHT_KINDS,
    STAGE_OF,
    AttemptId,
    JobId,
    Light,
    LightKind,
    Rect,
    SceneId,
    Stage,
)
from clusterray.core.states import JobState
from clusterray.head.answers import Answers, Known, StoredResult
from clusterray.head.bulletin import Bulletin
from clusterray.head.disk_room import DiskRoom, room_for
from clusterray.head.fidelity_file import fidelity_file
from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from clusterray.head.job_logs import JobLogs
from clusterray.head.letters import (
    Asked,
    ClientOpened,
    Closed,
    Hold,
    Letter,
    NewJob,
    NodeOpened,
    Outlet,
    PartialPlan,
    PictureWritten,
    Said,
    Spent,
    Stop,
    TokenRevoked,
)
from clusterray.head.scene_store import SceneStore
from clusterray.head.state_folder import StateFolder
from clusterray.head.stitcher import Pair, Stitcher
from clusterray.head.uploads import Expected, ExpectedLight
from clusterray.head.verdicts import verdict_lines
from clusterray.head.views import FarmView, light_view
from clusterray.images.formats import is_whole_picture, pixel_bytes
from clusterray.povray.light_file import light_limit
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from clusterray.wire.protocol import Grant, Message

SCENE_FILE = "scene.tar"
TILE_FILE = "tile.png"
LIGHT_FILE = "light"

_log = logging.getLogger("clusterray.head.task_manager")


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


def _light_user(kind: LightKind, attempt: AttemptId) -> str:
    """Give the login of an attempt that reads light."""
    return f"{kind}-{attempt}"


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
        disk_bytes: int = 100 << 30,
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
        self._known = Known()
        self._logs = JobLogs(folder.logs)
        self._room = DiskRoom(
            disk_bytes,
            farm,
            scenes,
            size_of=self._size_of,
            discard=lambda job, reason: self._happen(ev.FilesUnwanted(job, reason)),
            in_use=self._scenes_in_use,
            clock=clock,
        )
        self._answers = Answers(
            farm,
            folder,
            ftp,
            scenes,
            self._bulletin,
            self._logs,
            self._room,
            self._known,
            happen=self._happen,
            send=self._send,
            plan=self._plan,
        )
        self._held: dict[int, set[SceneId]] = {}
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
            act.DiscardTiles: self._discard_tiles,
            act.DiscardResult: self._discard_result,
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
            Said: self._said,
            Asked: self._answers.asked,
            NewJob: self._new_job,
            Hold: self._hold,
            PictureWritten: self._picture_written,
            ev.LightJoined: self._light_joined,
            TokenRevoked: self._token_revoked,
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

    def _plan(self, conn: int, plan: PartialPlan) -> None:
        outlet = self._outlets.get(conn)
        if outlet is not None:
            outlet.plan(plan)

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
            stage="final" if action.stage == "verify" else action.stage,
            lights=[self._grant_light(action, light) for light in action.lights],
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
        user = _light_user(light.kind, action.attempt)
        grant = Grant(user, secrets.token_hex(16), LIGHT_FILE)
        path = self._folder.light_of(action.job, action.frame, light.kind)
        self._ftp.grant(FileGrant(grant.user, grant.password, grant.path, path, "read"))
        return msg.LightRef(light.kind, light.sha256, light.size, grant)

    def _grant_tile(
        self, attempt: AttemptId, job: JobId, rect: Rect, stage: Stage
    ) -> tuple[Grant, Expected]:
        spec = self._known.specs[job]
        upload = self._folder.upload_of(attempt)
        grant = Grant(f"w-{attempt}", secrets.token_hex(16), TILE_FILE)
        made = next((kind for kind, made_in in STAGE_OF.items() if made_in == stage), None)
        if made is None:
            limit = tile_limit(rect, spec)
            expected = Expected(rect, spec.file_format, upload, self._folder.tile_of(attempt))
        else:
            limit = light_limit(made, rect)
            kept = self._folder.made_light_of(attempt)
            expected = ExpectedLight(rect, spec.file_format, upload, kept, made)
        self._ftp.grant(FileGrant(grant.user, grant.password, grant.path, upload, "write", limit))
        return grant, expected

    def _revoke_grants(self, action: act.RevokeGrants) -> None:
        for kind in LIGHT_KINDS:
            self._ftp.revoke(_light_user(kind, action.attempt))
        self._ftp.revoke(f"r-{action.attempt}")
        self._ftp.revoke(f"w-{action.attempt}")

    def _close_connection(self, action: act.CloseConnection) -> None:
        outlet = self._outlets.get(action.conn)
        if outlet is not None:
            outlet.leave(action.reason)

    def _begin_frame(self, action: act.BeginFrame) -> None:
        spec = RenderSpec.from_wire(action.request.spec)
        self._known.specs[action.job] = spec
        self._bulletin.job_made(action.job)
        self._room.job_begun(self._farm.jobs[action.job], spec)
        target = self._folder.result_of(action.job, action.request.output_name)
        region = action.request.picture.region
        self._stitcher.begin(
            action.job, action.frame, region, spec.file_format, target, run=action.run
        )

    def _join_light(self, action: act.JoinLight) -> None:
        parts = tuple(self._folder.made_light_of(attempt) for attempt in action.attempts)
        target = self._folder.light_of(action.job, action.frame, action.kind)
        self._stitcher.join(action.job, action.frame, action.kind, parts, target)

    def _add_tile(self, action: act.AddTile) -> None:
        tile = self._folder.tile_of(action.attempt)
        self._stitcher.add(action.job, action.frame, tile, action.rect)

    def _compare_tiles(self, action: act.CompareTiles) -> None:
        tiles = self._folder.tile_of(action.first), self._folder.tile_of(action.second)
        kind = self._known.specs[action.job].file_format
        self._stitcher.compare(
            action.job, action.frame, Pair(action.band, tiles, action.rect, kind)
        )

    def _job_done(self, action: act.JobDone) -> None:
        job = self._farm.jobs[action.job]
        self._room.job_ended(job)
        self._evict_scenes()
        _log.info("job %s is %s: %s", job.id, job.state, self._known.results[job.id].path)
        for line in verdict_lines(job):
            _log.info("job %s: %s", job.id, line)
        self._note_fidelity(job)

    def _abandon_job(self, action: act.AbandonJob) -> None:
        self._stitcher.abandon(action.job)
        self._folder.discard_result(action.job)
        self._known.results.pop(action.job, None)
        job = self._farm.jobs.get(action.job)
        # A job that is deleted while it runs is gone by now.
        if job is not None:
            self._room.job_ended(job)
            self._evict_scenes()

    def _discard_tiles(self, action: act.DiscardTiles) -> None:
        for frame in action.frames:
            self._folder.discard_light(action.job, frame)
        for attempt in action.attempts:
            self._folder.discard_attempt(attempt)
            if attempt not in self._farm.attempts:
                self._known.seconds.pop(attempt, None)
                self._known.gathers.pop(attempt, None)
                self._bulletin.attempt_gone(attempt)

    def _discard_result(self, action: act.DiscardResult) -> None:
        self._folder.discard_result(action.job)
        self._logs.discard(action.job)
        self._known.results.pop(action.job, None)
        self._room.forget(action.job)

    def _forget_job(self, action: act.ForgetJob) -> None:
        self._stitcher.abandon(action.job)
        self._discard_result(act.DiscardResult(action.job))
        self._known.specs.pop(action.job, None)
        self._bulletin.forget(action.job, action.reason)
        self._evict_scenes()

    def _note_fidelity(self, job: Job) -> None:
        """Write beside a picture, once it is written, how true it is by what is known now."""
        result = self._known.results.get(job.id)
        if result is None or not result.path.is_file():
            return
        fidelity = self._bulletin.fidelity_of(job)
        _log.info("%s of %s: %s: %s", result.path.name, job.id, fidelity.kind, fidelity.reason)
        try:
            self._folder.write_beside(
                result.path, fidelity_file(job, fidelity, result.sha256, self._known.gathers)
            )
        except OSError as error:
            _log.warning("what is known of %s cannot be kept: %s", result.path, error.strerror)

    def _size_of(self, job: Job) -> int:
        bands = [band for frame in job.frames for band in frame.all_bands]
        attempts = [attempt.id for band in bands for attempt in band.attempts]
        return self._folder.bytes_of(job.id, len(job.frames), attempts)

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
        self._bulletin.node_met(letter.joined.node, letter.card)

    def _closed(self, letter: Closed) -> None:
        self._outlets.pop(letter.conn, None)
        self._tokens.pop(letter.conn, None)
        self._answers.closed(letter.conn)
        self._room.scene_comes(letter.conn, 0)
        self._bulletin.unfollow(letter.conn)
        if self._held.pop(letter.conn, None):
            self._evict_scenes()
        if letter.conn in self._node_conns:
            self._node_conns.discard(letter.conn)
            self._happen(ev.NodeGone(letter.conn, letter.reason))
            self._bulletin.nodes_changed()

    def _spent(self, letter: Spent) -> None:
        if letter.attempt in self._farm.attempts:
            self._known.seconds[letter.attempt] = letter.seconds
            self._known.gathers[letter.attempt] = letter.gathers
            if letter.used is not None:
                self._bulletin.light_used(letter.attempt, letter.used)

    def _said(self, letter: Said) -> None:
        attempt = self._farm.attempts.get(letter.attempt)
        if attempt is not None:
            self._logs.keep(attempt.band.frame.job.id, attempt.id, letter.text)

    def _hold(self, letter: Hold) -> None:
        refusal = ""
        if not self._scenes.has(letter.scene):
            refusal = self._room.make_room(letter.size, "this scene")
        if not refusal:
            self._held.setdefault(letter.conn, set()).add(letter.scene)
            self._room.scene_comes(letter.conn, letter.size)
        letter.answer.put(refusal)

    def _scenes_in_use(self) -> set[SceneId]:
        return {job.request.scene for job in self._farm.open_jobs}.union(*self._held.values())

    def _evict_scenes(self) -> None:
        self._scenes.evict(self._scenes_in_use())

    def _new_job(self, letter: NewJob) -> None:
        # What came of the scene is in the store by now.
        self._room.scene_comes(letter.conn, 0)
        if self._farm.job_of_key(letter.request.key) is None:
            wanted = room_for(letter.request, letter.spec)
            words = self._room.make_room(wanted, "this job")
            if words:
                self._send(letter.conn, msg.Refused(letter.request_id, 3, words))
                return
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
        _log.info("light of %s: %s", job.id, light_view(job, self._known.gathers))

    def _picture_written(self, letter: PictureWritten) -> None:
        self._known.results[letter.job] = StoredResult(letter.path, letter.size, letter.sha256)
        self._happen(ev.FrameStitched(letter.job, letter.frame, letter.run))
        job = self._farm.jobs.get(letter.job)
        if job is None or job.state in (JobState.FAILED, JobState.CANCELLED):
            # It ended while its picture was being written.
            self._known.results.pop(letter.job, None)
            self._folder.discard_result(letter.job)
        elif job.open:
            # Its bands are still being rendered again; but the picture can be fetched.
            self._note_fidelity(job)

    def _token_revoked(self, letter: TokenRevoked) -> None:
        for conn, token in self._tokens.items():
            if token == letter.token:
                self._outlets[conn].leave("its token was revoked")
