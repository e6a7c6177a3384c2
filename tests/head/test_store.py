"""What is committed is there afterwards, what failed is not, and old stores are read."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clusterray.core import events as ev
from clusterray.core.changes import Changes
from clusterray.core.errors import LocalFault
from clusterray.core.model import JobId, NodeId
from clusterray.head.records import NodeRow, Reader, Rows, Writer
from clusterray.head.store import MIGRATIONS, ResultRow, Store, StoreFault
from tests.core.world import BOTH, World, povray, request
from tests.node.machines import small_disk

OFFSET = 1_700_000_000.0
PARTS = ("requests", "jobs", "frames", "bands", "attempts", "nodes", "classes", "deleted")


def commit_all(store: Store, world: World) -> None:
    """Store all of a world."""
    changes = Changes(
        dict(world.farm.jobs),
        {(job.id, frame.index): frame for job in world.farm.jobs.values() for frame in job.frames},
        dict(world.farm.bands),
        dict(world.farm.attempts),
        dict(world.farm.nodes),
    )
    store.commit(changes, OFFSET, reports={}, results={})


def busy_world() -> World:
    """A farm with something of everything."""
    world = World()
    conn = world.join("pi", povray_class=povray("3.7", 1, 2, 3))
    world.join("desk", povray_class=povray("3.7", 1, 2, 3))
    world.submit(request("a", wish_bands=3, light=BOTH, verify=2))
    world.work_off_one(conn)
    world.joined()
    world.submit(request("b", priority=3))
    world.submit(request("c"))
    world.do(ev.JobPaused(JobId("j3"), "ann"))
    world.work_off_one(conn)
    for attempt in world.rendering(conn):
        world.forget(conn, attempt)
        world.do(ev.AttemptFailed(conn, attempt, "scene", "Parse Error", "a.pov", 3, "text"))
    return world


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "farm.db"


def rows_of(path: Path) -> Rows:
    store = Store(path)
    try:
        return store.load()
    finally:
        store.close()


def test_all_that_was_committed_is_read_back_as_it_was(path: Path) -> None:
    world = busy_world()
    store = Store(path)
    commit_all(store, world)
    store.close()
    rows, whole = rows_of(path), Writer(OFFSET).farm(world.farm)
    for part in PARTS:
        assert getattr(rows, part) == getattr(whole, part), part
    assert rows.jobs_made == 3
    assert any(light.kind == "photons" for row in rows.frames.values() for light in row.lights)


def test_what_is_read_back_is_the_farm_that_was_stored(path: Path) -> None:
    world = busy_world()
    store = Store(path)
    commit_all(store, world)
    store.close()
    stored = Reader(rows_of(path), OFFSET, world.now).stored()
    for job in stored.jobs:
        known = world.farm.jobs[job.id]
        assert (job.state, job.problem, job.reason) == (known.state, known.problem, known.reason)
        assert job.submitted_at == pytest.approx(known.submitted_at, abs=1e-6)
        for frame, other in zip(job.frames, known.frames, strict=True):
            assert frame.uncovered == other.uncovered
            assert set(frame.waiting) == set(other.waiting)
            assert [band.story for band in frame.all_bands] == [
                band.story for band in other.all_bands
            ]
            pixels = frame.povray_class.pixels if frame.povray_class else b""
            assert pixels == (other.povray_class.pixels if other.povray_class else b"")


def test_no_moment_is_later_than_now_though_the_clock_was_set_back(path: Path) -> None:
    world = busy_world()
    store = Store(path)
    commit_all(store, world)
    store.close()
    stored = Reader(rows_of(path), OFFSET - 3600, world.now).stored()
    assert all(job.submitted_at <= world.now for job in stored.jobs)


def test_a_deleted_job_leaves_no_row_but_that_it_is_deleted(path: Path) -> None:
    world = busy_world()
    store = Store(path)
    commit_all(store, world)
    results = {JobId("j1"): ResultRow("a.png", 5, "0" * 64)}
    store.commit(Changes(), OFFSET, reports={}, results=results)
    for job in list(world.farm.jobs):
        changes = Changes(gone_jobs={job}, deleted={job: "deleted by ann"})
        store.commit(changes, OFFSET, reports={}, results={})
    assert store.results() == {}
    store.close()
    rows = rows_of(path)
    left = [part for part in ("jobs", "frames", "bands", "attempts") if getattr(rows, part)]
    assert left == []
    assert list(rows.deleted) == ["j1", "j2", "j3"]
    assert rows.jobs_made == 3


def test_a_commit_that_the_disk_has_no_room_for_changes_nothing(tmp_path: Path) -> None:
    world = busy_world()
    with small_disk(tmp_path / "disk", "2m") as disk:
        store = Store(disk.path / "farm.db")
        commit_all(store, world)
        before = store.load()
        hog = disk.fill()
        node = world.farm.nodes[NodeId("pi")]
        names = [NodeId(f"n{number}") for number in range(5000)]
        many = Changes(nodes={name: replace(node, id=name) for name in names})
        with pytest.raises(StoreFault, match=r"farm\.db cannot be written: .*(full|I/O)"):
            store.commit(many, OFFSET, reports={}, results={})
        with pytest.raises(StoreFault, match="cannot be written"):
            store.try_to_write()
        after = store.load()
        assert after.nodes == before.nodes
        hog.unlink()
        store.try_to_write()
        store.commit(many, OFFSET, reports={}, results={})
        assert len(store.load().nodes) == 5000 + len(before.nodes)
        store.close()


def test_a_commit_is_all_or_nothing_though_the_head_is_killed_in_it(path: Path) -> None:
    """A process writes two rows to a commit and is killed between them, again and again."""
    script = (
        "import sys, os, sqlite3\n"
        "from pathlib import Path\n"
        "from clusterray.head.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "number = 0\n"
        "print('begun', flush=True)\n"
        "while True:\n"
        "    number += 1\n"
        "    store._db.execute('BEGIN IMMEDIATE')\n"
        "    for key in ('a', 'b'):\n"
        "        store._db.execute('INSERT OR REPLACE INTO meta VALUES (?, ?)', (key, number))\n"
        "    store._db.execute('COMMIT')\n"
    )
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        with writer.stdout as out:
            assert out.readline() == b"begun\n"
            writer.kill()
            writer.wait()
        store = Store(path)
        found = dict(store._db.execute("SELECT key, value FROM meta"))
        store.close()
        assert found.get("a") == found.get("b")


# ---------------------------------------------------------------- versions


def test_an_older_store_is_brought_up_to_date_with_all_that_is_in_it(path: Path) -> None:
    world = busy_world()
    store = Store(path)
    commit_all(store, world)
    before = store.load()
    store.close()
    later = (*MIGRATIONS, "CREATE TABLE later (key TEXT); ALTER TABLE jobs ADD COLUMN extra TEXT;")
    store = Store(path, migrations=later)
    assert store._db.execute("PRAGMA user_version").fetchone() == (len(later),)
    assert store._db.execute("SELECT count(*) FROM later").fetchone() == (0,)
    assert {part: getattr(store.load(), part) for part in PARTS} == {
        part: getattr(before, part) for part in PARTS
    }
    store.close()


def test_a_migration_that_fails_leaves_the_store_as_it_was(path: Path) -> None:
    Store(path).close()
    broken = (*MIGRATIONS, "CREATE TABLE later (key TEXT); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(LocalFault, match=r"cannot use the store .*farm\.db: no such table"):
        Store(path, migrations=broken)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert db.execute("SELECT name FROM sqlite_master WHERE name = 'later'").fetchall() == []
    db.close()
    Store(path).close()


def test_the_store_of_a_later_release_is_left_alone(path: Path) -> None:
    Store(path, migrations=(*MIGRATIONS, "CREATE TABLE later (key TEXT)")).close()
    with pytest.raises(LocalFault, match="a newer release made it; install that one again"):
        Store(path)


def test_a_row_of_an_earlier_release_gets_what_it_lacks(path: Path) -> None:
    """Fields that came later have defaults; ones that are no more are passed over."""
    store = Store(path)
    old = b'{"name": "pi", "threads": 4, "povray_class": "", "no_longer": true}'
    store._db.execute("INSERT INTO nodes VALUES ('n', ?)", (old,))
    assert store.load().nodes == {NodeId("n"): NodeRow("pi", 4, "")}
    store.close()


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" * 300])
def test_a_file_that_is_no_store_is_named(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LocalFault, match=r"store .*farm\.db.*: file is not a database"):
        Store(path)


def test_a_row_that_cannot_be_read_is_a_fault_in_words(path: Path) -> None:
    store = Store(path)
    store._db.execute("INSERT INTO nodes VALUES ('n', 'torn')")
    with pytest.raises(LocalFault, match=r"farm\.db cannot be read: JSON is malformed"):
        store.load()
    store.close()
