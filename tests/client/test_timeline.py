"""Who did what when: the pieces of each node, the sums, the drawing as text and as a picture."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from clusterray.client.timeline import phase_table, svg_of, text_of, timeline_of, write_svg
from clusterray.core.errors import LocalFault
from clusterray.wire.protocol import (
    AttemptView,
    BandView,
    JobDetail,
    JobView,
    PhaseSeconds,
)


def job(elapsed_s: float = 20.0, state: str = "done") -> JobView:
    values: dict[str, Any] = {
        "id": "j1",
        "number": 1,
        "title": "a <room> \x1b[31m& more",
        "owner": "ann",
        "state": state,
        "priority": 0,
        "scene": "0" * 64,
        "width": 64,
        "height": 64,
        "region": (0, 0, 64, 64),
        "output_name": "a.png",
        "created": 0.0,
        "elapsed_s": elapsed_s,
        "pixels_done": 0,
        "pixels_total": 1,
    }
    return JobView(**values)


def band(name: str, node: str, begun: float, stage: str = "final", **times: Any) -> BandView:
    seconds = times.pop("seconds", PhaseSeconds(1, 2, 5, 0.5, 1))
    state = times.pop("state", "accepted")
    attempt = AttemptView("a1", node, state, "uploading", "", seconds, begun, **times)
    return BandView(name, (0, 0, 64, 32), "covered", [attempt], stage)  # type: ignore[arg-type]


def detail(*bands: BandView, elapsed_s: float = 20.0, state: str = "done") -> JobDetail:
    return JobDetail(1, job(elapsed_s, state), [], list(bands))


def test_what_a_node_did_is_laid_end_to_end_and_the_upload_beside_it() -> None:
    shown = detail(
        band("b1", "pi", 2.0, rendered_s=11.0, ended_s=12.0),
        band("b2", "pi", 11.0, rendered_s=18.0, ended_s=19.5),
    )
    timeline = timeline_of(shown)
    pieces = [(p.begin, p.end, p.doing) for p in timeline.lanes["pi"] if p.band == "b1"]
    assert pieces == [
        (2.0, 3.0, "fetch"),
        (3.0, 5.0, "parse"),
        (5.0, 10.0, "trace"),
        (10.0, 10.5, "encode"),
        (10.5, 11.0, "other"),
        (11.0, 12.0, "upload"),
    ]
    assert (timeline.begin, timeline.end, timeline.stitch) == (2.0, 20.0, 0.5)
    # What its phases say beyond the time that it had is not believed.
    assert max(p.end for p in timeline.lanes["pi"] if p.doing != "upload") == 18.0


def test_the_sums_are_those_of_the_pieces_and_idle_is_what_is_left() -> None:
    heads, rows = phase_table(
        timeline_of(
            detail(
                band("b1", "pi", 2.0, rendered_s=10.5, ended_s=12.0),
                band("b2", "desk", 6.0, "light", rendered_s=14.5, ended_s=16.0),
                band("b3", "desk", 17.0, ended_s=19.0, state="lost", seconds=None),
            )
        )
    )
    table = {row[0]: dict(zip(heads[1:], row[1:], strict=True)) for row in rows}
    assert table["pi"]["TRACE"] == "5.0 s"
    assert (table["desk"]["LIGHT"], table["desk"]["TRACE"]) == ("5.0 s", "")
    assert table["desk"]["LOST"] == "2.0 s"
    # From 2 to 19: the pi has a band for 8.5 s, the desk from 6 to 14.5 and 17 to 19.
    assert (table["pi"]["IDLE"], table["desk"]["IDLE"]) == ("8.5 s", "6.5 s")
    assert (table["all"]["FETCH"], table["all"]["IDLE"]) == ("2.0 s", "15.0 s")


def test_a_line_for_each_node_tells_what_took_most_of_each_moment() -> None:
    shown = detail(
        band("b1", "pi", 0.0, rendered_s=8.5, ended_s=10.0),
        band("b2", "the desk", 10.0, ended_s=20.0, state="failed"),
    )
    lines = text_of(timeline_of(shown), 30)
    assert lines[0] == "pi        fpp#####eu"
    assert lines[1] == "the desk  ..........xxxxxxxxxx"
    assert lines[2] == " " * 10 + "0" + " " * 15 + "20 s"
    assert "0.0 s in the queue" in lines[-1]


def test_a_job_that_waits_or_runs_has_a_timeline_too() -> None:
    assert text_of(timeline_of(detail(elapsed_s=5.0, state="queued")), 40)[0].strip() == "0" + (
        " " * (40 - 2 - len("05.0 s")) + "5.0 s"
    )
    running = timeline_of(
        detail(band("b1", "pi", 1.0, state="rendering"), elapsed_s=4.0, state="running")
    )
    assert (running.lanes["pi"][-1].end, running.stitch) == (4.0, 0.0)


def test_the_picture_is_sound_and_holds_no_more_than_text(tmp_path: Path) -> None:
    shown = detail(band("b<1>", "p&i \x1b[2J", 0.0, rendered_s=8.5, ended_s=10.0))
    target = tmp_path / "time line.svg"
    write_svg(shown, target)
    root = ElementTree.fromstring(target.read_text("utf-8"))
    text = "".join(root.itertext())
    assert "p&i" in text
    assert "a <room> & more" in text
    assert "\x1b" not in text
    boxes = [each for each in root.iter() if each.tag.endswith("rect") and len(each)]
    assert len(boxes) == 5
    assert re.fullmatch(r"b<1>: trace, 5\.0 s", boxes[2][0].text or "")
    with pytest.raises(LocalFault, match="cannot write"):
        write_svg(shown, tmp_path)


def test_the_picture_of_a_job_without_bands_is_sound() -> None:
    ElementTree.fromstring(svg_of(timeline_of(detail(elapsed_s=0.0, state="queued")), "j1"))
