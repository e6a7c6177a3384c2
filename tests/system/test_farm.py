"""A farm as its users meet it: real daemons, real POV-Ray, real signals, one conversation each."""

from __future__ import annotations

import dataclasses
import json
import signal
import socket
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from clusterray.povray.state_file import read_blocks
from clusterray.wire.trust import JoinToken
from tests.system.harness import (
    NO_CONFIG,
    WAIT_S,
    Farm,
    Process,
    Relay,
    differing_pixels,
    farm_of,
    gone,
    needs_povray,
    plain_povray,
    povrays_of,
)

pytestmark = needs_povray

QUICK = """\
#version 3.7;
global_settings { assumed_gamma 1 }
camera { location <0, 1.5, -4> look_at 0 }
light_source { <3, 5, -4> rgb 1 }
plane { y, -1 pigment { checker rgb 0.9 rgb 0.2 } finish { reflection 0.2 } }
sphere { 0, 1 pigment { rgb <1, 0.5, 0.2> } finish { phong 0.8 } }
"""
SLOW = QUICK.replace(
    "sphere { 0, 1",
    "isosurface { function { x*x + y*y + z*z - 1 + 0.2*sin(30*x)*sin(31*y)*sin(29*z) }"
    " contained_by { sphere { 0, 1.3 } } max_gradient 400 accuracy 0.0000001",
)
"""Takes about ten seconds at 160x480 on one core: long enough to do something meanwhile."""

GRAINY = QUICK.replace("checker rgb 0.9 rgb 0.2", "granite scale 0.001").replace(
    "rgb <1, 0.5, 0.2>", "granite scale 0.001"
)
"""Compresses badly, so that its tiles are large beside anything that is said about them."""


def scene_in(folder: Path, text: str = QUICK, name: str = "room.pov") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, "utf-8")
    return folder


def rendering(farm: Farm, submit: Process, job: str = "j1") -> dict[str, object]:
    """Wait until pixels of the job are on their way."""
    submit.err.wait_for("is submitted")
    answer = farm.wait_until(
        ["show", job], lambda shown: shown["job"]["pixels_done"] > 0, f"{job} renders"
    )
    assert isinstance(answer, dict)
    return answer


def test_a_folder_in_the_picture_out(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "a scène with späces")
    with farm_of(tmp_path / "farm", 1, 2) as farm:
        out = tmp_path / "out"
        out.mkdir()
        words = ("--width", "97", "--height", "131", "-o", str(out), "--", "+A0.3")
        process = farm.submit(scene, *words, cwd=tmp_path)
        assert process.wait() == 0, process.err.seen
        assert process.out.seen == [str(out / "room.png")]
    plain = plain_povray(
        scene, tmp_path / "plain.png", "+Iroom.pov", "+W97", "+H131", "+A0.3", "+FN8"
    )
    assert differing_pixels(plain, out / "room.png") == 0
    with Image.open(plain) as mine, Image.open(out / "room.png") as theirs:
        assert mine.info["gamma"] == theirs.info["gamma"]
        assert mine.info.get("srgb") == theirs.info.get("srgb")


