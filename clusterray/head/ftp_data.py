"""The data connections of the head's FTP server: one moves one file, over TLS or not.

On the thread ``ftp``. Asks the session's server (``room``) how much it may take; knows no commands.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from OpenSSL import SSL
from pyftpdlib.handlers import DTPHandler, FTPHandler, TLS_DTPHandler
from pyftpdlib.handlers.ftp.producers import FileProducer

from clusterray.head.ftp_files import Upload

STALL_SECONDS: Final = 120
"""A transfer without a byte for so long is cut off."""
CHUNK_BYTES: Final = 1 << 18
"""So much of a file is moved at a time, before the next session has its turn."""
RECORD_BYTES: Final = 1 << 14
"""TLS moves no more at a time."""

_log = logging.getLogger("clusterray.head.ftp")


# Where this class is defined changed between releases of pyftpdlib; here it is in all of them.
_PassiveDTP: Any = FTPHandler.passive_dtp


class DataListener(_PassiveDTP):  # type: ignore[misc]  # pyftpdlib has no types
    """The socket of one PASV or EPSV."""

    def __init__(self, session: FTPHandler, extmode: bool = False) -> None:
        self._may_take_any_port = session.passive_ports is None
        try:
            super().__init__(session, extmode)
        except OSError:
            self.close()
            raise

    def bind(self, address: tuple[str, int]) -> None:
        # With all ports of the range taken pyftpdlib goes to a random one, which no firewall lets
        # through: the client would hang where it can be told.
        if address[1] == 0 and not self._may_take_any_port:
            raise OSError(errno.EADDRINUSE, "every passive port is in use")
        super().bind(address)


class _Bytes(DTPHandler):  # type: ignore[misc]  # pyftpdlib has no types
    """What a data connection does with its bytes, over TLS or not."""

    timeout = STALL_SECONDS
    ac_in_buffer_size = CHUNK_BYTES
    ac_out_buffer_size = CHUNK_BYTES

    def handle_read(self) -> None:
        pieces: list[bytes] = []
        try:
            end = self._receive(pieces)
        except (OSError, SSL.Error):
            end = self._cut_off_as_lost
        if pieces:
            chunk = b"".join(pieces) if len(pieces) > 1 else pieces[0]
            self.tot_bytes_received += len(chunk)
            self._take(chunk)
        if end is not None and not self._closed:
            end()

    handle_read_event = handle_read

    def _receive(self, pieces: list[bytes]) -> Callable[[], None] | None:
        """Take in what has arrived, up to CHUNK_BYTES; gives what to do at the stream's end.

        TLS gives a record at a time, so it is asked again and again: what comes after it may be
        the end, which the socket tells but once.
        """
        sealed = isinstance(self.socket, SSL.Connection)
        asked = RECORD_BYTES if sealed else CHUNK_BYTES
        for _ in range(CHUNK_BYTES // asked):
            try:
                piece = self.socket.recv(asked)
            except (BlockingIOError, SSL.WantReadError):
                return None
            except SSL.ZeroReturnError:
                piece = b""
            if not piece:
                return self.handle_close
            pieces.append(piece)
        return None

    def _cut_off_as_lost(self) -> None:
        # pyftpdlib takes a reset for the end of the file.
        self._cut_off("426 Connection lost; transfer aborted.")

    def _take(self, chunk: bytes) -> None:
        self.cmd_channel.room.drain()
        if self._closed:
            return
        upload: Upload = self.file_obj
        most = self.cmd_channel.room.most_bytes(upload.grant)
        if most is not None and self.tot_bytes_received > most:
            self._cut_off(f"552 More than the {most} bytes allowed; file deleted.")
            return
        try:
            upload.write(chunk)
        except OSError as error:
            self.cmd_channel.room.unwritable(upload.grant, error)
            self._cut_off(f"452 {error.strerror}; transfer aborted.")

    def _cut_off(self, reply: str) -> None:
        self._resp = (reply, _log.debug)
        self.close()

    def handle_close(self) -> None:
        self.cmd_channel.room.drain()
        if self._closed:
            return
        if self.receive and self.file_obj is not None:
            self.file_obj.whole = True
        super().handle_close()


class Transfer(TLS_DTPHandler, _Bytes):  # type: ignore[misc]  # pyftpdlib has no types
    """One data connection."""

    def push_with_producer(self, producer: FileProducer) -> None:
        producer.buffer_size = CHUNK_BYTES
        super().push_with_producer(producer)
        if self._is_shaking_hands():
            # The socket takes bytes all the while, so a loop that waits to write would spin.
            self._want(self.ioloop.READ)

    def handle_ssl_established(self) -> None:
        if self._initialized and not self.receive:
            self._want(self.ioloop.WRITE)

    def send(self, data: bytes) -> int:
        if self._is_shaking_hands():
            # pyftpdlib would shake hands within, and know no answer to a failure.
            return 0
        if not self._ssl_established:
            return int(super().send(data))
        view, sent = memoryview(data), 0
        try:
            # OpenSSL takes a record at a time; pyftpdlib would poll, and copy the rest, for each.
            while sent < len(view):
                taken = super().send(view[sent : sent + RECORD_BYTES])
                if not taken:
                    break
                sent += taken
        except SSL.Error:
            self._cut_off_as_lost()
        return sent

    def handle_error(self) -> None:
        _Bytes.handle_error(self)

    def _is_shaking_hands(self) -> bool:
        return not self._closed and self._ssl_requested and not self._ssl_established

    def _want(self, events: int) -> None:
        self._wanted_io_events = events
        self.modify_ioloop_events(events)

    def close(self) -> None:
        # pyftpdlib's waits for the peer to take the farewell: not for one that was revoked.
        if not self._closed and self._ssl_established:
            say_farewell(self.socket)
        _Bytes.close(self)


def say_farewell(connection: SSL.Connection) -> None:
    """End TLS as far as we are concerned, without waiting for the peer."""
    with contextlib.suppress(SSL.Error, OSError):
        connection.shutdown()


def tls_context(pem: Path) -> SSL.Context:
    """Make the context as ``wire.tls`` does, for the library that pyftpdlib speaks TLS with."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.use_certificate_chain_file(str(pem))
    context.use_privatekey_file(str(pem))
    return context
