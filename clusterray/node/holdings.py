"""What this node holds for the head: every attempt, its stage, and the connection if there is one.

Its threads meet here, and only here: "main" (node.session) brings the head's words, "render-1",
"render-2" (node.worker) and "upload" (node.upload_loop) take attempts and bring them on. Each
attempt goes through the states of ``Stage``. A second one begins only beside one that ends soon.
Without a connection rendering goes on and tiles wait; a new connection must confirm
an attempt with KEEP before its grants are used again. Knows nothing of sockets, FTP or POV-Ray.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from clusterray.core.errors import SceneFault
from clusterray.core.model import Rect
from clusterray.node.held import (
    TO_RENDER,
    UNFINISHED,
    WITH_TILE,
    Abort,
    Connection,
    Gone,
    Held,
    Names,
    Report,
    Stage,
    Upload,
    hold,
)
from clusterray.wire.protocol import (
    Blocks,
    Cut,
    CutTo,
    Done,
    Draining,
    Failed,
    Grant,
    HandBack,
    Keep,
    Lease,
    Message,
    Phase,
    Progress,
    Uploading,
)

log = logging.getLogger(__name__)

PROGRESS_S = 0.5
"""At most one PROGRESS of an attempt in this time."""
POVRAY_CHANGED = "POV-Ray on this node has changed; it is tested again"


class Holdings:
    """The attempts of this node, in the order of their leases; ``attempts`` is their folder."""

    def __init__(self, attempts: Path, rng: random.Random) -> None:
        self._attempts = attempts
        self._rng = rng
        # Guards every field below and those of Held that say so; notified at each change.
        self._changed = threading.Condition()
        self._held: dict[str, Held] = {}
        self._at_work: set[Held] = set()
        self._farm = ""
        self._connections = 0
        self._connection: Connection | None = None
        self._draining = False
        self._stopped = False
        self._broken = False
        self._povray_changed = False
        self._crowded = False
        self._end_probe: Callable[[str], None] = lambda _attempt: None

    # ------------------------------------------------------------ called before any thread starts

    def when_unwanted(self, end_probe: Callable[[str], None]) -> None:
        """Have ``end_probe`` called for each attempt that came to nothing, and each one dropped."""
        self._end_probe = end_probe

    # ------------------------------------------------------------ called by the main thread

    def attach(
        self, farm: str, host: str, ftp_port: int, report: Report, fingerprint: str = ""
    ) -> None:
        """A connection stands: report through it. Attempts of another farm are dropped."""
        with self._changed:
            strange = list(self._held.values()) if farm != self._farm else []
            self._farm = farm
            self._connections += 1
            self._connection = Connection(self._connections, host, ftp_port, report, fingerprint)
            self._changed.notify_all()
        for held in strange:
            log.info("%s: dropped, it came from another farm", held.words)
            self._forget(held)

    def detach(self) -> None:
        """The connection is gone; work goes on, reports and uploads wait for the next one."""
        with self._changed:
            self._connection = None
            self._changed.notify_all()

    def names(self) -> Names:
        """Give what is held, for HELLO."""
        with self._changed:
            rendered = [name for name, held in self._held.items() if held.stage in WITH_TILE]
            rendering = [name for name in self._held if name not in rendered]
            rects = {name: held.rect.as_tuple() for name, held in self._held.items()}
            leased = {name: held.lease.rect for name, held in self._held.items()}
        kept = {name: rect for name, rect in rects.items() if rect != leased[name]}
        return Names(rendering, rendered, kept)

    @property
    def empty(self) -> bool:
        """Tell whether no attempt is held."""
        with self._changed:
            return not self._held

    @property
    def broken(self) -> bool:
        """Tell whether a thread ended by a fault of ours, so that the daemon cannot go on."""
        with self._changed:
            return self._broken

    @property
    def povray_changed(self) -> bool:
        """Tell whether POV-Ray must be tested again before the head is spoken to, and can be.

        Beside a band that renders it would be measured too slow.
        """
        with self._changed:
            at_work = any(held.stage is Stage.WORKING for held in self._at_work)
            return self._povray_changed and not at_work

    def povray_tested(self) -> None:
        """The next HELLO says what POV-Ray is now."""
        with self._changed:
            self._povray_changed = False

    @property
    def stopped(self) -> bool:
        """Tell whether the node stops: there is nothing more to do."""
        with self._changed:
            return self._stopped

    def lease(self, lease: Lease) -> None:
        """Queue a band; a draining node hands it back, and one that makes no sense fails."""
        with self._changed:
            known = lease.attempt in self._held
            draining = self._draining
            changed = self._povray_changed
        if known:
            log.warning("attempt %s was leased twice; the second lease is ignored", lease.attempt)
        elif draining:
            self.tell(HandBack(lease.attempt, "the node is draining"))
        elif changed:
            self.tell(HandBack(lease.attempt, POVRAY_CHANGED))
        else:
            self._queue(lease)

    def _queue(self, lease: Lease) -> None:
        try:
            held = hold(lease, self._attempts, self._rng)
        except (SceneFault, ValueError) as error:
            log.warning("the lease of band %s makes no sense: %s", lease.band, error)
            self.tell(Failed(lease.attempt, "node", f"the lease makes no sense: {error}"))
            return
        with self._changed:
            held.leased_in = self._connection.number if self._connection is not None else None
            self._held[lease.attempt] = held
            self._changed.notify_all()

    def keep(self, keep: Keep) -> None:
        """After a reconnect: the attempt still counts, and its tile now goes to ``keep.write``."""
        again: Progress | None = None
        with self._changed:
            held = self._held.get(keep.attempt)
            if held is not None:
                held.leased_in = self._connection.number if self._connection is not None else None
                held.write = keep.write
                held.announced_in = None
                held.retry_at = 0.0
                held.backoff.reset()
                # The new connection has not heard of it.
                again = held.told if held.place and held.stage in TO_RENDER else None
                if held.stage is Stage.STORED:
                    held.stage = Stage.RENDERED
                self._changed.notify_all()
        if held is None:
            self.tell(HandBack(keep.attempt, "the node no longer holds this attempt"))
        elif held.failure is not None:
            self.fail(held, held.failure)
        elif again is not None:
            self.tell(again)

    def cut(self, cut: Cut) -> None:
        """Keep only a part of a band, as far as that can be, and say which."""
        held = self._find(cut.attempt)
        if held is None:
            # What it was ended by is on its way to the head.
            return
        try:
            wanted = Rect(*cut.keep)
        except ValueError as error:
            log.warning("%s: a cut that makes no sense: %s", held.words, error)
            return

        def agreed(keep: Rect) -> None:
            log.info("%s: %dx%d of it are left here", held.words, keep.width, keep.height)
            self.tell(CutTo(cut.attempt, keep.as_tuple(), held.line.parses))

        # The head must hear of it before it hears of a tile of this size.
        held.line.cut(wanted, agreed)

    def drop(self, attempt: str, reason: str) -> None:
        """The attempt counts no more: stop it and forget it; nothing is reported."""
        if (held := self._find(attempt)) is not None:
            log.info("%s: dropped: %s", held.words, reason)
            self._forget(held)
        else:
            self._end_probe(attempt)

    def accepted(self, attempt: str) -> None:
        """The tile is safe at the head."""
        if (held := self._find(attempt)) is not None:
            log.debug("%s: accepted", held.words)
            self._forget(held, probe_goes_on=True)

    def drain(self) -> None:
        """Take nothing more, hand back what has not begun, go on with the rest."""
        with self._changed:
            self._draining = True
            queued = [held for held in self._held.values() if held.stage is Stage.QUEUED]
        for held in queued:
            self.hand_back(held, "the node is draining")

    def hand_back_all(self, reason: str) -> None:
        """Hand back every attempt whose tile the head has not got."""
        with self._changed:
            unfinished = [held for held in self._held.values() if held.stage in UNFINISHED]
        for held in unfinished:
            self.hand_back(held, reason)

    def stop(self) -> None:
        """Break everything off at once and forget it; no thread finds anything more to do."""
        with self._changed:
            self._stopped = True
            # What was dropped a moment ago may still be at its end, and is not held any more.
            every = {*self._held.values(), *self._at_work}
            self._changed.notify_all()
        for held in every:
            self._forget(held, at_once=True)

    def _find(self, attempt: str) -> Held | None:
        with self._changed:
            return self._held.get(attempt)

    # ------------------------------------------------------------ called by any thread

    def tell(self, message: Message) -> bool:
        """Report to the head; False if no connection stands."""
        with self._changed:
            connection = self._connection
        # Outside the lock: the link has a lock of its own.
        return connection is not None and connection.report(message)

    def tell_in_time(self, message: Message) -> None:
        """Report to the head as soon as a connection stands; not at all if the node stops first."""
        connection: Connection | None = None
        while (connection := self._other_than(connection)) is not None:
            if connection.report(message):
                return

    def _other_than(self, dead: Connection | None) -> Connection | None:
        """Wait for a connection that is not the dead one; None if the node stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._connection not in (None, dead))
            return None if self._stopped else self._connection

    def hand_back(self, held: Held, reason: str) -> None:
        """Give an attempt back unfinished; nobody is at fault."""
        self._hand_back(held, reason)

    def _hand_back(self, held: Held, reason: str, *, at_once: bool = False) -> None:
        log.info("%s: handed back: %s", held.words, reason)
        self.tell(HandBack(held.attempt, reason))
        self._forget(held, at_once=at_once)

    def _forget(self, held: Held, *, at_once: bool = False, probe_goes_on: bool = False) -> None:
        """Drop an attempt; its folder goes now, or when the thread at work lets go of it."""
        if not probe_goes_on:
            self._end_probe(held.attempt)
        with self._changed:
            held.gone = True
            self._held.pop(held.attempt, None)
            if held.abort is not None:
                # Under the lock, so that it cannot hit what the thread turns to next.
                held.abort(at_once)
            at_work = held in self._at_work
            self._changed.notify_all()
        if not at_work:
            _remove_folder(held)

    # ------------------------------------------------------------ called by the threads at work

    def next_to_render(self, patience_s: float | None = None) -> Held | None:
        """Wait for a queued attempt that may begin and take it.

        None when the node stops or patience ends.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or self._first_queued() is not None, patience_s
            )
            held = None if self._stopped else self._first_queued()
            if held is not None:
                held.stage = Stage.WORKING
                self._at_work.add(held)
        return held

    def _first_queued(self) -> Held | None:
        """Give the next attempt, if it may begin beside what renders."""
        rendering = [held for held in self._held.values() if held.stage is Stage.WORKING]
        self._crowded = self._crowded and bool(rendering)
        if self._crowded or not all(held.place for held in rendering):
            return None
        queued = (held for held in self._held.values() if held.stage is Stage.QUEUED)
        return next(queued, None)

    def give_place(self, held: Held) -> None:
        """The attempt ends soon, and memory has room for another one: tell the head at once.

        Not if the node takes nothing more, or has another one to render already.
        """
        # Before the lock is taken: who agrees to a cut takes it while it holds the line's.
        whole = held.rect.area
        with self._changed:
            others = any(
                other.stage in TO_RENDER for other in self._held.values() if other is not held
            )
            closed = self._draining or self._povray_changed or self._stopped
            if held.gone or held.place or others or closed:
                return
            held.place = True
            told = held.told
            if told is None or told.phase != "rendering":
                # A quick band may have said no more than that it fetches its scene.
                told = Progress(held.attempt, "rendering", 0, whole)
            news = held.told = msgspec.structs.replace(told, place=True)
            held.told_at = time.monotonic()
            self._changed.notify_all()
        log.info("%s: ends soon; there is a place for another one", held.words)
        self.tell(news)

    def is_younger(self, held: Held) -> bool:
        """Tell whether the attempt renders beside one that was leased before it."""
        with self._changed:
            rendering = [each for each in self._held.values() if each.stage is Stage.WORKING]
            return held in rendering[1:]

    def hand_back_younger(self, held: Held, reason: str) -> None:
        """Give back the younger of two; no other one begins before the older is rendered."""
        with self._changed:
            self._crowded = True
        self._hand_back(held, reason, at_once=True)

    def hand_back_for_test(self, held: Held) -> None:
        """POV-Ray is not the one that the head was told of: hand back all that has not begun."""
        with self._changed:
            self._povray_changed = True
            queued = [each for each in self._held.values() if each.stage is Stage.QUEUED]
        # Or the head would lease them to this node again before it has gone.
        self.tell(Draining())
        for each in (held, *queued):
            self.hand_back(each, POVRAY_CHANGED)

    def next_to_upload(self) -> Upload | None:
        """Wait for a tile that may be stored now and take it; None when the node stops."""
        with self._changed:
            while not self._stopped:
                connection = self._connection
                ready = self._tiles_of(connection) if connection is not None else []
                now = time.monotonic()
                for held in ready:
                    assert connection is not None
                    if held.retry_at <= now:
                        self._at_work.add(held)
                        return Upload(held, connection, held.write)
                self._changed.wait(min((held.retry_at - now for held in ready), default=None))
        return None

    def _tiles_of(self, connection: Connection) -> list[Held]:
        return [
            held
            for held in self._held.values()
            if held.stage is Stage.RENDERED
            and held not in self._at_work
            and held.leased_in == connection.number
        ]

    def let_go(self, held: Held) -> None:
        """The thread's work on this attempt is over for now; remove its folder if it is gone."""
        with self._changed:
            self._at_work.discard(held)
            gone = held.gone
            self._changed.notify_all()
        if gone:
            _remove_folder(held)

    @contextlib.contextmanager
    def abortable(self, held: Held, abort: Abort) -> Iterator[None]:
        """Have ``abort`` called if the attempt is dropped meanwhile.

        Raises Gone if it is gone before, or by the time this ends however it ends: what broke
        because of the abort is nobody's failure.
        """
        with self._changed:
            self._check(held)
            held.abort = abort
        try:
            yield
        finally:
            with self._changed:
                held.abort = None
                self._check(held)

    def wait_leased(self, held: Held) -> Connection:
        """Wait until a connection stands that vouches for the attempt; raises Gone."""
        with self._changed:
            while True:
                self._check(held)
                connection = self._connection
                if connection is not None and held.leased_in == connection.number:
                    return connection
                self._changed.wait()

    def wait_for_word(self, held: Held, timeout_s: float) -> bool:
        """Wait for a new connection to vouch for the attempt; False if none did in time.

        Raises Gone if it was dropped instead.
        """
        with self._changed:
            before = held.leased_in
            self._changed.wait_for(
                lambda: held.gone or self._stopped or held.leased_in != before, timeout_s
            )
            self._check(held)
            return held.leased_in != before

    def rendered(self, held: Held) -> None:
        """The tile is there, ``tile_*`` and ``seconds`` say what it is: it may be uploaded."""
        with self._changed:
            connection = self._connection
            vouched = connection is not None and held.leased_in == connection.number
            if held.gone:
                return
        # Before the "upload" thread may see the tile, for UPLOADING comes before DONE.
        if connection is not None and vouched:
            self.announce(held, connection)
        with self._changed:
            held.stage = Stage.RENDERED
            self._changed.notify_all()

    def announce(self, held: Held, connection: Connection) -> None:
        """Tell a connection what will be uploaded, once; the place for a lease is free then."""
        with self._changed:
            if held.announced_in == connection.number:
                return
            held.announced_in = connection.number
        connection.report(
            Uploading(held.attempt, held.tile_bytes, held.tile_sha256, held.seconds.report())
        )

    def stored(self, held: Held, connection: Connection) -> None:
        """The tile has been uploaded under the grant of ``connection``.

        If that one is gone, the head's answer to the next HELLO says whether it wants it again.
        """
        with self._changed:
            if self._connection is not connection:
                return
            held.stage = Stage.STORED
        report = Done(held.attempt, held.seconds.report(), held.gathers, list(held.used), held.text)
        connection.report(report)

    def refused(self, held: Held, grant: Grant) -> None:
        """The head refuses a write grant: its lease is dead, a DROP or a KEEP will follow."""
        with self._changed:
            if held.write == grant:
                held.leased_in = None

    def retry_later(self, held: Held) -> float:
        """Put the next try of an upload off; gives the seconds until then."""
        with self._changed:
            wait_s = held.backoff.next_s()
            held.retry_at = time.monotonic() + wait_s
            return wait_s

    def fail(self, held: Held, failure: Failed) -> None:
        """The attempt failed. Without a connection that is kept until the head asks for it."""
        with self._changed:
            if held.gone:
                return
        if self.tell(failure):
            self._forget(held)
            return
        with self._changed:
            held.stage = Stage.FAILED
            held.failure = failure
            self._changed.notify_all()

    def fail_early(self, attempt: str, failure: Callable[[Held], Failed]) -> bool:
        """Something beside an attempt found what it would fail of itself: it fails now.

        False if that is of no use any more, or cannot be told.
        """
        held = self._find(attempt)
        if held is None or held.stage not in TO_RENDER or not self.tell(failure(held)):
            return False
        self._forget(held)
        return True

    def show(self, held: Held, rect: Rect, seen: bytes) -> None:
        """Let the head show finished blocks: the frame's pixels ``rect``, small."""
        with self._changed:
            if held.gone:
                return
        self.tell(Blocks(held.attempt, rect.as_tuple(), seen))

    def progress(self, held: Held, phase: Phase, done: int, total: int, moves: int = 0) -> None:
        """Report how far the attempt is, at most each PROGRESS_S."""
        now = time.monotonic()
        with self._changed:
            news = Progress(held.attempt, phase, done, total, moves, held.place)
            if held.gone or news == held.told or now - held.told_at < PROGRESS_S:
                return
            held.told = news
            held.told_at = now
        self.tell(news)

    def thread_ended(self) -> None:
        """Called as a thread ends; unless the node stops that is a fault of ours."""
        with self._changed:
            self._broken = self._broken or not self._stopped
            self._changed.notify_all()

    def _check(self, held: Held) -> None:
        if held.gone or self._stopped:
            raise Gone


def _remove_folder(held: Held) -> None:
    try:
        held.folder.remove()
    except OSError as error:
        log.warning("%s: its folder cannot be removed: %s", held.words, error)
