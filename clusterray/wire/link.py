"""One framed, heartbeating socket between two roles.

A Link has one owner: the connection's thread, which alone reads, writes, polls and decodes. Other
threads may ``send``, ``wake`` and ``close``; they only leave a note under the lock and ring the
bell. Knows nothing of what the messages mean but for ``Beat``, which it sends and swallows itself.

A peer that reads too slowly is dropped when the bounded outbox is full, one that says nothing for
``silent_s`` is given up; neither is ever waited for.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from clusterray.wire import tls
from clusterray.wire.bell import Bell
from clusterray.wire.protocol import (
    MAX_FRAME_BYTES,
    AnyMessage,
    Beat,
    FrameDecoder,
    Message,
    ProtocolError,
    encode,
)

_READ_BYTES: Final = 1 << 16
_RECORD_BYTES: Final = 1 << 14
"""TLS gives so much at a time at most: a whole record, so that none of it waits where a poll does
not see it."""
_READS_PER_PASS: Final = 32
_WRITE_BYTES: Final = 1 << 16
_INBOX_MESSAGES: Final = 1024
"""Messages kept for an owner that only calls ``service``; more stay in the kernel's buffer."""

_LEAST_HANDSHAKE_S: Final = 0.5
"""For the TLS handshake there is so much time at least, however long the connecting took."""

_COSTLY_BYTES: Final = 1 << 14
"""So many bytes cost as much to read as one more message."""
_SAVED_SECONDS: Final = 4.0
"""A peer that was quiet may send what it might have sent in so many seconds at once."""

_CLOSED_HERE: Final = "the connection was closed on this side"

Result = TypeVar("Result")


