"""Which POV-Ray a node has: the canary is real, wrappers make it another POV-Ray on demand."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterray.core.errors import LocalFault
from clusterray.core.likeness import difference, difference_in_words
from clusterray.core.model import PovrayClass
from clusterray.node import canary, machine
from clusterray.node.canary import CanaryStopped, PovrayWatch
from clusterray.povray.canary import CANARY_AREA, INCLUDE_FOLDER, library_digest, library_stamp
from tests.node.doubles import POVRAY, open_field

FEW_THREADS = 'set -- "$@" +WT2'
COARSE = 'set -- "$@" +Q3'


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "the work"
    folder.mkdir()
    yield folder
    left = {each.name for each in folder.iterdir()}
    assert left <= {"canary.json"}, "the test leaves nothing but what it found"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A copy of POV-Ray's include files that a test may change."""
    return Path(shutil.copytree(INCLUDE_FOLDER, tmp_path / "include"))


def wrapped(folder: Path, behaviour: str, name: str = "povray") -> str:
    """A POV-Ray that does ``behaviour`` before it is itself."""
    program = folder / name
    program.write_text(f'#!/bin/sh\n{behaviour}\nexec "{POVRAY}" "$@"\n')
    program.chmod(0o755)
    return str(program)


def older(folder: Path) -> str:
    """A POV-Ray that says it is 3.7.0.8."""
    said = f'"{POVRAY}" --version 2>&1 | sed "s/^POV-Ray 3[^ ]*/POV-Ray 3.7.0.8/"; exit 0'
    return wrapped(folder, f'case "$1" in --version) {said};; esac', "older")


def kind_of(program: str, work: Path, library: Path = INCLUDE_FOLDER) -> PovrayClass:
    (work / "canary.json").unlink(missing_ok=True)
    return PovrayWatch(program, work, open_field(), library=library).povray_class()


def test_the_canary_is_the_same_each_time_and_for_any_number_of_threads(
    tmp_path: Path, work: Path
) -> None:
    first = kind_of(POVRAY, work)
    assert len(first.pixels) == CANARY_AREA.area * 3
    assert len(set(zip(*[iter(first.pixels)] * 3, strict=True))) > 1000, "the picture is a rich one"
    assert first.version.startswith("3.7") and first.build
    assert kind_of(POVRAY, work) == first
    assert kind_of(wrapped(tmp_path, FEW_THREADS), work) == first


def test_a_povray_that_renders_otherwise_or_says_so_is_of_another_class(
    tmp_path: Path, work: Path
) -> None:
    usual = kind_of(POVRAY, work)
    other = kind_of(older(tmp_path), work)
    assert (other.version, other.canary) == ("3.7.0.8", usual.canary)
    assert difference_in_words(other, usual) == "other POV-Ray 3.7.0.8"
    coarse = kind_of(wrapped(tmp_path, COARSE), work)
    assert (coarse.version, coarse.build) == (usual.version, usual.build)
    found = difference(coarse.pixels, usual.pixels)
    assert found is not None and found.largest > 100
    assert difference_in_words(coarse, usual) == f"canary differs by {found}"


def test_other_include_files_and_fonts_are_another_class(work: Path, library: Path) -> None:
    usual = kind_of(POVRAY, work)
    assert kind_of(POVRAY, work, library) == usual, "where they are does not matter"
    (library / "colors.inc").write_bytes((library / "colors.inc").read_bytes() + b"// more\n")
    assert difference_in_words(kind_of(POVRAY, work, library), usual) == "other include files"
    before = library_digest(library)
    (library / "timrom.ttf").rename(library / "other.ttf")
    assert library_digest(library) not in (before, usual.includes)


def test_a_restart_needs_no_povray_at_all(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = tmp_path / "runs"
    program = wrapped(tmp_path, f'echo >> "{count}"')
    first = PovrayWatch(program, work, open_field()).povray_class()
    runs = len(count.read_text())
    again = PovrayWatch(program, work, open_field()).povray_class()
    assert (again, again.pixels) == (first, first.pixels)
    assert len(count.read_text()) == runs
    monkeypatch.setattr(machine, "BOOT_ID", tmp_path / "no boot id")
    assert PovrayWatch(program, work, open_field()).povray_class() == first
    assert len(count.read_text()) > runs, "after a boot this may be another machine"


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"stamp": 1}', "\x00\xff"])
def test_a_damaged_memory_is_no_harm(work: Path, text: str) -> None:
    program = PovrayWatch(POVRAY, work, open_field(), canary=False)
    (work / "canary.json").write_text(text)
    assert program.povray_class().version.startswith("3.7")
    (work / "canary.json").unlink()


