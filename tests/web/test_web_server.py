"""The HTTP server: threads, sockets and their end."""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from clusterray.core.errors import LocalFault
from clusterray.head.certificate import HeadCertificate, head_certificate
from clusterray.head.web.app import create_app
from clusterray.head.web.web_server import WebServer
from clusterray.wire.tls import fingerprint_of
from tests.web.farm import SUBMIT, pictured_for, preview, preview_for, view, visitor_of


@pytest.fixture
def nothing_left() -> Iterator[None]:
    threads, files = set(threading.enumerate()), len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert set(threading.enumerate()) - threads == set()
    assert len(list(Path("/proc/self/fd").iterdir())) <= files


def make_server(port: int = 0) -> WebServer:
    app = create_app(view=view, pictured=pictured_for, preview=preview_for, check_token=visitor_of)
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


# ---------------------------------------------------------------- TLS


@pytest.fixture
def sealed(nothing_left: None, tmp_path: Path) -> Iterator[tuple[WebServer, HeadCertificate]]:
    certificate = head_certificate(tmp_path)
    app = create_app(
        view=view, pictured=pictured_for, preview=preview_for, check_token=visitor_of, secure=True
    )
    big = bytes(range(256)) * 20_000
    app.add_url_rule("/big", "big", lambda: big)
    server = WebServer(app, "127.0.0.1", 0, certificate.context)
    server.start()
    yield server, certificate
    server.stop()


def https(server: WebServer, certificate: HeadCertificate) -> http.client.HTTPSConnection:
    connection = http.client.HTTPSConnection(
        "127.0.0.1", server.port, timeout=10, context=ssl._create_unverified_context()
    )
    connection.connect()
    shown = connection.sock.getpeercert(binary_form=True)
    assert isinstance(shown, bytes)
    assert fingerprint_of(shown) == certificate.fingerprint
    return connection


def test_it_speaks_tls_with_the_heads_certificate(
    sealed: tuple[WebServer, HeadCertificate],
) -> None:
    with closing(https(*sealed)) as connection:
        for _ in range(3):
            connection.request(
                "GET", "/preview/j7.png", headers={"Authorization": f"Bearer {SUBMIT}"}
            )
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, preview("j7"))


def test_a_large_answer_and_a_body_in_pieces_cross_whole(
    sealed: tuple[WebServer, HeadCertificate],
) -> None:
    with closing(https(*sealed)) as connection:
        connection.request("GET", "/big")
        assert connection.getresponse().read() == bytes(range(256)) * 20_000
        body = b"token=" + b"x" * 15_000
        connection.putrequest("POST", "/login")
        connection.putheader("Content-Type", "application/x-www-form-urlencoded")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        for start in range(0, len(body), 100):
            connection.send(body[start : start + 100])
        assert connection.getresponse().status == 401


def test_a_browser_that_speaks_no_tls_is_told(sealed: tuple[WebServer, HeadCertificate]) -> None:
    server, _ = sealed
    status, words = get(server, "/")
    assert status == 400
    assert b"https://" in words


def test_silent_handshakes_hold_up_neither_others_nor_the_stop(
    sealed: tuple[WebServer, HeadCertificate],
) -> None:
    server, certificate = sealed
    with ExitStack() as stack:
        for words in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01") * 4:
            silent = socket.create_connection(("127.0.0.1", server.port))
            stack.enter_context(silent).sendall(words)
        with closing(https(server, certificate)) as connection:
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
        server.stop()


def test_one_address_does_not_take_all_places(
    sealed: tuple[WebServer, HeadCertificate], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, certificate = sealed
    monkeypatch.setattr(server, "_connections", 10)
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(8)
        ]
        with closing(https(server, certificate)) as connection:
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
        idle[0].settimeout(10)
        assert idle[0].recv(1) == b""


def test_many_addresses_do_not_take_all_places(
    sealed: tuple[WebServer, HeadCertificate], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, certificate = sealed
    monkeypatch.setattr(server, "_connections", 5)
    with ExitStack() as stack:
        idle = [
            stack.enter_context(
                socket.create_connection(
                    ("127.0.0.1", server.port), source_address=(f"127.0.0.{number}", 0), timeout=10
                )
            )
            for number in range(2, 8)
        ]
        with closing(https(server, certificate)) as connection:
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
        assert idle[0].recv(1) == b""


def test_who_may_not_knock_is_closed_at_once(nothing_left: None) -> None:
    app = create_app(view=view, pictured=pictured_for, preview=preview_for, check_token=visitor_of)
    server = WebServer(app, "127.0.0.1", 0, None, lambda address: False)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as barred:
            assert barred.recv(1) == b""
    finally:
        server.stop()
