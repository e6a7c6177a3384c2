"""Watching a job until it has ended, whatever happens to the head meanwhile.

Caller's thread. Knows what the states of a job mean to the person who waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from clusterray.client.head_link import HeadLink, HeadLost
from clusterray.client.report import Report
from clusterray.client.text import povray_lines
from clusterray.core.errors import (
    FAULT_BY_EXIT_CODE,
    ClusterRayError,
    JobCancelled,
    RenderFault,
    SceneFault,
)
from clusterray.wire.protocol import Follow, JobStatus, JobView

_REDRAW_S = 1.0
_TAIL_LINES = 20
_ENDED = frozenset({"done", "failed", "cancelled"})


def follow_job(
    head: HeadLink,
    job: str,
    report: Report,
    *,
    is_ours: Callable[[JobView], bool] = lambda view: True,
    notes: bool = True,
) -> JobView:
    """Show the job's progress until it has ended, and give its last state.

    ``is_ours`` knows our job from another one with its id: a head that lost its state may give an
    id again. ``notes`` False leaves out what the head says of a job that waits: on a farm that was
    started for it, whose nodes are on their way, that advice is wrong.
    Comes back by itself when the head was lost. Raises SceneFault if the head does not know the
    job, NoHead if it refuses us.
    """
    while True:
        try:
            return _follow_here(head, job, report, is_ours, notes)
        except HeadLost:
            head.reopen(job)


def _follow_here(
    head: HeadLink, job: str, report: Report, is_ours: Callable[[JobView], bool], notes: bool
) -> JobView:
    request = head.next_request()
    view = head.ask(Follow(request=request, job=job), request, JobStatus).job
    if not is_ours(view):
        raise SceneFault(f"job {job} is not the one it was: the head was set up anew")
    while view.state not in _ENDED:
        report.job(view, _sentence(view, notes))
        status = head.wait_within(request, _REDRAW_S, JobStatus)
        view = view if status is None else status.job
    report.close()
    return view


def _sentence(view: JobView, notes: bool) -> str:
    if view.state == "stitching":
        return "joining the tiles"
    if view.state == "paused":
        return f"{view.note or 'paused'}; clusterray resume {view.id} lets it go on"
    if view.note and notes:
        return f"waiting: {view.note}"
    return "waiting for a node" if view.state == "queued" else ""


def outcome_fault(view: JobView, report: Report, root: Path | None = None) -> ClusterRayError:
    """Give the fault of a job that did not end well, after showing the tail of POV-Ray's text.

    ``root`` is the scene's folder here: the file named in POV-Ray's message is then given as the
    person would write it.
    """
    if view.state == "cancelled":
        why = f": {view.error}" if view.error else ""
        return JobCancelled(f"job {view.id} was cancelled{why}")
    report.lines(_tail(view.error_text))
    kind = FAULT_BY_EXIT_CODE.get(view.error_code, RenderFault)
    return kind(
        view.error or f"job {view.id} failed",
        file=_file_here(view.error_file, root),
        line=view.error_line or None,
    )


def _tail(text: str) -> list[str]:
    lines = [line for line in povray_lines(text) if line.strip()]
    return lines[-_TAIL_LINES:]


def _file_here(file: str, root: Path | None) -> str | None:
    if not file or root is None or not (root / file).is_file():
        return file or None
    return os.path.relpath(root / file)
