"""scripts/soak and scripts/chaos without a farm: their faults, cables, counts and judgements."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

import chaos  # noqa: E402  (needs the path above)
import soak  # noqa: E402
from cable import Cable  # noqa: E402
from faults import KINDS, SUBMITTERS, Fault, schedule  # noqa: E402
from footprint import (  # noqa: E402
    HEAD_KINDS,
    Footprint,
    file_faults,
    files_by_kind,
    footprint_of,
    processes_within,
)
from injector import HeadKill, HeadKills  # noqa: E402
from render_queue import mean_difference  # noqa: E402

NODES = ["one", "two", "three", "four"]
SILENT_S = 16.0
WAIT_S = 10.0


def faults(seed: int, number: int) -> list[Fault]:
    return list(itertools.islice(schedule(seed, NODES, SILENT_S), number))


# ---------------------------------------------------------------- the schedule


def test_a_seed_gives_the_same_faults_each_time_and_another_seed_others() -> None:
    assert faults(7, 100) == faults(7, 100)
    assert faults(7, 100) != faults(8, 100)


def test_every_kind_comes_and_nobody_has_two_faults_at_once() -> None:
    ends = dict.fromkeys([*NODES, SUBMITTERS], 0.0)
    many = faults(3, 400)
    assert {fault.kind for fault in many} == set(KINDS)
    assert [fault.at_s for fault in many] == sorted(fault.at_s for fault in many)
    for fault in many:
        if fault.target not in ends:
            continue
        assert fault.at_s >= ends[fault.target]
        ends[fault.target] = fault.at_s + fault.lasts_s
        assert any(ends[node] <= fault.at_s for node in NODES), "one is left alone"


def test_long_faults_outlast_the_patience_and_brief_ones_do_not() -> None:
    for fault in faults(5, 400):
        if fault.kind in ("node stopped", "cable cut, for long"):
            assert fault.lasts_s > SILENT_S
        else:
            assert fault.lasts_s < SILENT_S


# ---------------------------------------------------------------- the cable


@contextmanager
def echoing() -> Iterator[int]:
    """A server that says back what it hears, one connection at a time; gives its port."""

    def serve() -> None:
        while True:
            try:
                peer, _ = listening.accept()
            except OSError:
                return
            with closing(peer):
                try:
                    while data := peer.recv(1024):
                        peer.sendall(data)
                except ConnectionError:
                    continue

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_cable_passes_everything_and_the_end_of_it(tmp_path: Path) -> None:
    with (
        echoing() as port,
        Cable("127.0.0.19", "127.0.0.1", [port]),
        socket.create_connection(("127.0.0.19", port), WAIT_S) as end,
    ):
        said = os.urandom(1 << 20)
        sending = threading.Thread(target=end.sendall, args=(said,))
        sending.start()
        with end.makefile("rb") as heard:
            assert heard.read(len(said)) == said
            sending.join()
            end.shutdown(socket.SHUT_WR)
            assert heard.read() == b""


def test_what_is_said_over_a_cut_cable_comes_when_it_is_mended() -> None:
    with (
        echoing() as port,
        Cable("127.0.0.19", "127.0.0.1", [port]) as cable,
        socket.create_connection(("127.0.0.19", port), WAIT_S) as end,
    ):
        end.sendall(b"before")
        assert end.recv(100) == b"before"
        cable.cut()
        end.sendall(b"meanwhile")
        end.settimeout(0.3)
        with pytest.raises(TimeoutError):
            end.recv(100)
        cable.mend()
        end.settimeout(WAIT_S)
        assert end.recv(100) == b"meanwhile"


def test_a_torn_cable_resets_every_connection_and_lets_new_ones_in_when_it_is_mended() -> None:
    with echoing() as port, Cable("127.0.0.19", "127.0.0.1", [port]) as cable:
        with socket.create_connection(("127.0.0.19", port), WAIT_S) as end:
            end.sendall(b"before")
            assert end.recv(100) == b"before"
            cable.tear()
            with pytest.raises(ConnectionResetError):
                end.recv(100)
        cable.mend()
        with socket.create_connection(("127.0.0.19", port), WAIT_S) as end:
            end.sendall(b"after")
            assert end.recv(100) == b"after"


# ---------------------------------------------------------------- counting


def test_files_are_counted_by_kind_and_a_stray_one_is_unknown(tmp_path: Path) -> None:
    for name in ("lock", "farm.db", "tiles/1.png", "scenes/a/scene.tar", "results/j1/x", "core.77"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "incoming").mkdir()
    assert files_by_kind(tmp_path, HEAD_KINDS) == Counter(
        {
            "the head's own": 1,
            "the store": 1,
            "tiles": 1,
            "scenes": 1,
            "pictures": 1,
            "unknown": 1,
        }
    )


def test_a_process_is_found_by_its_folder_and_measured(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as sleeping:
        try:
            assert [process.pid for process in processes_within(tmp_path)] == [sleeping.pid]
            taken = footprint_of(sleeping.pid)
            assert taken is not None
            assert taken.threads == 1
        finally:
            sleeping.kill()
    assert processes_within(tmp_path) == []
    assert footprint_of(sleeping.pid) is None


# ---------------------------------------------------------------- judging


def samples_of(memory: list[int]) -> list[soak.Sample]:
    return [soak.Sample(n, {"head": Footprint(rss, 9, 9)}, {}) for n, rss in enumerate(memory)]


def test_memory_that_goes_on_growing_is_told_and_what_fills_up_once_is_not() -> None:
    mb = 1_000_000
    fills_up = [min(50 * mb, (40 + n) * mb) for n in range(80)]
    goes_on = [50 * mb + n * mb // 10 for n in range(80)]
    assert soak.growth_faults(samples_of(fills_up)) == []
    (fault,) = soak.growth_faults(samples_of(goes_on))
    assert fault == "head grew from 53.0 to 57.0 MB"


def test_one_descriptor_more_of_an_idle_daemon_is_a_leak() -> None:
    before = {"head": Footprint(1, 14, 30), "node-1": Footprint(1, 5, 12)}
    worse = {"head": Footprint(1, 14, 31), "node-1": Footprint(1, 5, 12)}
    assert soak.leak_faults(before, before) == []
    assert len(soak.leak_faults(before, worse)) == 1
    assert chaos.leak_faults(before, worse) == [], "of a node's second FTP session"
    assert len(chaos.leak_faults(before, {**before, "head": Footprint(1, 14, 32)})) == 1
    assert chaos.leak_faults(worse, before) == [], "one started again has less"
    assert chaos.leak_faults(before, {"head": before["head"]}) == ["node-1 is gone"]


def test_of_a_kind_that_nothing_is_kept_of_one_file_is_too_many() -> None:
    most = soak.Plan(jobs=2000, nodes=8, at_a_time=12, seed=1).most_files
    assert file_faults(Counter(most), most) == []
    (fault,) = file_faults({"tiles": 1}, most)
    assert fault == "1 files of the kind 'tiles' are left, at most 0 are kept"


def test_the_times_after_a_kill_of_the_head_come_from_its_log() -> None:
    kills = HeadKills()
    kills.hear(1.0, "INFO    task-manager: b1 of j1 goes to node-1: rows 0 to 31")
    kills.kills.append(HeadKill(10.0))
    kills.hear(11.5, "INFO    task-manager: node node-1 joined from 127.0.0.1:5000")
    kills.hear(12.0, "INFO    task-manager: b2 of j1 goes to node-1: rows 32 to 63")
    kills.hear(13.0, "INFO    task-manager: b3 of j1 goes to node-1: rows 64 to 95")
    kills.kills.append(HeadKill(20.0))
    assert kills.seconds("joined_at") == [1.5]
    assert kills.seconds("leased_at") == [2.0]
    assert kills.seconds("ready_at") == []


def test_a_noisy_picture_with_a_hole_is_told_from_one_with_noise(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in ("plain", "noisy", "holed")]
    Image.new("RGB", (64, 64), (120, 120, 120)).save(paths[0])
    Image.new("RGB", (64, 64), (121, 119, 120)).save(paths[1])
    holed = Image.new("RGB", (64, 64), (120, 120, 120))
    holed.paste((0, 0, 0), (0, 32, 64, 64))
    holed.save(paths[2])
    assert mean_difference(paths[0], paths[1]) == 1
    assert mean_difference(paths[0], paths[2]) == 60


@pytest.mark.parametrize(
    ("name", "words", "complaint"),
    [
        ("soak", ["--jobs", "0"], "is not a whole number"),
        ("soak", ["--jobs", "3"], "fewer show no growth"),
        ("chaos", ["--size", "big"], "is not a size"),
        ("chaos", ["--faults", "3", "--minutes", "1"], "not allowed with"),
        ("chaos", ["--folder", "/"], "name a new folder"),
    ],
)
def test_wrong_words_are_told(name: str, words: list[str], complaint: str) -> None:
    script = ROOT / "scripts" / name
    done = subprocess.run(
        [sys.executable, script, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert complaint in done.stderr
    assert os.access(script, os.X_OK)
