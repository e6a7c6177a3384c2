"""Which parts of the farm are no longer as they were stored; pure.

Noted while events happen, taken by whoever stores the farm before its actions are carried out. A
part may be noted though nothing of it changed; one that changed must be noted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from clusterray.core.entities import Attempt, Band, Frame, Job, Node
from clusterray.core.model import AttemptId, BandId, JobId, NodeId


@dataclass(slots=True)
class Changes:
    """The parts to be stored anew, and those that are no more.

    With a job its frames, bands and attempts are gone. What is ``gone`` was so after whatever is
    noted of it besides. ``deleted`` says of jobs by whom, None once that is forgotten.
    """

    jobs: dict[JobId, Job] = field(default_factory=dict)
    frames: dict[tuple[JobId, int], Frame] = field(default_factory=dict)
    bands: dict[BandId, Band] = field(default_factory=dict)
    attempts: dict[AttemptId, Attempt] = field(default_factory=dict)
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    gone_jobs: set[JobId] = field(default_factory=set)
    gone_bands: set[BandId] = field(default_factory=set)
    gone_attempts: set[AttemptId] = field(default_factory=set)
    deleted: dict[JobId, str | None] = field(default_factory=dict)
