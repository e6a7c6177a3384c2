"""What a node does when its machine runs short, its POV-Ray lies, or its head refuses it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from clusterray.node.fitness import Workplace
from clusterray.wire.protocol import Bye, Drop, Failed, HandBack, Unfit, Uploading
from tests.node import stand_ins
from tests.node.doubles import POVRAY, SPHERES, Conversation, HeadDouble, make_scene
from tests.node.machines import little_memory, small_disk, without_roots_privilege
from tests.node.test_daemon import TOP, StartNode, finish_band, start_node

__all__ = ["start_node"]

MIB = 1 << 20
BLACK = "#version 3.7;\nglobal_settings { assumed_gamma 1 }\ncamera { location -3*z look_at 0 }\n"
GREEDY = BLACK + "#declare N = 0;\n#while (N < 9000000) sphere { N, 1 } #declare N = N + 1; #end\n"


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterray.node.worker.LOOK_S", 0.1)


def fit_again(talk: Conversation) -> None:
    assert talk.expect(Unfit).reason == ""


# ---------------------------------------------------------------- disk and permissions


def test_a_node_whose_disk_is_full_takes_no_bands_until_there_is_room(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    with small_disk(tmp_path / "disk", "12m") as disk:
        node = start_node(work=disk.path / "work", least_free_bytes=4 * MIB)
        talk = head.meet()
        assert talk.hello.node is not None and talk.hello.node.unfit == ""
        hog = disk.fill(3 * MIB)
        talk.send(head.lease(scene, TOP, "a1"))
        assert "the disk of this node is full: 3 MiB are free" in talk.expect(Unfit).reason
        assert talk.expect(HandBack).attempt == "a1"
        talk.hang_up()
        back = head.meet()
        assert back.hello.node is not None and "4 are needed" in back.hello.node.unfit
        hog.unlink()
        fit_again(back)
        back.send(head.lease(scene, TOP, "a2"))
        assert finish_band(back).attempt == "a2"
        node.kill()


def test_a_band_that_fills_the_disk_is_the_nodes_failure_and_gives_the_room_back(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    """POV-Ray keeps 20 bytes a pixel of what it has finished: here more than there is."""
    scene = make_scene(tmp_path, BLACK, width=600, height=600)
    with small_disk(tmp_path / "disk", "6m") as disk:
        node = start_node(work=disk.path / "work", least_free_bytes=2 * MIB)
        talk = head.meet()
        talk.send(head.lease(scene, (0, 0, 600, 600)))
        reason = talk.expect(Unfit).reason
        assert "the disk of this node is full" in reason
        failed = talk.expect(Failed)
        assert failed.fault == "node" and "the disk of this node is full" in failed.message
        fit_again(talk)
        talk.send(head.lease(scene, (0, 0, 32, 32), "a2"))
        assert finish_band(talk).attempt == "a2"
        node.kill()


def test_what_is_kept_for_later_makes_room_for_what_is_wanted_now(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    with small_disk(tmp_path / "disk", "12m") as disk:
        node = start_node(work=disk.path / "work", least_free_bytes=4 * MIB)
        talk = head.meet()
        talk.send(head.lease(scene, TOP, "a1"))
        finish_band(talk)
        (kept,) = (disk.path / "work" / "scenes").glob("?" * 64)
        while list((disk.path / "work" / "attempts").iterdir()):
            talk.link.receive(0.02)
        disk.fill(4 * MIB - 1000)
        talk.send(head.lease(scene, TOP, "a2"))
        finish_band(talk)
        assert head.stage.served == ["scene.tar", "scene.tar"], "it had to go, and came again"
        assert kept.exists()
        node.kill()


def test_a_disk_that_turns_read_only_under_the_node_is_said_and_waited_for(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    with small_disk(tmp_path / "disk", "12m") as disk:
        node = start_node(work=disk.path / "work", least_free_bytes=MIB)
        talk = head.meet()
        with disk.read_only(disk.path / "work" / "attempts"):
            talk.send(head.lease(scene, TOP, "a1"))
            assert "Read-only file system" in talk.expect(Unfit).reason
            assert talk.expect(HandBack).attempt == "a1"
        fit_again(talk)
        talk.send(head.lease(scene, TOP, "a2"))
        assert finish_band(talk).attempt == "a2"
        node.kill()


@pytest.mark.parametrize("fault", ["read-only", "permissions"])
def test_a_work_folder_that_cannot_be_written_ends_the_start_and_is_named(
    head: HeadDouble, tmp_path: Path, fault: str
) -> None:
    words = [sys.executable, "-m", "clusterray.cli.node", "--config", "/dev/null"]
    words += ["--join", head.token, "--work"]
    if fault == "permissions":
        work = tmp_path / "work"
        work.mkdir(mode=0o500)
        start = [*without_roots_privilege(), *words, str(work)]
        done = subprocess.run(start, capture_output=True, text=True, check=False)
    else:
        with small_disk(tmp_path / "disk", "1m") as disk:
            work = disk.path / "work"
            work.mkdir()
            with disk.read_only(work):
                start = [*words, str(work)]
                done = subprocess.run(start, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    reason = "Permission denied" if fault == "permissions" else "Read-only file system"
    assert str(work) in done.stderr and reason in done.stderr


def test_a_folder_that_went_away_is_trouble(tmp_path: Path) -> None:
    (tmp_path / "attempts").mkdir()
    workplace = Workplace(tmp_path, (tmp_path / "attempts",), 0)
    assert workplace.trouble() == ""
    assert list((tmp_path / "attempts").iterdir()) == []
    (tmp_path / "attempts").rmdir()
    assert "attempts" in workplace.trouble()
    assert "full" in Workplace(tmp_path, (), 1 << 60).trouble()


# ---------------------------------------------------------------- memory


@pytest.mark.slow
def test_a_povray_that_the_kernel_kills_for_want_of_memory_is_the_nodes_failure(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, GREEDY)
    with little_memory(64 * MIB) as limit:
        node = start_node(povray=stand_ins.stand_in(tmp_path, f'{limit}\nexec "{POVRAY}" "$@"'))
        talk = head.meet()
        talk.send(head.lease(scene, TOP))
        failed = talk.expect(Failed)
        assert failed.fault == "node"
        assert failed.message == (
            "POV-Ray was ended by SIGKILL, as the kernel does when memory runs out"
        )
        node.kill()


def test_a_povray_that_is_refused_memory_does_not_make_it_the_scenes_fault(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    """It says "Parse Error" with file and line; on a larger node the scene parses.

    Where it runs short in a thread of its own it is aborted instead, and says nothing of a line.
    """
    scene = make_scene(tmp_path, GREEDY)
    behaviour = f'ulimit -v 120000; exec "{POVRAY}" "$@"'
    start_node(povray=stand_ins.stand_in(tmp_path, behaviour))
    talk = head.meet()
    talk.send(head.lease(scene, TOP))
    failed = talk.expect(Failed)
    assert failed.fault == "node", failed


# ---------------------------------------------------------------- pictures that are none


@pytest.mark.parametrize("behaviour", ["nothing rendered", "only black", "another size"])
def test_a_povray_that_says_all_is_well_is_not_believed(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, behaviour: str
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    Image.new("RGB", (48, 96)).save(tmp_path / "black.png")
    scripts = {
        "nothing rendered": (stand_ins.NOTHING, "rendered 0 of 1536 pixels"),
        "only black": (f'cp "{tmp_path}/black.png" "$out"', "rendered 0 of 1536 pixels"),
        "another size": (stand_ins.ANOTHER_SIZE, "480x960 pixels, and 48x96 are due"),
    }
    script, words = scripts[behaviour]
    start_node(povray=stand_ins.stand_in(tmp_path, script))
    talk = head.meet()
    talk.send(head.lease(scene, TOP))
    failed = talk.expect(Failed)
    assert failed.fault == "node" and words in failed.message


def test_a_picture_that_is_black_by_right_passes(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, BLACK)
    start_node()
    talk = head.meet()
    talk.send(head.lease(scene, TOP))
    assert finish_band(talk).attempt == "a1"
    with Image.open(head.stage.folder / "a1.part") as tile:
        assert tile.size == (48, 32) and tile.getbbox() is None


# ---------------------------------------------------------------- what the head says


def test_a_tile_that_the_head_wants_once_more_is_announced_and_sent_again(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    start_node()
    talk = head.meet()
    talk.send(head.lease(scene, TOP))
    first = talk.expect(Uploading)
    assert talk.receive().attempt == "a1"  # type: ignore[union-attr]
    keep = head.keep("a1")
    talk.send(keep)
    again = talk.expect(Uploading)
    assert (again.size, again.sha256) == (first.size, first.sha256)
    finish = talk.receive()
    assert finish.attempt == "a1"  # type: ignore[union-attr]
    one, other = head.stage.folder / "a1.part", head.stage.folder / keep.write.path
    assert one.read_bytes() == other.read_bytes()
    talk.send(Drop("a1", "that is enough"))


def test_a_node_that_is_refused_after_it_was_taken_in_asks_less_and_less_often(
    head: HeadDouble, start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    """As the copy of another node is; each time at once would be a storm for both."""
    with caplog.at_level(logging.WARNING):
        start_node()
        instances = set()
        for _ in range(4):
            talk = head.meet()
            instances.add(talk.hello.instance)
            talk.send(Bye("another node with the same uuid is connected", retry=False))
            talk.hang_up()
        head.meet()
    told = [record for record in caplog.records if "the same uuid" in record.message]
    assert len(told) == 1
    assert len(instances) == 1 and instances != {""}
