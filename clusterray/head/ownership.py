"""Whose job is whose: an admin token opens all, a submit token what was submitted with it.

Pure. A job remembers the id of the token that it came with (``JobRequest.token``), so whoever holds
a copy of the same token is the same submitter to the head.
"""

from __future__ import annotations

import msgspec

from clusterray.head.tokens import TokenRecord
from clusterray.head.views import FarmView

SOMEBODY_ELSES = "another's"
"""What a submitter reads in place of the id of a job that is not its own."""


def may_touch(who: TokenRecord, token: str) -> bool:
    """Tell whether ``who`` may see, fetch and change a job that came with this token."""
    return who.role == "admin" or (who.role == "submit" and who.id == token)


def seen_by(who: TokenRecord, farm: FarmView) -> FarmView:
    """Give of ``farm`` what ``who`` may see: its own jobs, and all nodes but what they work on."""
    if who.role == "admin":
        return farm
    jobs = tuple(job for job in farm.jobs if may_touch(who, farm.tokens.get(job.id, "")))
    own = {job.id for job in jobs}

    def named(job: str) -> str:
        return job if not job or job in own else SOMEBODY_ELSES

    nodes = tuple(
        msgspec.structs.replace(node, job=named(node.job), next_job=named(node.next_job))
        for node in farm.nodes
    )
    return FarmView(jobs, nodes, farm.at, {job: farm.tokens[job] for job in own})
