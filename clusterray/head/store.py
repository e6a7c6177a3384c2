"""The farm on the disk: an SQLite database, written by the task manager's thread alone.

What changed is committed before any message about it leaves. Write-ahead log, synchronous=FULL: a
commit that returned outlives a power cut. docs/files.md tells what else is on the disk and when.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from clusterray.core.changes import Changes
from clusterray.core.errors import LocalFault
from clusterray.core.model import AttemptId, JobId, JobRequest, LightKind, NodeId, PovrayClass
from clusterray.core.restart_rules import number_of
from clusterray.head.durable import sync
from clusterray.head.records import AttemptRow, BandRow, FrameRow, JobRow, NodeRow, Rows, Writer
from clusterray.wire.protocol import PhaseSeconds

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE classes (key TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE nodes (id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE deleted (job TEXT PRIMARY KEY, reason TEXT NOT NULL);
    CREATE TABLE jobs (number INTEGER PRIMARY KEY, request BLOB NOT NULL, data BLOB NOT NULL);
    CREATE TABLE frames (
        job INTEGER NOT NULL, frame INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (job, frame)
    ) WITHOUT ROWID;
    CREATE TABLE bands (number INTEGER PRIMARY KEY, job INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE INDEX bands_of_job ON bands (job);
    CREATE TABLE attempts (number INTEGER PRIMARY KEY, job INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE INDEX attempts_of_job ON attempts (job);
    CREATE TABLE reports (attempt INTEGER PRIMARY KEY, job INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE INDEX reports_of_job ON reports (job);
    CREATE TABLE results (job INTEGER PRIMARY KEY, data BLOB NOT NULL);
    """,
)
"""Each makes of a database of version N, its place in this list, one of version N + 1. One that was
released is never changed: another is added behind it."""

