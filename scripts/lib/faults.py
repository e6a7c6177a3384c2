"""Which fault comes when, to whom, and for how long: drawn from a seed, the same each time.

Pure. Knows how long a fault must last to be noticed, and which nodes have one already; not how it
is brought about.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal[
    "node killed",
    "node stopped",
    "node drained",
    "POV-Ray killed",
    "cable cut, briefly",
    "cable cut, for long",
    "cable torn",
    "head killed",
    "job paused",
    "job cancelled",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

_WEIGHTS: dict[Kind, int] = {
    "node killed": 4,
    "node stopped": 2,
    "node drained": 2,
    "POV-Ray killed": 4,
    "cable cut, briefly": 3,
    "cable cut, for long": 2,
    "cable torn": 3,
    "head killed": 4,
    "job paused": 1,
    "job cancelled": 1,
}
SUBMITTERS = "submitters"
"""All of them hang on one cable of their own."""
_ELSEWHERE: tuple[Kind, ...] = ("head killed", "job paused", "job cancelled")
"""These do not befall a node."""
_OF_CABLES: tuple[Kind, ...] = ("cable cut, briefly", "cable cut, for long", "cable torn")
_GAPS_S = (2.0, 8.0)
"""From one fault to the next."""
_RECOVERY_S = 4.0
"""Between the end of a node's fault and its next one, so that it works in between at times."""
_LEFT_ALONE = 1
"""So many nodes have no fault, so that the queue moves on."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: ``at_s`` after the start, mended after ``lasts_s`` more, 0 if at once.

    ``target`` is a node, "head", "job", or of a cable also "submitters".
    """

    number: int
    at_s: float
    kind: Kind
    target: str
    lasts_s: float

    def __str__(self) -> str:
        lasting = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.at_s:7.1f} s  #{self.number} {self.kind}: {self.target}{lasting}"


def schedule(seed: int, nodes: Sequence[str], silent_s: float) -> Iterator[Fault]:
    """Give faults without end. A long one lasts longer than ``silent_s``, the patience with a peer
    that is not heard.
    """
    rng = random.Random(seed)
    free_at = dict.fromkeys((*nodes, SUBMITTERS), 0.0)
    at_s = 0.0
    number = 0
    while True:
        number += 1
        at_s += rng.uniform(*_GAPS_S)
        free = [node for node in nodes if free_at[node] <= at_s]
        kinds = KINDS if len(free) > _LEFT_ALONE else _ELSEWHERE
        (kind,) = rng.choices(kinds, [_WEIGHTS[each] for each in kinds])
        lasts_s = _duration(kind, rng, silent_s)
        if kind in _ELSEWHERE:
            target = kind.split()[0]
        else:
            with_cable = kind in _OF_CABLES and free_at[SUBMITTERS] <= at_s
            target = rng.choice([*free, SUBMITTERS] if with_cable else free)
            free_at[target] = at_s + lasts_s + _RECOVERY_S
        yield Fault(number, round(at_s, 1), kind, target, round(lasts_s, 1))


def _duration(kind: Kind, rng: random.Random, silent_s: float) -> float:
    bounds: dict[Kind, tuple[float, float]] = {
        "node killed": (0.5, 10.0),
        "node stopped": (silent_s + 2, silent_s + 8),
        "node drained": (4.0, 10.0),
        "cable cut, briefly": (1.0, silent_s / 2),
        "cable cut, for long": (silent_s + 2, silent_s + 10),
        "cable torn": (0.5, 6.0),
        "job paused": (3.0, 10.0),
    }
    return rng.uniform(*bounds[kind]) if kind in bounds else 0.0
