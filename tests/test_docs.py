"""What the pages say of the code must be what the code says of itself."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from clusterray.core.errors import EXIT_INTERRUPTED, FAULT_BY_EXIT_CODE
from clusterray.core.invariants import INVARIANTS
from clusterray.core.states import ATTEMPT_TABLE, BAND_TABLE, FRAME_TABLE, JOB_TABLE
from clusterray.wire.protocol import MESSAGE_TYPES, PROTOCOL_MAX, JobView, Message, NodeView

ROOT = Path(__file__).resolve().parent.parent


def rows(page: str) -> dict[str, list[str]]:
    """The table rows of a page, by the first cell's code word."""
    found = {}
    for line in (ROOT / page).read_text("utf-8").splitlines():
        match = re.match(r"\| `([a-z_]+)` \|", line)
        if match:
            found[match[1]] = [cell.strip() for cell in line.strip("|").split("|")]
    return found


@pytest.mark.parametrize("kind", MESSAGE_TYPES, ids=lambda kind: kind.__name__)
def test_every_message_has_its_row_with_its_fields(kind: type[Message]) -> None:
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    row = rows("docs/protocol.md").get(str(info.tag))
    assert row is not None, f"docs/protocol.md lacks {info.tag}"
    fields = " ".join(f"`{field.name}`" for field in info.fields)
    assert fields in (cell for cell in row)
    assert any(cell.isdigit() and 1 <= int(cell) <= PROTOCOL_MAX for cell in row)


def test_the_page_has_no_message_that_is_gone() -> None:
    tags = {str(kind.__struct_config__.tag) for kind in MESSAGE_TYPES}
    assert set(rows("docs/protocol.md")) == tags


def test_architecture_lists_the_invariants_in_their_words() -> None:
    text = " ".join((ROOT / "ARCHITECTURE.md").read_text("utf-8").split())
    for invariant in INVARIANTS:
        assert " ".join((invariant.__doc__ or "").split()) in text


@pytest.mark.parametrize("table", [JOB_TABLE, FRAME_TABLE, BAND_TABLE, ATTEMPT_TABLE])
def test_architecture_shows_the_state_tables(table: dict[str, dict[str, str]]) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for state, ways in table.items():
        for trigger, target in ways.items():
            assert f"| {state} | {trigger} | {target} |" in text


@pytest.mark.parametrize("kind", [JobView, NodeView], ids=lambda kind: kind.__name__)
def test_the_json_of_a_job_and_a_node_is_described(kind: type[msgspec.Struct]) -> None:
    text = (ROOT / "docs/commands.md").read_text("utf-8")
    missing = [name for name in kind.__struct_fields__ if f"`{name}`" not in text]
    assert not missing


@pytest.mark.parametrize(("page", "least"), [("failures", 40), ("security", 35)])
def test_the_tests_that_a_page_names_are_there(page: str, least: int) -> None:
    text = (ROOT / f"docs/{page}.md").read_text("utf-8")
    named = set(re.findall(r"`(tests/[a-z_/]+\.py)::(\w+)`", text))
    assert len(named) >= least
    for path, name in sorted(named):
        source = (ROOT / path).read_text("utf-8")
        assert re.search(rf"^(?:def {name}\(|{name} = )", source, re.MULTILINE), f"{path}::{name}"


def test_every_exit_code_is_described() -> None:
    text = (ROOT / "docs/commands.md").read_text("utf-8")
    for code in (0, *FAULT_BY_EXIT_CODE, EXIT_INTERRUPTED):
        assert f"\n| {code} |" in text
