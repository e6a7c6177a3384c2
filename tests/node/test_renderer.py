from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageChops

from clusterray.core.model import Rect
from clusterray.node.folders import AttemptFolder
from clusterray.node.renderer import (
    Render,
    RenderCancelled,
    RenderFailed,
    RenderTimes,
)
from clusterray.node.scene_cache import link_tree
from tests.node import stand_ins
from tests.node.doubles import POVRAY, SLOW, SPHERES, Scene, make_scene, sandbox_for

WHOLE = Rect(0, 0, 48, 96)


def quiet(_phase: str, _done: int, _total: int) -> None:
    """Take progress and do nothing with it."""


def prepared(
    scene: Scene,
    folder: Path,
    *,
    povray: str = POVRAY,
    rect: Rect = WHOLE,
    on_progress: Callable[[str, int, int], None] = quiet,
) -> tuple[Render, AttemptFolder]:
    attempt = AttemptFolder(folder / "an attempt")
    attempt.create()
    link_tree(scene.root, attempt.scene)
    render = Render(
        povray=povray,
        sandbox=sandbox_for(povray, scene),
        threads=1,
        spec=scene.spec,
        rect=rect,
        folder=attempt,
        on_progress=on_progress,
    )
    return render, attempt


class Running:
    """A render in a thread of its own, with what became of it."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self.outcome: RenderTimes | Exception | None = None
        self._thread = threading.Thread(target=self._run, name="render")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self._render.run()
        except (RenderCancelled, RenderFailed, OSError) as error:
            self.outcome = error

    def end(self) -> RenderTimes | Exception | None:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.outcome


def test_the_rendered_rows_are_povrays_own(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, SPHERES)
    seen: list[tuple[str, int, int]] = []
    rect = Rect(0, 32, 48, 64)
    render, attempt = prepared(
        scene, tmp_path, rect=rect, on_progress=lambda *news: seen.append(news)
    )
    times = render.run()
    plain = Image.open(scene.plain(tmp_path / "plain.png")).crop(rect.as_tuple())
    ours = Image.open(attempt.picture).crop(rect.as_tuple())
    assert ImageChops.difference(ours, plain).getbbox() is None
    assert times.parse_s >= 0 and times.render_s > 0
    assert seen[-1] == ("rendering", rect.area, rect.area)
    assert sorted(path.name for path in attempt.scene.iterdir()) == ["main file.pov", "parts"]


def test_a_scene_that_does_not_parse_is_the_scenes_fault(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, SPHERES + "\nsphere { oops }\n")
    render, _attempt = prepared(scene, tmp_path)
    with pytest.raises(RenderFailed) as caught:
        render.run()
    failure = caught.value
    assert failure.fault == "scene"
    assert (failure.file, failure.line) == ("main file.pov", SPHERES.count("\n") + 2)
    assert "oops" in failure.message and "Parse Error" in failure.text


def test_a_fault_below_a_folder_is_named_from_the_scenes_root(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, SPHERES)
    (scene.root / "parts" / "bad.pov").write_text("sphere { oops }\n")
    scene.spec = replace(scene.spec, start="parts", input="parts/bad.pov")
    render, _attempt = prepared(scene, tmp_path)
    with pytest.raises(RenderFailed) as caught:
        render.run()
    assert (caught.value.file, caught.value.line) == ("parts/bad.pov", 1)


def test_a_missing_include_is_the_scenes_fault_and_named(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, '#if (1) #include "absent.inc" #end\n')
    render, _attempt = prepared(scene, tmp_path)
    with pytest.raises(RenderFailed) as caught:
        render.run()
    assert caught.value.fault == "scene"
    assert "absent.inc" in caught.value.message + caught.value.text


def test_a_main_file_that_did_not_come_along_is_the_scenes_fault(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, SPHERES)
    render, attempt = prepared(scene, tmp_path)
    (attempt.scene / "main file.pov").unlink()
    with pytest.raises(RenderFailed, match=r"main file\.pov is not in the scene") as caught:
        render.run()
    assert caught.value.fault == "scene"


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (stand_ins.KILLED, "ended by SIGKILL"),
        (stand_ins.DISK_FULL, "ended with code 1"),
        ("exit 134", "ended with code 134"),
    ],
)
def test_any_other_end_is_the_nodes_fault(tmp_path: Path, behaviour: str, words: str) -> None:
    scene = make_scene(tmp_path, SPHERES)
    povray = stand_ins.stand_in(tmp_path, behaviour)
    render, _attempt = prepared(scene, tmp_path, povray=povray)
    with pytest.raises(RenderFailed, match=words) as caught:
        render.run()
    assert caught.value.fault == "node"


def test_a_povray_that_cannot_be_started_is_the_nodes_fault(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, SPHERES)
    render, _attempt = prepared(scene, tmp_path, povray="/nowhere/povray")
    with pytest.raises(RenderFailed, match="/nowhere/povray could not be started") as caught:
        render.run()
    assert caught.value.fault == "node"


def test_a_render_is_cancelled_in_the_middle(tmp_path: Path) -> None:
    begun = threading.Event()

    def notice(phase: str, done: int, _total: int) -> None:
        if phase == "rendering" and done:
            begun.set()

    scene = make_scene(tmp_path, SLOW, width=320, height=320)
    render, attempt = prepared(scene, tmp_path, rect=Rect(0, 0, 320, 320), on_progress=notice)
    running = Running(render)
    assert begun.wait(30)
    render.cancel()
    assert isinstance(running.end(), RenderCancelled)
    assert not attempt.picture.exists()


def test_a_render_cancelled_before_it_began_does_not_begin(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, SPHERES)
    render, attempt = prepared(scene, tmp_path)
    render.cancel()
    with pytest.raises(RenderCancelled):
        render.run()
    assert not attempt.picture.exists()


@pytest.mark.parametrize(("at_once", "patience_s"), [(False, 0.5), (True, 1000.0)])
def test_a_povray_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool, patience_s: float
) -> None:
    monkeypatch.setattr("clusterray.node.renderer.TERMINATE_S", patience_s)
    begun = threading.Event()
    scene = make_scene(tmp_path, SPHERES)
    povray = stand_ins.stand_in(tmp_path, stand_ins.IGNORE_TERM)
    render, _attempt = prepared(scene, tmp_path, povray=povray, on_progress=lambda *_: begun.set())
    running = Running(render)
    assert begun.wait(30)
    render.cancel(at_once=at_once)
    assert isinstance(running.end(), RenderCancelled)


def test_a_povray_that_hangs_with_its_output_closed_is_ended(tmp_path: Path) -> None:
    begun = threading.Event()
    scene = make_scene(tmp_path, SPHERES)
    povray = stand_ins.stand_in(tmp_path, stand_ins.CLOSED_STDERR)
    render, _attempt = prepared(scene, tmp_path, povray=povray, on_progress=lambda *_: begun.set())
    running = Running(render)
    assert begun.wait(30)
    render.cancel()
    assert isinstance(running.end(), RenderCancelled)


def test_a_descendant_that_outlives_povray_is_killed(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, SPHERES)
    povray = stand_ins.stand_in(tmp_path, stand_ins.LEAVES_A_CHILD)
    render, attempt = prepared(scene, tmp_path, povray=povray)
    render.run()
    child = int((attempt.scene / "child").read_text())
    try:
        _gone, alive = psutil.wait_procs([psutil.Process(child)], timeout=5)
    except psutil.NoSuchProcess:
        return
    # Its parent is gone, so init reaps it, when it comes to it.
    assert all(each.status() == psutil.STATUS_ZOMBIE for each in alive)
