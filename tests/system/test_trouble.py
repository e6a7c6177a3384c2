"""Nodes that hang, fail, run out of room, are copied or cut off, as the farm's users meet them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.node import stand_ins
from tests.node.machines import small_disk
from tests.system.harness import (
    NO_CONFIG,
    Farm,
    Process,
    differing_pixels,
    farm_of,
    needs_povray,
    plain_povray,
    povrays_of,
)
from tests.system.hosts import hosts
from tests.system.test_farm import SLOW, rendering, scene_in

pytestmark = needs_povray

SIZE = ("+W64", "+H96")


def same_as_plain(folder: Path, scene: Path, out: Path, *options: str) -> bool:
    plain = plain_povray(scene, folder / "plain.png", "+Iroom.pov", *options, "+FN8")
    return differing_pixels(plain, out) == 0


def node_named(farm: Farm, name: str) -> dict[str, object]:
    (found,) = (node for node in farm.ask("nodes") if node["name"] == name)
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
def test_a_node_that_fails_is_kept_off_the_farm_and_forgiven_by_command(tmp_path: Path) -> None:
    """Its POV-Ray breaks after the node has joined, and is whole again later."""
    scene = scene_in(tmp_path / "scene")
    broken = tmp_path / "broken"
    script = f'[ -e "{broken}" ] && {{ echo "no fonts here" >&2; exit 9; }}\n{stand_ins.ITSELF}'
    farm = Farm(tmp_path / "farm")
    try:
        farm.start_head("--node-failed-jobs", "1", "--kept-off-s", "3000")
        farm.start_node("bad", "--povray", stand_ins.stand_in(tmp_path, script))
        farm.nodes["bad"].err.wait_for("joined the farm")
        broken.touch()
        failing = farm.submit(scene, "--", *SIZE, cwd=tmp_path)
        assert failing.wait() == 4
        said = "\n".join(failing.err.seen)
        assert "on bad once, which is kept off the farm" in said and "code 9" in said
        waiting = farm.submit(scene, "-o", "out.png", "--", *SIZE, cwd=tmp_path)
        waiting.err.wait_for("`clusterray nodes --forgive NAME`")
        seen = node_named(farm, "bad")
        assert (seen["state"], seen["failures"]) == ("kept-off", 1)
        assert "kept off the farm for 50 minutes more" in str(seen["reason"])
        assert "kept-off" in farm.control("nodes").stdout
        assert farm.control("nodes", "--forgive", "nobody").returncode == 3
        broken.unlink()
        forgiven = farm.control("nodes", "--forgive", "bad")
        assert forgiven.returncode == 0, forgiven.stderr
        assert "nothing is held against node bad" in forgiven.stdout
        assert waiting.wait() == 0, waiting.err.seen
    finally:
        farm.stop()
    assert same_as_plain(tmp_path, scene, tmp_path / "out.png", *SIZE)


@pytest.mark.slow
def test_a_povray_that_hangs_is_stopped_and_its_band_rendered_elsewhere(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene")
    (scene / "job.yaml").write_text("bands: 1\n")
    farm = Farm(tmp_path / "farm")
    try:
        farm.start_head("--parse-s", "6", "--stall-s", "60")
        hung = farm.start_node("hung", "--povray", stand_ins.stand_in(tmp_path, stand_ins.HANG))
        hung.err.wait_for("joined the farm")
        process = farm.submit(scene, "-o", "out.png", "--", *SIZE, cwd=tmp_path)
        hung.err.wait_for("fetching scene")
        farm.start_node("good")
        assert process.wait() == 0, process.err.seen
        (band,) = farm.ask("show", "1")["bands"]
        assert [attempt["node"] for attempt in band["attempts"]] == ["hung", "good"]
        assert "was not parsed in 6 s" in band["attempts"][0]["reason"]
        assert farm.ask("show", "1")["job"]["wasted_pixels"] == 0
        farm.wait_until(["nodes"], lambda _: not povrays_of(hung), "the hung POV-Ray is gone")
    finally:
        farm.stop()
    assert same_as_plain(tmp_path, scene, tmp_path / "out.png", *SIZE)


@pytest.mark.slow
def test_a_node_without_room_is_passed_over_until_it_has_room(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene")
    with small_disk(tmp_path / "disk", "16m") as disk:
        farm = Farm(tmp_path / "farm")
        try:
            farm.start_head()
            words = ("--work", str(disk.path / "work"), "--least-free-bytes", "8MiB")
            small = farm.start_node("small", *words)
            small.err.wait_for("joined the farm")
            hog = disk.fill(1 << 20)
            first = farm.submit(scene, "-o", "out.png", "--", *SIZE, cwd=tmp_path)
            first.err.wait_for("the disk of this node is full")
            assert node_named(farm, "small")["state"] == "unfit"
            farm.start_node("large")
            assert first.wait() == 0, first.err.seen
            assert node_named(farm, "small")["bands_done"] == 0
            assert node_named(farm, "small")["failures"] == 0
            farm.nodes.pop("large").stop()
            hog.unlink()
            farm.wait_until(
                ["nodes"], lambda _: node_named(farm, "small")["state"] == "idle", "it has room"
            )
            again = farm.submit(scene, "-o", "again.png", "--", *SIZE, cwd=tmp_path)
            assert again.wait() == 0, again.err.seen
        finally:
            farm.stop()
    assert same_as_plain(tmp_path, scene, tmp_path / "out.png", *SIZE)


@pytest.mark.slow
def test_a_copied_work_folder_is_found_out_and_the_job_goes_on(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", SLOW)
    with farm_of(tmp_path / "farm", 1) as farm:
        original = farm.nodes["n1"]
        original.err.wait_for("joined the farm")
        copy = farm.folder / "node-copy"
        copy.mkdir()
        shutil.copy(farm.folder / "node-n1" / "uuid", copy / "uuid")
        process = farm.submit(scene, "-o", "out.png", "--", "+W160", "+H640", cwd=tmp_path)
        rendering(farm, process)
        farm.start_node("copy")
        # Which of the two is refused depends on who was last; the one that is says what to do.
        original.err.wait_for("delete the file 'uuid'")
        assert process.wait(120) == 0, process.err.seen
        (node,) = farm.ask("nodes")
        assert node["name"] == "copy"
        joined = [line for line in original.err.seen if "joined the farm" in line]
        assert len(joined) < 12, "the two do not oust each other for ever"
        # It may still render what it was leased before, and would end that first.
        original.kill()
        (farm.folder / "node-n1" / "uuid").unlink()
        farm.start_node("n1").err.wait_for("joined the farm")
        farm.wait_until(["nodes"], lambda nodes: len(nodes) == 2, "both are there")
    assert same_as_plain(tmp_path, scene, tmp_path / "out.png", "+W160", "+H640")


# ---------------------------------------------------------------- the network


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "lost"), [(5.0, False), (20.0, True), (None, True)], ids=["5 s", "20 s", "for good"]
)
def test_a_host_that_is_cut_off_while_it_renders(
    tmp_path: Path, seconds: float | None, lost: bool
) -> None:
    """Five seconds cost nothing; after sixteen of silence its band is another's."""
    scene = scene_in(tmp_path / "scene", SLOW)
    (scene / "job.yaml").write_text("bands: 2\n")
    options = ("+W96", "+H256", "+A0.3", "+R3")
    state = tmp_path / "farm" / "head"
    running: list[Process] = []
    with hosts(["head", "one", "two"]) as (head_host, one, two):
        try:
            words = [*NO_CONFIG, "--state", str(state), "--listen", "0.0.0.0"]
            words += ["--advertise", head_host.address]
            head = Process("clusterray.cli.server", words, prefix=head_host.prefix)
            running.append(head)
            head.out.wait_for("ready ")
            nodes = {}
            for host in (one, two):
                words = [*NO_CONFIG, "--join", str(state / "node.token"), "--threads", "1"]
                words += ["--name", host.name, "--work", str(tmp_path / host.name)]
                nodes[host.name] = Process("clusterray.cli.node", words, prefix=host.prefix)
                running.append(nodes[host.name])
                nodes[host.name].err.wait_for("joined the farm")
            token = (state / "submit.token").read_text().strip()
            words = ["--join", token, str(scene), "-o", "out.png", "--", *options]
            submit = Process("clusterray.cli.submit", words, cwd=tmp_path, prefix=head_host.prefix)
            running.append(submit)
            # Its POV-Ray runs, so the files it needs have come.
            give_up_at = time.monotonic() + 60
            while not povrays_of(nodes[two.name]):
                assert time.monotonic() < give_up_at
            two.pull_the_cable()
            if seconds is not None:
                # The length of the cut is the case itself: there is nothing to wait for meanwhile.
                time.sleep(seconds)
                two.put_the_cable_in()
            assert submit.wait(240) == 0, submit.err.seen
            ask = [sys.executable, "-m", "clusterray.cli.control", "show", "1", "--json"]
            ask = [*head_host.prefix, *ask, "--join", token]
            shown = subprocess.run(ask, capture_output=True, text=True, check=True)
            tries = [a for band in json.loads(shown.stdout)["bands"] for a in band["attempts"]]
            gone = [a for a in tries if a["state"] == "lost"]
            accepted = [a for a in tries if a["state"] == "accepted"]
            # One with nothing to do may have begun the silent one's band before that was lost.
            assert (len(accepted), len(gone)) == (2, 1 if lost else 0)
            assert lost or len(tries) == 2
            assert all("nothing was heard" in attempt["reason"] for attempt in gone)
            if lost and seconds is not None:
                nodes[two.name].err.wait_for("dropped: nothing was heard")
        finally:
            for process in reversed(running):
                if process.popen.poll() is None:
                    process.kill()
    assert same_as_plain(tmp_path, scene, tmp_path / "out.png", *options)
