"""Nothing is decided by the time of day: a clock may jump, and a Pi may have none.

What lasts is measured in seconds since the boot; wall time is for people to read.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import clusterray

PACKAGE = Path(clusterray.__file__).resolve().parent

MAY_ASK = {
    "head/bulletin.py": "of when the status page is",
    "head/web/app.py": "the same on the page",
    "head/memory.py": "how people are told when something was, over all starts of a head",
    "head/web/tls_channel.py": "as waitress counts since when a channel is silent",
    "head/certificate.py": "nothing: two dates that no certificate of a head ever reaches",
    "head/tokens.py": "when a token was made",
    "client/tables.py": "both, in the reader's time zone",
}
"""What asks for the time of day, and what for."""

WALL = frozenset({"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime"})


def wall_clocks(text: str) -> list[int]:
    """Give the lines that use the time of day, by whatever name it came."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            module = node.value.id if isinstance(node.value, ast.Name) else ""
            if (module == "time" and node.attr in WALL) or node.attr in ("utcnow", "today"):
                found.append(node.lineno)
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if node.module == "datetime" or (node.module == "time" and names & WALL):
                found.append(node.lineno)
        elif isinstance(node, ast.Import) and any(a.name == "datetime" for a in node.names):
            found.append(node.lineno)
    return found


def test_hardly_anything_asks_for_the_time_of_day() -> None:
    asked = {
        path.relative_to(PACKAGE).as_posix(): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if (lines := wall_clocks(path.read_text("utf-8")))
    }
    assert set(asked) == set(MAY_ASK), asked


@pytest.mark.parametrize(
    "text",
    [
        "import time\nx = time.time()",
        "from time import time",
        "import time\ndef f(clock=time.time): ...",
        "from datetime import datetime",
        "import datetime",
    ],
)
def test_every_way_to_ask_is_seen(text: str) -> None:
    assert wall_clocks(text)
    assert not wall_clocks("import time\nx = time.monotonic()")
