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

from flask import Flask
from waitress import create_server, wasyncore
from waitress.channel import HTTPChannel
from waitress.task import ThreadedTaskDispatcher

from clusterray.head.listening import bind
from clusterray.head.web.tls_channel import TlsChannel

WORKERS: Final = 4
MAX_CONNECTIONS: Final = 200
MAX_IDLE_PER_ADDRESS: Final = 100
"""So that one address leaves room for others; a browser keeps a few, a class sits behind one."""
IDLE_SECONDS: Final = 30
MAX_BODY_BYTES: Final = 64 << 10
_STOP_SECONDS: Final = 5.0


class WebServer:
    """An HTTP server for ``app``; binds at once, serves after ``start``.

    ``port`` 0 takes a free one, which ``port`` tells. With a ``context`` it speaks TLS only.
    ``may_knock`` says from which addresses a connection is taken. Raises LocalFault if the address
    cannot be had.
    """

    def __init__(
        self,
        app: Flask,
        host: str,
        port: int,
        context: ssl.SSLContext | None = None,
        may_knock: Callable[[str], bool] = lambda address: True,
    ) -> None:
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
            connection_limit=MAX_CONNECTIONS,
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
        idle = [
            channel
            for channel in server.active_channels.values()
            if channel.addr[0] == address and not channel.requests
        ]
        if len(idle) >= MAX_IDLE_PER_ADDRESS:
            min(idle, key=lambda channel: channel.last_activity).handle_close()
        if self._context is None:
            HTTPChannel(server, sock, addr, adj, map=map)
            return
        try:
            TlsChannel(self._context, sock, server=server, addr=addr, adj=adj, map=map)
        except OSError:
            # Gone before it was looked at.
            sock.close()

    def _run(self) -> None:
        # Poll, as select() ends at 1,024 descriptors and a head has more.
        while not self._stopping:
            wasyncore.poll2(IDLE_SECONDS, self._sockets)


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
