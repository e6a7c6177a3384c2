"""What people are told of the farm: the views of jobs and nodes, and who follows which job.

Owned by the task-manager thread, which notes what changed and calls ``publish``; ``farm_view`` is
replaced as a whole and may be read on any thread. A view costs time, in which no band is handed
out: it is made for those who look alone, of each job at most twice a second and for no more than a
small part of the time, and at once when the job has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from clusterray.core.entities import Job
from clusterray.core.errors import JobCancelled
from clusterray.core.farm import Farm
from clusterray.core.fidelity import Fidelity, fidelity_of
from clusterray.core.model import AttemptId, JobId, LightKind, NodeId
from clusterray.head.memory import WallClock
from clusterray.head.views import FarmView, NodeCard, job_view, most_common, node_view
from clusterray.wire.protocol import JobStatus, JobView, Message, Refused

PUBLISH_EVERY_S = 0.5
PUBLISH_SHARE = 0.01
"""The views of one job take no more of the thread's time than this."""
JOBS_SHOWN = 200
"""How many of the newest jobs the status page and ``jobs`` show."""


class Bulletin:
    """The published views; ``send`` leaves a message for a connection by its number."""

    def __init__(
        self,
        farm: Farm,
        used: Mapping[AttemptId, frozenset[LightKind]],
        clock: Callable[[], float],
        wall: WallClock,
        send: Callable[[int, Message], None],
    ) -> None:
        self.farm_view = FarmView()
        self._farm = farm
        self._used = used
        self._clock = clock
        self._wall = wall
        self._send = send
        self._cards: dict[NodeId, NodeCard] = {}
        self._followers: dict[JobId, set[tuple[int, int]]] = {}
        self._job_views: dict[JobId, JobView] = {}
        self._dirty: dict[JobId, None] = {}
        self._next_at: dict[JobId, float] = {}

    # ---------------------------------------------------------------- notes

    def job_changed(self, job: JobId) -> None:
        """A follower of the job would see something new."""
        self._dirty.setdefault(job)

    def farm_recalled(self) -> None:
        """The farm is what was stored now, whatever it was before; who follows a job still does."""
        self._job_views.clear()
        self._next_at.clear()
        self._dirty = dict.fromkeys(job.id for job in self._farm.jobs.values() if job.open)

    def forget(self, job: JobId, reason: str) -> None:
        """The job is gone; who follows it is told ``reason``, as of one that was cancelled."""
        for conn, request in self._followers.pop(job, ()):
            self._send(conn, Refused(request, JobCancelled.exit_code, reason))
        for known in (self._job_views, self._dirty, self._next_at):
            known.pop(job, None)

    def node_met(self, node: NodeId, card: NodeCard) -> None:
        """Note what a node said of itself."""
        self._cards[node] = card
        self.nodes_changed()

    def nodes_changed(self) -> None:
        """A node came or went: the notes of waiting jobs may read otherwise now."""
        for job in self._farm.open_jobs:
            self._dirty.setdefault(job.id)

    def follow(self, job: Job, conn: int, request: int) -> None:
        """Send this job's views to ``conn`` until it has ended."""
        if job.open:
            self._followers.setdefault(job.id, set()).add((conn, request))

    def unfollow(self, conn: int) -> None:
        """Forget a connection."""
        for followers in self._followers.values():
            followers.difference_update([who for who in followers if who[0] == conn])

    # ---------------------------------------------------------------- views

    def view_of(self, job: Job) -> JobView:
        """Show one job as it stands now."""
        return job_view(
            job,
            self._farm,
            now=self._clock(),
            created=job.submitted_at + self._wall.offset,
            fidelity=self.fidelity_of(job),
        )

    def fidelity_of(self, job: Job) -> Fidelity:
        """Judge how true a job's picture is, by what is known now."""
        return fidelity_of(job, self._used)

    def next_due(self) -> float | None:
        """Give when ``publish`` has something to do, None if nothing changed."""
        return min(map(self._due_at, self._dirty), default=None)

    def publish(self) -> None:
        """Publish what is due."""
        now = self._clock()
        for job_id in [job for job in self._dirty if now >= self._due_at(job)]:
            del self._dirty[job_id]
            job = self._farm.jobs[job_id]
            if self._followers.get(job_id) or not job.open:
                self._publish_job(job, now)

    def refresh(self) -> FarmView:
        """Make the view of the whole farm anew, publish and give it."""
        now = self._clock()
        jobs = list(self._farm.jobs.values())[-JOBS_SHOWN:][::-1]
        nodes = sorted(self._farm.nodes.values(), key=lambda node: (node.name, node.id))
        most = most_common(nodes)
        cards = [(node, self._cards.get(node.id, NodeCard())) for node in nodes]
        self.farm_view = FarmView(
            jobs=tuple(self._current_view(job) for job in jobs),
            nodes=tuple(node_view(node, card, most, now) for node, card in cards),
            at=time.time(),
            tokens={job.id: job.request.token for job in jobs},
        )
        return self.farm_view

    def jobs_of(self, token: str) -> list[JobView]:
        """Show the newest jobs that came with one token, newest first."""
        own = [job for job in self._farm.jobs.values() if job.request.token == token]
        return [self._current_view(job) for job in own[-JOBS_SHOWN:][::-1]]

    def _current_view(self, job: Job) -> JobView:
        """Give a job's view; time goes on for an open one, so that one is made anew."""
        published = None if job.open else self._job_views.get(job.id)
        return published or self.view_of(job)

    def _due_at(self, job: JobId) -> float:
        if not self._farm.jobs[job].open:
            return 0.0
        return self._next_at.get(job, 0.0)

    def _publish_job(self, job: Job, now: float) -> None:
        view = self._job_views[job.id] = self.view_of(job)
        for conn, request in self._followers.get(job.id, ()):
            self._send(conn, JobStatus(request, view))
        if not job.open:
            self._followers.pop(job.id, None)
        took_s = self._clock() - now
        self._next_at[job.id] = now + max(PUBLISH_EVERY_S, took_s / PUBLISH_SHARE)
