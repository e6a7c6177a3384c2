"""The fuzzer's seeds, each once; and a short run of the fuzzer itself, the same each time."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.run_target import run_one, scratch
from tests.fuzz.sources import SOURCES
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
SEEDS = Path(__file__).parent / "corpus"
RUNS = 2000
RUN = ("--runs", str(RUNS), "--seed", "1")
HAS_WHEEL = (
    sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info < (3, 14)
)


def test_every_target_has_its_sources_and_seeds() -> None:
    assert list(TARGETS) == list(SOURCES)
    assert {folder.name for folder in SEEDS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once_is_not_found_again(name: str) -> None:
    with scratch() as folder:
        for seed in sorted((SEEDS / name).iterdir()):
            run_one(TARGETS[name], seed.read_bytes(), Path(folder))


@pytest.mark.slow
@pytest.mark.skipif(not HAS_WHEEL, reason="atheris has no wheel for this Python or machine")
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_finds_nothing(name: str, tmp_path: Path) -> None:
    assert find_spec("atheris"), "the dev extra is not whole: pip install -e '.[dev]'"
    done = subprocess.run(
        [sys.executable, "scripts/fuzz", name, *RUN, "--corpus", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / f"{name}.json").read_text())["runs"] == RUNS
