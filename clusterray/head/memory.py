"""What the task manager knows, and its way to the disk and back.

The farm knows jobs, bands and attempts; ``Known`` is what else is known of them. ``Memory`` brings
both to the store and back. On the task-manager thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from clusterray.core.farm import Farm
from clusterray.core.model import AttemptId, JobId, LightKind
from clusterray.core.restart_rules import number_of
from clusterray.head.chores import Chores
from clusterray.head.records import Reader
from clusterray.head.state_folder import StateFolder
from clusterray.head.store import Report, ResultRow, Store
from clusterray.povray.spec import RenderSpec
from clusterray.wire.protocol import PhaseSeconds

_STEADY_S: Final = 1.0
"""The clock on the wall is believed to have been set when it is off by more."""


class WallClock:
    """Tells what to add to the farm's time to get wall time; steady until somebody sets a clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._offset = time.time() - clock()

    @property
    def offset(self) -> float:
        """Seconds between the two clocks."""
        offset = time.time() - self._clock()
        if abs(offset - self._offset) > _STEADY_S:
            self._offset = offset
        return self._offset


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A finished picture on the head's disk."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Known:
    """What the task manager knows of jobs and attempts beside the farm."""

    specs: dict[JobId, RenderSpec] = field(default_factory=dict)
    results: dict[JobId, StoredResult] = field(default_factory=dict)
    seconds: dict[str, PhaseSeconds] = field(default_factory=dict)
    gathers: dict[str, int] = field(default_factory=dict)
    used: dict[AttemptId, frozenset[LightKind]] = field(default_factory=dict)

    def clear(self) -> None:
        """Know nothing any more."""
        for each in (self.specs, self.results, self.seconds, self.gathers, self.used):
            each.clear()

    def forget_attempt(self, attempt: AttemptId) -> None:
        """Know nothing of an attempt any more."""
        self.seconds.pop(attempt, None)
        self.gathers.pop(attempt, None)
        self.used.pop(attempt, None)


class Memory:
    """Brings a farm and what is known beside it to the store, and back."""

    def __init__(
        self,
        store: Store,
        farm: Farm,
        known: Known,
        folder: StateFolder,
        clock: Callable[[], float],
    ) -> None:
        self.wall = WallClock(clock)
        self._store = store
        self._farm = farm
        self._known = known
        self._folder = folder
        self._clock = clock
        self._reports: dict[AttemptId, tuple[JobId, Report]] = {}
        self._results: dict[JobId, ResultRow | None] = {}

    # ---------------------------------------------------------------- back

    def recall(self) -> None:
        """Let the farm and what is known be what was stored, whatever they are now.

        Raises LocalFault where the store cannot be read. The farm must hear of Restarted next.
        """
        self._reports, self._results = {}, {}
        rows = self._store.load()
        reader = Reader(rows, self.wall.offset, self._clock())
        self._farm.adopt(reader.stored())
        self._known.clear()
        for job in self._farm.jobs.values():
            self._known.specs[job.id] = RenderSpec.from_wire(job.request.spec)
        for job_id, row in self._store.results().items():
            path = self._folder.result_of(job_id, row.name)
            if job_id in self._farm.jobs:
                self._known.results[job_id] = StoredResult(path, row.size, row.sha256)
        self._recall_reports()

    def _recall_reports(self) -> None:
        reports = self._store.reports()
        for attempt in self._farm.attempts:
            report = reports.get(number_of(attempt))
            if report is not None:
                self._know(attempt, report)

    # ---------------------------------------------------------------- there

    def report(self, attempt: AttemptId, report: Report) -> None:
        """Keep what a node told of an attempt that the farm knows."""
        self._know(attempt, report)
        self._reports[attempt] = self._farm.attempts[attempt].band.frame.job.id, report

    def _know(self, attempt: AttemptId, report: Report) -> None:
        self._known.seconds[attempt] = report.seconds
        self._known.gathers[attempt] = report.gathers
        if report.used is not None:
            self._known.used[attempt] = frozenset(report.used)

    def result(self, job: JobId, result: StoredResult | None) -> None:
        """Keep where a job's picture lies; None: nowhere."""
        if result is None:
            self._known.results.pop(job, None)
            self._results[job] = None
        else:
            self._known.results[job] = result
            self._results[job] = ResultRow(result.path.name, result.size, result.sha256)

    def commit(self) -> None:
        """Store all that changed since the last commit; raises StoreFault, then recall."""
        changes = self._farm.take_changes()
        reports = {
            attempt: told
            for attempt, told in self._reports.items()
            if attempt in self._farm.attempts
        }
        results = {
            job: row for job, row in self._results.items() if row is None or job in self._farm.jobs
        }
        self._reports, self._results = {}, {}
        self._store.commit(changes, self.wall.offset, reports=reports, results=results)
        if changes.gone_jobs:
            self._store.forget(changes.gone_jobs)

    def checkpoint_if_due(self, chores: Chores) -> None:
        """Have the store's log shortened now and then, where nobody waits for it."""
        if self._store.wants_checkpoint():
            chores.put(self._store.checkpoint)

    def can_commit(self) -> None:
        """Raise StoreFault as long as commits fail."""
        self._store.try_to_write()
