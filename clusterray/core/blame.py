"""What is held against a node, and who is still left for a band that failed; pure.

A failure counts against its node on its job. Each tile it delivers makes up for one. Too many on
one job keep it off that job, failures on too many jobs off the farm, for a while that doubles each
time; a node that is let in again and fails before it has delivered is kept off at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from clusterray.core.entities import Band, Job, Node, Standing
from clusterray.core.model import JobId
from clusterray.core.patience import Patience, minutes
from clusterray.core.policy import may_render, may_still_take


def blame(node: Node, job: Job, reason: str, now: float, patience: Patience) -> None:
    """Hold a failure on ``job`` against the node, and keep it off if that is too much."""
    node.failures += 1
    before = node.standings.get(job.id, Standing())
    bound = patience.node_failures
    node.standings[job.id] = _worse(before, bound, reason, now, patience)
    if not before.failures and not before.times:
        bound = patience.node_failed_jobs
        node.standing = _worse(node.standing, bound, reason, now, patience)


def _worse(standing: Standing, bound: int, reason: str, now: float, patience: Patience) -> Standing:
    failures = standing.failures + 1
    if failures < bound and not standing.times:
        return replace(standing, failures=failures, reason=reason)
    until = now + patience.kept_off_for(standing.times)
    return Standing(0, standing.times + 1, until, reason)


def credit(node: Node, job: JobId) -> None:
    """Let an accepted tile make up for one failure; what keeps it off now does so all the same."""
    mine = node.standings.get(job)
    if mine is not None and mine.kept_off_until is None:
        better = Standing(max(0, mine.failures - 1), 0, None, mine.reason)
        if better.failures:
            node.standings[job] = better
        else:
            del node.standings[job]
    if job not in node.standings and not node.kept_off:
        failures = max(0, node.standing.failures - 1)
        node.standing = Standing(failures, 0, None, node.standing.reason if failures else "")


def forgive(node: Node) -> None:
    """Hold nothing against the node any more."""
    node.standing = Standing()
    node.standings.clear()


def let_in(node: Node, now: float) -> bool:
    """Let the node work where its time is over; tells whether that changed anything."""
    changed = False
    if _is_over(node.standing, now):
        node.standing = replace(node.standing, kept_off_until=None)
        changed = True
    for job, standing in list(node.standings.items()):
        if _is_over(standing, now):
            node.standings[job] = replace(standing, kept_off_until=None)
            changed = True
    return changed


def _is_over(standing: Standing, now: float) -> bool:
    return standing.kept_off_until is not None and standing.kept_off_until <= now


def times_kept_off(node: Node) -> Iterator[float]:
    """Give the times until which the node is kept off anything."""
    for standing in (node.standing, *node.standings.values()):
        if standing.kept_off_until is not None:
            yield standing.kept_off_until


def clocks_of(node: Node) -> Iterator[float]:
    """Give each time at which something of the node becomes due, detached attempts apart."""
    yield from times_kept_off(node)
    if node.conn is None:
        return
    for attempt in node.attempts.values():
        yield attempt.due_at
        if attempt.again_at is not None:
            yield attempt.again_at


def hopeless(band: Band, nodes: Iterable[Node], patience: Patience) -> str:
    """Say why nobody is left to render a band that failed; "" if somebody is.

    Where nobody is there at all who might, somebody may come. One that is there but unfit for now
    is waited for, as is one that has just lost its connection.
    """
    failed = len(set(band.failed_on))
    if failed >= patience.band_nodes:
        return f"band {band.id} failed on {failed} nodes"
    there = [node for node in nodes if _is_there(node) and may_render(node, band.frame)]
    if not there or any(_may_still(node, band, patience) for node in there):
        return ""
    each = ", ".join(_why_not(node, band) for node in there)
    return f"no node is left for band {band.id}: {each}"


def _is_there(node: Node) -> bool:
    return bool(node.attempts) if node.conn is None else not node.draining


def _may_still(node: Node, band: Band, patience: Patience) -> bool:
    return not node.kept_off and may_still_take(node, band, patience.band_tries)


def _why_not(node: Node, band: Band) -> str:
    tries = band.failed_on.count(node.id)
    failed = f"it failed on {node.name} " + ("once" if tries == 1 else f"{tries} times")
    if node.kept_off:
        off = "is kept off the farm"
    elif node.kept_off_job(band.frame.job.id):
        off = "is kept off this job"
    else:
        return failed
    return f"{failed}, which {off}" if tries else f"{node.name} {off}"


def kept_off_words(node: Node, now: float, job: JobId | None = None) -> list[str]:
    """Say what the node is kept off, for how long and why: of ``job``, or of every job."""
    found = [*_words("the farm", node.standing, now)]
    for name, standing in node.standings.items():
        if job in (None, name):
            found += _words(f"job {name}", standing, now)
    return found


def _words(what: str, standing: Standing, now: float) -> Iterator[str]:
    if standing.kept_off_until is not None:
        left = minutes(max(0.0, standing.kept_off_until - now))
        yield f"kept off {what} for {left} more: {standing.reason}"
