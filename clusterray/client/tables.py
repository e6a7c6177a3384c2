"""Tables of jobs, nodes, bands and tokens: drawn on a terminal, plain columns in a pipe.

Pure but for the console it is given. A piped table has one row a line, columns at least two spaces
apart, nothing cut off, and no colour.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TextIO

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clusterray.client.text import duration_text, fidelity_text, plain, rate_text, size_text
from clusterray.wire.protocol import (
    AttemptLog,
    BandStage,
    BandView,
    CheckView,
    JobDetail,
    JobView,
    NodeView,
    TokenView,
)

_ENDED = frozenset({"accepted", "failed", "handed-back", "lost", "dropped"})
_FOR: dict[BandStage, str] = {
    "photons": "photons",
    "light": "radiosity",
    "final": "picture",
    "verify": "checking",
}
_RIGHT = frozenset({"JOB", "PRIORITY", "DONE", "BANDS", "THREADS", "PIXELS", "ATTEMPTS"})


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO) -> None:
    """Show ``rows`` under ``heads`` on ``stream``, as fits what it is."""
    clean = [[plain(cell) for cell in row] for row in rows]
    if not stream.isatty():
        stream.write(_plain_table(heads, clean))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right" if head in _RIGHT else "left", overflow="fold")
    for row in clean:
        table.add_row(*(Text(cell) for cell in row))
    Console(file=stream, highlight=False).print(table)


def _plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(heads), *([cell or "-" for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def jobs_table(jobs: Sequence[JobView]) -> tuple[list[str], list[list[str]]]:
    """Give heads and rows of a list of jobs."""
    heads = ["JOB", "STATE", "TITLE", "OWNER", "SIZE", "DONE", "PRIORITY", "TIME", "NOTE"]
    return heads, [
        [
            job.id,
            job.state,
            job.title,
            job.owner,
            _size(job),
            f"{_percent(job)}%",
            str(job.priority),
            duration_text(job.elapsed_s),
            job.error or job.note or job.gone,
        ]
        for job in jobs
    ]


def nodes_table(nodes: Sequence[NodeView]) -> tuple[list[str], list[list[str]]]:
    """Give heads and rows of a list of nodes."""
    heads = ["NODE", "STATE", "THREADS", "POV-RAY", "MEMORY", "JOB", "BANDS", "PIXELS", "ADDRESS"]
    heads += ["REASON", "DIFFERS"]
    return heads, [
        [
            node.name,
            node.state,
            str(node.threads),
            node.povray,
            size_text(node.memory_bytes),
            f"{node.job}, {node.next_job}" if node.next_job else node.job,
            str(node.bands_done),
            f"{node.pixels_done:,}",
            node.address,
            node.reason,
            node.differs,
        ]
        for node in nodes
    ]


def attempt_head(log: AttemptLog) -> str:
    """Give the line above what POV-Ray said in an attempt."""
    _, y0, _, y1 = log.rect
    light = ", light" if log.stage == "light" else ""
    reason = f": {log.reason}" if log.reason else ""
    return (
        f"{log.band} (rows {y0}-{y1 - 1}{light}), {log.attempt} on {log.node}, {log.state}{reason}"
    )


def tokens_table(tokens: Sequence[TokenView]) -> tuple[list[str], list[list[str]]]:
    """Give heads and rows of a list of tokens."""
    return ["ID", "ROLE", "NAME", "MADE"], [
        [token.id, token.role, token.name, _wall_time(token.created)] for token in tokens
    ]


def job_facts(detail: JobDetail) -> list[tuple[str, str]]:
    """Give names and values of one job."""
    job = detail.job
    facts = [
        ("job", job.id),
        ("title", job.title),
        ("owner", job.owner),
        ("state", job.state),
        ("picture", f"{_size(job)} of {job.width}x{job.height}, {job.output_name}"),
        ("priority", str(job.priority)),
        ("submitted", f"{_wall_time(job.created)}, {duration_text(job.elapsed_s)} in all"),
        (
            "done",
            f"{_percent(job)} % of {job.pixels_total:,} pixels, {rate_text(job.pixels_per_s)}",
        ),
        (
            "bands",
            f"{job.bands_done} done, {job.bands_running} running, {job.bands_waiting} waiting",
        ),
        ("nodes", ", ".join(_nodes_of(detail)) or "none yet"),
    ]
    if job.eta_s is not None:
        facts.append(("left", duration_text(job.eta_s)))
    if job.parse_s is not None:
        facts.append(("parsing", duration_text(job.parse_s)))
    if job.previewed:
        facts.append(("preview", "the head's page shows one of the whole picture"))
    if job.wasted_pixels:
        facts.append(("wasted", _wasted(job)))
    if job.note:
        facts.append(("waits", job.note))
    if job.gone:
        facts.append(("files", job.gone))
    if detail.light:
        facts.append(("light", detail.light))
    if job.state not in ("failed", "cancelled"):
        facts.append(("fidelity", fidelity_text(job.fidelity, job.fidelity_reason)))
    if job.mix != "never" or job.mixed:
        facts.append(("mix", ", ".join(filter(None, (job.mix, job.mixed)))))
    if job.verified:
        facts += [("checked", line) for line in job.verified.lines]
    if detail.note:
        facts.append(("note", detail.note))
    if job.error:
        place = f"{job.error_file}:{job.error_line}: " if job.error_file else ""
        facts.append(("error", place + job.error))
    return facts


def _wasted(job: JobView) -> str:
    """Say what was rendered in vain."""
    words = f"{job.wasted_pixels:,} pixels rendered in vain"
    if job.dropped_results:
        tiles = "tile" if job.dropped_results == 1 else "tiles"
        words += f", {job.dropped_results} whole {tiles} among them that came too late"
    return words


def _nodes_of(detail: JobDetail) -> list[str]:
    """Give the names of the nodes at work on the job or, once it has ended, of those that were."""
    worked = {attempt.node for band in detail.bands for attempt in band.attempts}
    return detail.job.nodes or sorted(worked)


def settings_table(detail: JobDetail) -> tuple[list[str], list[list[str]]]:
    """Give heads and rows of a job's render settings and where each came from."""
    rows = [[setting.name, setting.value, setting.source] for setting in detail.settings]
    return ["SETTING", "VALUE", "FROM"], rows