_BUSY_S: Final = 5.0
_COMMIT_PAGES: Final = 8
"""A commit writes about so many pages, and one more for each band."""
_CHECKPOINT_PAGES: Final = 1000
_LONG_LOG_PAGES: Final = 8000
_OF_JOB: Final = ("frames", "bands", "attempts", "reports", "results")
_Write: TypeAlias = tuple[str, tuple[Any, ...]]
_Entry: TypeAlias = tuple[str | None, int | str | None, int | None, bytes | None]
"""The table of a row, its key, its job if it has one, and its data."""
R = TypeVar("R")


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node told of an attempt beside its tile, see letters.Spent."""

    seconds: PhaseSeconds
    gathers: int = 0
    used: tuple[LightKind, ...] | None = None


class ResultRow(msgspec.Struct, frozen=True):
    """A finished picture: the name of its file, bytes, hex SHA-256."""

    name: str
    size: int
    sha256: str


class StoreFault(Exception):
    """What was to be stored is not: nothing of the commit is, and what SQLite said."""


class Store:
    """The database at ``path``; made where there is none. ``migrations`` are for tests.

    One thread at a time may use it, and one may ``checkpoint``. Raises LocalFault in words where it
    cannot be opened or was made by a later release.
    """

    def __init__(self, path: Path, *, migrations: Sequence[str] = MIGRATIONS) -> None:
        self.path = path
        try:
            self._db = _connect(path)
        except sqlite3.Error as error:
            raise LocalFault(f"cannot open the store {path}: {error}") from None
        try:
            self._migrate(migrations)
            self._db.executescript(_ENTRIES)
        except sqlite3.Error as error:
            self._db.close()
            raise LocalFault(f"cannot use the store {path}: {error}") from None
        except BaseException:
            self._db.close()
            raise
        self._known: dict[tuple[str, object], bytes] = {}
        self._pages = 0
        self._checkpoints: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the database; what is committed is on the disk."""
        if self._checkpoints is not None:
            self._checkpoints.close()
        self._db.close()

    # ---------------------------------------------------------------- the log

    def wants_checkpoint(self) -> bool:
        """Tell whether much was written since this was answered with True."""
        if self._pages < _CHECKPOINT_PAGES:
            return False
        self._pages = 0
        return True

    def checkpoint(self) -> None:
        """Bring what the log holds into the database; raises OSError.

        Beside the thread that commits. That one does it itself, and waits for the disk, where the
        log has become long all the same.
        """
        try:
            if self._checkpoints is None:
                self._checkpoints = _connect(self.path)
            self._checkpoints.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            raise OSError(f"no checkpoint of the store {self.path}: {error}") from None

    def _migrate(self, migrations: Sequence[str]) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(migrations):
            raise LocalFault(
                f"the store {self.path} has version {version}, this ClusterRay knows "
                f"{len(migrations)} at most: a newer release made it; install that one again"
            )
        for number, script in enumerate(migrations[version:], start=version + 1):
            # One transaction: a cut leaves the version that was there.
            self._db.executescript(f"BEGIN;{script};PRAGMA user_version={number};COMMIT;")

    # ---------------------------------------------------------------- read

    def load(self) -> Rows:
        """Read all rows; raises LocalFault naming the file where they cannot be read."""
        try:
            self._known.clear()
            return self._load()
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise LocalFault(f"the store {self.path} cannot be read: {error}") from None

    def _load(self) -> Rows:
        rows = Rows()
        ask = self._db.execute
        rows.classes.update(
            (key, _read(data, PovrayClass)) for key, data in ask("SELECT key, data FROM classes")
        )
        for number, request, data in ask("SELECT number, request, data FROM jobs"):
            rows.requests[number] = _read(request, JobRequest)
            rows.jobs[number] = _read(data, JobRow)
            self._known["jobs", number] = data
        for job, frame, data in ask("SELECT job, frame, data FROM frames"):
            rows.frames[job, frame] = _read(data, FrameRow)
            self._known["frames", (job, frame)] = data
        for number, job, data in ask("SELECT number, job, data FROM bands"):
            rows.bands[number] = job, _read(data, BandRow)
        for number, job, data in ask("SELECT number, job, data FROM attempts"):
            rows.attempts[number] = job, _read(data, AttemptRow)
        rows.nodes.update(
            (NodeId(node), _read(data, NodeRow)) for node, data in ask("SELECT id, data FROM nodes")
        )
        deleted = ask("SELECT job, reason FROM deleted ORDER BY rowid")
        rows.deleted.update((JobId(job), reason) for job, reason in deleted)
        made = ask("SELECT value FROM meta WHERE key = 'jobs_made'").fetchone()
        rows.jobs_made = 0 if made is None else made[0]
        return rows

    def results(self) -> dict[JobId, ResultRow]:
        """Read what is known of finished pictures."""
        found = self._db.execute("SELECT job, data FROM results")
        return {JobId(f"j{job}"): _read(data, ResultRow) for job, data in found}

    def reports(self) -> dict[int, Report]:
        """Read what nodes told of attempts, by the attempts' numbers."""
        found = self._db.execute("SELECT attempt, data FROM reports")
        return {attempt: _read(data, Report) for attempt, data in found}

    # ---------------------------------------------------------------- write

    def commit(
        self,
        changes: Changes,
        wall: float,
        *,
        reports: Mapping[AttemptId, tuple[JobId, Report]],
        results: Mapping[JobId, ResultRow | None],
    ) -> None:
        """Store what changed, all of it or nothing; ``wall`` as in records.Writer.

        ``reports`` come with the attempt's job; a result of None is no more. Raises StoreFault;
        then the store must be read again.
        """
        rows = Writer(wall).changes(changes)
        many = list(_many([*self._entries(rows), *_report_entries(reports)]))
        others = [*self._rows(rows), *_result_writes(results), *_deletions(changes)]
        if not many and not others:
            return
        self._pages += _COMMIT_PAGES + len(rows.bands)
        try:
            if len(many) == 1 and not others:
                # A statement alone is a transaction.
                self._db.execute(*many[0])
                return
            self._db.execute("BEGIN IMMEDIATE")
            for statement, values in (*many, *others):
                self._db.execute(statement, values)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise StoreFault(f"the store {self.path} cannot be written: {error}") from None

    def try_to_write(self) -> None:
        """Find out whether a commit would succeed; raises StoreFault if not."""
        try:
            # Some pages, as a commit takes: the last free bytes of a disk are no sign of health.
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('tried', zeroblob(65536))")
            self._db.execute("DELETE FROM meta WHERE key = 'tried'")
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise StoreFault(f"the store {self.path} cannot be written: {error}") from None

    def _roll_back(self) -> None:
        self._known.clear()
        if self._db.in_transaction:
            # A fault of the disk has rolled back already, or will when the database is opened.
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def _rows(self, rows: Rows) -> Iterator[_Write]:
        """Give the writes of what seldom changes; of jobs and frames only of those that differ."""
        for key, povray in rows.classes.items():
            if self._differs("classes", key, key.encode()):
                yield "INSERT OR IGNORE INTO classes VALUES (?, ?)", (key, _encode(povray))
        for number, job in rows.jobs.items():
            data = _encode(job)
            if self._differs("jobs", number, data):
                request = _encode(rows.requests[number])
                yield _JOB, (number, request, data)
                yield _JOBS_MADE, (rows.jobs_made,)
        for (number, index), frame in rows.frames.items():
            data = _encode(frame)
            if self._differs("frames", (number, index), data):
                yield "INSERT OR REPLACE INTO frames VALUES (?, ?, ?)", (number, index, data)

    def _entries(self, rows: Rows) -> Iterator[_Entry]:
        """Give what changes with each band; of nodes only those that differ."""
        for number, (job, band) in rows.bands.items():
            yield "bands", number, job, _encode(band)
        for number, (job, attempt) in rows.attempts.items():
            yield "attempts", number, job, _encode(attempt)
        for node, row in rows.nodes.items():
            data = _encode(row)
            if self._differs("nodes", node, data):
                yield "nodes", node, None, data

    def _differs(self, table: str, key: object, data: bytes) -> bool:
        """Tell whether a row is another than the one stored last; it will be stored now."""
        if self._known.get((table, key)) == data:
            return False
        self._known[table, key] = data
        return True

    def forget(self, jobs: Iterable[JobId]) -> None:
        """Keep no copy of the rows of jobs that are gone."""
        gone = {number_of(job) for job in jobs}
        for table, key in list(self._known):
            number = key[0] if table == "frames" and isinstance(key, tuple) else key
            if table in ("jobs", "frames") and number in gone:
                del self._known[table, key]


