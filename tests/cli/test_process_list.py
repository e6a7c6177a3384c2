from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from clusterray.wire.trust import JoinToken, new_secret

WAIT_S = 20.0
TOKEN = JoinToken("127.0.0.1", 1, "submit", "", new_secret()).encode()


@pytest.mark.parametrize("join", [("--join", TOKEN), (f"--join={TOKEN}",)], ids=["two", "one"])
def test_a_token_on_the_command_line_is_not_in_the_process_list(
    tmp_path: Path, join: tuple[str, ...]
) -> None:
    # Nobody listens on port 1, so the command tries for ten seconds.
    argv = [sys.executable, "-m", "clusterray.cli.control", "jobs", *join]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        shown = Path(f"/proc/{process.pid}/cmdline")
        give_up_at = time.monotonic() + WAIT_S
        hidden = b"cr1-" + b"x" * (len(TOKEN) - len("cr1-")) + b"\0"
        while not (words := shown.read_bytes()).endswith(hidden):
            assert time.monotonic() < give_up_at, words
        process.kill()
    assert b"jobs" in words.split(b"\0")
    assert TOKEN.encode() not in words


def test_the_command_still_reads_its_token() -> None:
    argv = [sys.executable, "-m", "clusterray.cli.control", "token", "show", "--join", TOKEN]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=WAIT_S, check=True).stdout
    assert "127.0.0.1" in said
    assert TOKEN not in said