def test_a_memory_with_other_pixels_than_it_says_is_not_believed(work: Path) -> None:
    first = PovrayWatch(POVRAY, work, open_field()).povray_class()
    file = work / "canary.json"
    text = file.read_text()
    at = text.index('"pixels": "') + 11
    file.write_text(text[:at] + ("B" if text[at] != "B" else "C") + text[at + 1 :])
    again = PovrayWatch(POVRAY, work, open_field()).povray_class()
    assert (again, again.pixels) == (first, first.pixels)


def test_a_change_is_seen_at_once_and_cheaply(tmp_path: Path, work: Path, library: Path) -> None:
    program = wrapped(tmp_path, "")
    watch = PovrayWatch(program, work, open_field(), library=library)
    assert watch.changed(), "nothing is known before the first test"
    usual = watch.povray_class()
    assert not watch.changed()
    began_at = time.monotonic()
    for _ in range(20):
        assert not watch.changed()
    assert (time.monotonic() - began_at) / 20 < 0.05
    # As a package manager does: another file under the name.
    Path(wrapped(tmp_path, COARSE, "new")).replace(program)
    assert watch.changed()
    coarse = watch.povray_class()
    assert coarse.canary != usual.canary and not watch.changed()
    os.utime(library / "colors.inc", ns=(1, 1))
    assert watch.changed()
    assert watch.povray_class() == coarse, "touched, not changed"
    Path(program).unlink()
    assert watch.changed()
    with pytest.raises(LocalFault, match="cannot be used: No such file"):
        watch.povray_class()


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("echo 'nothing works' >&2; exit 1", "ended with code 1"),
        ("kill -KILL $$", "ended by SIGKILL"),
        ("exit 0", "rendered 0 of 3072 pixels"),
    ],
)
def test_a_povray_without_a_canary_joins_no_farm(
    tmp_path: Path, work: Path, behaviour: str, words: str
) -> None:
    program = wrapped(tmp_path, f'case "$1" in --version) ;; *) {behaviour};; esac')
    with pytest.raises(LocalFault, match=r"joins no farm.*povray-includes") as caught:
        PovrayWatch(program, work, open_field()).povray_class()
    assert words in caught.value.message


def test_a_povray_without_its_fonts_says_which(tmp_path: Path, work: Path) -> None:
    """What a POV-Ray does whose include folder is not where every node looks for it."""
    empty = tmp_path / "empty"
    empty.mkdir()
    ini = f"sed -i 's#/usr/share#{empty}#' \"$POVINI\""
    program = wrapped(tmp_path, f'case "$1" in --version) ;; *) {ini};; esac')
    with pytest.raises(LocalFault, match=r"joins no farm: .*colors\.inc"):
        PovrayWatch(program, work, open_field()).povray_class()


def test_a_povray_that_hangs_is_given_up(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "CANARY_WITHIN_S", 0.5)
    program = wrapped(tmp_path, 'case "$1" in --version) ;; *) exec /bin/sleep 1000;; esac')
    with pytest.raises(LocalFault, match="joins no farm: it was not done in"):
        PovrayWatch(program, work, open_field()).povray_class()
    with pytest.raises(CanaryStopped):
        PovrayWatch(program, work, open_field()).povray_class(lambda: True)


def test_without_a_canary_the_class_is_what_povray_says(tmp_path: Path, work: Path) -> None:
    watch = PovrayWatch(older(tmp_path), work, open_field(), canary=False)
    found = watch.povray_class()
    assert (found.version, found.canary, found.includes) == ("3.7.0.8", "", "")
    assert not watch.changed()


def test_a_work_folder_that_forgets_is_said_and_no_more(
    work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (work / "canary.json").mkdir()
    with caplog.at_level(logging.WARNING):
        assert PovrayWatch(POVRAY, work, open_field()).povray_class().canary
    assert "cannot be written" in caplog.text
    (work / "canary.part").unlink()


def test_links_that_lead_nowhere_and_missing_folders_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "gone.ttf").symlink_to(tmp_path / "nowhere")
    assert library_stamp(tmp_path) == []
    assert library_digest(tmp_path) == library_digest(tmp_path / "missing")
