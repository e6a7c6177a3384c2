"""Short runs of scripts/soak and scripts/chaos; docs/reliability.md tells what long ones gave."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.system.harness import needs_povray

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = Path("/usr/share/doc/povray/examples")

pytestmark = [
    needs_povray,
    pytest.mark.slow,
    pytest.mark.skipif(
        not EXAMPLES.is_dir(),
        reason="povray-examples is not installed: apt install povray-examples",
    ),
]


def run(folder: Path, name: str, *words: str) -> str:
    """Run a script to its end and give what it found; it must find nothing wrong."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / name, *words],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert list(folder.iterdir()) == []
    return done.stdout


@pytest.mark.timeout(400)
def test_fifty_jobs_are_all_right_and_nothing_grows(tmp_path: Path) -> None:
    found = run(tmp_path, "soak", "--jobs", "50", "--nodes", "4", "--at-a-time", "6")
    assert "every picture equals plain povray's, and nothing grows" in found


@pytest.mark.timeout(1200)
def test_whatever_befalls_the_farm_every_picture_is_plain_povrays(tmp_path: Path) -> None:
    found = run(tmp_path, "chaos", "--seed", "23", "--minutes", "1.5", "--size", "128x96")
    assert "every picture is plain povray's, and nothing is left behind" in found
    (made,) = re.findall(r"^\| all \| (\d+)", found, re.MULTILINE)
    assert int(made) >= 15
    assert "| head killed | 4 |" in found
    assert re.search(r"^\| a band is handed out again \|", found, re.MULTILINE)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "words", "begun"),
    [
        ("soak", ["--jobs", "2000"], " jobs in "),
        ("chaos", ["--seed", "23", "--size", "32x32"], "  #4 "),
    ],
)
def test_ctrl_c_ends_it_all(tmp_path: Path, name: str, words: list[str], begun: str) -> None:
    with subprocess.Popen(
        [sys.executable, ROOT / "scripts" / name, *words],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as script:
        assert script.stderr is not None
        assert any(begun in line for line in script.stderr)
        children = psutil.Process(script.pid).children(recursive=True)
        assert children
        script.send_signal(signal.SIGINT)
        said = script.stderr.read()
    assert script.returncode == 130, said
    assert "nothing of it runs any more" in said
    assert not [child for child in children if child.is_running()]
    assert list(tmp_path.iterdir()) == []
