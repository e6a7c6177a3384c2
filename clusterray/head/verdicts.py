"""What came of rendering bands again, as people are told: in words and in figures.

Pure functions over the farm's entities, called by the task-manager thread between two events.
"""

from __future__ import annotations

from clusterray.core.entities import Band, Job
from clusterray.core.states import OPEN_BAND, BandState
from clusterray.core.verify import Comparison
from clusterray.wire.protocol import CheckView, VerifiedView

MAX_CHECKS_SHOWN = 500
MAX_LINES = 8
"""How many bands that differ are named one by one, and how many reasons of others."""
_MAX_LINE = 2000


def verified_view(job: Job) -> VerifiedView | None:
    """Sum up what came of a job's verification; None if there is, or was, none to speak of."""
    bands = _verify_bands(job)
    if not bands:
        return None
    found = [band.comparison for band in bands if band.comparison is not None]
    return VerifiedView(
        compared=len(found),
        open=sum(band.state in OPEN_BAND for band in bands),
        failed=sum(band.state is BandState.VOID for band in bands),
        pixels=sum(each.pixels for each in found),
        differing=sum(each.differing for each in found),
        largest=max((each.most for each in found), default=0.0),
        white=found[0].white if found else 255.0,
        lines=[line[:_MAX_LINE] for line in verdict_lines(job)],
    )


def check_views(job: Job) -> list[CheckView]:
    """Show the first bands that were rendered again, from top to bottom."""
    return [_check_view(band) for band in _verify_bands(job)[:MAX_CHECKS_SHOWN]]


def _check_view(band: Band) -> CheckView:
    assert band.again is not None
    found = band.comparison
    pixels, differing = (found.pixels, found.differing) if found else (0, 0)
    return CheckView(
        band=band.again.id,
        rect=band.rect.as_tuple(),
        state="compared" if found else "open" if band.state in OPEN_BAND else "failed",
        first=_first_node(band),
        second=_second_node(band),
        pixels=pixels,
        differing=differing,
        largest=dict(found.largest) if found else {},
        white=found.white if found else 255.0,
        reason=_reason(band)[:_MAX_LINE],
    )


def verdict_lines(job: Job) -> list[str]:
    """Say what came of it: how it went in all, then each band that differs, then what failed."""
    bands = _verify_bands(job)
    if not bands or (not job.open and any(_was_cut_short(band) for band in bands)):
        return []
    compared = [band for band in bands if band.comparison is not None]
    still_open = sum(band.state in OPEN_BAND for band in bands)
    lines = []
    if still_open:
        of_all = f"{len(compared)} of {_count(len(bands))}"
        lines.append(f"verifying: {of_all} rendered again and compared")
    elif compared:
        lines.append(_all_in_all(compared))
    differing = [band for band in compared if band.comparison and band.comparison.differing]
    lines += [_apart(band) for band in differing[:MAX_LINES]]
    if len(differing) > MAX_LINES:
        rest = _count(len(differing) - MAX_LINES)
        lines.append(f"{rest} more with differences: clusterray show {job.id} lists them")
    return lines + _failures(bands)


def _all_in_all(compared: list[Band]) -> str:
    found = [band.comparison for band in compared if band.comparison is not None]
    same = sum(_by_same_node(band) for band in compared)
    who = "on other nodes" if len(compared) > 1 else "on another node"
    if same == len(compared):
        who = "by the same node (there was no other)"
    elif same:
        who += f" ({same} of them by the same node: there was no other)"
    differing = sum(each.differing for each in found)
    worst = max(found, key=lambda each: each.most)
    what = "0 pixels differ"
    if differing:
        what = _how_many(differing, sum(each.pixels for each in found)) + _by_how_much(worst)
    return f"verified: {_count(len(compared))} rendered again {who}, {what}"


def _apart(band: Band) -> str:
    assert band.comparison is not None
    found = band.comparison
    nodes = f"between {_first_node(band)} and {_second_node(band)}"
    if _by_same_node(band):
        nodes = f"between two renders on {_first_node(band)}"
    how_many = _how_many(found.differing, found.pixels)
    return f"{_rows(band)}: {how_many} {nodes}{_by_how_much(found)}"


def _failures(bands: list[Band]) -> list[str]:
    by_reason: dict[str, list[Band]] = {}
    for band in bands:
        if band.reason:
            by_reason.setdefault(band.reason, []).append(band)
    return [
        f"not verified: {_rows(failed[0]) if len(failed) == 1 else _count(len(failed))}: {reason}"
        for reason, failed in by_reason.items()
    ][:MAX_LINES]


def _how_many(differing: int, pixels: int) -> str:
    return f"{differing} of {pixels} pixels {'differs' if differing == 1 else 'differ'}"


def _by_how_much(found: Comparison) -> str:
    if found.white == 1:
        return f", by up to {found.most:.3g}, where white is 1"
    return f", by up to {found.most:.0f} of {found.white:.0f}"


def _rows(band: Band) -> str:
    return f"rows {band.rect.y0} to {band.rect.y1 - 1}"


def _count(bands: int) -> str:
    return "1 band" if bands == 1 else f"{bands} bands"


def _first_node(band: Band) -> str:
    assert band.again is not None
    return band.again.accepted.node_name if band.again.accepted else ""


def _second_node(band: Band) -> str:
    return band.accepted.node_name if band.accepted else ""


def _by_same_node(band: Band) -> bool:
    assert band.again is not None
    first, second = band.again.accepted, band.accepted
    return first is not None and second is not None and first.node == second.node


def _was_cut_short(band: Band) -> bool:
    return band.state is BandState.VOID and not band.reason


def _reason(band: Band) -> str:
    return f"the job was {band.frame.job.state}" if _was_cut_short(band) else band.reason


def _verify_bands(job: Job) -> list[Band]:
    bands = [band for frame in job.frames for band in frame.verify_bands.values()]
    return sorted(bands, key=lambda band: (band.frame.index, band.rect.y0, band.rect.x0))
