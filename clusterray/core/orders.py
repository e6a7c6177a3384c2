"""What people may ask of a job in which state, in words; pure.

The farm and whoever answers the person ask here, so that both say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from clusterray.core import events as ev
from clusterray.core.entities import Job
from clusterray.core.states import JobState

Order: TypeAlias = (
    ev.JobCancelled
    | ev.JobPaused
    | ev.JobResumed
    | ev.JobRequeued
    | ev.PriorityChanged
    | ev.JobDeleted
)
LEAST_PRIORITY, MOST_PRIORITY = -100, 100


def refusal(job: Job, order: Order) -> str:
    """Say why the job's state does not allow this, "" if it does."""
    return _REFUSALS[type(order)](job, order)


def _cancel(job: Job, order: ev.JobCancelled) -> str:
    return "" if job.open else f"job {job.id} is {job.state} already"


def _pause(job: Job, order: ev.JobPaused) -> str:
    if job.state is JobState.PAUSED and not order.now:
        return f"job {job.id} is paused already; pause --now also takes back what still renders"
    if job.state is JobState.STITCHING:
        return f"job {job.id} is rendered and its tiles are being joined: nothing is left to pause"
    if job.state is JobState.VERIFYING:
        return f"the picture of job {job.id} is written and only being compared: cancel or wait"
    return "" if job.open else f"job {job.id} is {job.state} already"


def _resume(job: Job, order: ev.JobResumed) -> str:
    if job.state is JobState.PAUSED:
        return ""
    way = "" if job.open else f"; clusterray requeue {job.id} runs it again"
    return f"job {job.id} is {job.state}, not paused{way}"


def _requeue(job: Job, order: ev.JobRequeued) -> str:
    if job.open:
        way = "resume" if job.state is JobState.PAUSED else "cancel"
        return f"job {job.id} is {job.state}: only one that has ended can be requeued; {way} it"
    if job.state is JobState.DONE and not order.everything:
        return f"job {job.id} is done; clusterray requeue --all {job.id} renders all of it again"
    return ""


def _priority(job: Job, order: ev.PriorityChanged) -> str:
    if not LEAST_PRIORITY <= order.priority <= MOST_PRIORITY:
        return f"a priority is a whole number from {LEAST_PRIORITY} to {MOST_PRIORITY}"
    return "" if job.open else f"job {job.id} is {job.state}: it waits for nothing any more"


def _delete(job: Job, order: ev.JobDeleted) -> str:
    if order.force or not job.open:
        return ""
    return f"job {job.id} is {job.state}: cancel it first, or delete it with --force"


_REFUSALS: Mapping[type, Callable[[Job, Any], str]] = {
    ev.JobCancelled: _cancel,
    ev.JobPaused: _pause,
    ev.JobResumed: _resume,
    ev.JobRequeued: _requeue,
    ev.PriorityChanged: _priority,
    ev.JobDeleted: _delete,
}
