"""The farm: the one door to all state. ``handle(event, now)`` gives the actions to carry out.

Owned by the task-manager thread. No I/O, no clock: time is an argument, randomness a generator
passed in. What it holds is described in ``entities``, its states in ``states``, who gets what in
``policy``, its invariants in ``invariants``. It stands on ``ledger`` and ``farm_base``, what all
duties share, ``lighting``, how a frame's light is made first, ``verifying``, how bands are rendered
again and a job ends, ``life_rules``, what people do to jobs, ``restart_rules``, how a stored farm
goes on, ``helping``, who cuts whose band, and ``trouble_rules``, what fails.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core import policy, probing, scouting
from clusterray.core.actions import Action
from clusterray.core.blame import hopeless
from clusterray.core.changes import Changes
from clusterray.core.entities import MOST_RENDERING, Attempt, Band, Frame, Job, Node, Problem
from clusterray.core.farm_base import RandomBits
from clusterray.core.helping import Helping, is_cuttable
from clusterray.core.invariants import check_farm, tell_story
from clusterray.core.model import LIGHT_STAGES, AttemptId, BandId, JobId, NodeId
from clusterray.core.pace import guessed
from clusterray.core.patience import Patience
from clusterray.core.pieces import piece_of
from clusterray.core.restart_rules import RestartRules
from clusterray.core.sharing import Leaf
from clusterray.core.states import (
    ATTEMPT_TABLE,
    BAND_TABLE,
    JOB_TABLE,
    AttemptState,
    AttemptTrigger,
    BandState,
    BandTrigger,
    FrameState,
    JobTrigger,
    advance,
)
from clusterray.core.trouble_rules import TroubleRules

_QUIET: Final = frozenset({ev.AttemptProgress, ev.AttemptRendered, ev.TileVerified})
"""What happens most, and gives a band to nobody but the node that has got a place by it."""


class Farm(TroubleRules, Helping, RestartRules):
    """Jobs, bands, attempts and nodes, and the rules by which they change.

    The files of jobs that have ended are kept for ``keep_s`` seconds, None for ever.
    """

    def __init__(
        self,
        random: RandomBits,
        *,
        detached_s: float = 10.0,
        max_jobs: int = 10_000,
        keep_s: float | None = None,
        patience: Patience | None = None,
    ) -> None:
        super().__init__(random, detached_s=detached_s, max_jobs=max_jobs)
        self.patience = patience or self.patience
        self._keep_s = keep_s
        self._handlers: dict[type, Callable[..., None]] = {
            ev.NodeJoined: self._node_joined,
            ev.NodeGone: self._node_gone,
            ev.NodeDraining: self._node_draining,
            ev.NodeUnfit: self._node_unfit,
            ev.NodeForgiven: self._node_forgiven,
            ev.AttemptProgress: self._attempt_progress,
            ev.AttemptCut: self._attempt_cut,
            ev.AttemptRendered: self._attempt_rendered,
            ev.TileVerified: self._tile_verified,
            ev.TileRefused: self._tile_refused,
            ev.UploadDamaged: self._upload_damaged,
            ev.TileNotKept: self._tile_not_kept,
            ev.AttemptFailed: self._attempt_failed,
            ev.AttemptHandedBack: self._attempt_handed_back,
            ev.Probed: self._probed,
            ev.Scouted: self._scouted,
            ev.JobSubmitted: self._job_submitted,
            ev.JobCancelled: self._job_cancelled,
            ev.JobPaused: self._job_paused,
            ev.JobResumed: self._job_resumed,
            ev.JobRequeued: self._job_requeued,
            ev.PriorityChanged: self._priority_changed,
            ev.JobDeleted: self._job_deleted,
            ev.FilesUnwanted: self._files_unwanted,
            ev.LightJoined: self._light_joined,
            ev.Compared: self._compared,
            ev.FrameStitched: self._frame_stitched,
            ev.FrameFailed: self._frame_failed,
            ev.Restarted: self._restarted,
            ev.Tick: self._tick,
        }

    # ---------------------------------------------------------------- the door

    def handle(self, event: ev.Event, now: float) -> list[Action]:
        """Let ``event`` happen at ``now`` (monotonic seconds); give the actions, in order."""
        self._now, self._out, self._fed = now, [], {}
        self._stirred = type(event) not in _QUIET
        self._handlers[type(event)](event)
        self._let_time_pass()
        self._hand_out()
        self._seek()
        self._watch_verifying()
        return self._out

    def take_changes(self) -> Changes:
        """Give what is to be stored since this was asked last."""
        changes, self._changes = self._changes, Changes()
        return changes

    def next_deadline(self) -> float | None:
        """Give when a Tick is due, None if nothing is waited for."""
        moments = [self.look_at, self.seek_at]
        moments += [*(frame.give_up_at for frame in self.verifying.values())]
        moments += [attempt.detached_until for attempt in islice(self.detached.values(), 1)]
        moments += [self._keep_until(job) for job in islice(self.kept.values(), 1)]
        return min((moment for moment in moments if moment is not None), default=None)

    def job_of_key(self, key: str) -> Job | None:
        """Give the job that was submitted under this key."""
        return self._by_key.get(key)

    def was_made(self, job: JobId) -> bool:
        """Tell whether a job of this id has been here, gone or not."""
        number = job.removeprefix("j")
        return job != number and number.isdecimal() and 0 < int(number) <= self._jobs_made

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
            node.thread_speed = guessed(event.canary_cpu_s)
            self.nodes[node.id] = node
        if node.conn is not None:
            if self._is_twin(node, event):
                return
            self._out.append(act.CloseConnection(node.conn, "another connection took over"))
            self._disconnect(node)
        node.name, node.threads = event.name, event.threads
        node.povray_class = event.povray_class
        node.instance, node.place, node.unfit = event.instance, event.place, event.unfit
        node.cuts = event.cuts
        node.conn, node.draining, node.reason = event.conn, False, ""
        self._note_node(node)
        self._by_conn[event.conn] = node
        self._take_back(node, event)
        self._feed(node)

    def _take_back(self, node: Node, event: ev.NodeJoined) -> None:
        """Let what the node still holds count again; the rest of what it had is lost.

        Of two that it renders the older one ends soon, or it had not taken the other; more than two
        it does not render.
        """
        rendering = 0
        for attempt in list(node.attempts.values()):
            keep = event.kept.get(attempt.id, attempt.band.rect)
            if keep != attempt.band.rect:
                if not self._may_be_cut(attempt, keep):
                    self._end(attempt, AttemptTrigger.DROP, "its node renders another part")
                    continue
                # Its answer was lost on the way, or by the head.
                self._take_cut(attempt, keep)
            if attempt.id in event.rendered:
                self._reattach(attempt, rendered=True)
            elif attempt.id in event.rendering and rendering < MOST_RENDERING:
                rendering += 1
                self._reattach(attempt, rendered=False)
            elif attempt.id in event.rendering:
                self._end(attempt, AttemptTrigger.DROP, "a node renders two bands at most")
            else:
                self._end(attempt, AttemptTrigger.LOSE, "its node came back without it")
        node.assume_older_ends()
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
            attempt.rendered_at = self._now
            self._expect_no_end(attempt)
        elif not rendered and attempt.state is AttemptState.UPLOADING:
            attempt.state = advance(ATTEMPT_TABLE, attempt.state, AttemptTrigger.RERENDER)
            attempt.phase, attempt.done, attempt.rendered_at = "waiting", 0, None
            attempt.ending = False
        self._note_attempt(attempt)
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
            self.asks.pop(attempt.id, None)
            attempt.detached_until = self._now + self._detached_s
            self.detached[attempt.id] = attempt
            self._tell(attempt.band, f"{attempt.id} detached: {node.name} is away")
        for frame in probing.lose_all_of(self, node):
            self._fidelity_changed(frame.job)
        scouting.lose_all_of(self, node)

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
        if (attempt.phase, event.phase) == ("parsing", "rendering"):
            self._time_parse(attempt)
        self._hear(attempt, event.phase, event.done, event.moves)
        if attempt.state is AttemptState.RENDERING:
            done = event.done if event.phase == "rendering" else 0
            attempt.done = min(done, attempt.band.rect.area)
            if event.phase == "rendering":
                self._pace(attempt, attempt.done)
            if event.place and attempt.band.stage not in LIGHT_STAGES and not attempt.ending:
                attempt.ending = True
                self._feed(self.nodes[attempt.node])
        self._changed(attempt.band.frame.job)

    def _attempt_rendered(self, event: ev.AttemptRendered) -> None:
        attempt = self._live(event.conn, event.attempt, rendered=True)
        if attempt is None:
            return
        if event.sha256:
            attempt.size, attempt.sha256 = event.size, event.sha256
        self._note_attempt(attempt)
        if attempt.state is AttemptState.UPLOADING:
            return
        attempt.state = advance(ATTEMPT_TABLE, attempt.state, AttemptTrigger.RENDERED)
        self._hear(attempt, "uploading", 0, 0)
        attempt.done, attempt.rendered_at = attempt.band.rect.area, self._now
        node = self.nodes[attempt.node]
        self._expect_no_end(attempt)
        self._learn_speed(attempt)
        self._tell(attempt.band, f"{attempt.id} rendered by {attempt.node_name}, uploading")
        self._feed(node)

    def _tile_verified(self, event: ev.TileVerified) -> None:
        attempt = self.attempts.get(event.attempt)
        if attempt is None or attempt.state is not AttemptState.UPLOADING:
            self._discard(event.attempt, attempt)
            return
        self._take_tile(attempt)

    def _take_tile(self, attempt: Attempt) -> None:
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
            self._note_node(node)
        for other in band.live_attempts:
            self._end(other, AttemptTrigger.DROP, "another attempt was first")
        if band.stage == "final":
            self._add_tile(band, attempt)
        elif band.stage == "verify":
            self._compare(attempt)
        if node.conn is not None:
            self._out.append(act.SendAccepted(node.conn, attempt.id))
        else:
            probing.lose(self, attempt.id, f"{node.name} is away")
            scouting.lose(self, attempt.id)
        self._tell(band, f"{attempt.id} accepted from {node.name}")
        self._changed(frame.job)
        if band.stage != "verify":
            frame.uncovered -= band.rect.area
            if frame.uncovered == 0:
                self._covered(frame)

    def _covered(self, frame: Frame) -> None:
        job = frame.job
        if frame.state is FrameState.LIGHT:
            self._pass_covered(frame)
            return
        self._out.append(act.FinishFrame(job.id, frame.index))
        self._begin_verifying(frame)
        if all(other.complete for other in job.frames):
            job.state = advance(JOB_TABLE, job.state, JobTrigger.COVERED)

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

    def _scouted(self, event: ev.Scouted) -> None:
        attempt, node = self.attempts.get(event.attempt), self._by_conn.get(event.conn)
        if attempt is None or node is None or attempt.node != node.id:
            return
        frame = attempt.band.frame
        if event.reason:
            scouting.lose(self, attempt.id)
        elif scouting.tell(self, frame, event.costs, event.parse_s):
            self._weigh_anew(frame)
            self._changed(frame.job)

    def _fidelity_changed(self, job: Job) -> None:
        for frame in job.frames:
            self._note_frame(frame)
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
        self._jobs_made = number = self._jobs_made + 1
        job = Job(JobId(f"j{number}"), number, request, self._now, self._now, request.priority)
        self.jobs[job.id] = self._by_key[request.key] = job
        self._into_queue(job)
        self._add_frame(job, 0)
        self._out.append(act.AnswerSubmit(event.reply, job.id, existing=False))
        self._changed(job)

    def _answer_again(self, event: ev.JobSubmitted, known: Job) -> None:
        if known.request == event.request:
            self._out.append(act.AnswerSubmit(event.reply, known.id, existing=True))
            return
        text = f"job {known.id} was submitted under the same key with other content"
        self._out.append(act.RefuseSubmit(event.reply, text))

    def _frame_failed(self, event: ev.FrameFailed) -> None:
        frame = self._running(event)
        if frame is not None:
            problem = Problem("head", event.reason)
            self._end_job(frame.job, JobTrigger.FAIL, event.reason, problem)

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
        self._discard_old_files()

    def _hand_out(self) -> None:
        """Give every node with a place the band that the policy says, while there is one.

        Those for which there was none are asked again only when something has changed for them.
        """
        asking = self.hungry if self._stirred else self._fed
        if not asking or not (self.detached or any(job.has_waiting for job in self.open_jobs)):
            return
        tries = self.patience.band_tries
        hungry = [node for node in asking.values() if node.id in self.hungry]
        turn = policy.in_turn(hungry, self.nodes.values())
        for place, node in enumerate(turn):
            if node.id not in self.hungry:
                continue
            band = policy.choose_band(node, self.open_jobs, self.nodes.values(), tries)
            if band is None:
                band = self._take_over(node) or self._relight_for(node)
            if band is None:
                continue
            left = [other for other in turn[place:] if other.id in self.hungry]
            # At once: what is meant for one of them must not be chosen by another.
            for taker, part in self._share_out(band, left).items():
                self._lease(self.nodes[taker], part)

    def _share_out(self, band: Band, turn: list[Node]) -> dict[NodeId, Band]:
        """Cut a waiting band for the first of ``turn`` and all others who want a part of it.

        Gives what each is to take.
        """
        node = turn[0]
        if band.frame.povray_class is None:
            # Before the cut, which is for those who may share the frame.
            band.frame.povray_class = node.povray_class
        shares = policy.shares_of(node, band, turn, self.patience.band_tries)
        meant: dict[NodeId, Band] = {}
        todo = [(band, shares)]
        while todo:
            part, share = todo.pop()
            if isinstance(share, Leaf):
                meant[share.node.id] = part
                piece = piece_of(part.frame, part.rect, share.node) if is_cuttable(part) else None
                if piece is not None:
                    self._cut(part, piece)
            else:
                todo.append((self._cut(part, share.keep.rect), share.rest))
                todo.append((part, share.keep))
        return meant

    def _take_over(self, node: Node) -> Band | None:
        """Let a node with nothing to do have the band of one that is away.

        One that still renders leaves it to others, and time to come back to its owner.
        """
        if not self.detached or self._now < self.nodes_return_by or node.rendering:
            return None
        attempt = policy.choose_detached(node, self.detached.values())
        if attempt is None:
            return None
        self._end(attempt, AttemptTrigger.LOSE, f"{attempt.node_name} is away, {node.name} is dry")
        return attempt.band if attempt.band.state is BandState.WAITING else None

    def _relight_for(self, node: Node) -> Band | None:
        """Let a node with nothing to do begin a frame whose light nobody there can read."""
        frame = policy.choose_stranded(
            node, self.open_jobs, self.nodes.values(), self.patience.band_tries
        )
        if frame is None:
            return None
        self._relight(frame)
        return next(iter(frame.waiting.values()))

    def _lease(self, node: Node, band: Band) -> None:
        assert node.conn is not None
        frame, job = band.frame, band.frame.job
        attempt = self._make_attempt(node, band)
        frame.waiting.pop(band.id, None)
        self.hungry.pop(node.id)
        self._believe(attempt)
        self._start(job)
        probe, scout = probing.ask(self, attempt), scouting.ask(self, attempt)
        self._tell(band, f"{attempt.id} leased to {node.name}")
        self._out.append(
            act.SendLease(
                node.conn,
                attempt.id,
                band.id,
                job.id,
                frame.index,
                band.rect,
                job.request,
                band.stage,
                frame.lights,
                probe,
                node.name,
                scout,
            )
        )

    def _make_attempt(self, node: Node, band: Band) -> Attempt:
        self._attempts_made += 1
        attempt_id = AttemptId(f"a{self._attempts_made}-{self._random.getrandbits(32):08x}")
        attempt = Attempt(attempt_id, band, node.id, node.name, node.povray_class, self._now)
        attempt.lights = band.frame.lights
        self._begin_waiting(attempt)
        self.attempts[attempt_id] = node.attempts[attempt_id] = attempt
        band.attempts.append(attempt)
        if band.state is BandState.WAITING:
            band.state = advance(BAND_TABLE, band.state, BandTrigger.LEASE)
        self._note_attempt(attempt)
        return attempt
