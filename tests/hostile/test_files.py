"""Hostile scenes with real POV-Ray: each succeeds where there is no wall, and at no wall."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from clusterray.core.model import Rect
from clusterray.node.folders import AttemptFolder
from clusterray.node.renderer import Render, RenderFailed
from clusterray.node.sandbox import Sandbox, Wall
from clusterray.node.scene_cache import link_tree
from tests.hostile.attacks import (
    OPTIONS,
    SCENES,
    SECRET,
    Attack,
    Outcome,
    furnish,
    hostile_scene,
)
from tests.hostile.conftest import built
from tests.node.doubles import POVRAY, Scene

SIDE = 32


class Told(Render):
    """A render whose POV-Ray is told more than a node would tell it."""

    words: Sequence[str] = ()

    def _povray_argv(self) -> list[str]:
        return [*super()._povray_argv(), *self.words]


def render(
    sandbox: Sandbox, scene: Scene, attempt: AttemptFolder, words: Sequence[str] = ()
) -> Told:
    attempt.create()
    link_tree(scene.root, attempt.scene)
    told = Told(
        povray=POVRAY,
        sandbox=sandbox.reading(scene.root),
        threads=1,
        spec=scene.spec,
        rect=Rect(0, 0, SIDE, SIDE),
        folder=attempt,
        on_progress=lambda _phase, _done, _total: None,
    )
    told.words = words
    return told


def tried(attack: Attack, sandbox: Sandbox, folder: Path) -> Outcome:
    """Let the attack be tried, below ``folder``."""
    out = folder / "out"
    furnish(out)
    words = [word.replace("{out}", str(out)) for word in attack.words]
    scene = hostile_scene(folder, attack.text.replace("{out}", str(out)), SIDE)
    attempt = AttemptFolder(folder / "attempt")
    try:
        text, rendered = render(sandbox, scene, attempt, words).run().text, True
    except RenderFailed as failure:
        text, rendered = f"{failure.message}\n{failure.text}", False
    return Outcome(out, attempt.root, rendered, text)


ATTACKS = pytest.mark.parametrize("attack", SCENES + OPTIONS, ids=lambda attack: attack.name)


@ATTACKS
def test_without_a_wall_it_succeeds(attack: Attack, tmp_path: Path) -> None:
    outcome = tried(attack, built(Wall.NONE), tmp_path)
    assert attack.sign(outcome), outcome.text


@ATTACKS
def test_behind_a_wall_it_is_denied(attack: Attack, wall: Sandbox, tmp_path: Path) -> None:
    outcome = tried(attack, wall, tmp_path)
    assert not attack.sign(outcome), outcome.text
    assert outcome.rendered is not attack.fails, outcome.text
    assert SECRET not in outcome.text
    names = sorted(path.name for path in outcome.out.iterdir())
    furnish(tmp_path / "another")
    assert names == sorted(path.name for path in (tmp_path / "another").iterdir())
    assert (outcome.out / "victim.txt").read_text() == "untouched\n"
