"""Which node is asked for a frame's probe, and what becomes of the question; pure.

A probe tells whether the frame's pixels depend on threads or on the order of rendering, by two
small renders of it. It is asked for with the first lease for the frame's picture, of one node at a
time; where that node is lost or cannot tell, with a later lease, three times in all. An answer
counts whenever it comes, the first alone. What follows from it is said in ``core.fidelity``.
"""

from __future__ import annotations

from clusterray.core.entities import Attempt, FarmState, Frame, Node, Probe
from clusterray.core.model import LIGHT_KINDS, AttemptId, ProbeFound
from clusterray.core.states import PROBE_TABLE, ProbeState, ProbeTrigger, advance

MAX_ASKED = 3
"""So often a probe is asked for: where it came to nothing thrice, it will a fourth time."""


def wants_probe(frame: Frame) -> bool:
    """Tell whether a frame that begins its picture is worth a probe.

    Light that is gathered or shot differs with threads anyway, and would be made twice more; only
    a light pass that found none shows that a scene with such words uses none.
    """
    if frame.lights:
        return False
    request = frame.job.request
    return bool(request.light) or all(each.feature not in LIGHT_KINDS for each in request.chance)


def begin(frame: Frame) -> None:
    """Make ready for the leases of the frame's picture."""
    frame.probe = Probe() if wants_probe(frame) else None


def ask(farm: FarmState, attempt: Attempt) -> bool:
    """Tell whether the probe is to be asked for with the lease of ``attempt``, and note it."""
    frame = attempt.band.frame
    probe = frame.probe
    if probe is None or probe.state is not ProbeState.DUE or attempt.band.stage != "final":
        return False
    probe.state = advance(PROBE_TABLE, probe.state, ProbeTrigger.ASK)
    probe.attempt = attempt.id
    probe.asked += 1
    farm.probing[attempt.id] = frame
    return True


def lose(farm: FarmState, attempt: AttemptId, reason: str) -> bool:
    """Expect no answer of ``attempt`` any more; tells whether one was expected."""
    frame = farm.probing.pop(attempt, None)
    if frame is None or frame.probe is None:
        return False
    probe = frame.probe
    last = probe.asked >= MAX_ASKED
    trigger = ProbeTrigger.GIVE_UP if last else ProbeTrigger.FAIL
    probe.state = advance(PROBE_TABLE, probe.state, trigger)
    probe.attempt, probe.reason = None, reason
    return True


def lose_all_of(farm: FarmState, node: Node) -> list[Frame]:
    """The node is away: expect nothing of it but with attempts that may count again.

    Gives the frames concerned.
    """
    lost = []
    for attempt, frame in list(farm.probing.items()):
        it = farm.attempts[attempt]
        if it.node == node.id and not it.live:
            lose(farm, attempt, f"{node.name} is away")
            lost.append(frame)
    return lost


def tell(farm: FarmState, attempt: Attempt, found: ProbeFound) -> bool:
    """Take what a node found; False if it is known already or nobody wants to know."""
    probe = attempt.band.frame.probe
    if probe is None or probe.state is ProbeState.TOLD:
        return False
    if probe.attempt is not None:
        del farm.probing[probe.attempt]
    probe.state = advance(PROBE_TABLE, probe.state, ProbeTrigger.TELL)
    probe.attempt, probe.found = None, found
    return True
