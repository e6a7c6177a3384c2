"""A node begins its next band beside one that ends soon: real daemons, and the same picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.system.harness import differing_pixels, farm_of, needs_povray, plain_povray
from tests.system.test_farm import QUICK, scene_in

pytestmark = [needs_povray, pytest.mark.slow]

SIZE = ("+W320", "+H192")
BANDS = 6


def test_the_next_band_begins_before_the_last_has_ended(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", QUICK)
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", *SIZE, "+A0.3", "+FN8")
    (scene / "job.yaml").write_text(f"bands: {BANDS}\n")
    with farm_of(tmp_path / "farm", 1) as farm:
        submit = farm.submit(scene, "-o", "out.png", "--", *SIZE, "+A0.3", cwd=tmp_path)
        assert submit.wait() == 0, submit.err.seen
        (node,) = farm.nodes.values()
        shown = farm.ask("show", "j1")
    attempts = sorted(
        (attempt for band in shown["bands"] for attempt in band["attempts"]),
        key=lambda attempt: float(attempt["begun_s"]),
    )
    assert len(attempts) == len(shown["bands"]) == BANDS
    early = [one for one, other in pairwise(attempts) if other["begun_s"] < one["rendered_s"]]
    assert len(early) >= BANDS // 2
    for one, other in zip(attempts, attempts[2:], strict=False):
        assert one["rendered_s"] <= other["begun_s"], "never three"
    assert any("ends soon" in line for line in node.err.seen)
    assert differing_pixels(plain, tmp_path / "out.png") == 0


def test_a_node_told_not_to_overlap_renders_one_band_after_the_other(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", QUICK)
    (scene / "job.yaml").write_text("bands: 3\n")
    with farm_of(tmp_path / "farm") as farm:
        farm.start_node("n1", "--overlap", "off")
        submit = farm.submit(scene, "-o", "out.png", "--", *SIZE, cwd=tmp_path)
        assert submit.wait() == 0, submit.err.seen
        shown = farm.ask("show", "j1")
    attempts = sorted(
        (attempt for band in shown["bands"] for attempt in band["attempts"]),
        key=lambda attempt: float(attempt["begun_s"]),
    )
    for one, other in pairwise(attempts):
        assert one["rendered_s"] <= other["begun_s"]
