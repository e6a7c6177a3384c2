"""From the folder to the picture with real daemons and POV-Ray, and what may go wrong."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.commands import (
    SMALL,
    HeadCommand,
    head_process,
    node_process,
    run,
    running,
    scene_folder,
)

pytestmark = pytest.mark.skipif(
    shutil.which("povray") is None, reason="povray is not installed: apt install povray"
)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeadCommand]:
    """A head with one node."""
    here = tmp_path_factory.mktemp("farm")
    with head_process(here / "state") as found, node_process(found, here / "work") as node:
        node.wait_for("joined the farm")
        yield found


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        image.load()
        return image.size


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_folder_becomes_a_picture(head: HeadCommand, tmp_path: Path) -> None:
    scene_folder(tmp_path)
    ended = head.run("clusterray-submit", "scene", *SMALL, cwd=tmp_path)
    assert (ended.code, ended.stdout) == (0, "room.png\n"), ended.stderr
    assert "uploading 1 file" in ended.stderr
    assert " took " in ended.stderr.splitlines()[-1]
    assert size_of(tmp_path / "room.png") == (64, 48)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "room.png").stat().st_mode) == 0o666 & ~umask
    assert names(tmp_path) == {"scene", "room.png"}


def test_names_with_spaces_and_other_letters(head: HeadCommand, tmp_path: Path) -> None:
    scene = scene_folder(tmp_path, "Räume (alt)", **{"Große Kugel": '#include "Farbe 1.inc"\n'})
    (scene / "Farbe 1.inc").write_text("background { rgb 1 } camera { location -z }\n")
    (tmp_path / "Bilder für Zoë").mkdir()
    words = ("Räume (alt)", *SMALL, "-o", "Bilder für Zoë")
    ended = head.run("clusterray-submit", *words, cwd=tmp_path)
    assert (ended.code, ended.stdout) == (0, "Bilder für Zoë/Große Kugel.png\n"), ended.stderr
    assert names(tmp_path / "Bilder für Zoë") == {"Große Kugel.png"}


def test_a_region_has_its_own_size(head: HeadCommand, tmp_path: Path) -> None:
    scene = scene_folder(tmp_path) / "room.pov"
    words = (scene, *SMALL, "--region", "10,20,30,41", "-o", "part.png")
    assert head.run("clusterray-submit", *words, cwd=tmp_path).code == 0
    assert size_of(tmp_path / "part.png") == (20, 21)


def test_a_fault_of_the_scene_is_4_with_file_and_line(head: HeadCommand, tmp_path: Path) -> None:
    scene_folder(tmp_path, room="#version 3.7;\nsphere {")
    ended = head.run("clusterray-submit", "scene", *SMALL, cwd=tmp_path)
    assert (ended.code, ended.stdout) == (4, "")
    assert ended.stderr.splitlines()[-1].startswith("clusterray-submit: scene/room.pov:2: ")
    # POV-Ray wraps its text where it likes.
    assert "Parse Error" in " ".join(ended.stderr.split())
    assert names(tmp_path) == {"scene"}


@pytest.mark.slow
def test_detached_and_fetched_later(head: HeadCommand, tmp_path: Path) -> None:
    scene_folder(tmp_path)
    job = head.run("clusterray-submit", "scene", *SMALL, "--detach", cwd=tmp_path).stdout.strip()
    # A second submit of the same folder waits until the first is done: one node, jobs by age.
    assert head.run("clusterray-submit", "scene", *SMALL, cwd=tmp_path).code == 0
    ended = head.run("clusterray", "fetch", job, "-o", "later.png", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    fetched = json.loads(ended.stdout)
    fields = {"job", "path", "size", "sha256", "partial", "pixels_done", "pixels_total"}
    assert set(fetched) == fields
    assert (fetched["job"], fetched["path"]) == (job, "later.png")
    assert fetched["size"] == (tmp_path / "later.png").stat().st_size
    assert (tmp_path / "later.png").read_bytes() == (tmp_path / "room.png").read_bytes()
    assert head.run("clusterray", "fetch", job, "-o", "later.jpg", cwd=tmp_path).code == 2
    assert head.run("clusterray", "fetch", job, "-o", "no/later.png", cwd=tmp_path).code == 1


@pytest.mark.slow
def test_a_disk_full_at_the_end_is_1_and_the_picture_can_be_fetched(
    tmp_path: Path, tiny_disk: Path
) -> None:
    scene_folder(tmp_path)
    with head_process(tmp_path / "state") as head:
        words = ("scene", *SMALL, "-o", tiny_disk, "--join", head.token("submit"))
        with running("clusterray-submit", *words, cwd=tmp_path) as submit:
            job = submit.wait_for("is submitted").split()[1]
            ballast = tiny_disk / "ballast"
            ballast.write_bytes(bytes(os.statvfs(tiny_disk).f_bavail * 4096))
            with node_process(head, tmp_path / "work"):
                ended = submit.ended()
        assert (ended.code, ended.stdout) == (1, "")
        assert "disk/room.png: No space left on device" in ended.stderr
        assert f"clusterray fetch {job} -o" in ended.stderr
        assert names(tiny_disk) == {"ballast"}
        ballast.unlink()
        assert head.run("clusterray", "fetch", job, "-o", tiny_disk, cwd=tmp_path).code == 0
    assert size_of(tiny_disk / "room.png") == (64, 48)


def test_a_head_that_is_killed_and_comes_back_still_gives_the_picture(tmp_path: Path) -> None:
    scene_folder(tmp_path)
    state = tmp_path / "state"
    with head_process(state) as head:
        words = ("scene", *SMALL, "--join", head.token("submit"))
        with running("clusterray-submit", *words, cwd=tmp_path) as submit:
            submit.wait_for("is submitted")
            head.command.process.kill()
            head.command.ended()
            submit.wait_for("lost the head")
            with head_process(state) as again, node_process(again, tmp_path / "work"):
                ended = submit.ended()
    assert (ended.code, ended.stdout) == (0, "room.png"), ended.stderr
    assert ended.stderr.count("lost the head") == 1
    assert size_of(tmp_path / "room.png") == (64, 48)


@pytest.mark.slow
def test_a_token_revoked_while_a_job_waits_is_5(tmp_path: Path) -> None:
    scene_folder(tmp_path)
    with head_process(tmp_path / "state") as head:
        admin = ("--join", head.token("admin"), "--json")
        made = run("clusterray", "token", "new", "ann", *admin, cwd=tmp_path)
        token = json.loads(made.stdout)
        words = ("scene", *SMALL, "--join", token["token"])
        with running("clusterray-submit", *words, cwd=tmp_path) as submit:
            submit.wait_for("is submitted")
            assert run("clusterray", "token", "revoke", token["id"], *admin, cwd=tmp_path).code == 0
            ended = submit.ended()
    assert (ended.code, ended.stdout) == (5, "")
    assert "cannot reach a head: " in ended.stderr
