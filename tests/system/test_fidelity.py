"""What a person is told of how true a picture is: real daemons, real POV-Ray."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.node.stand_ins import TO_ITS_END, stand_in
from tests.system.harness import Farm, needs_povray
from tests.system.test_farm import SLOW, scene_in
from tests.system.test_light import ROOM

pytestmark = needs_povray

NOISY = SLOW.replace("phong 0.8", "crand 0.2")
LIT = ROOM.replace('#include "../parts/ball.inc"', "").replace(
    "object { Ball }", "sphere { 0, 1 pigment { rgb 1 } }"
)


class HeldBands:
    """A POV-Ray whose bands wait, done, until they are let go, so that a probe becomes due."""

    def __init__(self, folder: Path) -> None:
        self._go = folder / "go"
        os.mkfifo(self._go)
        self.program = stand_in(
            folder,
            'case "$*" in *Render_Block_Size=[48]*|*+RFO*|*+RFI*) exec povray "$@";; esac\n'
            f'{TO_ITS_END}; read -r word < "{self._go}"; exit $code',
        )

    def let_go(self) -> None:
        self._go.write_text("go\n")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_exact_a_noisy_and_a_radiosity_picture_are_told_apart(tmp_path: Path) -> None:
    held = HeldBands(tmp_path)
    farm = Farm(tmp_path / "farm")
    try:
        farm.start_head()
        farm.start_node("n1", "--povray", held.program)
        for number, (text, kind) in enumerate(
            [(SLOW, "exact (probed)"), (NOISY, "noisy")], start=1
        ):
            scene = scene_in(tmp_path / kind[:5], text)
            (scene / "job.yaml").write_text("bands: 1\n")
            job = f"j{number}"
            words = ("-o", f"{job}.png", "--", "+W320", "+H480")
            submit = farm.submit(scene, *words, cwd=tmp_path)
            submit.err.wait_for("is submitted")
            farm.wait_until(
                ["show", job], lambda shown: shown["probe"] is not None, "the probe is told"
            )
            held.let_go()
            assert submit.wait() == 0, submit.err.seen
            shown = farm.ask("show", job)
            assert shown["job"]["fidelity"] == kind
            assert shown["probe"]["pixels"] == 1536
            line = f"{kind}: {shown['job']['fidelity_reason']}"
            assert line in submit.err.seen
            assert f"fidelity:   {line}" in farm.control("show", job).stdout
            beside = farm.state / "results" / job / "room.png.fidelity.json"
            assert json.loads(beside.read_text())["fidelity"] == kind
        assert farm.ask("show", "j1")["job"]["fidelity_reason"].startswith(
            "0 of 1,536 pixels differ"
        )
        assert shown["chance"] == [{"feature": "crand", "file": "room.pov", "line": 6}]
        assert "its text has crand (room.pov:6)" in shown["job"]["fidelity_reason"]
        lit = scene_in(tmp_path / "lit", LIT)
        submit = farm.submit(lit, "-o", "lit.png", "--", "+W64", "+H96", cwd=tmp_path)
        assert submit.wait() == 0, submit.err.seen
        shown = farm.ask("show", "j3")
        assert shown["job"]["fidelity"] == "shared light"
        assert shown["probe"] is None
        assert "radiosity, gathered once for all its bands" in shown["job"]["fidelity_reason"]
    finally:
        farm.stop()
