"""How true a job's picture is to what POV-Ray alone would make, in a class and in words; pure.

Three things are known of each job: what the scene's text has (errs towards too much), what POV-Ray
said of light while it rendered (sure), and a probe, two small renders of the frame with other
threads and in another order (sure where they differ; where they agree, the large picture may differ
yet). Of one that is verified a fourth is, surest of all: what comparing its bands found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from clusterray.core.entities import Frame, Job
from clusterray.core.model import LIGHT_KINDS, AttemptId, Chance, LightKind, ProbeFound
from clusterray.core.states import FrameState, JobState, ProbeState

FidelityKind: TypeAlias = Literal[
    "noisy", "shared light", "not probed", "being probed", "exact (probed)"
]
"""The classes, the weakest promise first; two of them are for as long as nothing is known."""
Used: TypeAlias = Mapping[AttemptId, frozenset[LightKind]]
"""What light POV-Ray said it made for an attempt; of one that is missing nothing is known."""
_ORDER: tuple[FidelityKind, ...] = (
    "noisy",
    "shared light",
    "not probed",
    "being probed",
    "exact (probed)",
)
_MADE: Mapping[LightKind, str] = {"photons": "shot", "radiosity": "gathered"}
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Fidelity:
    """A class and why, a sentence without an end."""

    kind: FidelityKind
    reason: str


def fidelity_of(job: Job, used: Used) -> Fidelity:
    """Judge a job by the worst of its frames."""
    found = [_fidelity_of_frame(frame, used) for frame in job.frames]
    return min(found, key=lambda each: _ORDER.index(each.kind))


def chance_in_words(found: tuple[Chance, ...]) -> str:
    """Name the first things that were found, and where."""
    shown = [f"{each.feature} ({each.file}:{each.line})" for each in found[:_SHOWN]]
    if len(found) > _SHOWN:
        shown.append(f"{len(found) - _SHOWN} more")
    return ", ".join(shown)


def _fidelity_of_frame(frame: Frame, used: Used) -> Fidelity:
    noise = _noise_in_words(frame.job.request.chance)
    lit = _of_light(frame, used)
    if lit is not None:
        return Fidelity("noisy" if noise else lit.kind, _and(lit.reason, noise))
    apart = _apart_in_words(frame)
    if apart:
        return Fidelity("noisy", _and(apart, noise))
    probe = frame.probe
    if probe is not None and probe.found is not None:
        kind: FidelityKind = "noisy" if probe.found.differing else "exact (probed)"
        return Fidelity(kind, _and(_found_in_words(probe.found), noise))
    if _may_be_told(frame):
        return Fidelity(*_so_far(frame))
    if noise:
        return Fidelity("noisy", f"{noise}; not probed: {_why_not(frame)}")
    return Fidelity("not probed", _why_not(frame))


def _noise_in_words(chance: tuple[Chance, ...]) -> str:
    noise = tuple(each for each in chance if each.feature not in LIGHT_KINDS)
    return f"its text has {chance_in_words(noise)}" if noise else ""


def _found_in_words(found: ProbeFound) -> str:
    words = f"{found.differing:,} of {found.pixels:,} pixels differ between one thread and two"
    return f"{words}, by up to {found.largest} of {found.levels}" if found.differing else words


def _apart_in_words(frame: Frame) -> str:
    """Say what comparing bands that were rendered twice found, "" if no pixel differs."""
    found = [band.comparison for band in frame.verify_bands.values() if band.comparison]
    differing = sum(each.differing for each in found)
    if not differing:
        return ""
    pixels = sum(each.pixels for each in found)
    return f"{differing:,} of {pixels:,} pixels differ in bands that were rendered twice"


def _of_light(frame: Frame, used: Used) -> Fidelity | None:
    """Judge a frame by the light in use; None where none is, or nothing is known of it yet."""
    if frame.lights:
        kinds = [light.kind for light in frame.lights]
        how = _MADE[kinds[0]] if len(kinds) == 1 else "each made"
        return Fidelity("shared light", f"{' and '.join(kinds)}, {how} once for all its bands")
    accepted = [band.accepted.id for band in frame.bands.values() if band.accepted is not None]
    if frame.state is not FrameState.FINAL or not accepted:
        return None
    named = _light_named(frame)
    words = _listed(frozenset().union(*{used.get(attempt, named) for attempt in accepted}))
    if not words:
        return None
    if len(frame.bands) == 1:
        return Fidelity("shared light", f"{words}, made by the one POV-Ray that rendered it")
    return Fidelity("noisy", f"{words}, made anew for each of its {len(frame.bands)} bands")


def _light_named(frame: Frame) -> frozenset[LightKind]:
    named = {each.feature for each in frame.job.request.chance}
    return frozenset(word for word in LIGHT_KINDS if word in named)


def _listed(words: frozenset[LightKind]) -> str:
    return " and ".join(sorted(words, reverse=True))


def _may_be_told(frame: Frame) -> bool:
    """Tell whether a probe may yet be told, so that nothing is judged by the text alone."""
    probe = frame.probe
    if probe is None:
        return frame.job.open
    return probe.state is ProbeState.ASKED or (frame.job.open and probe.state is ProbeState.DUE)


def _so_far(frame: Frame) -> tuple[FidelityKind, str]:
    job, probe = frame.job, frame.probe
    if probe is None:
        words = _listed(_light_named(frame))
        return "not probed", f"its text has {words}; whether that is in use is not known yet"
    if probe.state is ProbeState.ASKED:
        over = "" if job.open else ", though the job is over"
        return "being probed", f"a node compares two small renders of it{over}"
    if job.state is JobState.QUEUED:
        return "not probed", "no band of it has begun"
    if not frame.waiting:
        return "not probed", probe.reason or "no band is left to ask for it with"
    before = f"; so far {probe.reason}" if probe.reason else ""
    return "not probed", f"the next band to be handed out asks for it{before}"


def _why_not(frame: Frame) -> str:
    probe = frame.probe
    if probe is None:
        return f"its text has {_listed(_light_named(frame))}, which came to nothing"
    return probe.reason or "the job was over before a node told"


def _and(first: str, second: str) -> str:
    return f"{first}; {second}" if second else first
