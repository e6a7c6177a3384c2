"""The farm as a person sees it: immutable values made from it by the task-manager thread.

Whoever shows them (followers, commands, pages) reads them on any thread and never the farm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from clusterray.core.blame import kept_off_words
from clusterray.core.entities import Attempt, Frame, Job, Node
from clusterray.core.errors import EXIT_OK, JobCancelled, LocalFault, RenderFault
from clusterray.core.farm import Farm
from clusterray.core.fidelity import Fidelity
from clusterray.core.likeness import difference, difference_in_words
from clusterray.core.model import LightKind, PovrayClass, Stage
from clusterray.core.policy import class_threads
from clusterray.core.states import BandState, JobState
from clusterray.head.verdicts import verified_view
from clusterray.head.waiting import why_waiting
from clusterray.povray.spec import RenderSpec
from clusterray.wire.protocol import (
    AttemptView,
    BandView,
    Chance,
    JobView,
    NodeView,
    Phase,
    PhaseSeconds,
    ProbeView,
    Setting,
)

STAGES: tuple[Stage, ...] = ("photons", "light", "final", "verify")
"""In the order of time."""
_DOING: dict[LightKind, str] = {
    "photons": "photons are being shot",
    "radiosity": "radiosity samples are being gathered",
}
MAX_BANDS_SHOWN = 500
MAX_ATTEMPTS_SHOWN = 64
MAX_TEXT = 8000
MAX_LONG_TEXT = 65_000


@dataclass(frozen=True, slots=True)
class FarmView:
    """Everything the status page shows, newest job first; ``at`` is wall time.

    ``tokens`` says with which token each of the jobs came, by its id.
    """

    jobs: tuple[JobView, ...] = ()
    nodes: tuple[NodeView, ...] = ()
    at: float = 0.0
    tokens: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeCard:
    """What the farm need not know of a node, but a person wants to; empty for one not met yet."""

    address: str = ""
    version: str = ""
    cores: int = 0
    memory_bytes: int = 0


def job_view(job: Job, farm: Farm, *, now: float, created: float, fidelity: Fidelity) -> JobView:
    """Show one job; ``now`` is the farm's clock, ``created`` wall time of its submission."""
    done_bands, running, waiting = _count_bands(job)
    live = _live_attempts(job)
    total = sum(frame.area.area for frame in job.frames)
    done = _pixels_done(job, live)
    ended = job.ended_at if job.ended_at is not None else now
    spent = 0.0 if job.started_at is None else ended - job.started_at
    speed = max(0, done - job.counted_from) / spent if spent > 0 else 0.0
    problem = job.problem
    request = job.request
    return JobView(
        id=job.id,
        number=job.number,
        title=request.title,
        owner=request.owner,
        state=job.state.value,
        priority=job.priority,
        scene=request.scene,
        width=request.picture.width,
        height=request.picture.height,
        region=request.picture.region.as_tuple(),
        output_name=request.output_name,
        created=created,
        elapsed_s=max(0.0, ended - job.queued_at),
        pixels_done=done,
        pixels_total=total,
        pixels_per_s=speed,
        eta_s=_seconds_left(job, total - done, speed),
        bands_done=done_bands,
        bands_running=running,
        bands_waiting=waiting,
        nodes=sorted({attempt.node_name for attempt in live}),
        note=why_waiting(job, farm, live, now)[:MAX_TEXT],
        error_code=_exit_code(job),
        error=(problem.message if problem else job.reason)[:MAX_TEXT],
        error_file=problem.file if problem else "",
        error_line=problem.line if problem else 0,
        error_text=problem.text[-MAX_LONG_TEXT:] if problem else "",
        mix=request.mix,
        mixed=_mixed(job)[:MAX_TEXT],
        verify=request.verify,
        verified=verified_view(job),
        fidelity=fidelity.kind,
        fidelity_reason=fidelity.reason[:MAX_TEXT],
        making=_making(job),
        parse_s=next((each.parse_s for each in job.frames if each.parse_s is not None), None),
        previewed=any(_is_previewed(frame) for frame in job.frames),
        gone=job.gone[:MAX_TEXT],
        wasted_pixels=job.wasted_pixels,
        dropped_results=job.dropped_results,
    )


def _is_previewed(frame: Frame) -> bool:
    """Tell whether a scout's picture is shown where tiles will be."""
    return frame.job.open and frame.scouted and not frame.complete


