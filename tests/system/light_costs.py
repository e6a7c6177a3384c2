"""Measures what shared light costs a farm of unlike nodes, or saves it; see docs/light.md.

    python -m tests.system.light_costs farm [SCENE ...]
        # seconds from submit to picture: light shared, made by each band, whole by one node
    python -m tests.system.light_costs node [SCENE ...]
        # seconds on one node: one POV-Ray with two threads, two POV-Rays with one thread each

Each is the best of ``RUNS``, in turn, so that a busy machine is as busy for all.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.system.harness import Farm
from tests.system.light_figures import (
    MANY_PHOTONS,
    Sample,
    copied,
    idle,
    unlike_nodes,
)

RUNS = 2
LARGE = (320, 240)
SAMPLES = [
    Sample("lights/glassthing.pov", LARGE),
    Sample("lights/phot_met_glass.pov", LARGE),
    Sample("advanced/grenadine/grenadine.pov", LARGE),
    Sample("advanced/optics.pov", (160, 120)),
    Sample("incdemo/glasses/glass.pov", (48, 36), changed=MANY_PHOTONS),
    Sample("advanced/balcony/balcony.pov", (160, 120)),
    Sample("lights/phot_met_glass.pov", (640, 480)),
    Sample("advanced/grenadine/grenadine.pov", (640, 480)),
    Sample("radiosity/cornell.pov", LARGE),
    Sample("radiosity/patio-radio_37.pov", LARGE),
    Sample("radiosity/radiosity3.pov", LARGE),
    Sample("radiosity/cornell.pov", (640, 480)),
]
_BLOCK = re.compile(r"\b(photons|radiosity)\s*\{")


def farm_seconds(farm: Farm, sample: Sample, folder: Path) -> dict[str, float]:
    """Give the seconds of each way to render the scene with the farm."""
    folder.mkdir()
    best: dict[str, float] = {}
    for number in range(RUNS):
        for way, change in WAYS.items():
            place = folder / f"{way}-{number}"
            place.mkdir()
            main = copied(sample, place)
            target = change(main)
            spent = _job_seconds(farm, sample, target, place)
            best[way] = min(spent, best.get(way, spent))
    return best


def _job_seconds(farm: Farm, sample: Sample, scene: Path, folder: Path) -> float:
    farm.wait_until(["nodes"], lambda nodes: idle(nodes, len(farm.nodes)), "idle nodes")
    options = [f"+W{sample.size[0]}", f"+H{sample.size[1]}", "+A0.3"]
    out = str(folder / "farm.png")
    submit = farm.submit(scene, "-o", out, "--", *options, cwd=folder)
    assert submit.wait(1200) == 0, submit.err.seen[-20:]
    return float(farm.ask("jobs")[0]["elapsed_s"])


def _shared(main: Path) -> Path:
    return main


def _own(main: Path) -> Path:
    """Hide the blocks from the submitter, not from POV-Ray: each band makes light of its own."""
    for path in main.parent.rglob("*"):
        if path.suffix in (".pov", ".inc"):
            path.chmod(0o644)
            text = path.read_text("latin-1")
            path.write_text(_BLOCK.sub(r"\1 #if (1) #end {", text), "latin-1")
    return main


def _whole(main: Path) -> Path:
    (main.parent / "job.yaml").write_text(f"scene: {main.name}\nbands: 1\n")
    return main.parent


WAYS: dict[str, Callable[[Path], Path]] = {"shared": _shared, "own": _own, "whole": _whole}


def node_seconds(sample: Sample, folder: Path) -> dict[str, float]:
    """Give the seconds of one POV-Ray with two threads, and of two side by side with one."""
    folder.mkdir()
    main = copied(sample, folder)
    half = sample.size[1] // 64 * 32
    ways: dict[str, list[Sequence[str]]] = {
        "one": [("+WT2",)],
        "side by side": [("+WT1", f"+ER{half}"), ("+WT1", f"+SR{half + 1}")],
    }
    best: dict[str, float] = {}
    for _ in range(RUNS):
        for way, runs in ways.items():
            began_at = time.monotonic()
            running = [_start(main, sample, words) for words in runs]
            assert [process.wait() for process in running] == [0] * len(runs)
            spent = time.monotonic() - began_at
            best[way] = min(spent, best.get(way, spent))
    return best


def _start(main: Path, sample: Sample, words: Sequence[str]) -> subprocess.Popen[bytes]:
    argv = ["povray", "-D", "-P", f"+I{main.name}", "-F", "+A0.3", *words]
    argv += [f"+W{sample.size[0]}", f"+H{sample.size[1]}"]
    return subprocess.Popen(argv, cwd=main.parent, stderr=subprocess.DEVNULL)


def _main(what: str, scenes: Sequence[str]) -> None:
    wanted = [
        sample for sample in SAMPLES if not scenes or any(scene in sample.path for scene in scenes)
    ]
    if what == "farm":
        with unlike_nodes() as (farm, folder):
            for number, sample in enumerate(wanted):
                _print(sample, farm_seconds(farm, sample, folder / str(number)))
        return
    with tempfile.TemporaryDirectory() as name:
        photons = [sample for sample in wanted if not sample.path.startswith("radiosity/")]
        for number, sample in enumerate(photons):
            _print(sample, node_seconds(sample, Path(name) / str(number)))


def _print(sample: Sample, seconds: dict[str, float]) -> None:
    first, *others = seconds.values()
    title = replace(sample, note="").title
    cells = [title, *(f"{each:.1f}" for each in seconds.values())]
    cells += [f"{first / other:.2f}" for other in others]
    sys.stdout.write("| " + " | ".join(cells) + " |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
