"""What POV-Ray could do for whoever took it over, tried by another program in its place."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from clusterray.node.folders import AttemptFolder
from clusterray.node.sandbox import OPEN_FILES, Sandbox, Wall
from tests.hostile.conftest import built

PYTHON = str(Path(sys.executable).resolve())
TRIES = """
import ctypes, json, os, resource, signal, socket, subprocess, sys
out, port, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def write(path):
    open(path, "w").close()
def leave_a_child():
    if os.fork() == 0:
        os.setsid()
        try:
            write(out + "/by-a-child")
        finally:
            os._exit(0)
    os.wait()
    os.stat(out + "/by-a-child")
tries = {
    "read": lambda: open(out + "/secret").read(),
    "list": lambda: os.listdir(out),
    "write": lambda: write(out + "/written"),
    "truncate": lambda: os.truncate(out + "/victim", 0),
    "remove": lambda: os.unlink(out + "/doomed"),
    "link": lambda: os.link(out + "/secret", "linked"),
    "move": lambda: os.rename("own", out + "/moved"),
    "run a program": lambda: subprocess.run(["/usr/bin/touch", out + "/run"], check=True),
    "a child": leave_a_child,
    "tcp": lambda: socket.create_connection(("127.0.0.1", port), 5).close(),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)).close(),
    "signal": lambda: os.kill(parent, 0),
    "the node's memory": lambda: open(f"/proc/{parent}/environ", "rb").read(1),
}
def works(what):
    try:
        what()
    except (OSError, subprocess.SubprocessError) as error:
        return False
    return True
write("own")
found = {name: works(what) for name, what in tries.items()}
limits = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name))
          for name in ("CORE", "NOFILE", "FSIZE", "CPU", "DATA")}
print(json.dumps({"found": found, "limits": limits,
    "privileges": ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)}))
"""
"""39 is PR_GET_NO_NEW_PRIVS."""
OLDER_KERNELS_LET = {"truncate": 3, "tcp": 4, "listen": 4, "signal": 6}


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def tried(sandbox: Sandbox, folder: Path, port: int) -> dict[str, object]:
    out = folder / "out"
    out.mkdir()
    for name in ("secret", "victim", "doomed"):
        (out / name).write_text(name)
    attempt = AttemptFolder(folder / "attempt")
    attempt.create()
    attempt.scene.mkdir()
    attempt.temp.mkdir()
    argv = [PYTHON, "-I", "-c", TRIES, str(out), str(port), str(os.getpid())]
    within = sandbox.reading(Path(sys.base_prefix))
    with within.launch(argv, attempt, attempt.scene, threads=1, pixels=100) as launch:
        done = subprocess.run(
            launch.argv,
            cwd=attempt.scene,
            capture_output=True,
            pass_fds=launch.pass_fds,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


def test_without_a_wall_everything_works(tmp_path: Path, listener: int) -> None:
    found = tried(built(Wall.NONE), tmp_path, listener)["found"]
    assert isinstance(found, dict)
    assert all(found.values()), found


def test_behind_a_wall_nothing_works(wall: Sandbox, tmp_path: Path, listener: int) -> None:
    told = tried(wall, tmp_path, listener)
    found = told["found"]
    assert isinstance(found, dict)
    worked = {name for name, works in found.items() if works}
    if wall.wall is Wall.LANDLOCK:
        worked -= {name for name, abi in OLDER_KERNELS_LET.items() if wall.abi < abi}
    else:
        # It has a network of its own, in which it may listen to itself.
        worked -= {"listen"}
    assert worked == set()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("doomed", "secret", "victim")
    ]
    assert (tmp_path / "out" / "victim").read_text() == "victim"
    assert told["privileges"] == 1


@pytest.mark.parametrize("abi", range(1, 7))
def test_an_older_kernels_landlock_leaves_open_what_is_said_of_it(
    tmp_path: Path, listener: int, abi: int
) -> None:
    """A newer kernel takes the rules of an older interface, and holds no more than these."""
    wall = built(Wall.LANDLOCK)
    if wall.abi < abi:
        pytest.skip(f"the kernel's Landlock is of version {wall.abi}")
    older = replace(wall, abi=abi)
    found = tried(older, tmp_path, listener)["found"]
    assert isinstance(found, dict)
    worked = {name for name, works in found.items() if works}
    assert worked == {name for name, since in OLDER_KERNELS_LET.items() if since > abi}
    said = " ".join(older.gaps())
    for word, name in (("truncating", "truncate"), ("TCP", "tcp"), ("signals", "signal")):
        assert (word in said) is (name in worked)


@pytest.mark.parametrize("kind", list(Wall), ids=lambda kind: kind.value)
def test_limits_hold_behind_each_wall_and_without(
    kind: Wall, tmp_path: Path, listener: int
) -> None:
    sandbox = built(kind)
    limits = tried(sandbox, tmp_path, listener)["limits"]
    assert isinstance(limits, dict)
    largest = sandbox.limits.largest_file(100)
    assert limits["CORE"] == [0, 0]
    assert limits["NOFILE"] == [OPEN_FILES, OPEN_FILES]
    assert limits["FSIZE"] == [largest, largest]
    assert limits["CPU"][0] == sandbox.limits.cpu_seconds(1)
    assert limits["DATA"][0] >= sandbox.limits.memory_bytes


def test_all_of_it_dies_with_the_node(wall: Sandbox, tmp_path: Path) -> None:
    attempt = AttemptFolder(tmp_path / "attempt")
    attempt.create()
    attempt.scene.mkdir()
    attempt.temp.mkdir()
    node = (
        "import subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from clusterray.node.folders import AttemptFolder\n"
        "from clusterray.node.sandbox import *\n"
        "wall, root, python, base = sys.argv[1:]\n"
        "folder = AttemptFolder(Path(root))\n"
        "here = choose_sandbox(wall, look_for_walls(wall), Limits(1 << 30), (Path(base),))\n"
        "argv = [python, '-I', '-c', 'import time; print(\"up\", flush=True); time.sleep(1000)']\n"
        "with here.launch(argv, folder, folder.scene, threads=1, pixels=1) as launch:\n"
        "    subprocess.run(launch.argv, cwd=folder.scene, pass_fds=launch.pass_fds,"
        " start_new_session=True)\n"
    )
    words = [wall.wall.value, str(attempt.root), PYTHON, sys.base_prefix]
    with subprocess.Popen([sys.executable, "-c", node, *words], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        family = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
        _gone, alive = psutil.wait_procs(family, timeout=10)
    assert len(family) == (1 if wall.wall is Wall.LANDLOCK else 3)
    assert not alive
