"""Pins over real sockets: with the right certificate, another one, an expired one, and none."""

from __future__ import annotations

import datetime
import ftplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clusterray.head.certificate import HeadCertificate, head_certificate
from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from clusterray.wire import tls
from clusterray.wire.link import Link, LinkClosed, connect
from clusterray.wire.protocol import MAX_FRAME_BYTES, Bye, Drop, Grant, Refused
from clusterray.wire.staging import FtpSession, StagingFault
from tests.wire.middleman import Middleman

WAIT_S = 10.0


@pytest.fixture
def certificate(tmp_path: Path) -> HeadCertificate:
    (tmp_path / "head").mkdir()
    return head_certificate(tmp_path / "head")


@pytest.fixture
def other(tmp_path: Path) -> HeadCertificate:
    (tmp_path / "other").mkdir()
    return head_certificate(tmp_path / "other")


def write_pem(pem: Path, first: datetime.datetime, last: datetime.datetime) -> None:
    """Write a certificate for another name, valid between these dates."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "elsewhere.example")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(1)
    made = builder.not_valid_before(first).not_valid_after(last).sign(key, hashes.SHA256())
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    pem.write_bytes(private + made.public_bytes(encoding))


class Listener:
    """Gives each connection to ``serve`` on a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listening.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[socket.socket], None]], Listener]]:
    made: list[Listener] = []

    def start(serve: Callable[[socket.socket], None]) -> Listener:
        made.append(Listener(serve))
        return made[-1]

    yield start
    for listener in made:
        listener.stop()


