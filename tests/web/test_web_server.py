"""The HTTP server: threads, sockets and their end."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterray.core.errors import LocalFault
from clusterray.head.web.app import create_app
from clusterray.head.web.web_server import WebServer
from tests.web.farm import SUBMIT, busy_farm, preview, role_of


@pytest.fixture
def nothing_left() -> Iterator[None]:
    threads, files = set(threading.enumerate()), len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert set(threading.enumerate()) - threads == set()
    assert len(list(Path("/proc/self/fd").iterdir())) <= files


def make_server(port: int = 0) -> WebServer:
    app = create_app(view=busy_farm, preview=preview, check_token=role_of)
    return WebServer(app, "127.0.0.1", port)


def get(server: WebServer, place: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", place, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_it_serves_on_threads_named_web_and_leaves_nothing(nothing_left: None) -> None:
    before, handlers = set(threading.enumerate()), list(logging.root.handlers)
    server = make_server()
    server.start()
    try:
        assert get(server, "/healthz")[0] == 200
        status, png = get(server, "/preview/j7.png", Authorization=f"Bearer {SUBMIT}")
        assert (status, png) == (200, preview("j7"))
        assert get(server, "/")[0] == 401
        ours = {thread.name for thread in set(threading.enumerate()) - before}
        assert ours == {"web", "web-0", "web-1", "web-2", "web-3"}
        assert logging.root.handlers == handlers
    finally:
        server.stop()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def test_silent_clients_do_not_hold_up_a_stop(nothing_left: None) -> None:
    server = make_server()
    server.start()
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
    try:
        silent[0].sendall(b"POST /login HTTP/1.1\r\nContent-Length: 1000\r\n\r\nhalf")
        assert get(server, "/healthz")[0] == 200
    finally:
        server.stop()
        for client in silent:
            client.close()


def test_stop_without_start(nothing_left: None) -> None:
    make_server().stop()


def test_a_taken_address_is_a_fault_in_words(nothing_left: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalFault, match=rf"127\.0\.0\.1:{port}.*--http-port"):
            make_server(port)
