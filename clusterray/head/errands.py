"""What the farm asks for, carried out: leases and their logins, files, pictures, answers.

On the task-manager thread, after the farm's new state is stored. Everything goes to another
thread's queue or is a file to delete; nothing here waits. Knows no POV-Ray but the RenderSpec's own
words. By the time an action is carried out, its job may be gone: later actions say so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from clusterray.core import actions as act
from clusterray.core.actions import Action
from clusterray.core.entities import Job
from clusterray.core.farm import Farm
from clusterray.core.model import (
    LIGHT_KINDS,
    AttemptId,
    JobId,
    Light,
    LightKind,
    Rect,
    SceneId,
    Stage,
)
from clusterray.head.bulletin import Bulletin
from clusterray.head.chores import Chores
from clusterray.head.disk_room import DiskRoom
from clusterray.head.fidelity_file import fidelity_file
from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from clusterray.head.job_logs import JobLogs
from clusterray.head.letters import NewJob, Outlet
from clusterray.head.memory import Known
from clusterray.head.randomness import Randomness
from clusterray.head.scene_store import SceneStore
from clusterray.head.state_folder import StateFolder
from clusterray.head.stitcher import Pair, Stitcher
from clusterray.head.uploads import Expected, expected_file, upload_limit, upload_user
from clusterray.head.verdicts import verdict_lines
from clusterray.images.preview import LIVE_SIDE
from clusterray.wire import protocol as msg
from clusterray.wire.protocol import Grant, Message

SCENE_FILE = "scene.tar"
MANIFEST_FILE = "manifest.json"
TILE_FILE = "tile.png"
LIGHT_FILE = "light"

_log = logging.getLogger("clusterray.head.errands")


@dataclass(frozen=True, slots=True)
class Rooms:
    """What errands lead to."""

    farm: Farm
    folder: StateFolder
    ftp: FtpServer
    scenes: SceneStore
    stitcher: Stitcher
    known: Known
    logs: JobLogs
    room: DiskRoom
    chores: Chores
    bulletin: Bulletin
    outlets: dict[int, Outlet]
    submits: dict[int, NewJob]


class Errands:
    """Carries actions out. ``evict`` lets scenes go that nobody uses any more."""

    def __init__(self, rooms: Rooms, evict: Callable[[], None]) -> None:
        self._farm = rooms.farm
        self._folder = rooms.folder
        self._ftp = rooms.ftp
        self._scenes = rooms.scenes
        self._stitcher = rooms.stitcher
        self._known = rooms.known
        self._logs = rooms.logs
        self._room = rooms.room
        self._chores = rooms.chores
        self._bulletin = rooms.bulletin
        self._outlets = rooms.outlets
        self._submits = rooms.submits
        self._evict = evict
        self._randomness = Randomness()
        self._leased: list[str] = []
        self._actions: dict[type, Callable[[Any], None]] = {
            act.SendLease: self._send_lease,
            act.SendKeep: self._send_keep,
            act.SendCut: lambda a: self._send(a.conn, msg.Cut(a.attempt, a.keep.as_tuple())),
            act.SendDrop: lambda a: self._send(a.conn, msg.Drop(a.attempt, a.reason)),
            act.SendAccepted: lambda a: self._send(a.conn, msg.Accepted(a.attempt)),
            act.CloseConnection: self._close_connection,
            act.RevokeGrants: self._revoke_grants,
            act.DiscardTile: lambda a: self.discard_attempt(a.attempt),
            act.BeginFrame: self._begin_frame,
            act.JoinLight: self._join_light,
            act.AddTile: self._add_tile,
            act.CompareTiles: self._compare_tiles,
            act.FinishFrame: lambda a: self._stitcher.finish(a.job, a.frame),
            act.DiscardTiles: self._discard_tiles,
            act.DiscardResult: self._discard_result,
            act.JobDone: self._job_done,
            act.AbandonJob: self._abandon_job,
            act.ForgetJob: self._forget_job,
            act.JobChanged: self._job_changed,
            act.NoteFidelity: self._note_fidelity_of,
            act.AnswerSubmit: self._answer_submit,
            act.RefuseSubmit: self._refuse_submit,
        }

    def run(self, action: Action) -> None:
        """Carry an action out."""
        self._actions[type(action)](action)

    def tell(self) -> None:
        """Log the leases of all actions since this was asked last, a line each.

        At once, for each record is written by a system call that lets go of the interpreter's lock.
        """
        if self._leased:
            _log.info("%s", "\n".join(self._leased))
            self._leased.clear()

    def _send(self, conn: int, message: Message, expected: Expected | None = None) -> None:
        outlet = self._outlets.get(conn)
        if outlet is not None:
            outlet.post(message, expected)

    # ---------------------------------------------------------------- leases

    def _send_lease(self, action: act.SendLease) -> None:
        if action.job not in self._known.specs:
            return
        scene = action.request.scene
        read = self._grant_scene(action.attempt, scene)
        write, expected = self._grant_tile(action.attempt, action.job, action.rect, action.stage)
        lease = msg.Lease(
            attempt=action.attempt,
            band=action.band,
            job=action.job,
            frame=action.frame,
            rect=action.rect.as_tuple(),
            scene=self._scenes.reference(scene),
            spec=dict(action.request.spec),
            read=read,
            write=write,
            # A node is not told that a band is compared, so that it renders it as any other.
            stage="final" if action.stage == "verify" else action.stage,
            lights=[self._grant_light(action, light) for light in action.lights],
            probe=action.probe,
            scout=action.scout,
            live=LIVE_SIDE,
        )
        rect = action.rect
        place = f"rows {rect.y0} to {rect.y1 - 1}, columns {rect.x0} to {rect.x1 - 1}"
        self._leased.append(f"{action.band} of {action.job} goes to {action.node_name}: {place}")
        self._send(action.conn, lease, expected)

    def _send_keep(self, action: act.SendKeep) -> None:
        if action.job in self._known.specs:
            write, expected = self._grant_tile(
                action.attempt, action.job, action.rect, action.stage
            )
            self._send(action.conn, msg.Keep(action.attempt, write), expected)

    def _grant_scene(self, attempt: AttemptId, scene: SceneId) -> Grant:
        grant = Grant(f"r-{attempt}", self._randomness.password(), SCENE_FILE)
        path = self._scenes.tar_path(scene)
        manifest = (MANIFEST_FILE, self._scenes.manifest_path(scene))
        self._ftp.grant(
            FileGrant(grant.user, grant.password, grant.path, path, "read", beside=(manifest,))
        )
        return grant

    def _grant_light(self, action: act.SendLease, light: Light) -> msg.LightRef:
        user = _light_user(light.kind, action.attempt)
        grant = Grant(user, self._randomness.password(), LIGHT_FILE)
        path = self._folder.light_of(action.job, action.frame, light.kind)
        self._ftp.grant(FileGrant(grant.user, grant.password, grant.path, path, "read"))
        return msg.LightRef(light.kind, light.sha256, light.size, grant)

    def _grant_tile(
        self, attempt: AttemptId, job: JobId, rect: Rect, stage: Stage
    ) -> tuple[Grant, Expected]:
        spec = self._known.specs[job]
        expected = expected_file(self._folder, spec, attempt, rect, stage)
        limit = upload_limit(spec, rect, stage)
        grant = Grant(upload_user(attempt), self._randomness.password(), TILE_FILE)
        path = expected.upload
        self._ftp.grant(FileGrant(grant.user, grant.password, grant.path, path, "write", limit))
        return grant, expected

    def _revoke_grants(self, action: act.RevokeGrants) -> None:
        attempt = self._farm.attempts.get(action.attempt)
        if attempt is None or attempt.lights:
            for kind in LIGHT_KINDS:
                self._ftp.revoke(_light_user(kind, action.attempt))
        self._ftp.revoke(f"r-{action.attempt}")
        self._ftp.revoke(upload_user(action.attempt))

    def _close_connection(self, action: act.CloseConnection) -> None:
        outlet = self._outlets.get(action.conn)
        if outlet is not None:
            outlet.leave(action.reason)

    # ---------------------------------------------------------------- pictures

    def _begin_frame(self, action: act.BeginFrame) -> None:
        spec = self._known.specs.get(action.job)
        if spec is None:
            return
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
        spec = self._known.specs.get(action.job)
        if spec is not None:
            tiles = self._folder.tile_of(action.first), self._folder.tile_of(action.second)
            pair = Pair(action.band, tiles, action.rect, spec.file_format)
            self._stitcher.compare(action.job, action.frame, pair)

    def _discard_tiles(self, action: act.DiscardTiles) -> None:
        for frame in action.frames:
            self._folder.discard_light(action.job, frame)
        # One chore for all of a job: texts are kept while few chores wait.
        self._chores.put(partial(self._discard_attempts, action.attempts))
        for attempt in action.attempts:
            if attempt not in self._farm.attempts:
                self._known.forget_attempt(attempt)

    def _discard_attempts(self, attempts: tuple[AttemptId, ...]) -> None:
        for attempt in attempts:
            self._folder.discard_attempt(attempt)

    def discard_attempt(self, attempt: AttemptId) -> None:
        """Have whatever was uploaded for an attempt deleted, when the disk has time for it."""
        self._chores.put(partial(self._folder.discard_attempt, attempt))

    def _discard_result(self, action: act.DiscardResult) -> None:
        self._folder.discard_result(action.job)
        self._logs.discard(action.job)
        self._room.forget(action.job)
        job = self._farm.jobs.get(action.job)
        if job is not None and job.open:
            # It runs again already.
            self._room.job_begun(job, self._known.specs[job.id])

    # ---------------------------------------------------------------- jobs

    def _job_done(self, action: act.JobDone) -> None:
        job = self._farm.jobs.get(action.job)
        result = self._known.results.get(action.job)
        if job is None or job.open or result is None:
            return
        self._room.job_ended(job)
        self._evict()
        _log.info("job %s is %s: %s", job.id, job.state, result.path)
        for line in verdict_lines(job):
            _log.info("job %s: %s", job.id, line)
        self.note_fidelity(job)

    def _abandon_job(self, action: act.AbandonJob) -> None:
        self._stitcher.abandon(action.job)
        self._folder.discard_result(action.job)
        job = self._farm.jobs.get(action.job)
        # A job that is deleted while it runs is gone by now.
        if job is not None and not job.open:
            self._room.job_ended(job)
            self._evict()

    def _forget_job(self, action: act.ForgetJob) -> None:
        self._stitcher.abandon(action.job)
        self._discard_result(act.DiscardResult(action.job))
        self._known.specs.pop(action.job, None)
        self._bulletin.forget(action.job, action.reason)
        self._evict()

    def _job_changed(self, action: act.JobChanged) -> None:
        if action.job in self._farm.jobs:
            self._bulletin.job_changed(action.job)

    def _note_fidelity_of(self, action: act.NoteFidelity) -> None:
        job = self._farm.jobs.get(action.job)
        if job is not None:
            self.note_fidelity(job)

    def complete(self, job: Job) -> None:
        """Write what belongs beside the picture of a job that has ended, if it is not there."""
        result = self._known.results.get(job.id)
        if result is not None and not self._folder.has_beside(result.path):
            self.note_fidelity(job)

    def note_fidelity(self, job: Job) -> None:
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

    def _answer_submit(self, action: act.AnswerSubmit) -> None:
        letter = self._submits.pop(action.reply)
        request = letter.request
        _log.info("job %s from %s: %s", action.job, request.owner, request.title)
        answer = msg.Submitted(letter.request_id, action.job, action.existing)
        self._send(letter.conn, answer)

    def _refuse_submit(self, action: act.RefuseSubmit) -> None:
        letter = self._submits.pop(action.reply)
        self._send(letter.conn, msg.Refused(letter.request_id, 3, action.message))


def _light_user(kind: LightKind, attempt: AttemptId) -> str:
    """Give the login of an attempt that reads light."""
    return f"{kind}-{attempt}"
