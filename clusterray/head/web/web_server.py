"""Serves the web application over HTTP: waitress on threads with our names.

The thread ``web`` owns the sockets, ``web-0`` and on run the application. Must not know what the
pages show.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from flask import Flask
from waitress import create_server, wasyncore
from waitress.task import ThreadedTaskDispatcher

from clusterray.head.listening import bind

WORKERS: Final = 4
MAX_CONNECTIONS: Final = 200
IDLE_SECONDS: Final = 30
MAX_BODY_BYTES: Final = 64 << 10
_STOP_SECONDS: Final = 5.0


class WebServer:
    """An HTTP server for ``app``; binds at once, serves after ``start``.

    ``port`` 0 takes a free one, which ``port`` tells. Raises LocalFault if the address cannot be
    had.
    """

    def __init__(self, app: Flask, host: str, port: int) -> None:
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
