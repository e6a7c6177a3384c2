"""The shell scripts where they have to refuse: one sentence, the way out, a failing exit code.

What they do when all is well is shown by running them: this suite runs by scripts/test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ["test", "demo", "install-head", "install-node"]
LIBRARY = sorted((ROOT / "scripts" / "lib").glob("*.sh"))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Make a PATH of the base tools only: no POV-Ray, no apt-get, and not root."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "cat", "cksum", "dirname", "basename", "grep", "sed", "tr", "python3"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    user = folder / "id"
    user.write_text(f"#!{shutil.which('bash')}\necho 1000\n", encoding="utf-8")
    user.chmod(0o755)
    return folder


def run(script: str, *words: str, path: Path | None = None) -> tuple[int, str]:
    """Run a script from elsewhere; gives its exit code and all that it said."""
    environ = {**os.environ, "PATH": str(path)} if path else dict(os.environ)
    environ.pop("PYTHON", None)
    done = subprocess.run(
        [shutil.which("bash") or "bash", ROOT / "scripts" / script, *words],
        cwd="/",
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_is_a_program_that_bash_can_read(name: str) -> None:
    path = ROOT / "scripts" / name
    assert os.access(path, os.X_OK)
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", path, *LIBRARY], check=True)


def test_ci_runs_what_everybody_runs() -> None:
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    assert "scripts/test" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["test", "demo"])
def test_without_root_and_povray_one_sentence_says_what_to_install(name: str, bare: Path) -> None:
    code, said = run(name, path=bare)
    assert code == 1
    assert said.startswith(f"{name}: please install povray ")
    assert "sudo apt-get install povray" in said
    assert said.count("\n") == 1


def test_an_old_python_is_named(bare: Path) -> None:
    (bare / "python3").unlink()
    old = bare / "python3"
    old.write_text(f"#!{shutil.which('bash')}\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    setup = ROOT / "scripts" / "lib" / "setup.sh"
    done = subprocess.run(
        [str(bare / "bash"), "-c", f"source '{setup}'; choose_python; echo went on"],
        env={"PATH": str(bare)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "python3 is not a Python of 3.11 or newer" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("install-head", ["--no-start"]),
        ("install-head", ["--uninstall"]),
        ("install-node", ["--join", "cr1-AAAA", "--no-start"]),
    ],
)
def test_installing_needs_root(name: str, words: list[str], bare: Path) -> None:
    assert run(name, *words, path=bare) == (1, f"{name}: this needs root: say sudo before it\n")


@pytest.mark.parametrize(
    ("name", "words", "complaint"),
    [
        ("install-head", ["--nonsense"], "do not know --nonsense"),
        ("install-head", ["--advertise"], "needs a host name"),
        ("install-head", ["--advertise", 'a" b'], "needs a host name"),
        ("install-node", ["--join"], "needs a token"),
        ("install-node", ["--join", "no-token"], "neither a file nor a token"),
        ("install-node", ["--join", "/etc/hosts"], "neither a file nor a token"),
    ],
)
def test_wrong_words_change_nothing(name: str, words: list[str], complaint: str) -> None:
    code, said = run(name, *words)
    assert code == 2
    assert complaint in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["install-head", "install-node"])
def test_help_names_each_word(name: str) -> None:
    code, said = run(name, "--help")
    assert code == 0
    assert f"sudo scripts/{name}" in said
    assert "--uninstall" in said
    assert "--no-start" in said


def set_key(file: Path, key: str, value: str) -> None:
    library = f"source '{ROOT}/scripts/lib/setup.sh'; source '{ROOT}/scripts/lib/install.sh'"
    subprocess.run(
        ["bash", "-c", f'{library}; set_key "$@"', "set_key", file, key, value], check=True
    )


def test_a_setting_is_written_once_however_often(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text('# listen: in a sentence\n#listen: "127.0.0.1"\n#port: 0\n', encoding="utf-8")
    set_key(file, "listen", "0.0.0.0")
    set_key(file, "listen", "::")
    set_key(file, "advertise", "head.example")
    assert file.read_text(encoding="utf-8") == (
        '# listen: in a sentence\nlisten: "::"\n#port: 0\nadvertise: "head.example"\n'
    )


def test_the_bench_tells_its_words() -> None:
    bench = ROOT / "scripts" / "bench" / "overhead"
    assert os.access(bench, os.X_OK)
    done = subprocess.run(
        [sys.executable, bench, "--help"], capture_output=True, text=True, check=True
    )
    for word in ("--runs", "--width", "--seconds", "--nodes", "--kind", "--beside", "--json"):
        assert word in done.stdout


@pytest.mark.slow
def test_the_bench_of_stitching_measures_both_ways(tmp_path: Path) -> None:
    bench = ROOT / "scripts" / "bench" / "stitch"
    assert os.access(bench, os.X_OK)
    lines, temporary = tmp_path / "runs.jsonl", tmp_path / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, bench),
            *("--runs", "1", "--size", "1920x1080", "--json", lines),
        ],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["way"] for row in rows] == ["copied", "encoded"] * 5
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 for row in rows)
    assert done.stdout.count("| 1920x1080 |") == 5
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_the_bench_of_overlap_measures_both_ways() -> None:
    bench = ROOT / "scripts" / "bench" / "overlap"
    assert os.access(bench, os.X_OK)
    words = ("--runs", "1", "--kind", "cheap", "--bands", "3", "--width", "320", "--height", "240")
    done = subprocess.run(
        [sys.executable, bench, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cheap: with overlap" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("0 without")
    assert "places said: 0 with" not in done.stdout


@pytest.mark.slow
def test_the_bench_of_first_pixels_sees_a_first_picture(tmp_path: Path) -> None:
    bench = ROOT / "scripts" / "bench" / "first_pixels"
    assert os.access(bench, os.X_OK)
    lines = tmp_path / "lines.jsonl"
    done = subprocess.run(
        [sys.executable, bench, "--rounds", "1", "--follow", "0", "--json", lines],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rounds = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [each["scene"] for each in rounds] == ["showcase", "slow", "gallery"]
    assert all(each["first_s"] > 0 for each in rounds)


@pytest.mark.slow
def test_the_bench_of_tls_measures_both_ways(tmp_path: Path) -> None:
    bench = ROOT / "scripts" / "bench" / "tls"
    assert os.access(bench, os.X_OK)
    done = subprocess.run(
        [
            *(sys.executable, bench),
            *("--rounds", "1", "--scene-mib", "1", "--repeat", "2", "--json"),
        ],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["what"] for row in rows] == [
        "start of a head",
        "connect and WELCOME",
        "question and answer",
        "scene to the head",
        "scene from the head",
        "tile of 100 kB",
    ]
    assert all(row["plain_s"] > 0 and row["tls_s"] > 0 for row in rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_bench_measures(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "scripts" / "bench" / "overhead"),
            *("--runs", "1", "--width", "96", "--json"),
        ],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["width"], result["height"]) == (96, 54)
    assert [row["name"] for row in result["rows"]] == [
        "plain povray",
        "--local 1",
        "standing farm",
    ]
    assert result["rows"][0]["ratios"] == [1.0]
    assert all(row["seconds"][0] > 0 for row in result["rows"])
    assert list(tmp_path.iterdir()) == []