_JOB: Final = (
    "INSERT INTO jobs VALUES (?, ?, ?) ON CONFLICT (number) DO UPDATE SET data = excluded.data"
)
_JOBS_MADE: Final = (
    "INSERT INTO meta VALUES ('jobs_made', ?)"
    " ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)"
)
_ENTRIES: Final = """
    CREATE TEMP VIEW entries AS SELECT NULL AS place, NULL AS key, NULL AS job, NULL AS data;
    CREATE TEMP TRIGGER to_bands INSTEAD OF INSERT ON entries WHEN NEW.place = 'bands'
        BEGIN INSERT OR REPLACE INTO bands VALUES (NEW.key, NEW.job, NEW.data); END;
    CREATE TEMP TRIGGER to_attempts INSTEAD OF INSERT ON entries WHEN NEW.place = 'attempts'
        BEGIN INSERT OR REPLACE INTO attempts VALUES (NEW.key, NEW.job, NEW.data); END;
    CREATE TEMP TRIGGER to_reports INSTEAD OF INSERT ON entries WHEN NEW.place = 'reports'
        BEGIN INSERT OR REPLACE INTO reports VALUES (NEW.key, NEW.job, NEW.data); END;
    CREATE TEMP TRIGGER to_nodes INSTEAD OF INSERT ON entries WHEN NEW.place = 'nodes'
        BEGIN INSERT OR REPLACE INTO nodes VALUES (NEW.key, NEW.data); END;
"""
"""What most commits consist of goes through this view, all of it with one statement: at each the
interpreter's lock is let go and waited for, several times. It is this connection's alone."""
_AT_ONCE: Final = (4, 16, 64, 256)
"""So many entries one statement has, the last of them nothing: a few fixed numbers, so that each
statement is compiled once."""
_NOTHING: Final[_Entry] = (None, None, None, None)


def _many(entries: Sequence[_Entry]) -> Iterator[_Write]:
    """Give the writes of entries, those of an earlier commit replaced."""
    most = _AT_ONCE[-1]
    for at in range(0, len(entries), most):
        some = entries[at : at + most]
        count = next(each for each in _AT_ONCE if each >= len(some))
        filled = chain(some, repeat(_NOTHING, count - len(some)))
        yield _insert(count), tuple(chain.from_iterable(filled))


@functools.cache
def _insert(count: int) -> str:
    return f"INSERT INTO entries VALUES {', '.join(['(?, ?, ?, ?)'] * count)}"


def _report_entries(reports: Mapping[AttemptId, tuple[JobId, Report]]) -> Iterator[_Entry]:
    for attempt, (job, report) in reports.items():
        yield "reports", number_of(attempt), number_of(job), _encode(report)


def _result_writes(results: Mapping[JobId, ResultRow | None]) -> Iterator[_Write]:
    for job, result in results.items():
        if result is None:
            yield "DELETE FROM results WHERE job = ?", (number_of(job),)
        else:
            yield (
                "INSERT OR REPLACE INTO results VALUES (?, ?)",
                (number_of(job), _encode(result)),
            )


def _deletions(changes: Changes) -> Iterator[_Write]:
    for band in changes.gone_bands:
        yield "DELETE FROM bands WHERE number = ?", (number_of(band),)
    for attempt in changes.gone_attempts:
        yield "DELETE FROM attempts WHERE number = ?", (number_of(attempt),)
        yield "DELETE FROM reports WHERE attempt = ?", (number_of(attempt),)
    for job in changes.gone_jobs:
        yield "DELETE FROM jobs WHERE number = ?", (number_of(job),)
        for table in _OF_JOB:
            yield f"DELETE FROM {table} WHERE job = ?", (number_of(job),)
    for job, reason in changes.deleted.items():
        if reason is None:
            yield "DELETE FROM deleted WHERE job = ?", (job,)
        else:
            yield "INSERT OR REPLACE INTO deleted VALUES (?, ?)", (job, reason)


def _connect(path: Path) -> sqlite3.Connection:
    made = not path.exists()
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_LONG_LOG_PAGES}")
        if made:
            sync(path.parent)
    except BaseException:
        db.close()
        raise
    return db


_encode: Final = msgspec.json.Encoder().encode


def _read(data: bytes, kind: type[R]) -> R:
    return msgspec.json.decode(data, type=kind)
