"""The farm's part for what goes wrong: what failed, hangs, came too late or could not be kept.

A floor of ``farm``. How long things are waited for is in ``patience``, what is held against a node
and who is left for a band in ``blame``. Owned by the task-manager thread. Pure.
"""

from __future__ import annotations

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core import patience as clocks
from clusterray.core.blame import blame, clocks_of, credit, forgive, let_in, times_kept_off
from clusterray.core.entities import Attempt, Band, Job, Node, Problem
from clusterray.core.farm_base import FarmBase
from clusterray.core.model import AttemptId
from clusterray.core.states import AttemptState, AttemptTrigger

TWIN = (
    "another node with the same uuid, {name} at {place}, is connected: one work folder is a copy "
    "of the other; delete the file 'uuid' in this node's work folder and start it again"
)


class TroubleRules(FarmBase):
    """Judges attempts by the clock, and nodes by what they did."""

    def _fail(self, attempt: Attempt, problem: Problem) -> None:
        """End an attempt that failed; what becomes of its band and job is the farm's to say."""
        raise NotImplementedError

    def _fail_here(self, attempt: Attempt, reason: str) -> None:
        """Fail an attempt of which its node does not know that it failed."""
        conn = self.nodes[attempt.node].conn
        if conn is not None:
            self._out.append(act.SendDrop(conn, attempt.id, reason))
        self._fail(attempt, Problem("node", reason))

    # ---------------------------------------------------------------- nodes

    def _is_twin(self, node: Node, event: ev.NodeJoined) -> bool:
        """Tell whether a second connection of a node comes from a copy of it, which is refused.

        A daemon that moved to another address, or was started again, never comes back as the run
        that it was before. One that does lives beside another with its uuid; the two would oust
        each other for ever.
        """
        if event.instance == node.instance:
            return False
        if event.instance in node.ousted:
            words = TWIN.format(name=node.name, place=node.place or "another address")
            self._out.append(act.CloseConnection(event.conn, words))
            return True
        node.ousted = (*node.ousted[-7:], node.instance)
        return False

    def _lose_all_of(self, node: Node, reason: str) -> None:
        """The node fell silent: its time to come back was over before anybody knew."""
        for attempt in list(node.attempts.values()):
            self._end(attempt, AttemptTrigger.LOSE, reason)

    def _node_unfit(self, event: ev.NodeUnfit) -> None:
        node = self._by_conn.get(event.conn)
        if node is not None:
            node.unfit = event.reason
            self._feed(node)

    def _blame(self, node: Node, job: Job, reason: str) -> None:
        blame(node, job, reason, self._now, self.patience)
        self._note_node(node)
        for until in times_kept_off(node):
            self._look_at(until)

    def _credit(self, attempt: Attempt) -> None:
        credit(self.nodes[attempt.node], attempt.band.frame.job.id)

    def _node_forgiven(self, event: ev.NodeForgiven) -> None:
        """Let a node take any band again, also those that failed on it."""
        node = self.nodes.get(event.node)
        if node is None:
            return
        forgive(node)
        for job in self.open_jobs:
            for frame in job.frames:
                for band in frame.waiting.values():
                    self._forget_failures(band, node, event.by)
        self._feed(node)

    def _forget_failures(self, band: Band, node: Node, by: str) -> None:
        if node.id in band.failed_on:
            band.failed_on = tuple(failed for failed in band.failed_on if failed != node.id)
            self._tell(band, f"{node.name} may try it again: forgiven by {by}")

    # ---------------------------------------------------------------- tiles

    def _discard(self, name: AttemptId, attempt: Attempt | None) -> None:
        """Have what was uploaded deleted, unless an earlier upload of it is in the picture."""
        if attempt is None or attempt.state is not AttemptState.ACCEPTED:
            self._out.append(act.DiscardTile(name))
            if attempt is not None:
                self._count_late(attempt)

    def _tile_refused(self, event: ev.TileRefused) -> None:
        attempt = self.attempts.get(event.attempt)
        if attempt is None or not attempt.live:
            self._discard(event.attempt, attempt)
            return
        self._out.append(act.DiscardTile(event.attempt))
        self._fail_here(attempt, event.reason)

    def _upload_damaged(self, event: ev.UploadDamaged) -> None:
        """Have a tile that something on the way changed uploaded again, but not for ever."""
        attempt = self.attempts.get(event.attempt)
        if attempt is None or attempt.state is not AttemptState.UPLOADING:
            return
        attempt.uploads += 1
        conn = self.nodes[attempt.node].conn
        if attempt.uploads >= clocks.UPLOADS:
            self._fail_here(attempt, f"{event.reason}, {attempt.uploads} times")
        elif conn is not None:
            self._tell(attempt.band, f"{attempt.id} is uploaded again: {event.reason}")
            self._ask_again(attempt, conn)

    def _tile_not_kept(self, event: ev.TileNotKept) -> None:
        """Ask for a tile again later: nobody is at fault but this head."""
        attempt = self.attempts.get(event.attempt)
        if attempt is None or attempt.state is not AttemptState.UPLOADING:
            return
        if attempt.again_at is None:
            attempt.again_at = self._now + clocks.again_in_s(attempt.held_up)
            attempt.held_up += 1
            self._tell(attempt.band, f"{attempt.id} waits for the head: {event.reason}")
        attempt.reason = event.reason
        self._note_attempt(attempt)
        self._begin_waiting(attempt)
        self._look_at(attempt.again_at)
        self._changed(attempt.band.frame.job)

    def _ask_again(self, attempt: Attempt, conn: int) -> None:
        """Have the node go on; a tile that it has is uploaded under a new grant."""
        attempt.again_at = None
        self._begin_waiting(attempt)
        band, request = attempt.band, attempt.band.frame.job.request
        job = band.frame.job.id
        self._out.append(act.SendKeep(conn, attempt.id, job, band.rect, request, band.stage))

    # ---------------------------------------------------------------- clocks

    def _look_at(self, moment: float) -> None:
        """Have a look over what time decides no later than at ``moment``."""
        if self.look_at is None or moment < self.look_at:
            self.look_at = moment

    def _begin_waiting(self, attempt: Attempt) -> None:
        """Give an attempt its time anew."""
        clocks.begin_waiting(attempt, self._now, self.patience)
        self._look_at(attempt.due_at)

    def _hear(self, attempt: Attempt, phase: str, done: int, moves: int) -> None:
        """Take a word of an attempt's node, and give the attempt time again if it has moved on."""
        clocks.hear(attempt, phase, done, moves, self._now, self.patience)
        self._look_at(attempt.due_at)

    def _look_over(self) -> None:
        """Do what is due, detached attempts apart, and say when to look again.

        Attempts move on all the time, so the next look mostly finds nothing due.
        """
        if self.look_at is None or self.look_at > self._now:
            return
        for node in self.nodes.values():
            if let_in(node, self._now):
                self._feed(node)
            for attempt in list(node.attempts.values()):
                if node.conn is not None and attempt.live:
                    self._look_at_attempt(attempt, node.conn)
        self.look_at = None
        for node in self.nodes.values():
            for moment in clocks_of(node):
                self._look_at(moment)

    def _look_at_attempt(self, attempt: Attempt, conn: int) -> None:
        if attempt.again_at is not None and attempt.again_at <= self._now:
            self._ask_again(attempt, conn)
        elif attempt.due_at <= self._now:
            reason = clocks.stall_words(attempt, self.patience)
            attempt.band.stalls += 1
            self._fail_here(attempt, reason)
