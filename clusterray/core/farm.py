"""The farm: the one door to all state. ``handle(event, now)`` gives the actions to carry out.

Owned by the task-manager thread. No I/O, no clock: time is an argument, randomness a generator
passed in. What it holds is described in ``entities``, its states in ``states``, who gets what in
``policy``, its invariants in ``invariants``. It stands on ``ledger``, what all duties share, and
two floors: ``verifying``, how bands are rendered again and a job ends, and ``trouble_rules``.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core import policy, probing
from clusterray.core.actions import Action
from clusterray.core.bands import equal_bands, render_area, row_step
from clusterray.core.blame import hopeless
from clusterray.core.entities import Attempt, Band, Frame, Job, Node, Problem
from clusterray.core.invariants import check_farm, tell_story
from clusterray.core.model import AttemptId, BandId, JobId, Rect, Stage
from clusterray.core.patience import Patience
from clusterray.core.states import (
    ATTEMPT_TABLE,
    BAND_TABLE,
    FRAME_TABLE,
    JOB_TABLE,
    AttemptState,
    AttemptTrigger,
    BandState,
    BandTrigger,
    FrameState,
    FrameTrigger,
    JobTrigger,
    advance,
)
from clusterray.core.trouble_rules import TroubleRules
from clusterray.core.verifying import Verifying


class RandomBits(Protocol):
    """Where ids get what makes them unguessable and unlike those of another farm."""

    def getrandbits(self, k: int, /) -> int:
        """Give ``k`` random bits."""


class Farm(TroubleRules, Verifying):
    """Jobs, bands, attempts and nodes, and the rules by which they change."""

    def __init__(
        self,
        random: RandomBits,
        *,
        detached_s: float = 10.0,
        max_jobs: int = 10_000,
        first_number: int = 1,
        patience: Patience | None = None,
    ) -> None:
        super().__init__(detached_s)
        self.patience = patience or self.patience
        self._random = random
        self._max_jobs = max_jobs
        self._next_number = first_number
        self._attempts_made = 0
        self._by_key: dict[str, Job] = {}
        self._handlers: dict[type, Callable[..., None]] = {
            ev.NodeJoined: self._node_joined,
            ev.NodeGone: self._node_gone,
            ev.NodeDraining: self._node_draining,
            ev.NodeUnfit: self._node_unfit,
            ev.NodeForgiven: self._node_forgiven,
            ev.AttemptProgress: self._attempt_progress,
            ev.AttemptRendered: self._attempt_rendered,
            ev.TileVerified: self._tile_verified,
            ev.TileRefused: self._tile_refused,
            ev.UploadDamaged: self._upload_damaged,
            ev.TileNotKept: self._tile_not_kept,
            ev.AttemptFailed: self._attempt_failed,
            ev.AttemptHandedBack: self._attempt_handed_back,
            ev.Probed: self._probed,
            ev.JobSubmitted: self._job_submitted,
            ev.JobCancelled: self._job_cancelled,
            ev.LightJoined: self._light_joined,
            ev.Compared: self._compared,
            ev.FrameStitched: self._frame_stitched,
            ev.FrameFailed: self._frame_failed,
            ev.Tick: self._tick,
        }

    # ---------------------------------------------------------------- the door

    def handle(self, event: ev.Event, now: float) -> list[Action]:
        """Let ``event`` happen at ``now`` (monotonic seconds); give the actions, in order."""
        self._now, self._out = now, []
        self._handlers[type(event)](event)
        self._let_time_pass()
        self._hand_out()
        self._watch_verifying()
        return self._out

    def next_deadline(self) -> float | None:
        """Give when a Tick is due, None if nothing is waited for."""
        moments = [self.look_at, *(frame.give_up_at for frame in self.verifying.values())]
        moments += [attempt.detached_until for attempt in islice(self.detached.values(), 1)]
        return min((moment for moment in moments if moment is not None), default=None)

    def check(self) -> None:
        """Raise InvariantBroken with the stories concerned if the farm contradicts itself."""
        check_farm(self)

    def story(self, band: BandId) -> list[str]:
        """Tell one band's history, a line an event, oldest first."""
        return tell_story(self.bands[band])

    # ---------------------------------------------------------------- nodes

    def _node_joined(self, event: ev.NodeJoined) -> None:
        node = self.nodes.get(event.node)
        if node is None:
            node = Node(event.node, event.name, event.threads, event.povray_class)
            self.nodes[node.id] = node
        if node.conn is not None:
            if self._is_twin(node, event):
                return
            self._out.append(act.CloseConnection(node.conn, "another connection took over"))
            self._disconnect(node)
        node.name, node.threads = event.name, event.threads
        node.povray_class = event.povray_class
        node.instance, node.place, node.unfit = event.instance, event.place, event.unfit
        node.conn, node.draining, node.reason = event.conn, False, ""
        self._by_conn[event.conn] = node
        self._take_back(node, event)
        self._feed(node)

    def _take_back(self, node: Node, event: ev.NodeJoined) -> None:
        """Let what the node still holds count again; the rest of what it had is lost.

        A node has one place: of several attempts that it says it renders, the first counts.
        """
        place_taken = False
        for attempt in list(node.attempts.values()):
            if attempt.id in event.rendered:
                self._reattach(attempt, rendered=True)
            elif attempt.id in event.rendering and not place_taken:
                place_taken = True
                self._reattach(attempt, rendered=False)
            elif attempt.id in event.rendering:
                self._end(attempt, AttemptTrigger.DROP, "a node renders one band at a time")
            else:
                self._end(attempt, AttemptTrigger.LOSE, "its node came back without it")
        for held in sorted(event.rendering | event.rendered):
            if held not in node.attempts:
                self._answer_stale(event.conn, held, rendered=held in event.rendered)

    def _reattach(self, attempt: Attempt, *, rendered: bool) -> None:
        conn = self.nodes[attempt.node].conn
        assert conn is not None
        self.detached.pop(attempt.id, None)
        attempt.detached_until = None
        if rendered and attempt.state is AttemptState.RENDERING:
            attempt.state = advance(ATTEMPT_TABLE, attempt.state, AttemptTrigger.RENDERED)
            attempt.phase, attempt.done = "uploading", attempt.band.rect.area
        elif not rendered and attempt.state is AttemptState.UPLOADING:
            attempt.state = advance(ATTEMPT_TABLE, attempt.state, AttemptTrigger.RERENDER)
            attempt.phase, attempt.done = "waiting", 0
        self._tell(attempt.band, f"{attempt.id} counts again: {attempt.node_name} is back")
        self._ask_again(attempt, conn)

    def _node_gone(self, event: ev.NodeGone) -> None:
        node = self._by_conn.get(event.conn)
        if node is None:
            return
        self._disconnect(node)
        node.reason = event.reason
        if event.silent:
            self._lose_all_of(node, event.reason)

    def _disconnect(self, node: Node) -> None:
        assert node.conn is not None
        del self._by_conn[node.conn]
        node.conn = None
        self.hungry.pop(node.id, None)
        for attempt in node.attempts.values():
            attempt.detached_until = self._now + self._detached_s
            self.detached[attempt.id] = attempt
            self._tell(attempt.band, f"{attempt.id} detached: {node.name} is away")
        for frame in probing.lose_all_of(self, node):
            self._fidelity_changed(frame.job)

    def _node_draining(self, event: ev.NodeDraining) -> None:
        node = self._by_conn.get(event.conn)
        if node is not None:
            node.draining = True
            self.hungry.pop(node.id, None)

    # ---------------------------------------------------------------- attempts

    def _live(self, conn: int, attempt_id: AttemptId, *, rendered: bool = False) -> Attempt | None:
        """Find the attempt if it is live and its node speaks over ``conn``; else answer DROP."""
        node = self._by_conn.get(conn)
        if node is None:
            return None
        attempt = node.attempts.get(attempt_id)
        if attempt is None:
            self._answer_stale(conn, attempt_id, rendered=rendered)
        return attempt

    def _attempt_progress(self, event: ev.AttemptProgress) -> None:
        attempt = self._live(event.conn, event.attempt)
        if attempt is None:
            return
        self._hear(attempt, event.phase, event.done, event.moves)
        if attempt.state is AttemptState.RENDERING:
            done = event.done if event.phase == "rendering" else 0
            attempt.done = min(done, attempt.band.rect.area)
        self._changed(attempt.band.frame.job)

    def _attempt_rendered(self, event: ev.AttemptRendered) -> None:
        attempt = self._live(event.conn, event.attempt, rendered=True)
        if attempt is None or attempt.state is AttemptState.UPLOADING:
            return
        attempt.state = advance(ATTEMPT_TABLE, attempt.state, AttemptTrigger.RENDERED)
        self._hear(attempt, "uploading", 0, 0)
        attempt.done = attempt.band.rect.area
        frame, node = attempt.band.frame, self.nodes[attempt.node]
        frame.rendered_pixels += attempt.band.rect.area
        frame.rendered_thread_s += (self._now - attempt.leased_at) * node.threads
        self._tell(attempt.band, f"{attempt.id} rendered by {attempt.node_name}, uploading")
        self._feed(node)

    def _tile_verified(self, event: ev.TileVerified) -> None:
        attempt = self.attempts.get(event.attempt)
        if attempt is None or attempt.state is not AttemptState.UPLOADING:
            self._discard(event.attempt, attempt)
            return
        self._end(attempt, AttemptTrigger.ACCEPT, "")
        self._credit(attempt)
        self._accept(attempt)

    def _accept(self, attempt: Attempt) -> None:
        band, node = attempt.band, self.nodes[attempt.node]
        frame = band.frame
        band.state = advance(BAND_TABLE, band.state, BandTrigger.ACCEPT)
        band.accepted = attempt
        if band.stage == "final":
            node.bands_done += 1
            node.pixels_done += band.rect.area
        for other in band.live_attempts:
            self._end(other, AttemptTrigger.DROP, "another attempt was first")
        if band.stage == "final":
            self._out.append(act.AddTile(frame.job.id, frame.index, attempt.id, band.rect))
        elif band.stage == "verify":
            self._compare(attempt)
        if node.conn is not None:
            self._out.append(act.SendAccepted(node.conn, attempt.id))
        else:
            probing.lose(self, attempt.id, f"{node.name} is away")
        self._tell(band, f"{attempt.id} accepted from {node.name}")
        self._changed(frame.job)
        if band.stage != "verify":
            frame.uncovered -= band.rect.area
            if frame.uncovered == 0:
                self._covered(frame)

    def _covered(self, frame: Frame) -> None:
        job = frame.job
        if frame.state is FrameState.LIGHT:
            self._join_light(frame)
            return
        self._out.append(act.FinishFrame(job.id, frame.index))
        self._begin_verifying(frame)
        if all(other.complete for other in job.frames):
            job.state = advance(JOB_TABLE, job.state, JobTrigger.COVERED)

    def _join_light(self, frame: Frame) -> None:
        frame.state = advance(FRAME_TABLE, frame.state, FrameTrigger.COVERED)
        bands = sorted(frame.bands.values(), key=lambda band: (band.rect.y0, band.rect.x0))
        attempts = tuple(band.accepted.id for band in bands if band.accepted is not None)
        self._out.append(act.JoinLight(frame.job.id, frame.index, attempts))

    def _attempt_failed(self, event: ev.AttemptFailed) -> None:
        attempt = self._live(event.conn, event.attempt)
        if attempt is None:
            return
        self._fail(attempt, Problem(event.fault, event.message, event.file, event.line, event.text))

    def _fail(self, attempt: Attempt, problem: Problem) -> None:
        band, node = attempt.band, self.nodes[attempt.node]
        job, final = band.frame.job, problem
        if problem.fault != "scene":
            band.failed_on = (*band.failed_on, node.id)
            self._blame(node, job, problem.message)
        self._end(attempt, AttemptTrigger.FAIL, problem.message)
        if problem.fault != "scene":
            why = hopeless(band, self.nodes.values(), self.patience)
            if not why:
                return
            reason = f"{why}; last on {node.name}: {problem.message}"
            final = Problem("node", reason, text="\n".join(tell_story(band)))
        if band.stage == "verify":
            self._give_up(band, f"rendering it again failed on {node.name}: {problem.message}")
        else:
            self._end_job(job, JobTrigger.FAIL, final.message, final)

    def _attempt_handed_back(self, event: ev.AttemptHandedBack) -> None:
        attempt = self._live(event.conn, event.attempt)
        if attempt is not None:
            self._end(attempt, AttemptTrigger.HAND_BACK, event.reason)

    def _probed(self, event: ev.Probed) -> None:
        attempt, node = self.attempts.get(event.attempt), self._by_conn.get(event.conn)
        if attempt is None or node is None or attempt.node != node.id:
            return
        job = attempt.band.frame.job
        if event.found is None:
            known = probing.lose(self, attempt.id, f"{event.reason} ({node.name})")
        else:
            known = probing.tell(self, attempt, event.found)
        if known:
            self._fidelity_changed(job)

    def _fidelity_changed(self, job: Job) -> None:
        self._changed(job)
        self._out.append(act.NoteFidelity(job.id))

    # ---------------------------------------------------------------- jobs

    def _job_submitted(self, event: ev.JobSubmitted) -> None:
        request = event.request
        known = self._by_key.get(request.key)
        if known is not None:
            self._answer_again(event, known)
            return
        if len(self.jobs) >= self._max_jobs and not self._forget_oldest():
            text = f"{self._max_jobs} jobs wait or run already, the head's limit (setting max_jobs)"
            self._out.append(act.RefuseSubmit(event.reply, text))
            return
        number, self._next_number = self._next_number, self._next_number + 1
        job = Job(JobId(f"j{number}"), number, request, self._now)
        self.jobs[job.id] = self._by_key[request.key] = job
        insort(self.open_jobs, job, key=lambda other: other.rank)
        self._add_frame(job, 0)
        self._out.append(act.AnswerSubmit(event.reply, job.id, existing=False))
        self._changed(job)

    def _forget_oldest(self) -> bool:
        """Forget the oldest job that has ended, its picture too; False if none has."""
        job = next((job for job in self.jobs.values() if not job.open), None)
        if job is None:
            return False
        del self.jobs[job.id], self._by_key[job.request.key]
        bands = [band for frame in job.frames for band in frame.all_bands]
        attempts = [attempt.id for band in bands for attempt in band.attempts]
        for band in bands:
            del self.bands[band.id]
        for attempt_id in attempts:
            del self.attempts[attempt_id]
            self.probing.pop(attempt_id, None)
        self._out.append(act.ForgetJob(job.id, tuple(attempts)))
        return True

    def _answer_again(self, event: ev.JobSubmitted, known: Job) -> None:
        if known.request == event.request:
            self._out.append(act.AnswerSubmit(event.reply, known.id, existing=True))
            return
        text = f"job {known.id} was submitted under the same key with other content"
        self._out.append(act.RefuseSubmit(event.reply, text))

    def _add_frame(self, job: Job, index: int) -> None:
        picture = job.request.picture
        frame = Frame(job, index, render_area(picture))
        frame.state = FrameState.LIGHT if job.request.light else FrameState.FINAL
        if frame.state is FrameState.FINAL:
            probing.begin(frame)
        job.frames.append(frame)
        self._add_bands(frame)
        self._out.append(act.BeginFrame(job.id, index, job.request))

    def _add_bands(self, frame: Frame) -> None:
        """Partition the whole area into bands of the frame's stage."""
        request = frame.job.request
        frame.uncovered = frame.area.area
        for rect in equal_bands(frame.area, row_step(request.picture), request.wish_bands or 1):
            self._add_band(frame, rect)

    def _add_band(self, frame: Frame, rect: Rect) -> Band:
        stage: Stage = "final" if frame.state is FrameState.FINAL else "light"
        band = self._make_band(frame, rect, stage)
        frame.bands[band.id] = band
        return band

    def _job_cancelled(self, event: ev.JobCancelled) -> None:
        job = self.jobs.get(event.job)
        if job is not None and job.open:
            self._end_job(job, JobTrigger.CANCEL, f"cancelled by {event.by}", None)

    def _end_job(self, job: Job, trigger: JobTrigger, reason: str, problem: Problem | None) -> None:
        job.state = advance(JOB_TABLE, job.state, trigger)
        job.reason, job.problem, job.ended_at = reason, problem, self._now
        self.open_jobs.remove(job)
        for frame in job.frames:
            for band in frame.all_bands:
                for attempt in band.live_attempts:
                    self._end(attempt, AttemptTrigger.DROP, f"job {job.id} {job.state}")
                if band.state is not BandState.VOID:
                    band.state = advance(BAND_TABLE, band.state, BandTrigger.JOB_ENDED)
            frame.waiting.clear()
            self._stop_verifying(frame)
            self._stop_probe(frame)
        self._close_accounts(job)
        self._out.append(act.AbandonJob(job.id))
        self._changed(job)

    def _stop_probe(self, frame: Frame) -> None:
        """Have a node that probes for a band it has delivered leave that; nobody wants to know."""
        asked = frame.probe.attempt if frame.probe is not None else None
        if asked is None:
            return
        reason = f"job {frame.job.id} {frame.job.state}"
        probing.lose(self, asked, reason)
        conn = self.nodes[self.attempts[asked].node].conn
        if conn is not None:
            self._out.append(act.SendDrop(conn, asked, reason))

    def _light_joined(self, event: ev.LightJoined) -> None:
        """Let the picture's bands begin, all with this light.

        The picture's bands may be another class's than the light's: the light is plain text.
        """
        job = self.jobs.get(event.job)
        if job is None or not job.open:
            return
        frame = job.frames[event.frame]
        frame.state = advance(FRAME_TABLE, frame.state, FrameTrigger.JOINED)
        frame.light, frame.povray_class = event.light, None
        probing.begin(frame)
        frame.light_bands, frame.bands = frame.bands, {}
        frame.rendered_pixels, frame.rendered_thread_s = 0, 0.0
        self._add_bands(frame)
        self._changed(job)

    def _frame_failed(self, event: ev.FrameFailed) -> None:
        job = self.jobs.get(event.job)
        if job is not None and job.open:
            problem = Problem("head", event.reason)
            self._end_job(job, JobTrigger.FAIL, event.reason, problem)

    # ---------------------------------------------------------------- time and work

    def _tick(self, event: ev.Tick) -> None:
        """Nothing but that time passes, which it does with every event."""

    def _let_time_pass(self) -> None:
        """Let happen what is due by now."""
        for attempt in list(self.detached.values()):
            if attempt.detached_until is None or attempt.detached_until > self._now:
                break
            self._end(attempt, AttemptTrigger.LOSE, f"{attempt.node_name} stayed away")
        self._look_over()
        # Whoever came with this event may take what was to be given up.
        self._watch_verifying()
        self._tire_of_verifying()

    def _hand_out(self) -> None:
        """Give every node with a place the band that the policy says, while there is one."""
        tries = self.patience.band_tries
        for node in policy.in_turn(self.hungry.values(), self.nodes.values()):
            band = policy.choose_band(node, self.open_jobs, self.nodes.values(), tries)
            if band is None:
                band = self._take_over(node)
            if band is not None:
                self._lease(node, band)

    def _take_over(self, node: Node) -> Band | None:
        """Let a node with nothing to do have the band of one that is away."""
        attempt = policy.choose_detached(node, self.open_jobs) if self.detached else None
        if attempt is None:
            return None
        self._end(attempt, AttemptTrigger.LOSE, f"{attempt.node_name} is away, {node.name} is dry")
        return attempt.band if attempt.band.state is BandState.WAITING else None

    def _lease(self, node: Node, band: Band) -> None:
        assert node.conn is not None
        frame, job = band.frame, band.frame.job
        if frame.povray_class is None:
            # Before the cut, which counts the threads of those who may share the frame.
            frame.povray_class = node.povray_class
        row = policy.cut_row(node, band, self.nodes.values())
        if row is not None:
            self._cut(band, row)
        self._attempts_made += 1
        attempt_id = AttemptId(f"a{self._attempts_made}-{self._random.getrandbits(32):08x}")
        attempt = Attempt(attempt_id, band, node.id, node.name, node.povray_class, self._now)
        attempt.light = frame.light
        self._begin_waiting(attempt)
        self.attempts[attempt_id] = node.attempts[attempt_id] = attempt
        band.attempts.append(attempt)
        band.state = advance(BAND_TABLE, band.state, BandTrigger.LEASE)
        del frame.waiting[band.id]
        self.hungry.pop(node.id)
        self._start(job)
        probe = probing.ask(self, attempt)
        self._tell(band, f"{attempt_id} leased to {node.name}")
        self._out.append(
            act.SendLease(
                node.conn,
                attempt_id,
                band.id,
                job.id,
                frame.index,
                band.rect,
                job.request,
                band.stage,
                frame.light,
                probe,
            )
        )

    def _start(self, job: Job) -> None:
        if job.started_at is None:
            job.started_at = self._now
            job.state = advance(JOB_TABLE, job.state, JobTrigger.LEASED)
        self._changed(job)

    def _cut(self, band: Band, row: int) -> Band:
        """Cut a waiting band: it keeps what is above ``row``, a new band gets the rest."""
        band.rect, lower = band.rect.split_at_row(row)
        self._tell(band, f"{band.id} cut at row {row}")
        return self._add_band(band.frame, lower)
