"""Serves the web application over HTTP: waitress on threads with our names.

The thread ``web`` owns the sockets, ``web-0`` and on run the application. Must not know what the
pages show.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Final
from wsgiref.types import WSGIApplication

from waitress import create_server, wasyncore
from waitress.channel import HTTPChannel
from waitress.task import ThreadedTaskDispatcher

from clusterray.head.listening import bind
from clusterray.head.web.tls_channel import TlsChannel

WORKERS: Final = 4
IDLE_SECONDS: Final = 30
MAX_BODY_BYTES: Final = 64 << 10
_OWN_SOCKETS: Final = 2
_STOP_SECONDS: Final = 5.0


class WebServer:
    """An HTTP server for ``app``; binds at once, serves after ``start``.

    ``port`` 0 takes a free one, which ``port`` tells. With a ``context`` it speaks TLS only.
    ``may_knock`` says from which addresses a connection is taken. Raises LocalFault if the address
    cannot be had.
    """

    def __init__(
        self,
        app: WSGIApplication,
        host: str,
        port: int,
        context: ssl.SSLContext | None = None,
        may_knock: Callable[[str], bool] = lambda address: True,
        *,
        connections: int = 200,
    ) -> None:
        self._connections = connections
        self._context = context
        self._may_knock = may_knock
        listening = bind(host, port, "HTTP", "--http-port")
        self.port: int = listening.getsockname()[1]
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._sockets: dict[int, Any] = {}
        self._workers = _Workers()
        self._server = create_server(
            app,
            map=self._sockets,
            _dispatcher=self._workers,
            sockets=[listening],
            ident=None,
            channel_timeout=IDLE_SECONDS,
            cleanup_interval=IDLE_SECONDS,
            # waitress counts its two own sockets, and takes nobody in at the limit.
            connection_limit=connections + _OWN_SOCKETS,
            max_request_body_size=MAX_BODY_BYTES,
        )
        self._server.channel_class = self._take_in

    def start(self) -> None:
        """Start the thread ``web`` and its workers."""
        self._workers.set_thread_count(WORKERS)
        self._thread = threading.Thread(target=self._run, name="web")
        self._thread.start()

    def stop(self) -> None:
        """Close every socket and wait for all threads; may be called twice, or without start."""
        if self._stopping:
            return
        self._stopping = True
        if self._thread is not None:
            self._server.pull_trigger()
            self._thread.join()
        self._workers.stop()
        wasyncore.close_all(self._sockets)

    def _take_in(self, server: Any, sock: socket.socket, addr: Any, adj: Any, map: Any) -> None:  # noqa: A002 - waitress's name
        """Make the channel of a connection, in place of the longest idle of too many."""
        address = addr[0]
        if not self._may_knock(address):
            sock.close()
            return
        self._make_way_for(address, list(server.active_channels.values()))
        if self._context is None:
            HTTPChannel(server, sock, addr, adj, map=map)
            return
        try:
            TlsChannel(self._context, sock, server=server, addr=addr, adj=adj, map=map)
        except OSError:
            # Gone before it was looked at.
            sock.close()

    def _make_way_for(self, address: str, channels: list[Any]) -> None:
        """Close the longest idle of too many: of the newcomer's address, or of all.

        One address leaves room for others; a browser keeps a few, a class sits behind one.
        """
        idle = [channel for channel in channels if not channel.requests]
        neighbours = [channel for channel in idle if channel.addr[0] == address]
        if len(neighbours) >= self._connections // 2:
            min(neighbours, key=_last_activity).handle_close()
        elif idle and len(channels) >= self._connections - 1:
            min(idle, key=_last_activity).handle_close()

    def _run(self) -> None:
        # Poll, as select() ends at 1,024 descriptors and a head has more.
        while not self._stopping:
            wasyncore.poll2(IDLE_SECONDS, self._sockets)


def _last_activity(channel: Any) -> float:
    return float(channel.last_activity)


class _Workers(ThreadedTaskDispatcher):  # type: ignore[misc]  # waitress has no types
    """waitress's workers under our names, and waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._started: list[threading.Thread] = []

    def start_new_thread(self, target: Callable[[int], None], thread_no: int) -> None:
        thread = threading.Thread(target=target, name=f"web-{thread_no}", args=(thread_no,))
        self._started.append(thread)
        thread.start()

    def stop(self) -> None:
        """End all workers once they are done with what they are at."""
        self.shutdown(timeout=_STOP_SECONDS)
        for thread in self._started:
            thread.join()
