"""A spread over Debian's example scenes, held against plain POV-Ray as scripts/conformance does.

The whole corpus takes hours; docs/conformance.md tells what it gave. Here every ninth scene and
those that are known to be delicate are measured, with the same code.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.harness import needs_povray

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "conformance"
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from conformance import (  # noqa: E402  (needs the path above)
    Bench,
    Result,
    Settings,
    read_results,
)
from corpus import EXAMPLES, Scene, find_scenes  # noqa: E402
from programs import Programs  # noqa: E402
from standing_farm import StandingFarm  # noqa: E402

HEAVY = {
    "advanced/blocks/stackerday.pov",
    "radiosity/patio-radio_37.pov",
}
"""Scenes of the spread that take too long for a test; scripts/conformance measures them."""
DELICATE = {
    "advanced/landscape.pov": "its height field shadows itself",
    "advanced/sunsethf.pov": "its height field shadows itself",
    "interior/magglass.pov": "crand, whose numbers each thread draws in its own order",
    "objects/primitiv.pov": "its bicubic patch shadows itself",
}
"""Scenes whose pixels depend on the order in which POV-Ray renders its blocks, and why. Chance may
hide that from other runs of plain POV-Ray, and then the verdict is "different"."""


def spread() -> list[Scene]:
    scenes = find_scenes()
    every_ninth = {scene.name for scene in scenes[4::9]} - HEAVY
    return [scene for scene in scenes if scene.name in every_ninth | DELICATE.keys()]


def told(result: Result) -> str:
    figures = f"{result.farm} {result.probes} {result.message}"
    return f"{result.scene} {result.settings}: {result.verdict} {figures}"


@needs_povray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_scene_of_the_spread_is_different(tmp_path: Path) -> None:
    if not EXAMPLES.is_dir():
        pytest.skip("povray-examples is not installed: apt install povray-examples")
    scenes = spread()
    settings = [Settings(96, 64, 1 + number % 2) for number in range(len(scenes))]
    with StandingFarm(tmp_path, (1, 2, 3), Programs()) as farm, ThreadPoolExecutor(3) as pool:
        results = list(pool.map(Bench(farm, tmp_path).measure, scenes, settings))
    assert len(results) >= 40
    assert not [told(result) for result in results if result.verdict == "too slow"]
    different = [result for result in results if result.verdict == "different"]
    assert not [told(result) for result in different if result.scene not in DELICATE]
    # Each of these shows with plain POV-Ray too, one thread and its blocks in another order.
    assert not [told(result) for result in different if not result.depends_on_order]
    # A scene that one node rendered whole, as the others were busy, says nothing of bands.
    identical = [result for result in results if result.verdict == "identical"]
    assert len(identical) >= 30
    assert sum(result.bands > 1 for result in identical) > len(identical) // 2


@needs_povray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_is_stopped_is_gone_on_with(tmp_path: Path) -> None:
    if not EXAMPLES.is_dir():
        pytest.skip("povray-examples is not installed: apt install povray-examples")
    results = tmp_path / "results.jsonl"
    words = ["--results", str(results), "--sizes", "40x40", "--aa", "1", "--jobs", "1"]
    words += ["--only", "textures/pigments/*"]
    private = tmp_path / "tmp"
    private.mkdir()
    environment = {**os.environ, "TMPDIR": str(private)}
    stopped = subprocess.Popen(
        [sys.executable, SCRIPT, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with stopped:
        assert stopped.stderr is not None
        assert stopped.stderr.readline().startswith("1/")
        stopped.terminate()
        said = stopped.stderr.read()
    assert stopped.returncode == 130
    assert "goes on from here" in said
    before = read_results(results)
    done = subprocess.run(
        [sys.executable, SCRIPT, *words, "--limit", "2"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stdout == "2 identical, 0 within noise, 0 alike, 0 different, 0 too slow\n"
    after = read_results(results)
    assert len(after) == len(before) + 2
    assert before.items() <= after.items()
    assert list(private.iterdir()) == []
