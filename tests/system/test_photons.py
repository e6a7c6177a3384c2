"""The promise: bands of a photon scene show one map's light, whatever the nodes and their threads.

Three unlike nodes, real POV-Ray, real kills. What differs from plain POV-Ray's picture differs as
two of its own maps do, without steps (docs/light.md).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from tests.system.harness import (
    Farm,
    differing_pixels,
    farm_of,
    needs_povray,
    plain_povray,
    povrays_of,
)
from tests.system.light_figures import EXAMPLES, PHOTONS, measure, newest_light

TOLERANCE = 1.5
needs_examples = pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="povray-examples is not installed: apt install povray-examples"
)
GLASS = """
#version 3.7;
global_settings { assumed_gamma 1
  #if (On) photons { SPACING } #end
  #if (Radiant) radiosity { pretrace_start 0.08 pretrace_end 0.02 count 20 } #end
}
camera { location <0, 4, -5> right x*image_width/image_height look_at 0 }
#macro Lamp(X)
  light_source { <X, 6, 2> rgb 0.5 photons { refraction on reflection on } }
#end
Lamp(-3) Lamp(0) Lamp(3)
plane { y, -1 pigment { rgb 1 } }
#macro Ball(X)
  sphere { X*x, 0.8 pigment { rgbt 1 } finish { reflection 0.2 } interior { ior 1.5 }
    photons { target refraction on reflection on } }
#end
Ball(-1) Ball(1)
"""
FINE = GLASS.replace("SPACING", "spacing 0.05")
OPTIONS = ("+W96", "+H128", "+A0.3")


def rendered(farm: Farm, folder: Path, text: str, *options: str) -> tuple[Path, dict[str, object]]:
    """Let the farm render a scene of this text; gives the picture and what ``show`` says."""
    (folder / "a.pov").write_text(text)
    out = folder / "farm.png"
    words = [*OPTIONS, *options]
    submit = farm.submit(folder / "a.pov", "-o", str(out), "--", *words, cwd=folder)
    assert submit.wait(240) == 0, submit.err.seen[-20:]
    return out, farm.ask("show", farm.ask("jobs")[0]["id"])


@pytest.mark.slow
@needs_povray
def test_bands_are_pixel_for_pixel_one_plain_run_that_loads_the_same_map(tmp_path: Path) -> None:
    with farm_of(tmp_path / "farm", 1, 2, 3) as farm:
        declared = ["Declare=On=1", "Declare=Radiant=0"]
        out, shown = rendered(farm, tmp_path, FINE, *declared)
        stages = [band["stage"] for band in shown["bands"]]  # type: ignore[attr-defined]
        assert stages[0] == "photons" and stages.count("photons") == 1 and stages.count("final") > 2
        assert " photons, shot once, shared by all" in str(shown["light"])
        shutil.copyfile(newest_light(farm, photons=True), tmp_path / "shared.map")
    with_map = FINE.replace("photons { spacing", 'photons { load_file "shared.map" spacing')
    (tmp_path / "b.pov").write_text(with_map)
    for threads in (1, 2):
        words = ["+Ib.pov", "+FN8", *OPTIONS, *declared, f"+WT{threads}"]
        plain = plain_povray(tmp_path, tmp_path / "plain.png", *words)
        assert differing_pixels(plain, out) == 0


@needs_povray
@pytest.mark.slow
def test_photons_and_radiosity_are_made_after_each_other_and_both_are_shared(
    tmp_path: Path,
) -> None:
    with farm_of(tmp_path / "farm", 1, 2, 3) as farm:
        _, shown = rendered(farm, tmp_path, FINE, "Declare=On=1", "Declare=Radiant=1")
        stages = [band["stage"] for band in shown["bands"]]  # type: ignore[attr-defined]
        assert list(dict.fromkeys(stages)) == ["photons", "light", "final"]
        light = str(shown["light"])
        assert " photons, shot once and " in light and " radiosity samples from " in light


@needs_povray
@pytest.mark.slow
def test_a_scene_that_only_mentions_photons_is_plain_povrays(tmp_path: Path) -> None:
    with farm_of(tmp_path / "farm", 1, 2) as farm:
        declared = ["Declare=On=0", "Declare=Radiant=0"]
        out, shown = rendered(farm, tmp_path, FINE, *declared)
        assert shown["light"] == "no photons and no radiosity in use"
    words = ["+Ia.pov", "+FN8", *OPTIONS, *declared]
    plain = plain_povray(tmp_path, tmp_path / "plain.png", *words)
    assert differing_pixels(plain, out) == 0


@needs_povray
@pytest.mark.slow
def test_a_kill_in_the_middle_of_the_shooting_costs_a_try_and_nothing_else(
    tmp_path: Path,
) -> None:
    text = GLASS.replace("SPACING", "spacing 0.002")
    (tmp_path / "a.pov").write_text(text)
    words = ["+W64", "+H64", "Declare=On=1", "Declare=Radiant=0"]
    out = tmp_path / "farm.png"
    with farm_of(tmp_path / "farm", 1, 2) as farm:
        submit = farm.submit(tmp_path / "a.pov", "-o", str(out), "--", *words, cwd=tmp_path)
        first = shooter(farm)
        for povray in povrays_of(farm.nodes[first]):
            povray.kill()
        farm.nodes[first].err.wait_for("ended by SIGKILL")
        second = shooter(farm)
        assert second != first
        farm.nodes[second].kill()
        assert submit.wait(240) == 0, submit.err.seen[-20:]
        (job,) = farm.ask("jobs")
        shown = farm.ask("show", job["id"])
        shot = shown["bands"][0]
        tries = [attempt["state"] for attempt in shot["attempts"]]
        assert (shot["stage"], tries) == ("photons", ["failed", "lost", "accepted"])
        assert " photons, shot once" in shown["light"]


def shooter(farm: Farm) -> str:
    """Wait until a node shoots photons, and give its name."""

    def shooting(_jobs: object) -> bool:
        return any(_is_shooting(process) for process in _povrays(farm))

    farm.wait_until(["jobs"], shooting, "photons are shot")
    return next(
        name for name, node in farm.nodes.items() if node.popen.poll() is None and povrays_of(node)
    )


def _povrays(farm: Farm) -> list[psutil.Process]:
    return [
        process
        for node in farm.nodes.values()
        if node.popen.poll() is None
        for process in povrays_of(node)
    ]


def _is_shooting(process: psutil.Process) -> bool:
    try:
        # It has been at work for some time, so the scene of a few lines is parsed.
        return "+ER" in " ".join(process.cmdline()) and process.cpu_times().user > 0.3
    except psutil.NoSuchProcess:
        return False


@needs_povray
@needs_examples
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bands_that_share_photons_meet_without_seams(tmp_path: Path) -> None:
    with farm_of(tmp_path / "farm", 1, 2, 3) as farm:
        # All of them: python -m tests.system.light_figures photons.
        sample = PHOTONS[1]
        figures = measure(farm, sample, tmp_path)
        assert figures.photons > 1000, figures
        assert figures.against_same_light == 0, figures
        assert figures.seam <= TOLERANCE * max(figures.plain_seams) < figures.naive_seam, figures
        assert figures.mean <= TOLERANCE * max(figures.plain_means), figures
