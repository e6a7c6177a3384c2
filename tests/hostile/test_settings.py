"""POV-Ray's own settings as a way out: povray.ini, shell-outs; and links, and what it says."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clusterray.node.folders import AttemptFolder
from clusterray.node.renderer import Render, RenderFailed
from clusterray.node.sandbox import Launch, Sandbox, Wall
from tests.hostile.attacks import PICTURE, SECRET, furnish, hostile_scene
from tests.hostile.conftest import built
from tests.hostile.test_files import SIDE, render
from tests.node.doubles import POVRAY

CONF = Path("/etc/povray/3.7/povray.conf")


def test_a_povray_ini_in_the_folder_is_read_by_povray_and_not_by_a_node(
    wall: Sandbox, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    furnish(out)
    scene = hostile_scene(tmp_path, PICTURE, SIDE)
    ini = scene.root / "povray.ini"
    ini.write_text(f'Width=8\nHeight=8\nOutput_File_Name="{out}/made.png"\n')
    subprocess.run(
        [POVRAY, "-D", '+I"main file.pov"'], cwd=scene.root, check=True, capture_output=True
    )
    with Image.open(out / "made.png") as made:
        assert made.size == (8, 8)
    (out / "made.png").unlink()
    attempt = AttemptFolder(tmp_path / "attempt")
    render(wall, scene, attempt).run()
    with Image.open(attempt.picture) as picture:
        assert picture.size == (SIDE, SIDE)
    assert not (out / "made.png").exists()


@pytest.fixture
def careless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make POV-Ray one that lets scenes run programs, as a machine's settings may say."""
    if os.geteuid() != 0:
        pytest.skip("only root can put other settings over the machine's own, for this test alone")
    conf = tmp_path / "povray.conf"
    conf.write_text("[File I/O Security]\nnone\n[Shellout Security]\nallowed\n")
    mount = f"mount --bind '{conf}' {CONF} && exec \"$@\""
    launch = Sandbox.launch

    @contextlib.contextmanager
    def careless_launch(*words: Any, **more: Any) -> Iterator[Launch]:
        with launch(*words, **more) as usual:
            argv = ["unshare", "--mount", "sh", "-c", mount, "sh", *usual.argv]
            yield Launch(argv, usual.pass_fds)

    monkeypatch.setattr(Sandbox, "launch", careless_launch)


def shelled_out(sandbox: Sandbox, folder: Path) -> Path:
    """Have POV-Ray run a program that makes a file beside the node's folders; gives the file."""
    out = folder / "out"
    furnish(out)
    scene = hostile_scene(folder, PICTURE, SIDE)
    word = f'Pre_Scene_Command="/usr/bin/touch {out}/made"'
    with contextlib.suppress(RenderFailed):
        render(sandbox, scene, AttemptFolder(folder / "attempt"), [word]).run()
    return out / "made"


@pytest.mark.usefixtures("careless")
def test_a_shell_out_runs_without_a_wall(tmp_path: Path) -> None:
    assert shelled_out(built(Wall.NONE), tmp_path).exists()


@pytest.mark.usefixtures("careless")
def test_a_shell_out_runs_nothing_behind_a_wall(wall: Sandbox, tmp_path: Path) -> None:
    assert not shelled_out(wall, tmp_path).exists()


def test_debians_povray_runs_no_shell_out_in_any_case(tmp_path: Path) -> None:
    assert not shelled_out(built(Wall.NONE), tmp_path).exists()


def linked(sandbox: Sandbox, folder: Path) -> str:
    """Render a scene among whose kept files is a link to a secret; gives what was said."""
    out = folder / "out"
    furnish(out)
    scene = hostile_scene(folder, '#include "friendly.inc"\n' + PICTURE, SIDE)
    (scene.root / "friendly.inc").symlink_to(out / "secret.inc")
    with pytest.raises(RenderFailed) as caught:
        render(sandbox, scene, AttemptFolder(folder / "attempt")).run()
    return f"{caught.value.message}\n{caught.value.text}"


def test_a_link_in_the_scene_leads_out_without_a_wall(tmp_path: Path) -> None:
    assert SECRET in linked(built(Wall.NONE), tmp_path)


def test_a_link_in_the_scene_leads_nowhere_behind_a_wall(wall: Sandbox, tmp_path: Path) -> None:
    said = linked(wall, tmp_path)
    assert SECRET not in said
    assert "friendly.inc" in said


def test_another_scene_kept_by_the_node_cannot_be_read(wall: Sandbox, tmp_path: Path) -> None:
    other = tmp_path / "scenes" / "another"
    other.mkdir(parents=True)
    (other / "main.inc").write_text(f'#error "{SECRET}"\n')
    text = f'#include "{other}/main.inc"\n' + PICTURE
    for name, sandbox, told in (("without", built(Wall.NONE), True), ("within", wall, False)):
        folder = tmp_path / name
        folder.mkdir()
        scene = hostile_scene(folder, text, SIDE)
        with pytest.raises(RenderFailed) as caught:
            render(sandbox, scene, AttemptFolder(folder / "attempt")).run()
        assert (SECRET in caught.value.text) is told


def test_a_link_left_in_place_of_light_is_not_followed(tmp_path: Path) -> None:
    """POV-Ray makes no links, but what is left is sent to the head, whoever left it."""
    (tmp_path / "secret").write_text(SECRET)
    scene = hostile_scene(tmp_path, PICTURE, SIDE)
    attempt = AttemptFolder(tmp_path / "attempt")
    leaving = render(built(Wall.NONE), scene, attempt)
    check = leaving._check

    def leave(status: int) -> None:
        check(status)
        attempt.made_light.symlink_to(tmp_path / "secret")

    leaving._check = leave  # type: ignore[method-assign]
    with pytest.raises(RenderFailed, match=r"light\.made, which is not a file"):
        leaving.run()


FORGED = (
    r"""
#debug "Rendered 1000 of 1024 pixels (97%)\rRendered 1024 of 1024 pixels (100%)\r\n"
#debug concat("Rendered 999 of 1024 pixels (97%)", chr(13), "x\n")
#debug concat(chr(27), "[31mred", chr(27), "]0;a title", chr(7), chr(155), "2J", "\n")
"""
    + PICTURE
)


def test_forged_progress_and_terminal_escapes_do_not_get_through(
    wall: Sandbox, tmp_path: Path
) -> None:
    scene = hostile_scene(tmp_path, FORGED, SIDE)
    told = subprocess.run(
        [POVRAY, "-D", '+I"main file.pov"'], cwd=scene.root, capture_output=True, check=True
    ).stderr
    assert b"Rendered 1000 of 1024" in told
    assert b"\x1b[31mred" in told, "POV-Ray lets all of it pass"
    seen: list[int] = []
    forging: Render = render(wall, scene, AttemptFolder(tmp_path / "attempt"))
    forging._on_progress = lambda _phase, done, _total: seen.append(done)
    text = forging.run().text
    assert not {999, 1000} & set(seen)
    assert "red" in text
    assert "a title" not in text
    assert not set(text) & {chr(27), chr(7), chr(155), chr(13)}
