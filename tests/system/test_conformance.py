"""A spread over Debian's example scenes, held against plain POV-Ray as scripts/conformance does.

The whole corpus takes hours; docs/conformance.md tells what it gave. Here every ninth scene and
those that are known to be delicate are measured, with the same code.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.harness import needs_povray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from conformance import Bench, Result, Settings  # noqa: E402  (needs the path above)
from corpus import EXAMPLES, Scene, find_scenes  # noqa: E402
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
    "objects/primitiv.pov": "its height field shadows itself",
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
    with StandingFarm(tmp_path, threads=(1, 2, 3)) as farm, ThreadPoolExecutor(3) as pool:
        results = list(pool.map(Bench(farm, tmp_path).measure, scenes, settings))
    assert len(results) >= 40
    assert not [told(result) for result in results if result.verdict == "too slow"]
    different = [result for result in results if result.verdict == "different"]
    assert not [told(result) for result in different if result.scene not in DELICATE]
    # Each of these shows with plain POV-Ray too, one thread and its blocks in another order.
    assert not [told(result) for result in different if not result.depends_on_order]
    # A scene that one node rendered whole says nothing of bands.
    identical = [result for result in results if result.verdict == "identical"]
    assert len(identical) >= 30
    assert sum(result.bands > 1 for result in identical) > len(identical) * 3 // 4
