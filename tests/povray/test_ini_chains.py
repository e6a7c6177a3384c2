"""INI files after INI files, with sections, nested, from Windows: held against the real POV-Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from clusterray.core.errors import SceneFault
from clusterray.povray.scene import JobPlan, plan_job

FILES: dict[str, bytes] = {
    "room.pov": b"",
    "a.ini": b"Width=11\nHeight=12\n[low]\nWidth=13\n[high]\nHeight=14\n[LOW]\nHeight=15\n",
    "b.ini": b"+W21\n[low]\n+H22 ; +H99\n",
    "word.ini": b"a.ini[low]\nHeight=31\n",
    "option.ini": b"Width=41\nInclude_Ini=b.ini[low]\n",
    "later.ini": b"b[low]\na.ini\n",
    "sub/c.ini": b"d.ini\n",
    "d.ini": b"+W51 +H52",
    "sub/d.ini": b"+W61 +H62",
    "windows.ini": b"; M\xfcll\r\nWidth=71\r\n[low]\r\nHeight=72\r\n",
    "dos.ini": b"Width=76\r\n\x1a",
    "mac.ini": b"; x\rWidth=73\rHeight=74\r",
    "marked.ini": b"\xef\xbb\xbf; UTF-8\nWidth=75\n",
    "lib.ini": b"Library_Path=sub\n",
    "sub/only.ini": b"Height=81\nWidth=82",
    "quoted.ini": b'"word.ini"\nWidth = "83"',
    "list.ini": b"+W84 +H85 a.ini[high]",
}

needs_povray = pytest.mark.skipif(
    shutil.which("povray") is None, reason="povray is not installed: apt install povray"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scene"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder.resolve()


def plan(scene: Path, *words: str) -> JobPlan:
    home = Path("/nonexistent")
    return plan_job(scene, words, width=None, height=None, region=None, home=home)


def povrays_size(folder: Path, *words: str) -> tuple[int, int]:
    """Give the size of the picture POV-Ray makes with Debian's own povray.ini before ``words``."""
    output = folder.parent / "out.png"
    subprocess.run(
        ["povray", *words, "+Iroom.pov", "-D", "+FN8", f"+O{output}"],
        cwd=folder,
        env={"HOME": str(folder.parent), "PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
    )
    with Image.open(output) as image:
        return image.size


@needs_povray
@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["a.ini", "b.ini"],
        ["b.ini", "a.ini"],
        ["a.ini[low]", "b.ini[low]"],
        ["a[high]", "b"],
        ["a.ini[Low]"],
        ["word.ini"],
        ["option.ini"],
        ["later.ini"],
        ["sub/c.ini"],
        ["windows.ini[low]"],
        ["mac.ini"],
        ["lib.ini", "only"],
        ["quoted.ini"],
        ["list.ini"],
        ["+W9", "a.ini", "+H9"],
        ["a.ini", "+W9", "b.ini"],
    ],
)
def test_the_size_is_the_real_povrays(folder: Path, words: list[str]) -> None:
    spec = plan(folder / "room.pov", *words).spec
    assert (spec.width, spec.height) == povrays_size(folder, *words)


def test_marks_of_utf8_and_of_dos_are_passed_over_at_which_povray_fails(folder: Path) -> None:
    assert plan(folder / "room.pov", "marked.ini").spec.width == 75
    assert plan(folder / "room.pov", "dos.ini").spec.width == 76


def test_job_yaml_may_name_several(folder: Path) -> None:
    (folder / "job.yaml").write_text(
        'scene: room.pov\noptions: ["word.ini", "b.ini[low]", "+Q3"]\n'
    )
    spec = plan(folder).spec
    assert (spec.width, spec.height, spec.value("Quality")) == (21, 22, 3)
    origins = {name: source for name, _, source in spec.settings()}
    assert origins["Height"] == "b.ini line 3"


def test_an_ini_with_a_section_as_the_scene_and_more_behind(folder: Path) -> None:
    spec = plan(Path(f"{folder}/windows.ini[low]"), "room.pov", "b.ini").spec
    assert (spec.width, spec.height) == (21, 72)


def test_a_missing_section_is_a_fault_wherever_it_is_named(folder: Path) -> None:
    (folder / "bad.ini").write_text("\na.ini[none]\n")
    with pytest.raises(SceneFault, match=r"no section \[none\]; there are: low, high, LOW"):
        plan(folder / "room.pov", "bad.ini")
