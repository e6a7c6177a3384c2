"""What the programs log: every line says when, how grave and which thread, whatever was said."""

from __future__ import annotations

import subprocess
import sys

SPEAK = """
import logging
from clusterray.cli.shell import start_logging
start_logging("info")
logging.getLogger("x").info("b1 of %s goes to node-1\\nb2 of j1", "j1")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("x").exception("one\\ntwo")
"""


def test_a_message_of_several_lines_is_logged_as_several_lines() -> None:
    said = subprocess.run(
        [sys.executable, "-c", SPEAK], capture_output=True, text=True, check=True
    ).stderr.splitlines()
    begun = [line.partition(" MainThread: ") for line in said]
    assert [line[2] for line in begun[:4]] == ["b1 of j1 goes to node-1", "b2 of j1", "one", "two"]
    assert begun[0][0] == begun[1][0]
    assert "INFO" in begun[1][0]
    assert "ERROR" in begun[3][0]
    assert said[4].startswith("Traceback")
    assert said[-1].startswith("ZeroDivisionError")
