from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clusterray.node.backoff import Backoff
from clusterray.node.folders import AttemptFolder, empty_folder, make_read_only, remove_tree
from clusterray.node.machine import (
    fine_cpu_s,
    memory_bytes,
    memory_left,
    process_cpu_s,
    process_largest,
    usable_cores,
)
from clusterray.node.stop import StopFlag


def test_waits_double_within_their_bound_and_begin_anew() -> None:
    backoff = Backoff(0.5, 15.0, random.Random(1))
    bounds = [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    waits = [backoff.next_s() for _ in bounds]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    backoff.reset()
    assert backoff.next_s() <= 0.5


def test_two_nodes_do_not_wait_equally_long() -> None:
    one, other = (Backoff(0.5, 15.0, random.Random(seed)) for seed in (1, 2))
    assert one.next_s() != other.next_s()


@pytest.mark.parametrize(
    ("quota", "most"),
    [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 10**6), ("nonsense", 10**6)],
)
def test_a_quota_bounds_the_cores(tmp_path: Path, quota: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path) == min(len(os.sched_getaffinity(0)), most)


def test_a_limit_bounds_the_memory(tmp_path: Path) -> None:
    without = memory_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory_bytes(tmp_path) == 1_000_000 < without
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_bytes(tmp_path) == without


def test_memory_that_is_left_is_what_the_limit_leaves(tmp_path: Path) -> None:
    left = memory_left(tmp_path)
    assert 0 < left <= memory_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    assert memory_left(tmp_path) == 100_000
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 300000\n")
    assert memory_left(tmp_path) == 400_000
    (tmp_path / "memory.current").write_text("1400000\n")
    assert memory_left(tmp_path) == 0


def test_the_largest_size_of_a_process_is_remembered_and_counts_its_children() -> None:
    code = "import sys; x = bytearray(50 << 20); del x; print(flush=True); sys.stdin.read()"
    words = ["/bin/sh", "-c", 'echo; "$0" -c "$1"; :', sys.executable, code]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None and process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        assert 50 << 20 < process_largest(process.pid) < 200 << 20
    assert process_largest(process.pid) == 0


def test_the_work_of_a_process_counts_its_children_that_ended() -> None:
    def computed() -> float:
        return process_cpu_s(os.getpid())

    before = computed()
    work = "n = 0\nwhile n < 3_000_000: n += 1"
    subprocess.run([sys.executable, "-c", work], check=True)
    assert computed() > before
    assert process_cpu_s(1 << 22) == 0


def test_the_work_of_a_process_is_told_finer_than_the_kernel_counts_ticks() -> None:
    before, ticks = fine_cpu_s(os.getpid()), process_cpu_s(os.getpid())
    while process_cpu_s(os.getpid()) == ticks:
        assert fine_cpu_s(os.getpid()) >= before
    assert fine_cpu_s(os.getpid()) > before
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        child.kill()
        child.wait()
        assert fine_cpu_s(child.pid) == 0


def test_an_attempt_folder_keeps_only_its_tile(tmp_path: Path) -> None:
    folder = AttemptFolder(tmp_path / "attempts" / "a1")
    folder.create()
    folder.scene.mkdir()
    (folder.scene / "leftover").touch()
    folder.picture.touch()
    folder.tile.touch()
    folder.blocks.touch()
    folder.origin.touch()
    folder.keep_only_tile()
    assert list(folder.root.iterdir()) == [folder.tile]
    folder.remove()
    folder.remove()
    assert not folder.root.exists()


def test_an_attempt_folder_keeps_its_blocks_and_nothing_that_a_killed_render_left(
    tmp_path: Path,
) -> None:
    folder = AttemptFolder(tmp_path / "attempts" / "a1")
    folder.create()
    folder.scene.mkdir()
    (folder.scene / "written by the scene").touch()
    (folder.private / "pov1234").touch()
    folder.picture.touch()
    folder.blocks.touch()
    folder.origin.touch()
    folder.keep_only_blocks()
    assert list(folder.picture.parent.iterdir()) == []
    assert folder.blocks.exists() and folder.origin.exists() and not folder.scene.exists()
    assert list(folder.private.iterdir()) == []


def test_removing_a_folder_leaves_what_its_links_point_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "precious")
    remove_tree(folder)
    assert (outside / "precious").exists() and not folder.exists()


def test_read_only_folders_are_removed_too(tmp_path: Path) -> None:
    deep = tmp_path / "work" / "scene" / "textures"
    deep.mkdir(parents=True)
    (deep / "wood.png").touch()
    make_read_only(tmp_path / "work" / "scene")
    assert deep.stat().st_mode & 0o777 == 0o555
    assert (deep / "wood.png").stat().st_mode & 0o777 == 0o444
    assert empty_folder(tmp_path / "work") == 1
    assert list((tmp_path / "work").iterdir()) == []


def test_a_request_to_stop_ends_a_wait_from_within_a_signal_handler() -> None:
    with StopFlag() as stop:
        before = signal.signal(signal.SIGUSR1, lambda *_: stop.request())
        try:
            me = threading.main_thread().ident
            assert me is not None
            sender = threading.Timer(0.05, signal.pthread_kill, (me, signal.SIGUSR1))
            sender.start()
            began_at = time.monotonic()
            stop.wait(60)
            assert time.monotonic() - began_at < 30
            sender.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert stop.draining and not stop.at_once
        stop.request()
        assert stop.at_once


def test_a_late_request_to_stop_is_no_fault() -> None:
    stop = StopFlag()
    stop.close()
    stop.request()
    assert stop.draining