def _seconds_left(job: Job, pixels: int, speed: float) -> float | None:
    # When the picture is there, its speed says nothing of how long verifying takes.
    known = job.takes_leases and job.state is not JobState.VERIFYING and speed > 0
    return pixels / speed if known else None


def _pixels_done(job: Job, live: Iterable[Attempt]) -> int:
    if job.state is JobState.DONE:
        return sum(frame.area.area for frame in job.frames)
    return job.pixels_covered + sum(
        attempt.done for attempt in live if attempt.band.stage == "final"
    )


def _count_bands(job: Job) -> tuple[int, int, int]:
    """Count the bands of a job's pictures that are covered, running and waiting."""
    states = [band.state for frame in job.frames for band in frame.bands.values()]
    return (
        states.count(BandState.COVERED),
        states.count(BandState.RUNNING),
        states.count(BandState.WAITING),
    )


def _live_attempts(job: Job) -> list[Attempt]:
    return [
        attempt
        for frame in job.frames
        for bands in (frame.bands, frame.verify_bands)
        for band in bands.values()
        if band.state is BandState.RUNNING
        for attempt in band.live_attempts
    ]


def _exit_code(job: Job) -> int:
    """Give what the submitter ends with; ``core.errors`` says what each number means."""
    if job.state is JobState.CANCELLED:
        return JobCancelled.exit_code
    if job.state is not JobState.FAILED:
        return EXIT_OK
    ours = job.problem is not None and job.problem.fault == "head"
    return LocalFault.exit_code if ours else RenderFault.exit_code


def _mixed(job: Job) -> str:
    """Say so if a picture is made of tiles of several classes of POV-Ray, "" if none is."""
    for frame in job.frames:
        classes, first = frame.tile_classes, frame.povray_class
        if len(classes) < 2 or first is None:
            continue
        apart = [difference(first.pixels, other.pixels) for other in classes if other != first]
        known = [found for found in apart if found is not None]
        how = "their canaries cannot be compared"
        if len(known) == len(apart):
            worst = max(known, key=lambda found: (found.largest, found.pixels))
            how = f"their canaries differ by {worst}"
        return f"mixed: tiles of {len(classes)} kinds of POV-Ray are in the picture; {how}"
    return ""


def most_common(nodes: Iterable[Node]) -> PovrayClass | None:
    """Give the class of POV-Ray with most threads among the nodes that are there, or known."""
    known = list(nodes)
    threads = class_threads(known)
    if threads:
        return max(threads, key=lambda each: (threads[each], str(each)))
    return known[0].povray_class if known else None


def node_view(
    node: Node, card: NodeCard, most: PovrayClass | None = None, now: float = 0.0
) -> NodeView:
    """Show one node; ``most`` is the class that it is compared with, ``now`` the farm's clock."""
    until = node.standing.kept_off_until
    differs = "" if most is None else difference_in_words(node.povray_class, most)
    job, next_job = _node_jobs(node)
    return NodeView(
        name=node.name,
        uuid=node.id,
        state=_node_state(node),
        address=card.address,
        version=card.version,
        cores=card.cores or node.threads,
        threads=node.threads,
        memory_bytes=card.memory_bytes,
        povray=node.povray_class.version,
        job=job,
        bands_done=node.bands_done,
        pixels_done=node.pixels_done,
        reason="; ".join(_node_reasons(node, now))[:MAX_TEXT],
        povray_build=node.povray_class.build,
        canary_sha256=node.povray_class.canary or None,
        includes_sha256=node.povray_class.includes or None,
        differs=f"differs from most: {differs}"[:MAX_TEXT] if differs else "",
        failures=node.failures,
        kept_off_s=None if until is None else max(0.0, until - now),
        next_job=next_job,
    )


def _node_reasons(node: Node, now: float) -> list[str]:
    said = (node.reason, node.unfit, *kept_off_words(node, now))
    return [reason for reason in said if reason]


def _node_state(
    node: Node,
) -> Literal["idle", "busy", "draining", "unfit", "kept-off", "away"]:
    if node.conn is None:
        return "away"
    if node.draining:
        return "draining"
    if node.unfit:
        return "unfit"
    if node.kept_off:
        return "kept-off"
    return "busy" if node.attempts else "idle"


def _node_jobs(node: Node) -> tuple[str, str]:
    """Give the job whose band a node has, and that of the next one where it is another."""
    attempts = node.rendering or list(node.attempts.values())[:1]
    jobs = list(dict.fromkeys(each.band.frame.job.id for each in attempts))
    first, second, *_ = [*jobs, "", ""]
    return first, second


