"""A job's life as people lead it, with POV-Ray: paused, looked at, stopped, run again, deleted."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clusterray.core.model import FileFormat, Rect
from clusterray.images.hatch import hatch_rows
from clusterray.wire.trust import JoinToken
from tests.system import relays
from tests.system.harness import (
    WAIT_S,
    Farm,
    Process,
    differing_pixels,
    farm_of,
    gone,
    needs_povray,
    plain_povray,
    povrays_of,
)
from tests.system.test_farm import QUICK, SLOW, rendering, scene_in

pytestmark = [needs_povray, pytest.mark.slow]

SLOW_TO_PARSE = "#declare I = 0;\n#while (I < 2000000)\n#declare I = I + 1;\n#end\n" + SLOW
"""Parses for some two seconds, so that a test can find it parsing."""


def bands_done(farm: Farm, submit: Process, count: int) -> Any:
    submit.err.wait_for("is submitted")
    return farm.wait_until(
        ["show", "1"], lambda shown: shown["job"]["bands_done"] >= count, f"{count} bands are there"
    )


def token_at(farm: Farm, role: str, port: int) -> str:
    token = JoinToken.decode((farm.state / f"{role}.token").read_text())
    return dataclasses.replace(token, port=port).encode()


def test_a_paused_job_can_be_looked_at_and_its_picture_is_plain_povrays(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", SLOW)
    (scene / "job.yaml").write_text("bands: 6\n")
    options = ("+W120", "+H288", "+A0.3", "+R1")
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", *options, "+FN8")
    with farm_of(tmp_path / "farm", 1, 1) as farm:
        process = farm.submit(scene, "-o", "out.png", "--", *options, cwd=tmp_path)
        bands_done(farm, process, 1)
        assert "is paused" in farm.control("pause", "1").stdout
        process.err.wait_for("paused by")
        shown = farm.wait_until(
            ["show", "1"], lambda shown: shown["job"]["bands_running"] == 0, "nothing is at work"
        )
        assert shown["job"]["state"] == "paused"
        # A probe may still be at work beside the bands; it ends by itself.
        assert all(gone(povrays_of(node), WAIT_S) for node in farm.nodes.values())
        there = [Rect(*band["rect"]) for band in shown["bands"] if band["state"] == "covered"]
        assert 0 < len(there) < 6

        part = farm.control("fetch", "--partial", "1", "-o", str(tmp_path / "out.png"))
        assert (part.returncode, part.stdout.strip()) == (0, str(tmp_path / "out.partial.png"))
        pixels = sum(rect.area for rect in there)
        assert f"({pixels:,} of {120 * 288:,} pixels)" in part.stderr
        assert not (tmp_path / "out.png").exists()
        check_partial(tmp_path / "out.partial.png", plain, there)

        assert "goes on" in farm.control("resume", "1").stdout
        assert process.wait(120) == 0, process.err.seen
        again = farm.control("fetch", "--partial", "1", "-o", str(tmp_path / "again.png"))
        assert again.stdout.strip() == str(tmp_path / "again.png"), "a done job has no hole"
        logs = farm.ask("logs", "1")
        assert {log["state"] for log in logs} == {"accepted"}
        assert len({log["band"] for log in logs}) == 6
        assert all("Render Time" in log["text"] for log in logs), "POV-Ray's own words"
        said = farm.control("logs", "1", logs[0]["band"]).stdout
        assert f"{logs[0]['band']} (rows 0-" in said and "Parse Time" in said
    assert differing_pixels(plain, tmp_path / "out.png") == 0
    assert differing_pixels(plain, tmp_path / "again.png") == 0


def check_partial(part: Path, plain: Path, there: list[Rect]) -> None:
    """Pixels of the bands that are there are plain POV-Ray's, all others are the hatch."""
    with Image.open(part) as found, Image.open(plain) as wanted:
        assert (found.size, found.mode) == (wanted.size, wanted.mode)
        data, real, width = found.tobytes(), wanted.tobytes(), 3 * found.width
        hatch = hatch_rows(Rect(0, 0, *found.size), FileFormat())
    for y in range(len(data) // width):
        row = slice(y * width, (y + 1) * width)
        source = real if any(rect.y0 <= y < rect.y1 for rect in there) else hatch
        assert data[row] == source[row], f"row {y}"


def test_a_cancelled_job_is_gone_everywhere_and_goes_on_when_it_is_requeued(
    tmp_path: Path,
) -> None:
    scene = scene_in(tmp_path / "scene", SLOW_TO_PARSE)
    (scene / "job.yaml").write_text("bands: 5\n")
    options = ("+W120", "+H160")
    with farm_of(tmp_path / "farm", 1, 1) as farm:
        process = farm.submit(scene, "-o", "out.png", "--", *options, cwd=tmp_path)
        bands_done(farm, process, 1)
        farm.start_node("n3")
        farm.wait_until(["show", "1"], somebody_parses_on("n3"), "the third node parses")
        povrays = [child for node in farm.nodes.values() for child in povrays_of(node)]
        assert len(povrays) >= 2
        assert farm.control("cancel", "1").returncode == 0
        assert gone(povrays, 3)
        assert process.wait() == 6
        covered = {
            band["id"] for band in farm.ask("show", "1")["bands"] if band["state"] == "covered"
        }
        assert covered
        part = farm.control("fetch", "--partial", "1", "-o", f"{tmp_path}/part.png", "--json")
        assert part.returncode == 0, part.stderr
        refused = farm.control("fetch", "1")
        assert refused.returncode == 3 and "--partial" in refused.stderr

        assert "is queued again" in farm.control("requeue", "1").stdout
        farm.wait_until(["show", "1"], lambda s: s["job"]["state"] == "done", "it ends")
        for band in farm.ask("show", "1")["bands"]:
            states = [attempt["state"] for attempt in band["attempts"]]
            assert states.count("accepted") == 1
            assert band["id"] not in covered or states == ["accepted"], "it was rendered again"
        fetched = farm.control("fetch", "1", "-o", str(tmp_path / "out.png"))
        assert fetched.returncode == 0, fetched.stderr
        assert farm.control("delete", "1").returncode == 0
        assert farm.ask("jobs") == []
        unknown = farm.control("show", "1")
        assert unknown.returncode == 3 and "deleted by" in unknown.stderr
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", *options, "+FN8")
    assert differing_pixels(plain, tmp_path / "out.png") == 0


def somebody_parses_on(node: str) -> Any:
    def holds(shown: Any) -> bool:
        attempts = [attempt for band in shown["bands"] for attempt in band["attempts"]]
        mine = [a for a in attempts if (a["node"], a["state"]) == (node, "rendering")]
        return any(attempt["phase"] == "parsing" for attempt in mine)

    return holds


def test_a_submit_whose_answer_is_lost_makes_one_job(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene")
    cut: list[str] = []

    def look(piece: bytes) -> bytes | None:
        if relays.message_of(piece)["type"] == "submitted" and not cut:
            cut.append("submitted")
            return None
        return piece

    with farm_of(tmp_path / "farm", 1, head=("--tls", "off")) as farm:
        target = ("127.0.0.1", farm.ports["control"])
        with relays.Relay(target, relays.frame, look) as relay:
            words = ("--join", token_at(farm, "submit", relay.port), "-o", "out.png")
            process = farm.submit(scene, *words, "--", "+W64", "+H64", cwd=tmp_path)
            assert process.wait() == 0, process.err.seen
        assert cut == ["submitted"]
        assert any("lost the head" in line for line in process.err.seen)
        assert [job["id"] for job in farm.ask("jobs")] == ["j1"]
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", "+W64", "+H64", "+FN8")
    assert differing_pixels(plain, tmp_path / "out.png") == 0


def test_a_scene_sent_again_with_one_file_changed_while_the_old_one_renders(
    tmp_path: Path,
) -> None:
    scene = scene_in(tmp_path / "scene", '#include "ball.inc"\n' + SLOW)
    ball = "sphere {{ <1.4, {}, -1>, 0.5 pigment {{ rgb <0.2, 0.4, 1> }} }}\n"
    (scene / "ball.inc").write_text(ball.format(0.5))
    (scene / "notes.txt").write_text("never changed " * 10_000)
    options = ("+W80", "+H160")
    with farm_of(tmp_path / "farm", 1, 1) as farm:
        old = farm.submit(scene, "-o", "old.png", "--", *options, cwd=tmp_path)
        rendering(farm, old)
        plain_old = plain_povray(scene, tmp_path / "p1.png", "+Iroom.pov", *options, "+FN8")
        (scene / "ball.inc").write_text(ball.format(-0.5))
        new = farm.submit(scene, "-o", "new.png", "--", *options, cwd=tmp_path)
        assert old.wait(120) == 0, old.err.seen
        assert new.wait(120) == 0, new.err.seen
        uploads = [line for line in new.err.seen if "uploading" in line]
        assert len(uploads) == 1 and "uploading 1 file" in uploads[0], "only what has changed"
        scenes = {job["scene"] for job in farm.ask("jobs")}
        assert len(scenes) == 2
    plain_new = plain_povray(scene, tmp_path / "p2.png", "+Iroom.pov", *options, "+FN8")
    assert differing_pixels(plain_old, tmp_path / "old.png") == 0
    assert differing_pixels(plain_new, tmp_path / "new.png") == 0
    assert differing_pixels(plain_old, plain_new) > 0


def test_a_job_deleted_while_a_node_fetches_its_scene_costs_the_node_nothing(
    tmp_path: Path,
) -> None:
    scene, other = scene_in(tmp_path / "scene"), scene_in(tmp_path / "other", QUICK + "\n// 2\n")
    fetching, deleted = threading.Event(), threading.Event()

    def hold(piece: bytes) -> bytes:
        # What begins with 1 says that the transfer begins.
        if piece.startswith(b"1") and not deleted.is_set():
            fetching.set()
            deleted.wait(60)
        return piece

    farm = Farm(tmp_path / "farm")
    try:
        farm.start_head("--tls", "off")
        with relays.Relay(("127.0.0.1", farm.ports["ftp"]), relays.line, hold) as ftp:

            def look(piece: bytes) -> bytes:
                message = relays.message_of(piece)
                if message["type"] == "welcome":
                    message["ftp_port"] = ftp.port
                return relays.frame_of(message)

            target = ("127.0.0.1", farm.ports["control"])
            with relays.Relay(target, relays.frame, look) as control:
                node = farm.start_node("n1", "--join", token_at(farm, "node", control.port))
                first = farm.submit(scene, "--", "+W32", "+H32", cwd=tmp_path)
                assert fetching.wait(60)
                assert farm.control("delete", "--force", "1").returncode == 0
                assert first.wait() == 6
                assert any("deleted by" in line for line in first.err.seen)
                deleted.set()
                second = farm.submit(other, "-o", "two.png", "--", "+W32", "+H32", cwd=tmp_path)
                assert second.wait() == 0, second.err.seen
                (view,) = farm.ask("nodes")
                assert (view["name"], view["reason"], view["bands_done"]) == ("n1", "", 1)
                assert not [line for line in node.err.seen if "failed" in line]
                farm.stop()
    finally:
        deleted.set()
        farm.stop()
    assert (tmp_path / "two.png").exists()
