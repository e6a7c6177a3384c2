"""Ids, JSON that programs can rely on, and tables that a pipe can cut."""

from __future__ import annotations

import io
import json

import msgspec
import pytest

from clusterray.client import tables
from clusterray.client.control import as_json, job_id, token_in_words
from clusterray.core.errors import SceneFault
from clusterray.wire.protocol import (
    AttemptView,
    BandView,
    JobDetail,
    JobView,
    NodeView,
    PhaseSeconds,
    Setting,
)
from clusterray.wire.trust import JoinToken
from tests.client.stand_in import job_view

NODE = NodeView("attic", "u-1", "busy", "10.0.0.2", "0.1", 4, 4, 8 << 30, "3.7.0.10", "j1", 3, 999)


@pytest.mark.parametrize("text", ["12", "j12", "0012"])
def test_job_ids(text: str) -> None:
    assert job_id(text) == "j12"


@pytest.mark.parametrize("text", ["", "j", "x1", "1.5", "-1", "j12\n", "../j1", "9" * 20])
def test_what_is_no_job_id(text: str) -> None:
    with pytest.raises(SceneFault, match="there is no job"):
        job_id(text)


def test_json_has_every_field_whatever_its_value() -> None:
    found = as_json([job_view()])
    assert isinstance(found, list)
    assert set(found[0]) == {field.name for field in msgspec.structs.fields(JobView)}
    assert found[0]["eta_s"] is None
    assert found[0]["region"] == [0, 0, 10, 10]
    attempt = AttemptView("a1", "attic", "lost", "rendering", seconds=PhaseSeconds())
    band = as_json(BandView("b1", (0, 0, 1, 1), "waiting", [attempt]))
    assert json.loads(json.dumps(band))["attempts"][0]["seconds"]["fetch"] == 0.0


def test_a_token_is_told_without_its_secret() -> None:
    secret = "s" * 43
    facts = token_in_words(JoinToken("head.lan", 4100, "submit", "", secret))
    assert facts == {"role": "submit", "host": "head.lan", "port": 4100, "fingerprint": ""}


def test_a_piped_table_has_a_row_a_line_and_nothing_raw() -> None:
    stream = io.StringIO()
    views = [
        job_view(title="a\x1b[31mb\nc", owner="zoë@attic"),
        job_view(id="j22", title="x" * 300),
    ]
    tables.print_table(*tables.jobs_table(views), stream)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:4] == ["JOB", "STATE", "TITLE", "OWNER"]
    assert "ab c" in lines[1]
    assert "zoë@attic" in lines[1]
    assert "x" * 300 in lines[2]
    assert "\x1b" not in stream.getvalue()


def test_a_node_with_bands_of_two_jobs_shows_both() -> None:
    node = msgspec.structs.replace(NODE, next_job="j2")
    heads, (row,) = tables.nodes_table([node])
    assert row[heads.index("JOB")] == "j1, j2"


def test_a_table_on_a_terminal_is_drawn() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    tables.print_table(*tables.nodes_table([NODE]), stream)
    assert "attic" in stream.getvalue()
    assert "─" in stream.getvalue()


def test_everything_about_a_job() -> None:
    seconds = PhaseSeconds(fetch=1.0, parse=2.0, render=3.0)
    bands = [
        BandView(
            "b1",
            (0, 0, 10, 4),
            "covered",
            [AttemptView("a1", "attic", "accepted", "rendering", seconds=seconds)],
        ),
        BandView("b2", (0, 4, 10, 10), "running", [AttemptView("a2", "attic", "live", "parsing")]),
        BandView("b3", (0, 10, 10, 12), "waiting"),
    ]
    view = job_view(error="Parse Error", error_file="a.pov", error_line=3, note="one band only")
    view = msgspec.structs.replace(
        view, fidelity="noisy", fidelity_reason="its text has crand (a.pov:3)"
    )
    detail = JobDetail(1, view, [Setting("Width", "10", "--width")], bands, "radiosity: one band")
    facts = dict(tables.job_facts(detail))
    assert "files" not in facts
    assert facts["error"] == "a.pov:3: Parse Error"
    assert facts["waits"] == "one band only"
    assert facts["fidelity"] == "noisy: its text has crand (a.pov:3)"
    assert facts["note"] == "radiosity: one band"
    rows = tables.bands_table(detail.bands)[1]
    assert rows[0][:5] == ["b1", "picture", "0-3", "0-9", "covered"]
    assert rows[0][5:9] == ["1", "attic", "accepted", "6.0 s"]
    assert rows[1][6:] == ["attic", "parsing", "", ""]
    assert rows[2][5:] == ["0", "", "", "", ""]
    assert tables.settings_table(detail)[1] == [["Width", "10", "--width"]]
