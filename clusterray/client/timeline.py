"""Who did what when in a job, and where the time went: from ``show``'s answer, as text or SVG.

Pure but for the file that ``write_svg`` writes. Times are seconds since the job's submission. What
a node did one after the other in an attempt is laid end to end from its lease on; the upload goes
on beside the next band.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias
from xml.sax.saxutils import escape

from clusterray.client.text import duration_text, plain
from clusterray.core.errors import LocalFault
from clusterray.wire.protocol import AttemptView, BandView, JobDetail

Doing: TypeAlias = Literal["fetch", "parse", "light", "trace", "encode", "upload", "lost", "other"]
ORDER: Final[tuple[Doing, ...]] = (
    *("fetch", "parse", "light", "trace", "encode", "upload", "lost", "other"),
)
_MARKS: Final[dict[Doing, str]] = {
    "fetch": "f",
    "parse": "p",
    "light": "L",
    "trace": "#",
    "encode": "e",
    "upload": "u",
    "lost": "x",
    "other": "+",
}
_COLOURS: Final[dict[Doing, str]] = {
    "fetch": "#4e79a7",
    "parse": "#f28e2b",
    "light": "#edc948",
    "trace": "#59a14f",
    "encode": "#9c755f",
    "upload": "#76b7b2",
    "lost": "#e15759",
    "other": "#bab0ac",
}
MEANINGS: Final = (
    "f fetching, p parsing, L making light, # tracing, e making the tile, u uploading,"
    " x in vain, + not told, . idle"
)
_LEAST_WIDTH: Final = 20
_LANE_PX, _GAP_PX, _LEFT_PX, _WIDE_PX, _HEAD_PX = 22, 6, 160, 960, 46


@dataclass(frozen=True, slots=True)
class Piece:
    """What a node did from ``begin`` to ``end``, for which band."""

    begin: float
    end: float
    doing: Doing
    band: str

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Timeline:
    """The pieces of each node by its name, and when the job began to be worked on and ended."""

    lanes: dict[str, list[Piece]]
    begin: float
    end: float
    stitch: float
    """Seconds from the last tile of the picture to the job's end, 0 while it runs."""


def timeline_of(detail: JobDetail) -> Timeline:
    """Lay out who did what in a job, of the attempts that ``show`` gives."""
    job = detail.job
    lanes: dict[str, list[Piece]] = {}
    for band in detail.bands:
        for attempt in band.attempts:
            pieces = [piece for piece in _pieces(band, attempt, job.elapsed_s) if piece.seconds > 0]
            lanes.setdefault(attempt.node, []).extend(pieces)
    for pieces in lanes.values():
        pieces.sort(key=lambda piece: (piece.begin, piece.end))
    found = [piece for pieces in lanes.values() for piece in pieces]
    begin = min((piece.begin for piece in found), default=0.0)
    last = max((piece.end for piece in found), default=0.0)
    end = max(job.elapsed_s, last)
    done = job.state == "done"
    return Timeline(dict(sorted(lanes.items())), begin, end, end - last if done else 0.0)


def _pieces(band: BandView, attempt: AttemptView, now: float) -> Iterator[Piece]:
    end = now if attempt.ended_s is None else attempt.ended_s
    if attempt.state in ("failed", "lost", "dropped", "handed-back"):
        yield Piece(attempt.begun_s, end, "lost", band.id)
        return
    rendered = end if attempt.rendered_s is None else attempt.rendered_s
    at = attempt.begun_s
    for doing, seconds in _phases(band, attempt):
        until = min(at + seconds, rendered)
        yield Piece(at, until, doing, band.id)
        at = until
    yield Piece(at, rendered, "other", band.id)
    yield Piece(rendered, end, "upload", band.id)


def _phases(band: BandView, attempt: AttemptView) -> Iterator[tuple[Doing, float]]:
    seconds = attempt.seconds
    if seconds is not None:
        yield "fetch", seconds.fetch
        yield "parse", seconds.parse
        yield ("trace" if band.stage in ("final", "verify") else "light"), seconds.render
        yield "encode", seconds.crop


# ---------------------------------------------------------------- where the time went


def phase_table(timeline: Timeline) -> tuple[list[str], list[list[str]]]:
    """Give heads and rows: seconds of each kind for each node, idle ones too, and for all."""
    heads = ["NODE", *(doing.upper() for doing in ORDER), "IDLE"]
    rows = [[name, *_sums(timeline, [pieces])] for name, pieces in timeline.lanes.items()]
    if len(rows) > 1:
        rows.append(["all", *_sums(timeline, list(timeline.lanes.values()))])
    return heads, rows


def _sums(timeline: Timeline, lanes: Sequence[Sequence[Piece]]) -> list[str]:
    each = [
        sum(piece.seconds for pieces in lanes for piece in pieces if piece.doing == doing)
        for doing in ORDER
    ]
    idle = sum(_idle(timeline, pieces) for pieces in lanes)
    return [f"{seconds:.1f} s" if seconds >= 0.05 else "" for seconds in (*each, idle)]


