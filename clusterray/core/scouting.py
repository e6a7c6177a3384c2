"""Which node is asked for a frame's scout, and what becomes of the question; pure.

A scout is a quick low-resolution render of the whole frame beside its first band: the first picture
people see, how long parsing takes, and what each part of the frame costs. It is asked for with the
frame's first lease, be it one of a light pass, of one node at a time; where that node is lost or
cannot tell, with a later lease, twice in all. Nothing waits for the answer: it counts whenever it
comes, and one that follows replaces the one before. Neither question nor answer is stored: a head
that is started again asks again, if the frame has a lease to come.
"""

from __future__ import annotations

from clusterray.core.costs import CostMap
from clusterray.core.entities import Attempt, FarmState, Frame, Node
from clusterray.core.model import AttemptId

MAX_ASKED = 2
"""So often a scout is asked for: nothing depends on it."""
LEAST_PIXELS = 160 * 120
"""A frame of fewer is over before its scout could be looked at."""


def ask(farm: FarmState, attempt: Attempt) -> bool:
    """Tell whether the scout is to be asked for with the lease of ``attempt``, and note it."""
    frame = attempt.band.frame
    wanted = attempt.band.stage != "verify" and frame.area.area >= LEAST_PIXELS
    over = frame.scouted or frame.scouts_asked >= MAX_ASKED
    if not wanted or over or frame.scout is not None:
        return False
    frame.scout, frame.scouts_asked = attempt.id, frame.scouts_asked + 1
    farm.scouting[attempt.id] = frame
    return True


def lose(farm: FarmState, attempt: AttemptId) -> None:
    """Expect no answer of ``attempt`` any more."""
    frame = farm.scouting.pop(attempt, None)
    if frame is not None:
        frame.scout = None


def lose_all_of(farm: FarmState, node: Node) -> None:
    """The node is away: expect nothing of it but with attempts that may count again."""
    for attempt in list(farm.scouting):
        it = farm.attempts[attempt]
        if it.node == node.id and not it.live:
            lose(farm, attempt)


def tell(farm: FarmState, frame: Frame, costs: CostMap | None, parse_s: float) -> bool:
    """Take what a node saw of the frame; False if a map is of another picture's size."""
    picture = frame.job.request.picture
    if costs is not None and (costs.width, costs.height) != (picture.width, picture.height):
        return False
    if frame.scout is not None:
        lose(farm, frame.scout)
    frame.scouted = True
    # What bands took to parse is known better.
    frame.parse_s = parse_s if frame.parse_s is None else frame.parse_s
    frame.costs = costs or frame.costs
    return True
