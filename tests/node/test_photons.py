"""The photon pass on a node, with real POV-Ray: what is shot, and what is rendered with it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageChops

from clusterray.core.model import Rect
from clusterray.node.folders import AttemptFolder
from clusterray.node.light_pass import PhotonRender
from clusterray.node.renderer import Render, RenderCancelled, RenderFailed, RenderPhase
from clusterray.node.scene_cache import link_tree
from clusterray.povray.light_file import count_photons
from clusterray.povray.photons import load_photons, save_photons
from tests.node.doubles import POVRAY, Scene, make_scene, sandbox_for

WHOLE = Rect(0, 0, 64, 96)
GLASS = """
#version 3.7;
global_settings { assumed_gamma 1
  %s
}
camera { location <0, 4, -5> look_at 0 }
#macro Lamp(X)
  light_source { <X, 6, 2> rgb 0.5 photons { refraction on reflection on } }
#end
Lamp(-3) Lamp(3)
plane { y, -1 pigment { rgb 1 } }
#macro Ball(X)
  sphere { X*x, 1 pigment { rgbt 1 } finish { reflection 0.2 } interior { ior 1.5 }
    photons { target refraction on reflection on } }
#end
Ball(-1.2) Ball(1.2)
"""
FEW = GLASS % "photons { spacing 0.1 }"
MANY = GLASS % "photons { spacing 0.003 }"
RADIANT = GLASS % "photons { spacing 0.1 } radiosity { count 1600 recursion_limit 4 }"
"""One pixel of this takes minutes."""


def quiet(_phase: str, _done: int, _total: int) -> None:
    """Take progress and do nothing with it."""


def ready(folder: Path, scene: Scene, name: str) -> AttemptFolder:
    attempt = AttemptFolder(folder / name)
    attempt.create()
    link_tree(scene.root, attempt.scene)
    return attempt


def shot(folder: Path, scene: Scene, threads: int = 1) -> Path:
    attempt = ready(folder, scene, f"shot-{threads}")
    save_photons(attempt.scene, scene.spec, attempt.made_light)
    render = PhotonRender(
        povray=POVRAY,
        sandbox=sandbox_for(POVRAY, scene),
        threads=threads,
        spec=scene.spec,
        rect=WHOLE,
        folder=attempt,
        on_progress=quiet,
    )
    render.run()
    assert not attempt.picture.exists()
    return attempt.made_light


def rendered(
    folder: Path, scene: Scene, rect: Rect, light: Path | None, threads: int, name: str
) -> Image.Image:
    attempt = ready(folder, scene, name)
    if light is not None:
        shutil.copyfile(light, attempt.photon_map)
        load_photons(attempt.scene, scene.spec, attempt.photon_map)
    Render(
        povray=POVRAY,
        sandbox=sandbox_for(POVRAY, scene),
        threads=threads,
        spec=scene.spec,
        rect=rect,
        folder=attempt,
        on_progress=quiet,
    ).run()
    with Image.open(attempt.picture) as picture:
        return picture.crop(rect.as_tuple()).convert("RGB")


@pytest.mark.slow
def test_bands_that_load_one_map_are_what_a_run_that_loads_it_renders(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, FEW, width=64)
    light = shot(tmp_path, scene, threads=3)
    assert (count_photons(light) or 0) > 500
    whole = rendered(tmp_path, scene, WHOLE, light, 2, "whole")
    joined = Image.new("RGB", whole.size)
    for number in range(3):
        rect = Rect(0, 32 * number, 64, 32 * number + 32)
        band = rendered(tmp_path, scene, rect, light, number + 1, f"band-{number}")
        joined.paste(band, rect.as_tuple())
    assert ImageChops.difference(whole, joined).getbbox() is None
    (tmp_path / "other").mkdir()
    coarse = make_scene(tmp_path / "other", FEW.replace("spacing 0.1", "spacing 0.2"), width=64)
    other = rendered(tmp_path, scene, WHOLE, shot(tmp_path / "other", coarse), 2, "whole-other")
    assert ImageChops.difference(whole, other).getbbox(), "the map is not looked at"


def test_a_scene_without_photons_in_use_leaves_an_empty_file(tmp_path: Path) -> None:
    text = FEW.replace("photons { target refraction on reflection on }", "")
    assert shot(tmp_path, make_scene(tmp_path, text)).stat().st_size == 0


def test_povray_is_ended_when_the_map_is_there(tmp_path: Path) -> None:
    assert count_photons(shot(tmp_path, make_scene(tmp_path, RADIANT)))


def test_a_map_that_cannot_be_saved_is_this_nodes_fault(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, FEW)
    attempt = ready(tmp_path, scene, "full")
    save_photons(attempt.scene, scene.spec, tmp_path / "no folder" / "map")
    render = PhotonRender(
        povray=POVRAY,
        sandbox=sandbox_for(POVRAY, scene),
        threads=1,
        spec=scene.spec,
        rect=WHOLE,
        folder=attempt,
        on_progress=quiet,
    )
    with pytest.raises(RenderFailed, match="could not save its photon map") as caught:
        render.run()
    assert (caught.value.fault, caught.value.killed) == ("node", False)


@pytest.mark.parametrize("how", ["killed", "cancelled"])
def test_photons_that_are_being_shot_can_be_ended(tmp_path: Path, how: str) -> None:
    scene = make_scene(tmp_path, MANY)
    attempt = ready(tmp_path, scene, "ended")
    save_photons(attempt.scene, scene.spec, attempt.made_light)

    def end_it(phase: RenderPhase, _done: int, _total: int) -> None:
        if phase != "rendering":
            return
        if how == "cancelled":
            render.cancel()
            return
        for child in psutil.Process().children(recursive=True):
            if child.name() == "povray":
                os.kill(child.pid, signal.SIGKILL)

    render = PhotonRender(
        povray=POVRAY,
        sandbox=sandbox_for(POVRAY, scene),
        threads=2,
        spec=scene.spec,
        rect=WHOLE,
        folder=attempt,
        on_progress=end_it,
    )
    with pytest.raises(RenderCancelled if how == "cancelled" else RenderFailed) as caught:
        render.run()
    assert not attempt.made_light.exists()
    if isinstance(caught.value, RenderFailed):
        assert caught.value.killed


def test_a_fault_behind_the_block_keeps_its_line(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, FEW + "\nsphere { oops }")
    with pytest.raises(RenderFailed) as caught:
        shot(tmp_path, scene)
    assert (caught.value.file, caught.value.line) == ("main file.pov", FEW.count("\n") + 2)