def echo(context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    """Serve a link that gives back each message until the peer leaves."""

    def serve(sock: socket.socket) -> None:
        link = Link(sock)
        try:
            if not link.secure(context, WAIT_S):
                link.send(Bye("this is TLS only", retry=False))
                link.flush(WAIT_S)
                return
            link.trust_peer()
            while True:
                message = link.receive(WAIT_S)
                assert message is not None
                link.send(message)
        except LinkClosed:
            pass
        finally:
            link.close()

    return serve


# ---------------------------------------------------------------- a link


def test_messages_of_all_sizes_come_back(
    certificate: HeadCertificate, listen: Callable[..., Listener]
) -> None:
    server = listen(echo(certificate.context))
    link = Link(connect("127.0.0.1", server.port, WAIT_S, certificate.fingerprint))
    link.trust_peer()
    with closing(link):
        # One TLS record holds 16 KiB: less, about as much, many.
        sizes = [0, 1, 16_000, 16_384, 100_000, 1 << 20]
        texts = ["x" * size for size in sizes]
        sent = [Drop(f"a{n}", text[:8000]) for n, text in enumerate(texts)]
        for message in sent * 20:
            link.send(message)
        for message in sent * 20:
            assert link.receive(WAIT_S) == message


def test_a_burst_in_both_directions_neither_stalls_nor_tears(
    certificate: HeadCertificate, listen: Callable[..., Listener]
) -> None:
    server = listen(echo(certificate.context))
    link = Link(
        connect("127.0.0.1", server.port, WAIT_S, certificate.fingerprint), outbox_bytes=64 << 20
    )
    link.trust_peer()
    with closing(link):
        messages = [Refused(n, 1, chr(65 + n % 26) * 8000) for n in range(2000)]
        for message in messages:
            link.send(message)
        for message in messages:
            assert link.receive(WAIT_S) == message


@pytest.mark.parametrize("years", [(1990, 1991), (2990, 2991)], ids=["expired", "not yet valid"])
def test_dates_and_names_are_not_judged(
    tmp_path: Path, listen: Callable[..., Listener], years: tuple[int, int]
) -> None:
    pem = tmp_path / "dated.pem"
    write_pem(pem, *(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in years))
    certificate = x509.load_pem_x509_certificate(pem.read_bytes())
    pin = tls.fingerprint_of(certificate.public_bytes(serialization.Encoding.DER))
    server = listen(echo(tls.server_context(pem)))
    with closing(Link(connect("127.0.0.1", server.port, WAIT_S, pin))) as link:
        link.trust_peer()
        link.send(Drop("a1", "hello"))
        assert link.receive(WAIT_S) == Drop("a1", "hello")


def test_another_certificate_is_refused_in_words(
    certificate: HeadCertificate, other: HeadCertificate, listen: Callable[..., Listener]
) -> None:
    server = listen(echo(other.context))
    with pytest.raises(tls.Untrusted) as caught:
        connect("127.0.0.1", server.port, WAIT_S, certificate.fingerprint)
    text = str(caught.value)
    assert text.startswith("cannot reach a head: 127.0.0.1:")
    assert other.fingerprint[:16] in text
    assert certificate.fingerprint[:16] in text


def test_a_server_without_tls_is_refused_in_words(
    certificate: HeadCertificate, listen: Callable[..., Listener]
) -> None:
    heard: list[bytes] = []

    def plain(sock: socket.socket) -> None:
        with sock:
            heard.append(sock.recv(4096))
            sock.sendall(b"\x00\x00\x00\x02{}")

    server = listen(plain)
    with pytest.raises(tls.Untrusted, match="speaks no TLS, as the token says it does"):
        connect("127.0.0.1", server.port, WAIT_S, certificate.fingerprint)
    assert heard[0][0] == tls.HANDSHAKE_BYTE


def test_a_server_that_says_nothing_is_not_waited_for(
    certificate: HeadCertificate, listen: Callable[..., Listener]
) -> None:
    done = threading.Event()

    def mute(sock: socket.socket) -> None:
        with sock:
            done.wait(WAIT_S)

    server = listen(mute)
    try:
        with pytest.raises(TimeoutError):
            connect("127.0.0.1", server.port, 0.6, certificate.fingerprint)
    finally:
        done.set()


def test_a_plain_peer_is_told_apart_and_told(
    certificate: HeadCertificate, listen: Callable[..., Listener]
) -> None:
    server = listen(echo(certificate.context))
    with closing(Link(connect("127.0.0.1", server.port, WAIT_S))) as link:
        link.send(Drop("a1", "in the clear"))
        assert link.receive(WAIT_S) == Bye("this is TLS only", retry=False)


def test_a_handshake_has_an_end(certificate: HeadCertificate) -> None:
    near, far = socket.socketpair()
    with far, closing(Link(near)) as link:
        far.sendall(bytes([tls.HANDSHAKE_BYTE, 3, 1]))
        with pytest.raises(LinkClosed, match="it took too long"):
            link.secure(certificate.context, 0.1)


def test_a_link_in_its_handshake_can_be_closed(certificate: HeadCertificate) -> None:
    near, far = socket.socketpair()
    link = Link(near)
    reasons: list[str] = []

    def shake() -> None:
        with pytest.raises(LinkClosed) as caught:
            link.secure(certificate.context, 60)
        reasons.append(caught.value.reason)

    thread = threading.Thread(target=shake)
    with far:
        thread.start()
        link.close("enough")
        thread.join(WAIT_S)
    assert reasons == ["enough"]


def test_a_frame_over_the_limit_comes_to_no_harm() -> None:
    # The first byte of a message tells it from TLS: its length is below 2**24.
    assert MAX_FRAME_BYTES < tls.HANDSHAKE_BYTE << 24


# ---------------------------------------------------------------- a man in the middle


@pytest.fixture
def staged(certificate: HeadCertificate, tmp_path: Path) -> Iterator[tuple[FtpServer, Grant, Path]]:
    server = FtpServer("127.0.0.1", 0, pem=certificate.pem)
    server.start()
    real = tmp_path / "tile.part"
    server.grant(FileGrant("w-a1", "the-secret-password", "tile.png", real, "write"))
    yield server, Grant("w-a1", "the-secret-password", "tile.png"), real
    server.stop()


def test_files_go_through_a_pinned_session(
    staged: tuple[FtpServer, Grant, Path], certificate: HeadCertificate, tmp_path: Path
) -> None:
    server, write, real = staged
    content = bytes(range(256)) * 5000
    (tmp_path / "mine").write_bytes(content)
    session = FtpSession("127.0.0.1", server.port, certificate.fingerprint)
    with closing(session):
        session.upload(write, tmp_path / "mine")
        assert real.read_bytes() == content
        server.grant(FileGrant("r1", "pw-r1", "tile.png", real, "read"))
        session.download(Grant("r1", "pw-r1", "tile.png"), tmp_path / "got", len(content))
    assert (tmp_path / "got").read_bytes() == content


def test_an_upload_that_is_cut_off_says_why(
    staged: tuple[FtpServer, Grant, Path], certificate: HeadCertificate, tmp_path: Path
) -> None:
    server, _, real = staged
    server.grant(FileGrant("w-a2", "pw", "tile.png", real, "write", 1000))
    (tmp_path / "mine").write_bytes(bytes(20_000_000))
    session = FtpSession("127.0.0.1", server.port, certificate.fingerprint)
    with closing(session), pytest.raises(StagingFault, match="552 More than the 1000 bytes"):
        session.upload(Grant("w-a2", "pw", "tile.png"), tmp_path / "mine")
    assert not real.exists()


def test_no_login_goes_to_another_certificate(
    staged: tuple[FtpServer, Grant, Path],
    certificate: HeadCertificate,
    other: HeadCertificate,
    tmp_path: Path,
) -> None:
    server, write, real = staged
    (tmp_path / "mine").write_bytes(b"my picture")
    with Middleman(server.port, other.context, after=b"234") as relay:
        session = FtpSession("127.0.0.1", relay.port, certificate.fingerprint)
        with closing(session), pytest.raises(StagingFault, match="somebody stands between"):
            session.upload(write, tmp_path / "mine")
    assert relay.heard
    assert not relay.heard_any(b"USER", b"PASS", b"w-a1", b"the-secret-password", b"my picture")
    assert not real.exists()


def test_no_byte_of_a_file_goes_to_another_certificate(
    staged: tuple[FtpServer, Grant, Path],
    certificate: HeadCertificate,
    other: HeadCertificate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, write, _ = staged
    (tmp_path / "mine").write_bytes(b"my picture")
    passive = ftplib.FTP.makepasv
    with Middleman(server.port, other.context) as relay:

        def leads_astray(control: ftplib.FTP) -> tuple[str, int]:
            return passive(control)[0], relay.port

        # The control connection is the head's; only the data connection leads to the relay.
        monkeypatch.setattr(ftplib.FTP, "makepasv", leads_astray)
        session = FtpSession("127.0.0.1", server.port, certificate.fingerprint)
        with closing(session), pytest.raises(StagingFault, match="somebody stands between"):
            session.upload(write, tmp_path / "mine")
    assert relay.connections == 1
    assert relay.heard == []


def test_a_server_that_offers_no_tls_gets_no_login(
    certificate: HeadCertificate, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_bytes(b"my picture")
    server = FtpServer("127.0.0.1", 0)
    server.start()
    try:
        session = FtpSession("127.0.0.1", server.port, certificate.fingerprint)
        with closing(session), pytest.raises(StagingFault, match="offers no TLS"):
            session.upload(Grant("u", "p", "tile.png"), tmp_path / "mine")
    finally:
        server.stop()


def test_an_abort_ends_a_handshake(certificate: HeadCertificate, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"my picture")
    reached = threading.Event()

    def serve(sock: socket.socket) -> None:
        with sock:
            sock.sendall(b"220 hello\r\n")
            sock.recv(4096)
            sock.sendall(b"234 go on\r\n")
            sock.recv(4096)
            reached.set()
            while sock.recv(4096):
                pass

    server = Listener(serve)
    session = FtpSession("127.0.0.1", server.port, certificate.fingerprint, timeout_s=60)
    faults: list[StagingFault] = []

    def upload() -> None:
        with pytest.raises(StagingFault) as caught:
            session.upload(Grant("u", "p", "tile.png"), tmp_path / "mine")
        faults.append(caught.value)

    thread = threading.Thread(target=upload)
    thread.start()
    assert reached.wait(WAIT_S)
    session.abort()
    thread.join(WAIT_S)
    server.stop()
    assert str(faults[0]) == "the transfer was aborted"