def bands_table(bands: Sequence[BandView]) -> tuple[list[str], list[list[str]]]:
    """Give heads and rows of a job's bands, each with its last attempt."""
    heads = ["BAND", "FOR", "ROWS", "COLUMNS", "STATE", "ATTEMPTS", "NODE", "PHASE", "TIME"]
    return [*heads, "REASON"], [_band_row(band) for band in bands]


def checks_table(checks: Sequence[CheckView]) -> tuple[list[str], list[list[str]]]:
    """Give heads and rows of the bands that were rendered again."""
    heads = ["AGAIN", "ROWS", "STATE", "FIRST", "SECOND", "DIFFERING", "PIXELS", "BY UP TO", "OF"]
    return [*heads, "REASON"], [_check_row(check) for check in checks]


def _check_row(check: CheckView) -> list[str]:
    row = [check.band, f"{check.rect[1]}-{check.rect[3] - 1}", check.state, check.first]
    if check.state != "compared":
        return [*row, check.second, "", "", "", "", check.reason]
    apart = ", ".join(f"{name} {value:.4g}" for name, value in check.largest.items() if value)
    figures = [str(check.differing), str(check.pixels), apart, f"{check.white:g}"]
    return [*row, check.second, *figures, ""]


def _band_row(band: BandView) -> list[str]:
    x0, y0, x1, y1 = band.rect
    row = [band.id, _FOR[band.stage], f"{y0}-{y1 - 1}", f"{x0}-{x1 - 1}", band.state]
    row.append(str(len(band.attempts)))
    if not band.attempts:
        return [*row, "", "", "", ""]
    last = band.attempts[-1]
    if last.seconds is None:
        stage = last.state if last.state in _ENDED else last.phase
        return [*row, last.node, stage, "", last.reason]
    total = sum(msgspec.structs.astuple(last.seconds))
    return [*row, last.node, last.state, duration_text(total), last.reason]


def _size(job: JobView) -> str:
    x0, y0, x1, y1 = job.region
    return f"{x1 - x0}x{y1 - y0}"


def _percent(job: JobView) -> int:
    return 100 * job.pixels_done // job.pixels_total if job.pixels_total else 0


def _wall_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
