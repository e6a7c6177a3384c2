"""A node that is given one hostile scene after the other: each fails, and the next one renders."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterray.node.sandbox import Sandbox
from clusterray.wire.protocol import Done, Failed, Lease, Uploading
from tests.hostile.attacks import SCENES, SECRET, furnish, hostile_scene
from tests.hostile.test_files import SIDE
from tests.hostile.test_limits import ENDLESS_PARSE, LARGE_FILE, MIB, MUCH_MEMORY
from tests.node.conftest import head
from tests.node.doubles import SPHERES, HeadDouble, make_scene
from tests.node.test_daemon import TOP, StartNode, finish_band, start_node

__all__ = ["head", "start_node"]

LEFT = ("secret.inc", "secret.png", "secret.ttf", "secret.txt", "victim.txt")
GREEDY = {
    "time": (ENDLESS_PARSE, "cpu_limit_s"),
    "memory": (MUCH_MEMORY, "memory_limit_bytes"),
    "disk": (LARGE_FILE, "file_limit_bytes"),
}


def hostile_lease(head: HeadDouble, folder: Path, name: str, text: str) -> Lease:
    """Stage a hostile scene and make a lease of it."""
    (folder / name).mkdir()
    scene = hostile_scene(folder / name, text, SIDE)
    scene.tar = scene.tar.rename(folder / f"{name}.tar")
    return head.lease(scene, (0, 0, SIDE, SIDE), name)


@pytest.mark.slow
def test_every_attack_fails_with_its_reason_and_the_next_scene_renders(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, wall: Sandbox
) -> None:
    out = tmp_path / "out"
    furnish(out)
    start_node(sandbox=wall.wall.value)
    talk = head.meet()
    for number, attack in enumerate(SCENES):
        text = attack.text.replace("{out}", str(out))
        talk.send(hostile_lease(head, tmp_path, f"h{number}", text))
        if not attack.fails:
            finish_band(talk)
            continue
        failed = talk.expect(Failed)
        assert failed.fault == "scene", attack.name
        assert (failed.file, failed.line > 0) == ("main file.pov", True), failed
        assert failed.message.startswith(("Cannot open", "Cannot find")), failed
        assert SECRET not in failed.text
    talk.send(head.lease(make_scene(tmp_path, SPHERES), TOP, "good"))
    assert finish_band(talk).attempt == "good"
    assert sorted(path.name for path in out.iterdir()) == sorted(LEFT)
    assert (out / "victim.txt").read_text() == "untouched\n"


@pytest.mark.slow
def test_greed_fails_with_the_limits_name_and_the_next_scene_renders(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, wall: Sandbox
) -> None:
    start_node(
        sandbox=wall.wall.value,
        memory_limit_bytes=60 * MIB,
        file_limit_bytes=MIB,
        cpu_limit_s=1.0,
    )
    talk = head.meet()
    for name, (text, setting) in GREEDY.items():
        talk.send(hostile_lease(head, tmp_path, name, text))
        assert setting in talk.expect(Failed).message
    talk.send(head.lease(make_scene(tmp_path, SPHERES), TOP, "good"))
    assert isinstance(talk.expect(Uploading), Uploading)
    assert talk.expect(Done).attempt == "good"