class LinkClosed(Exception):
    """The connection is over; ``reason`` is a sentence without a full stop.

    ``silent``: the peer said nothing for too long, and nobody knows whether it lives.
    """

    def __init__(self, reason: str, *, silent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.silent = silent


def connect(host: str, port: int, timeout_s: float, fingerprint: str = "") -> socket.socket:
    """Open a TCP connection, IPv4 or IPv6; raises OSError (TimeoutError included).

    With a ``fingerprint`` it is a TLS connection, given only if that is the certificate's; raises
    Untrusted if it is not.
    """
    until = time.monotonic() + timeout_s
    sock = socket.create_connection((host, port), timeout=timeout_s)
    try:
        if fingerprint:
            sock = secured = tls.begin(sock)
            left_s = max(_LEAST_HANDSHAKE_S, until - time.monotonic())
            tls.check_pin(secured, fingerprint, _peer_name(secured), left_s)
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock


def _peer_name(sock: socket.socket) -> str:
    try:
        address = sock.getpeername()
    except OSError:
        return "a closed connection"
    if not isinstance(address, tuple):
        return "this machine"
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Allowance:
    """How much may be read: so much a second, and what was saved up; the owner's thread alone."""

    def __init__(self, per_s: float | None, now: float) -> None:
        self._per_s = per_s
        self._most = _SAVED_SECONDS * (per_s or 0.0)
        self._left = self._most
        self._at = now

    def wait_s(self, now: float) -> float:
        """Give the seconds until reading may go on, 0 if it may."""
        if self._per_s is None:
            return 0.0
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        return max(0.0, -self._left / self._per_s)

    def spend(self, cost: float) -> None:
        """Take what was read from the allowance, which may so fall below nothing."""
        self._left -= cost


class Link:
    """A socket that carries messages both ways; see the module for who may call what.

    Times are seconds of ``clock``. ``outbox_bytes`` bounds what waits to be written,
    ``messages_per_s`` what is read: each message counts, and each 16 KiB; for a while it may be
    four times that. A peer that sends faster finds its own connection slow, and nobody else's.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        clock: Callable[[], float] = time.monotonic,
        heartbeat_s: float = 4.0,
        silent_s: float = 16.0,
        outbox_bytes: int = 8 << 20,
        messages_per_s: float | None = None,
    ) -> None:
        """Take over ``sock``, which the link closes in the end."""
        self.peer = _peer_name(sock)
        self.heartbeat_s = heartbeat_s
        self.silent_s = silent_s
        self._clock = clock
        self._sock = sock
        self._bell = Bell()
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # A lease or a heartbeat is one small packet; Nagle would hold it for a round trip.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._polled_for: int = select.POLLIN
        self._poll.register(self._bell, select.POLLIN)

        # Guards _outbox, _outbox_left, _closed, _released, _inside, _woken, _waiting and _rung:
        # what other threads leave here. Held for a few instructions, never across a system call
        # that blocks. The owner looks without it whether there is anything.
        self._lock = threading.Lock()
        self._outbox: deque[bytes] = deque()
        self._outbox_left = outbox_bytes
        self._closed: str | None = None
        self._released = False
        self._inside = False
        self._woken = False
        self._waiting = False
        self._rung = False

        # The owner's alone. _readable: the socket has not said that there is nothing to read.
        self._decoder = FrameDecoder()
        self._inbox: deque[AnyMessage] = deque()
        self._ended: str | None = None
        self._silent = False
        self._readable = True
        self._writing = memoryview(b"")
        self._write_failed = False
        self._write_waits_for = select.POLLOUT
        self._read_waits_for = select.POLLIN
        self._sent_at = self._heard_at = clock()
        self._allowance = _Allowance(messages_per_s, self._sent_at)

    # ------------------------------------------------------------ any thread

    def send(self, message: Message) -> None:
        """Put ``message`` into the outbox; the owner writes it.

        Raises LinkClosed if the link is closed or this message overfills the outbox, which closes
        it; ProtocolError if the message is over the frame limit.
        """
        frame = encode(message)
        with self._lock:
            if self._closed is None and len(frame) > self._outbox_left:
                self._close_locked(f"{self.peer} reads too slowly")
            if self._closed is not None:
                raise LinkClosed(self._closed)
            self._outbox.append(frame)
            self._outbox_left -= len(frame)
            self._ring()

    def wake(self) -> None:
        """Make the owner's running or next ``receive`` return None at once."""
        with self._lock:
            self._woken = True
            self._ring()

    def close(self, reason: str = _CLOSED_HERE) -> None:
        """Close the connection; what is still in the outbox is lost (see ``flush``).

        The owner, if it waits, raises LinkClosed with ``reason``. Later calls change nothing.
        """
        with self._lock:
            self._close_locked(reason)

    @property
    def closed(self) -> bool:
        """Tell whether the link was closed on this side."""
        with self._lock:
            return self._closed is not None

    # ------------------------------------------------------------ the owner's thread

    def secure(self, context: ssl.SSLContext, timeout_s: float) -> bool:
        """Be the server's side of a TLS handshake, before anything else is said.

        False if the peer began without TLS: the link stays as it is, what the peer said unread.
        Raises LinkClosed if it fails, or is not over after ``timeout_s`` seconds.
        """
        deadline = self._clock() + timeout_s
        self._enter()
        try:
            first = self._until_done(lambda: self._sock.recv(1, socket.MSG_PEEK), deadline)
            if first and first[0] != tls.HANDSHAKE_BYTE:
                return False
            secured = context.wrap_socket(
                self._sock, server_side=True, do_handshake_on_connect=False
            )
            self._sock = secured
            self._until_done(secured.do_handshake, deadline)
            self._heard_at = self._clock()
            return True
        except OSError as error:
            reason = f"no TLS handshake with {self.peer}: {error.strerror or error}"
            raise LinkClosed(reason) from None
        finally:
            self._leave()

    def _until_done(self, step: Callable[[], Result], deadline: float) -> Result:
        """Repeat what the socket is not ready for until it is; raises OSError, LinkClosed."""
        while True:
            self._check_open()
            try:
                return step()
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
                self._poll_events(select.POLLIN)
            except ssl.SSLWantWriteError:
                self._poll_events(select.POLLOUT)
            left_s = deadline - self._clock()
            if left_s <= 0:
                raise TimeoutError("it took too long")
            if self._may_wait():
                self._poll_for(left_s)

    def receive(self, timeout_s: float | None) -> AnyMessage | None:
        """Give the next message, or None after ``timeout_s`` seconds or a ``wake``.

        None for ``timeout_s`` waits for ever, 0 only looks. Meanwhile the outbox is written and
        heartbeats are sent. Raises LinkClosed once what arrived before the end has been given, and
        ProtocolError for bytes that are no message, after which the link can still send.
        """
        deadline = None if timeout_s is None else self._clock() + timeout_s
        if timeout_s == 0:
            self._readable = True
        if self._inbox and self._closed is None:
            return self._inbox.popleft()
        self._enter()
        try:
            while True:
                # What has been read is given first: each message would cost a look at the socket.
                if not self._inbox:
                    self._pass()
                if self._inbox:
                    return self._inbox.popleft()
                if self._ended is not None:
                    raise LinkClosed(self._ended, silent=self._silent)
                if self._take_wake():
                    return None
                now = self._clock()
                if deadline is not None and now >= deadline:
                    return None
                self._wait(self._next_duty(deadline) - now)
        finally:
            self._leave()

    def service(self) -> None:
        """Read, write and send heartbeats without waiting, in the middle of other work.

        What arrives stays for the next ``receive``. Raises as ``receive`` does.
        """
        self._readable = True
        self._enter()
        try:
            self._pass()
            if self._ended is not None and not self._inbox:
                raise LinkClosed(self._ended, silent=self._silent)
        finally:
            self._leave()

    def flush(self, timeout_s: float) -> bool:
        """Write the outbox, for at most ``timeout_s`` seconds; tell whether all of it went out."""
        deadline = self._clock() + timeout_s
        try:
            self._enter()
            try:
                while True:
                    self._check_open()
                    self._write_outbox()
                    if self._write_failed:
                        return False
                    if not self._has_output():
                        return True
                    now = self._clock()
                    if now >= deadline:
                        return False
                    self._wait(deadline - now, reading=False)
            finally:
                self._leave()
        except LinkClosed:
            return False

    def trust_peer(self) -> None:
        """Accept frames up to the full limit, not only of a HELLO's size.

        The head calls it once the peer has shown its secret, a peer as soon as it has connected.
        """
        self._decoder.limit = MAX_FRAME_BYTES

    # ------------------------------------------------------------ under the lock

    def _ring(self) -> None:
        # An owner that does not wait looks here before it does.
        if not self._waiting or self._rung or self._released:
            return
        self._rung = True
        self._bell.ring()

    def _close_locked(self, reason: str) -> None:
        if self._closed is not None:
            return
        self._closed = reason
        self._outbox.clear()
        if self._inside:
            # The owner is at work on the socket; closing it here could give its number to another
            # connection under the owner's hands. It closes the socket on its way out.
            self._ring()
            return
        self._release()

    def _release(self) -> None:
        if self._released:
            return
        self._released = True
        self._sock.close()
        self._bell.close()

    # ------------------------------------------------------------ the owner's inner work

    def _enter(self) -> None:
        """Be at work on the socket, until ``_leave``; a generator would double what that costs."""
        with self._lock:
            if self._closed is not None:
                raise LinkClosed(self._closed)
            self._inside = True

    def _leave(self) -> None:
        with self._lock:
            self._inside = False
            if self._closed is not None:
                self._release()

    def _pass(self) -> None:
        """Do everything that can be done without waiting."""
        self._check_open()
        heard_at = self._heard_at
        if self._readable or self._clock() - self._heard_at >= self.silent_s:
            self._read_socket()
        now = self._clock()
        if self._ended is None and now - self._heard_at >= self.silent_s:
            self._silent = True
            self._ended = f"nothing was heard from {self.peer} for {self.silent_s:g} s"
        self._write_outbox()
        # Whoever was woken by the peer's beat sends its own in the same breath.
        beat_s = self.heartbeat_s / 2 if self._heard_at > heard_at else self.heartbeat_s
        if now - self._sent_at >= beat_s and not self._has_output():
            # With output waiting a beat would not arrive any sooner.
            self._queue_beat()
            self._write_outbox()

    def _check_open(self) -> None:
        # Written once: what is seen here a moment too late is seen at the next look.
        reason = self._closed
        if reason is not None:
            raise LinkClosed(reason)

    def _take_wake(self) -> bool:
        if not self._woken:
            return False
        with self._lock:
            woken, self._woken = self._woken, False
            return woken

    def _queue_beat(self) -> None:
        frame = encode(Beat())
        with self._lock:
            self._outbox.append(frame)
            self._outbox_left -= len(frame)

    def _read_socket(self) -> None:
        for _ in range(_READS_PER_PASS):
            if self._ended is not None:
                return
            if len(self._inbox) >= _INBOX_MESSAGES or self._allowance.wait_s(self._clock()):
                # We do not listen, so silence proves nothing.
                self._heard_at = self._clock()
                return
            data = self._read_some()
            if data is None:
                self._readable = False
                return
            self._take_bytes(data)
            if len(data) < _RECORD_BYTES:
                # Most likely all there was; if not, poll says so at once.
                self._readable = False
                return

    def _take_bytes(self, data: bytes) -> None:
        if not data:
            self._ended = f"{self.peer} closed the connection"
            return
        self._heard_at = self._clock()
        try:
            messages = self._decoder.feed(data)
        except ProtocolError:
            # The decoder stays broken: whatever follows can no longer be cut into frames.
            self._ended = f"{self.peer} sent what is no message"
            raise
        self._allowance.spend(len(messages) + len(data) / _COSTLY_BYTES)
        self._inbox.extend(message for message in messages if not isinstance(message, Beat))

    def _write_outbox(self) -> None:
        while not self._write_failed:
            if not self._writing:
                if not self._outbox:
                    return
                self._writing = self._take_output()
            count = self._write_some(self._writing)
            if count == 0:
                return
            self._writing = self._writing[count:]
            self._sent_at = self._clock()
            with self._lock:
                self._outbox_left += count

    def _take_output(self) -> memoryview:
        frames, size = [], 0
        with self._lock:
            while self._outbox and size < _WRITE_BYTES:
                frames.append(self._outbox.popleft())
                size += len(frames[-1])
        return memoryview(b"".join(frames))

    def _has_output(self) -> bool:
        return bool(self._writing or self._outbox)

    def _next_duty(self, deadline: float | None) -> float:
        duties = [self._heard_at + self.silent_s]
        if not self._has_output():
            duties.append(self._sent_at + self.heartbeat_s)
        if deadline is not None:
            duties.append(deadline)
        return min(duties)

    def _wait(self, seconds: float, *, reading: bool = True) -> None:
        heed_wake = reading
        pause_s = self._allowance.wait_s(self._clock()) if reading else 0.0
        if pause_s:
            reading, seconds = False, min(seconds, pause_s)
        if not self._may_wait(heed_wake=heed_wake):
            return
        events = self._read_waits_for if reading else 0
        if not self._write_failed and self._has_output():
            events |= self._write_waits_for
        self._poll_events(events)
        self._poll_for(seconds)

    def _poll_events(self, events: int) -> None:
        if events != self._polled_for:
            self._poll.modify(self._sock, events)
            self._polled_for = events

    def _may_wait(self, *, heed_wake: bool = False) -> bool:
        """Have others ring from now on, unless one has left word to go on already."""
        with self._lock:
            self._waiting = self._closed is None and not (heed_wake and self._woken)
            return self._waiting

    def _poll_for(self, seconds: float) -> None:
        """Wait for the socket or the bell, for at most ``seconds``."""
        # Rounded up, or the last part of a millisecond would be spent spinning.
        found = self._poll.poll(max(0, math.ceil(seconds * 1000)))
        bell = self._bell.fileno()
        self._readable |= any(fd != bell for fd, _ in found)
        with self._lock:
            self._waiting = False
            if self._rung:
                self._rung = False
                self._bell.silence()

    # ------------------------------------------------------------ the two that touch the socket

    def _read_some(self) -> bytes | None:
        """Give what has arrived, b"" at the end, None if nothing has."""
        self._read_waits_for = select.POLLIN
        try:
            return self._sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            self._read_waits_for = select.POLLOUT
            return None
        except OSError as error:
            self._ended = f"the connection to {self.peer} broke: {error.strerror or error}"
            return None

    def _write_some(self, data: memoryview) -> int:
        """Write what the socket takes now; 0 if it takes nothing or is broken."""
        self._write_waits_for = select.POLLOUT
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
            return 0
        except ssl.SSLWantReadError:
            self._write_waits_for = select.POLLIN
            return 0
        except OSError:
            # What the peer said before it went is still to be read; the end follows it.
            self._write_failed = True
            return 0