def _idle(timeline: Timeline, pieces: Iterable[Piece]) -> float:
    """Give the seconds without a band, uploads apart, while the job was worked on."""
    at, idle = timeline.begin, 0.0
    for piece in pieces:
        if piece.doing != "upload":
            idle += max(0.0, piece.begin - at)
            at = max(at, piece.end)
    return idle + max(0.0, timeline.end - timeline.stitch - at)


# ---------------------------------------------------------------- as text


def text_of(timeline: Timeline, width: int) -> list[str]:
    """Draw a line for each node, ``width`` characters in all, and below it what they mean."""
    names = [plain(name) for name in timeline.lanes]
    left = max((len(name) for name in names), default=0) + 2
    columns = max(_LEAST_WIDTH, width - left)
    step = timeline.end / columns if timeline.end else 1.0
    lines = [
        name.ljust(left) + _bar(pieces, columns, step)
        for name, pieces in zip(names, timeline.lanes.values(), strict=True)
    ]
    end = duration_text(timeline.end)
    lines.append(" " * left + "0".ljust(columns - len(end)) + end)
    words = f"{duration_text(timeline.begin)} in the queue"
    if timeline.stitch:
        words += f", {duration_text(timeline.stitch)} from the last tile to the picture's end"
    return [*lines, MEANINGS, words]


def _bar(pieces: Sequence[Piece], columns: int, step: float) -> str:
    """Mark in each column what took most of its time; an upload only where nothing else did."""
    spent: list[dict[Doing, float]] = [{} for _ in range(columns)]
    for piece in pieces:
        first, last = int(piece.begin / step), min(int(piece.end / step), columns - 1)
        for column in range(min(first, columns - 1), last + 1):
            begin, end = max(piece.begin, column * step), min(piece.end, (column + 1) * step)
            cell = spent[column]
            cell[piece.doing] = cell.get(piece.doing, 0.0) + max(0.0, end - begin)
    return "".join(_mark(cell) for cell in spent).rstrip(".").ljust(1, ".")


def _mark(cell: dict[Doing, float]) -> str:
    others = [doing for doing, seconds in cell.items() if doing != "upload" and seconds]
    if others:
        return _MARKS[max(others, key=cell.__getitem__)]
    return _MARKS["upload"] if cell.get("upload") else "."


# ---------------------------------------------------------------- as a picture


def write_svg(detail: JobDetail, target: Path) -> None:
    """Write a job's timeline as a picture; raises LocalFault if ``target`` cannot be written."""
    title = f"{plain(detail.job.id)}: {plain(detail.job.title)}, {detail.job.state}"
    try:
        target.write_text(svg_of(timeline_of(detail), title), "utf-8")
    except OSError as error:
        raise LocalFault(f"cannot write {target}: {error.strerror}") from None


def svg_of(timeline: Timeline, title: str) -> str:
    """Draw the timeline as an SVG picture: a lane for each node, each piece with its words."""
    lanes = timeline.lanes
    height = _HEAD_PX + len(lanes) * (_LANE_PX + _GAP_PX) + 2 * _LANE_PX + _GAP_PX
    scale = _WIDE_PX / timeline.end if timeline.end else 0.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT_PX + _WIDE_PX + 20}"'
        f' height="{height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="20" font-size="14">{_xml(title)}</text>',
    ]
    for number, (name, pieces) in enumerate(lanes.items()):
        top = _HEAD_PX + number * (_LANE_PX + _GAP_PX)
        parts.append(f'<text x="8" y="{top + 15}">{_xml(name)}</text>')
        parts += [_box(piece, top, scale) for piece in pieces]
    parts += _legend(timeline, height)
    return "\n".join([*parts, "</svg>", ""])


def _box(piece: Piece, top: int, scale: float) -> str:
    # An upload runs beside the next band, so it has the lower part of the lane to itself.
    upload = piece.doing == "upload"
    y, high = (top + _LANE_PX - 5, 5) if upload else (top, _LANE_PX - 6)
    x, wide = _LEFT_PX + piece.begin * scale, max(piece.seconds * scale, 0.5)
    words = f"{piece.band}: {piece.doing}, {duration_text(piece.seconds)}"
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{high}"'
        f' fill="{_COLOURS[piece.doing]}"><title>{_xml(words)}</title></rect>'
    )


def _legend(timeline: Timeline, height: int) -> Iterator[str]:
    y = height - _LANE_PX
    yield f'<text x="{_LEFT_PX}" y="{y - _LANE_PX + 8}">0 s</text>'
    end = duration_text(timeline.end)
    right = _LEFT_PX + _WIDE_PX
    yield f'<text x="{right}" y="{y - _LANE_PX + 8}" text-anchor="end">{_xml(end)}</text>'
    for number, doing in enumerate(ORDER):
        x = _LEFT_PX + number * 100
        yield f'<rect x="{x}" y="{y}" width="12" height="12" fill="{_COLOURS[doing]}"/>'
        yield f'<text x="{x + 18}" y="{y + 11}">{doing}</text>'


def _xml(text: str) -> str:
    return escape(plain(text))