def band_views(frames: Iterable[Frame], seconds: dict[str, PhaseSeconds]) -> list[BandView]:
    """Show the first bands of a job from top to bottom, with their attempts."""
    bands = [band for frame in frames for band in frame.all_bands]
    bands.sort(key=lambda band: (band.frame.index, STAGES.index(band.stage), *band.rect.as_tuple()))
    return [
        BandView(
            id=band.id,
            rect=band.rect.as_tuple(),
            state=band.state.value,
            attempts=[
                _attempt_view(attempt, seconds.get(attempt.id))
                for attempt in band.attempts[-MAX_ATTEMPTS_SHOWN:]
            ],
            stage=band.stage,
        )
        for band in bands[:MAX_BANDS_SHOWN]
    ]


def _attempt_view(attempt: Attempt, seconds: PhaseSeconds | None) -> AttemptView:
    submitted_at = attempt.band.frame.job.submitted_at

    def since(moment: float | None) -> float | None:
        return None if moment is None else max(0.0, moment - submitted_at)

    return AttemptView(
        id=attempt.id,
        node=attempt.node_name,
        state=attempt.state.value,
        phase=cast(Phase, attempt.phase),
        reason=attempt.reason[:MAX_TEXT],
        seconds=seconds,
        begun_s=since(attempt.leased_at) or 0.0,
        rendered_s=since(attempt.rendered_at),
        ended_s=since(attempt.ended_at),
    )


def light_view(job: Job, gathers: Mapping[str, int]) -> str:
    """Say what came of a job's light passes; ``gathers`` are the samples that attempts added."""
    wanted = job.request.light
    if not wanted:
        return ""
    if any(frame.passes for frame in job.frames):
        return _making(job) or "the job was over before its light was made"
    lights = [light for frame in job.frames for light in frame.lights]
    found = {kind: sum(each.samples for each in lights if each.kind == kind) for kind in wanted}
    shared = [_made(job, kind, samples) for kind, samples in found.items() if samples]
    said = [f"{' and '.join(shared)}, shared by all"] if shared else []
    if found.get("radiosity"):
        said.append(_added(job, gathers))
    unused = [f"no {kind}" for kind, samples in found.items() if not samples]
    if unused:
        said.append(f"{' and '.join(unused)} in use")
    return "; ".join(said)


def _making(job: Job) -> str:
    """Say which light of a job is being made, "" if none is."""
    passes = [frame.passes[0] for frame in job.frames if frame.passes]
    return _DOING[passes[0]] if passes and job.open else ""


def _made(job: Job, kind: LightKind, samples: int) -> str:
    if kind == "photons":
        return f"{samples} photons, shot once"
    bands = [band for frame in job.frames for band in frame.light_bands.values()]
    pieces = sum(band.stage == "light" and band.state is BandState.COVERED for band in bands)
    return f"{samples} radiosity samples from {pieces} bands"


def _added(job: Job, gathers: Mapping[str, int]) -> str:
    """Say how many samples the bands added, and what that can mean for the picture.

    Which pixels an added sample colours depends on what its band had rendered before. It colours
    none of another band's, so the bands that added any are an upper bound.
    """
    bands = [band for frame in job.frames for band in frame.bands.values()]
    added = {band.id: gathers.get(band.accepted.id, 0) for band in bands if band.accepted}
    count = sum(added.values())
    if not count:
        return "none had to be added"
    pixels = sum(band.rect.area for band in bands if added.get(band.id))
    total = sum(frame.area.area for frame in job.frames)
    return (
        f"{count} more were gathered where none fitted: "
        f"at most {pixels} of {total} pixels could differ with another cut"
    )


def chance_view(job: Job) -> list[Chance]:
    """Show what the submitter found in the scene's text."""
    return [Chance(each.feature, each.file, each.line) for each in job.request.chance]


def probe_view(job: Job) -> ProbeView | None:
    """Show what a node found, of the frame where most pixels differ; None if none did."""
    found = [frame.probe.found for frame in job.frames if frame.probe and frame.probe.found]
    if not found:
        return None
    worst = max(found, key=lambda each: each.differing)
    return ProbeView(worst.pixels, worst.differing, worst.largest, worst.levels)


def settings_view(spec: RenderSpec) -> list[Setting]:
    """Show every value of a job's RenderSpec and the source that won it."""
    return [Setting(name, value, source) for name, value, source in spec.settings()]
