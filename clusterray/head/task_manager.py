"""The thread that owns the farm: takes letters, lets events happen, stores, and then acts.

Nobody else touches the Farm, the holds on scenes or the store. Letters are taken as they come, many
at a time; what they changed is committed once; only then anything leaves: messages, logins, tiles,
orders to delete. If a commit fails nothing leaves: the farm is read back from the store, the nodes
are sent away to come again, and new work is refused until a commit succeeds.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.errors import LocalFault
from clusterray.core.farm import Farm
from clusterray.core.model import SceneId
from clusterray.core.states import JobState
from clusterray.head.answers import Answers
from clusterray.head.bulletin import PUBLISH_EVERY_S, Bulletin
from clusterray.head.chores import Chores
from clusterray.head.disk_room import DiskRoom, room_for
from clusterray.head.errands import Errands, Rooms
from clusterray.head.ftp_server import FtpServer
from clusterray.head.job_logs import JobLogs
from clusterray.head.letters import (
    Asked,
    ClientOpened,
    Closed,
    Glimpsed,
    Hold,
    Letter,
    Looked,
    NewJob,
    NodeOpened,
    Outlet,
    PartialPlan,
    PictureWritten,
    Said,
    ScoutTold,
    Spent,
    Stop,
    TokenRevoked,
)
from clusterray.head.memory import Known, Memory, StoredResult
from clusterray.head.restart import look_through
from clusterray.head.scene_store import SceneStore
from clusterray.head.sketches import Sketches
from clusterray.head.state_folder import StateFolder
from clusterray.head.stitcher import Stitcher
from clusterray.head.store import Report, Store, StoreFault
from clusterray.head.views import FarmView, light_view
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from clusterray.wire.protocol import Message

MOST_LETTERS: Final = 256
"""So many letters share a commit at most."""
LOOK_S: Final = 1.0
"""So long who looks at the status page waits for a new view at most, then sees the last one."""
STORE_AGAIN_S: Final = 5.0
"""So often it is tried whether commits succeed again."""
_QUESTIONS: Final = (msg.ListJobs, msg.ListNodes, msg.Show, msg.Follow, msg.Fetch, msg.Logs)
"""What is answered though nothing can be stored."""

_log = logging.getLogger("clusterray.head.task_manager")


class TaskManager:
    """The farm's keeper. ``post`` and ``view`` are for any thread, all else for its own.

    ``on_crash`` is called if the thread dies of a fault of ours: the head must not go on then.
    Raises LocalFault where the store cannot be read.
    """

    def __init__(
        self,
        farm: Farm,
        store: Store,
        folder: StateFolder,
        ftp: FtpServer,
        scenes: SceneStore,
        stitcher: Stitcher,
        chores: Chores,
        *,
        on_crash: Callable[[], None],
        disk_bytes: int = 100 << 30,
        jobs_per_token: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._farm = farm
        self._folder = folder
        self._scenes = scenes
        self._sketches = Sketches(farm, stitcher)
        self._on_crash = on_crash
        self._jobs_per_token = jobs_per_token
        self._clock = clock
        self._known = Known()
        self._memory = Memory(store, farm, self._known, folder, clock)
        self._memory.recall()
        self._bulletin = Bulletin(farm, self._known.used, clock, self._memory.wall, self._send)
        self._inbox: queue.SimpleQueue[Letter] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="task-manager")
        self._outlets: dict[int, Outlet] = {}
        self._tokens: dict[int, str] = {}
        self._chores = chores
        self._logs = JobLogs(folder.logs, chores)
        self._room = DiskRoom(
            disk_bytes,
            farm,
            scenes,
            size_of=folder.bytes_of,
            discard=lambda job, reason: self._happen(ev.FilesUnwanted(job, reason)),
            in_use=self._scenes_in_use,
            wall=self._memory.wall,
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
        self._submits: dict[int, NewJob] = {}
        rooms = Rooms(
            farm,
            folder,
            ftp,
            scenes,
            stitcher,
            self._known,
            self._logs,
            self._room,
            chores,
            self._bulletin,
            self._outlets,
            self._submits,
        )
        self._errands = Errands(rooms, self._evict_scenes)
        self._later: deque[Callable[[], None]] = deque()
        # Of the letters that share the next commit: what is refused, or asked again, if it fails.
        self._orders: list[Callable[[], None]] = []
        self._questions: list[Asked] = []
        self._fault = ""
        self._again_at = 0.0
        self._view_due_at = -math.inf
        self._held: dict[int, set[SceneId]] = {}
        self._next_reply = 0
        self._node_conns: set[int] = set()
        self._letters: dict[type, Callable[[Any], None]] = {
            ClientOpened: self._client_opened,
            NodeOpened: self._node_opened,
            Closed: self._closed,
            Spent: self._spent,
            Said: self._said,
            Glimpsed: self._glimpsed,
            ScoutTold: self._scout_told,
            Asked: self._asked,
            NewJob: self._new_job,
            Hold: self._hold,
            Looked: self._looked,
            PictureWritten: self._picture_written,
            ev.LightJoined: self._light_joined,
            TokenRevoked: self._token_revoked,
        }

    # ---------------------------------------------------------------- any thread

    def view(self) -> FarmView:
        """Give what the status page shows, an immutable value, at most half a second old.

        Older where this thread has no time for it.
        """
        if self._clock() >= self._view_due_at:
            answer: queue.SimpleQueue[FarmView] = queue.SimpleQueue()
            self.post(Looked(answer))
            with suppress(queue.Empty):
                return answer.get(timeout=LOOK_S)
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
            self._recalled()
            self._take_over()
            while self._step():
                pass
        except Exception:  # noqa: BLE001 - without its thread the head must not go on
            _log.critical("the task manager has a fault; the head stops", exc_info=True)
            self._on_crash()

    def _step(self) -> bool:
        """Take the letters that are there, or let a deadline pass; False after Stop."""
        letters = self._next_letters()
        stop = bool(letters) and isinstance(letters[-1], Stop)
        for letter in letters:
            self._take(letter)
        if self._fault:
            self._try_again()
        elif not letters:
            self._happen(ev.Tick())
        self._commit_and_act()
        return not stop

    def _next_letters(self) -> list[Letter]:
        """Wait for a letter or for what is due; Stop is the last of those given."""
        letters: list[Letter] = []
        try:
            letters.append(self._inbox.get(timeout=self._wait_s()))
            while len(letters) < MOST_LETTERS and not isinstance(letters[-1], Stop):
                letters.append(self._inbox.get_nowait())
        except queue.Empty:
            pass
        return letters

    def _wait_s(self) -> float | None:
        """Give the seconds until the next deadline or view, None if neither is due."""
        farm_due = self._again_at if self._fault else self._farm.next_deadline()
        due = [moment for moment in (self._bulletin.next_due(), farm_due) if moment is not None]
        return max(0.0, min(due) - self._clock()) if due else None

    def _take(self, letter: Letter) -> None:
        if isinstance(letter, Stop):
            return
        handler = self._letters.get(type(letter))
        if handler is not None:
            handler(letter)
        else:
            self._happen(letter)  # type: ignore[arg-type]  # the table has all other letters

    # ---------------------------------------------------------------- commit, then act

    def _happen(self, event: ev.Event) -> None:
        """Let an event happen; what it asks for is done after the commit."""
        if self._fault:
            # What is in memory is not what is stored: it is read back before anything happens.
            return
        for action in self._farm.handle(event, self._clock()):
            self._note(action)
            self._later.append(partial(self._errands.run, action))

    def _note(self, action: act.Action) -> None:
        """Note at once what the next letter may ask for."""
        match action:
            case act.BeginFrame(job=job, request=request):
                spec = self._known.specs[job] = RenderSpec.from_wire(request.spec)
                self._room.job_begun(self._farm.jobs[job], spec)
            case act.DiscardResult(job=job) | act.AbandonJob(job=job) | act.ForgetJob(job=job):
                self._memory.result(job, None)
            case _:
                pass

    def _commit_and_act(self) -> None:
        """Make what happened safe, then do what follows from it; or have nothing happened."""
        if not self._fault:
            try:
                self._memory.commit()
            except StoreFault as fault:
                self._lose(str(fault))
                return
            self._memory.checkpoint_if_due(self._chores)
        self._orders.clear()
        self._questions.clear()
        self._act()
        # What people are shown is what is stored.
        self._bulletin.publish()
        self._act()

    def _act(self) -> None:
        while self._later:
            self._later.popleft()()
        self._errands.tell()

    def _lose(self, fault: str) -> None:
        """Nothing of what happened is stored: have it not happened, and take nothing more."""
        if not self._fault:
            _log.error("%s; nothing new is taken until it can be written again", fault)
        self._fault, self._again_at = fault, self._clock() + STORE_AGAIN_S
        self._later.clear()
        for refuse in self._orders:
            refuse()
        self._orders.clear()
        self._submits.clear()
        for conn in self._node_conns:
            self._outlets[conn].leave(f"{fault}; come again", retry=True)
        self._recall()
        for question in self._questions:
            self._answers.asked(question)
        self._questions.clear()
        self._act()

    def _recall(self) -> None:
        self._memory.recall()
        self._recalled()

    def _recalled(self) -> None:
        self._room.recount(self._known.specs)
        self._bulletin.farm_recalled()

    def _try_again(self) -> None:
        """Find out whether commits succeed again, now and then; then go on from what is stored."""
        if self._clock() < self._again_at:
            return
        try:
            self._memory.can_commit()
        except StoreFault as fault:
            self._fault, self._again_at = str(fault), self._clock() + STORE_AGAIN_S
            return
        _log.info("the store can be written again")
        self._fault = ""
        self._recall()
        self._take_over()

    def _take_over(self) -> None:
        """Go on with the farm that was read from the store, and with the files that are there."""
        self._happen(look_through(self._farm, self._folder, self._known))
        for job in list(self._farm.open_jobs):
            if not self._scenes.has(job.request.scene) and not all(
                frame.verified for frame in job.frames
            ):
                text = f"the scene of job {job.id} is gone from the head's disk; submit it again"
                self._happen(ev.FrameFailed(job.id, 0, text, job.frames[0].run))
        for job in self._farm.kept.values():
            self._later.append(partial(self._errands.complete, job))
        self._commit_and_act()

    def _send(self, conn: int, message: Message) -> None:
        """Have a message sent once what is known now is stored."""
        outlet = self._outlets.get(conn)
        if outlet is not None:
            self._later.append(lambda: outlet.post(message))

    def _plan(self, conn: int, plan: PartialPlan) -> None:
        outlet = self._outlets.get(conn)
        if outlet is not None:
            self._later.append(lambda: outlet.plan(plan))

    def _refuse(self, conn: int, request: int) -> None:
        """Tell a client that what it wants cannot be stored."""
        outlet = self._outlets.get(conn)
        if outlet is not None:
            outlet.post(msg.Refused(request, LocalFault.exit_code, self._sorry("this")))

    def _sorry(self, what: str) -> str:
        return f"the head cannot take {what} now: {self._fault}; try again when it has been seen to"

    # ---------------------------------------------------------------- letters

    def _client_opened(self, letter: ClientOpened) -> None:
        self._outlets[letter.conn] = letter.outlet
        self._tokens[letter.conn] = letter.token

    def _node_opened(self, letter: NodeOpened) -> None:
        self._outlets[letter.conn] = letter.outlet
        self._tokens[letter.conn] = letter.token
        self._node_conns.add(letter.conn)
        if self._fault:
            letter.outlet.leave(f"{self._fault}; come again", retry=True)
            return
        _log.info("node %s joined from %s", letter.joined.name, letter.card.address)
        self._happen(letter.joined)
        if self._farm.nodes[letter.joined.node].conn == letter.conn:
            self._bulletin.node_met(letter.joined.node, letter.card)

    def _closed(self, letter: Closed) -> None:
        self._outlets.pop(letter.conn, None)
        self._tokens.pop(letter.conn, None)
        self._answers.closed(letter.conn)
        self._room.scene_comes(letter.conn, 0)
        self._bulletin.unfollow(letter.conn)
        if self._held.pop(letter.conn, None):
            self._later.append(self._evict_scenes)
        if letter.conn in self._node_conns:
            self._node_conns.discard(letter.conn)
            self._happen(ev.NodeGone(letter.conn, letter.reason, letter.silent))
            self._bulletin.nodes_changed()

    def _spent(self, letter: Spent) -> None:
        if letter.attempt in self._farm.attempts:
            used = None if letter.used is None else tuple(sorted(letter.used))
            self._memory.report(letter.attempt, Report(letter.seconds, letter.gathers, used))

    def _said(self, letter: Said) -> None:
        attempt = self._farm.attempts.get(letter.attempt)
        if attempt is not None:
            self._logs.keep(attempt.band.frame.job.id, attempt.id, letter.text)

    def _glimpsed(self, letter: Glimpsed) -> None:
        self._sketches.blocks(letter)

    def _scout_told(self, letter: ScoutTold) -> None:
        event = self._sketches.scout(letter)
        if event is not None:
            self._happen(event)

    def _asked(self, letter: Asked) -> None:
        letter.taken()
        question = letter.question
        if isinstance(question, _QUESTIONS):
            self._questions.append(letter)
        elif self._fault:
            self._refuse(letter.conn, question.request)
            return
        else:
            self._orders.append(partial(self._refuse, letter.conn, question.request))
        self._answers.asked(letter)

    def _hold(self, letter: Hold) -> None:
        refusal = self._sorry("a scene") if self._fault else ""
        if not refusal and not self._scenes.has(letter.scene):
            refusal = self._room.make_room(letter.size, "this scene")
        if not refusal:
            self._held.setdefault(letter.conn, set()).add(letter.scene)
            self._room.scene_comes(letter.conn, letter.size)
        self._orders.append(lambda: letter.answer.put(self._sorry("a scene")))
        self._later.append(lambda: letter.answer.put(refusal))

    def _looked(self, letter: Looked) -> None:
        self._later.append(lambda: self._show_to(letter))

    def _show_to(self, letter: Looked) -> None:
        now = self._clock()
        if now >= self._view_due_at:
            self._bulletin.refresh()
            self._view_due_at = now + PUBLISH_EVERY_S
        letter.answer.put(self._bulletin.farm_view)

    def _scenes_in_use(self) -> set[SceneId]:
        return {job.request.scene for job in self._farm.open_jobs}.union(*self._held.values())

    def _evict_scenes(self) -> None:
        self._scenes.evict(self._scenes_in_use())

    def _new_job(self, letter: NewJob) -> None:
        # What came of the scene is in the store by now.
        self._room.scene_comes(letter.conn, 0)
        if self._fault:
            self._refuse(letter.conn, letter.request_id)
            return
        if self._farm.job_of_key(letter.request.key) is None:
            if self._has_enough(letter.request.token):
                text = (
                    f"{self._jobs_per_token} jobs of this token wait or run already, the head's "
                    "limit (setting max_jobs_per_token); wait for one, or cancel one"
                )
                self._send(letter.conn, msg.Refused(letter.request_id, 3, text))
                return
            wanted = room_for(letter.request, letter.spec)
            words = self._room.make_room(wanted, "this job")
            if words:
                self._send(letter.conn, msg.Refused(letter.request_id, 3, words))
                return
        self._next_reply += 1
        self._submits[self._next_reply] = letter
        self._orders.append(partial(self._refuse, letter.conn, letter.request_id))
        self._happen(ev.JobSubmitted(self._next_reply, letter.request))

    def _has_enough(self, token: str) -> bool:
        open_jobs = sum(job.request.token == token for job in self._farm.open_jobs)
        return open_jobs >= self._jobs_per_token

    def _light_joined(self, event: ev.LightJoined) -> None:
        if self._fault:
            return
        self._happen(event)
        job = self._farm.jobs.get(event.job)
        if job is None or not job.open:
            self._later.append(lambda: self._folder.discard_light(event.job, event.frame))
            return
        if job.frames[event.frame].run != event.run:
            return
        bands = job.frames[event.frame].light_bands.values()
        attempts = [attempt.id for band in bands for attempt in band.attempts]
        for attempt in attempts:
            self._later.append(partial(self._errands.discard_attempt, attempt))
        _log.info("light of %s: %s", job.id, light_view(job, self._known.gathers))

    def _picture_written(self, letter: PictureWritten) -> None:
        job = self._farm.jobs.get(letter.job)
        if job is None or not job.open:
            # It ended while its picture was being written.
            self._later.append(lambda: self._folder.discard_result(letter.job))
            return
        if self._fault or job.frames[letter.frame].run != letter.run:
            return
        self._memory.result(letter.job, StoredResult(letter.path, letter.size, letter.sha256))
        self._happen(ev.FrameStitched(letter.job, letter.frame, letter.run))
        if job.state is JobState.VERIFYING:
            # Its bands are still being rendered again; but the picture can be fetched.
            self._later.append(lambda: self._errands.note_fidelity(job))

    def _token_revoked(self, letter: TokenRevoked) -> None:
        for conn, token in self._tokens.items():
            if token == letter.token:
                self._outlets[conn].leave("its token was revoked")