@pytest.mark.slow
def test_grey_and_a_region(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene")
    with farm_of(tmp_path / "farm", 2) as farm:
        size = ("+W120", "+H100", "+A0.3")
        words = ("--region", "37,41,99,70", "-o", "crop.png", "--", *size)
        region = farm.submit(scene, *words, cwd=tmp_path)
        assert region.wait() == 0, region.err.seen
        grey = farm.submit(scene, "-o", "grey.png", "--", *size, "+FNg", cwd=tmp_path)
        assert grey.wait() == 0, grey.err.seen
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", *size, "+FN8")
    with Image.open(plain) as whole:
        whole.crop((37, 41, 99, 70)).save(tmp_path / "wanted.png")
    assert differing_pixels(tmp_path / "wanted.png", tmp_path / "crop.png") == 0
    plain_grey = plain_povray(scene, tmp_path / "pg.png", "+Iroom.pov", *size, "+FNg")
    assert differing_pixels(plain_grey, tmp_path / "grey.png") == 0


def test_a_scene_that_does_not_parse_fails_at_once_and_the_farm_goes_on(tmp_path: Path) -> None:
    bad = scene_in(tmp_path / "bad", QUICK + "\nsphere { 0, 1 pigmint { } }\n", "bad.pov")
    # Behind a condition, or the submitter itself would refuse it.
    walls = '#if (1) #include "walls.inc" #end\n'
    lost = scene_in(tmp_path / "lost", walls + QUICK, "lost.pov")
    good = scene_in(tmp_path / "good")
    with farm_of(tmp_path / "farm", 1) as farm:
        size = ("--width", "40", "--height", "40")
        failing = farm.submit(bad, *size, cwd=tmp_path)
        missing = farm.submit(lost, *size, cwd=tmp_path)
        fine = farm.submit(good, *size, cwd=tmp_path)
        assert failing.wait() == 4
        said = "\n".join(failing.err.seen)
        assert "bad.pov:8" in said
        assert "pigmint" in said
        assert missing.wait() == 4
        assert "walls.inc" in "\n".join(missing.err.seen)
        assert fine.wait() == 0, fine.err.seen
        assert not failing.out.seen
    assert not (tmp_path / "bad.png").exists()


@pytest.mark.slow
def test_a_node_killed_in_the_middle_costs_nothing_but_time(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", SLOW)
    size = ("+W160", "+H480")
    with farm_of(tmp_path / "farm", 1, 1) as farm:
        process = farm.submit(scene, "-o", "out.png", "--", *size, cwd=tmp_path)
        shown: Any = rendering(farm, process)
        victim = farm.nodes[shown["bands"][0]["attempts"][0]["node"]]
        povrays = povrays_of(victim)
        assert povrays
        victim.signal(signal.SIGKILL)
        assert gone(povrays, 3), "a node that died left POV-Ray behind"
        farm.start_node("late")
        assert process.wait(120) == 0, process.err.seen
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", *size, "+FN8")
    assert differing_pixels(plain, tmp_path / "out.png") == 0


@pytest.mark.slow
def test_what_was_finished_outlives_povray_and_the_node(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", SLOW)
    (scene / "job.yaml").write_text("bands: 1\n")
    options = ("+W160", "+H192", "+A0.3", "+R2")
    attempts = tmp_path / "farm" / "node-n1" / "attempts"

    def finished(_shown: object) -> bool:
        states = list(attempts.glob("*/blocks.pov-state"))
        return bool(states) and len(list(read_blocks(states[0]))) >= 3

    with farm_of(tmp_path / "farm", 1) as farm:
        process = farm.submit(scene, "-o", "out.png", "--", *options, cwd=tmp_path)
        process.err.wait_for("is submitted")
        farm.wait_until(["show", "j1"], finished, "three blocks are finished")
        node = farm.nodes["n1"]
        (povray,) = povrays_of(node, options[0])
        povray.kill()
        node.err.wait_for("going on from what it had finished")
        node.signal(signal.SIGKILL)
        node.wait()
        again = farm.start_node("n1")
        again.err.wait_for("blocks are kept from an earlier run")
        assert process.wait(120) == 0, process.err.seen
        (job,) = farm.ask("jobs")
        assert job["state"] == "done"
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", *options, "+FN8")
    assert differing_pixels(plain, tmp_path / "out.png") == 0


@pytest.mark.slow
def test_a_node_that_joins_in_the_middle_gets_work_at_once(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", SLOW)
    # So that bands still wait when the late node has got ready.
    (scene / "job.yaml").write_text("bands: 15\n")
    with farm_of(tmp_path / "farm", 1) as farm:
        process = farm.submit(scene, "--", "+W160", "+H480", cwd=tmp_path)
        rendering(farm, process)
        late = farm.start_node("late")
        late.err.wait_for("rendered")
        assert process.wait(120) == 0, process.err.seen
        assert {node["name"]: node["bands_done"] > 0 for node in farm.ask("nodes")} == {
            "n1": True,
            "late": True,
        }


@pytest.mark.slow
def test_a_drained_node_hands_back_and_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", SLOW)
    with farm_of(tmp_path / "farm") as farm:
        first = farm.start_node("first", "--drain-s", "0.2")
        process = farm.submit(scene, "-o", "out.png", "--", "+W160", "+H480", cwd=tmp_path)
        rendering(farm, process)
        povrays = povrays_of(first)
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        assert gone(povrays, 3)
        second = farm.start_node("second", "--drain-s", "600")
        farm.wait_until(["nodes"], lambda nodes: any(n["state"] == "busy" for n in nodes), "busy")
        second.err.wait_for("fetching scene")
        second.signal(signal.SIGTERM)
        second.err.wait_for("draining")
        second.signal(signal.SIGTERM)
        assert second.wait(10) == 0
        farm.start_node("third")
        assert process.wait(120) == 0, process.err.seen


def test_cancel_stops_every_povray_and_ends_the_submitter_with_six(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", SLOW)
    with farm_of(tmp_path / "farm", 1, 1) as farm:
        process = farm.submit(scene, "--", "+W160", "+H960", cwd=tmp_path)
        rendering(farm, process)
        povrays = [child for node in farm.nodes.values() for child in povrays_of(node)]
        assert farm.control("cancel", "1").returncode == 0
        assert gone(povrays, 3)
        assert process.wait() == 6
        assert farm.control("cancel", "1").returncode == 3
    assert not (tmp_path / "room.png").exists()


@pytest.mark.slow
def test_ctrl_c_lets_the_job_go_on_and_says_how_to_get_it(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", SLOW)
    with farm_of(tmp_path / "farm", 2) as farm:
        process = farm.submit(scene, "--", "+W80", "+H240", cwd=tmp_path)
        rendering(farm, process)
        process.signal(signal.SIGINT)
        assert process.wait() == 130
        said = "\n".join(process.err.seen)
        assert "clusterray fetch j1" in said
        assert "clusterray cancel j1" in said
        farm.wait_until(["show", "1"], lambda s: s["job"]["state"] == "done", "the job ends")
        fetched = farm.control("fetch", "1", "-o", str(tmp_path / "later.png"))
        assert fetched.returncode == 0, fetched.stderr
    with Image.open(tmp_path / "later.png") as picture:
        assert picture.size == (80, 240)


@pytest.mark.slow
def test_commands_show_jobs_and_nodes(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene")
    with farm_of(tmp_path / "farm", 1) as farm:
        words = ("--detach", "--width", "64", "--height", "200")
        process = farm.submit(scene, *words, cwd=tmp_path)
        assert process.wait() == 0
        assert process.out.seen == ["j1"]
        farm.wait_until(["show", "j1"], lambda s: s["job"]["state"] == "done", "the job ends")
        (job,) = farm.ask("jobs")
        assert (job["id"], job["width"], job["height"]) == ("j1", 64, 200)
        assert "@" in job["owner"]
        shown = farm.ask("show", "j1")
        assert sum(b["rect"][3] - b["rect"][1] for b in shown["bands"]) == 200
        sources = {row["name"]: row["source"] for row in shown["settings"]}
        assert "--width" in sources["Width"]
        assert "n1" in farm.control("nodes").stdout
        assert "j1" in farm.control("jobs").stdout
        assert farm.control("show", "j9").returncode == 3


@pytest.mark.slow
def test_wished_bands_priority_and_title_of_job_yaml(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene")
    (scene / "job.yaml").write_text(
        "scene: room.pov\nwidth: 48\nheight: 160\nbands: 4\npriority: 7\ntitle: The room\n"
        "antialias: 0.3\noutput: view.png\n",
        "utf-8",
    )
    with farm_of(tmp_path / "farm", 1) as farm:
        assert farm.submit(scene, cwd=tmp_path).wait() == 0
        shown = farm.ask("show", "1")
        assert len(shown["bands"]) == 4
        assert (shown["job"]["title"], shown["job"]["priority"]) == ("The room", 7)
    assert (tmp_path / "view.png").exists()


@pytest.mark.slow
def test_a_scene_crosses_once_for_each_node_and_not_at_all_the_second_time(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene")
    with farm_of(tmp_path / "farm", 1) as farm:
        node = farm.nodes["n1"]
        for _ in range(2):
            words = ("--width", "32", "--height", "300", "--", "+A0.3")
            assert farm.submit(scene, *words, cwd=tmp_path).wait() == 0
        fetched = [line for line in node.err.seen if "fetching scene" in line]
        rendered = [line for line in node.err.seen if "rendered" in line]
    assert len(fetched) == 1
    assert len(rendered) == 2


@pytest.mark.slow
def test_tiles_travel_by_ftp_and_not_by_the_control_connection(tmp_path: Path) -> None:
    """All that a node says by control is far less than its tiles: they came another way."""
    scene = scene_in(tmp_path / "scene", GRAINY)
    farm = Farm(tmp_path / "farm")
    try:
        farm.start_head()
        token = JoinToken.decode((farm.state / "node.token").read_text())
        with Relay(("127.0.0.1", token.port)) as relay:
            join = dataclasses.replace(token, port=relay.port).encode()
            farm.start_node("n1", "--join", join)
            process = farm.submit(scene, "--", "+W400", "+H400", cwd=tmp_path)
            assert process.wait() == 0, process.err.seen
            farm.stop()
        picture = (tmp_path / "room.png").stat().st_size
        assert 0 < relay.from_peer < picture / 10
    finally:
        farm.stop()


def test_the_head_remembers_its_ports_and_bars_a_second_head(tmp_path: Path) -> None:
    farm = Farm(tmp_path / "farm")
    try:
        head = farm.start_head()
        ports = farm.ports
        pid = head.popen.pid
        words = [*NO_CONFIG, "--state", str(farm.state)]
        second = Process("clusterray.cli.server", words)
        assert second.wait() == 1
        assert f"pid {pid}" in second.err.seen[-1]
        assert head.stop() == 0
        farm.start_head()
        assert farm.ports == ports
    finally:
        farm.stop()


@pytest.mark.slow
def test_the_page_and_its_health(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene")
    with farm_of(tmp_path / "farm", 1) as farm:
        assert farm.submit(scene, "--width", "64", "--height", "64", cwd=tmp_path).wait() == 0
        unjudged = ssl._create_unverified_context()
        base = f"https://127.0.0.1:{farm.ports['http']}"
        with urllib.request.urlopen(f"{base}/healthz", timeout=10, context=unjudged) as answer:
            assert json.load(answer)["ok"] is True
        token = (farm.state / "submit.token").read_text().strip()
        bearer = {"Authorization": f"Bearer {token}"}
        page_of_farm = urllib.request.Request(base, headers=bearer)
        with urllib.request.urlopen(page_of_farm, timeout=10, context=unjudged) as answer:
            page = answer.read().decode()
        assert "room" in page
        assert "done" in page
        picture = urllib.request.Request(f"{base}/preview/j1.png", headers=bearer)
        with urllib.request.urlopen(picture, timeout=10, context=unjudged) as answer:
            assert answer.read(8) == b"\x89PNG\r\n\x1a\n"


def test_a_node_starts_before_its_head_and_survives_its_restart(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene")
    with farm_of(tmp_path / "farm", 1) as farm:
        assert farm.head is not None
        farm.head.kill()
        farm.start_head()
        process = farm.submit(scene, "--width", "32", "--height", "32", cwd=tmp_path)
        assert process.wait() == 0, process.err.seen


def test_local_uses_the_same_three_programs_and_leaves_nothing(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", SLOW)
    words = [str(scene), "--local", "2", "-o", "out.png", "--", "+W160", "+H480"]
    process = Process("clusterray.cli.submit", words, cwd=tmp_path)
    try:
        process.err.wait_for("bands")
        children = psutil.Process(process.popen.pid).children(recursive=True)
        commands = [child.cmdline() for child in children]
        programs = {word for words in commands for word in words if "clusterray.cli" in word}
        assert programs == {"clusterray.cli.server", "clusterray.cli.node"}
        process.signal(signal.SIGINT)
        assert process.wait() == 130
        assert gone(children, 3)
    finally:
        process.kill()


def test_daemons_tell_systemd_when_they_are_ready_and_when_they_stop(tmp_path: Path) -> None:
    state, path = tmp_path / "head", tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(WAIT_S)
        env = {"NOTIFY_SOCKET": str(path)}
        head = Process("clusterray.cli.server", [*NO_CONFIG, "--state", str(state)], env=env)
        try:
            head.out.wait_for("ready ")
            assert manager.recv(200) == b"READY=1"
            words = ["--join", str(state / "node.token"), "--work", str(tmp_path / "node")]
            node = Process("clusterray.cli.node", [*NO_CONFIG, *words], env=env)
            try:
                assert manager.recv(200) == b"READY=1"
                assert node.stop() == 0
                assert manager.recv(200) == b"STOPPING=1"
            finally:
                node.kill()
            assert head.stop() == 0
            assert manager.recv(200) == b"STOPPING=1"
        finally:
            head.kill()
