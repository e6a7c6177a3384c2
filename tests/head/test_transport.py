"""Who is let in and over what: a running head, its certificate, and those without a token."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from clusterray.client.head_link import HeadLink
from clusterray.core.errors import NoHead
from clusterray.head import doorkeeper
from clusterray.head.certificate import HeadCertificate, head_certificate
from clusterray.head.connections import HELLO_SECONDS, Connection
from clusterray.head.doorkeeper import MAX_WAITING
from clusterray.node.daemon import run_node
from clusterray.node.settings import NodeSettings
from clusterray.node.stop import StopFlag
from clusterray.wire import protocol as msg
from clusterray.wire import tls
from clusterray.wire.link import Link, LinkClosed
from clusterray.wire.trust import new_secret
from tests.head.peers import Peer, RunningHead, dial, running_head
from tests.wire.middleman import Middleman

WAIT_S = 10.0
WaitFor = Callable[[Callable[[], bool]], None]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RunningHead]:
    with running_head(tmp_path / "state") as running:
        yield running


@pytest.fixture
def stranger(tmp_path: Path) -> HeadCertificate:
    (tmp_path / "stranger").mkdir()
    return head_certificate(tmp_path / "stranger")


# ---------------------------------------------------------------- a man in the middle


def test_a_submitter_sends_no_secret_to_another_certificate(
    head: RunningHead, stranger: HeadCertificate
) -> None:
    token = head.token("submit")
    with Middleman(head.ready.control, stranger.context) as relay:
        between = replace(token, port=relay.port)
        with HeadLink(lambda: between) as link, pytest.raises(NoHead, match="stands between"):
            link.open()
    assert relay.connections == 1
    assert relay.heard == []


def test_a_node_sends_no_secret_to_another_certificate_and_tries_again(
    head: RunningHead,
    stranger: HeadCertificate,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    with Middleman(head.ready.control, stranger.context) as relay, StopFlag() as stop:
        join = replace(head.token("node"), port=relay.port).encode()
        settings = NodeSettings(tmp_path / "work", join, canary=False)
        node = threading.Thread(target=lambda: run_node(settings, stop=stop, home=tmp_path))
        node.start()
        assert relay.called.acquire(timeout=WAIT_S)
        assert relay.called.acquire(timeout=WAIT_S), "it did not come back"
        stop.request()
        stop.request()
        node.join(WAIT_S)
        assert not node.is_alive()
    assert relay.heard == []
    assert sum("somebody stands between" in text for text in caplog.messages) == 1


def test_a_submitter_that_loses_its_head_to_another_waits_for_its_own(
    head: RunningHead, stranger: HeadCertificate
) -> None:
    said: list[str] = []
    good = head.token("submit")
    with Middleman(head.ready.control, stranger.context) as relay:
        tokens = iter([good, replace(good, port=relay.port), good])
        with HeadLink(lambda: next(tokens), say=said.append) as link:
            link.open()
            link.reopen()
    assert relay.heard == []
    assert "somebody stands between" in said[1]
    assert said[2] == "the head is back"


# ---------------------------------------------------------------- plain and TLS


def test_a_plain_token_is_told_that_the_head_speaks_tls(head: RunningHead) -> None:
    plain = replace(head.token("submit"), fingerprint="")
    with HeadLink(lambda: plain) as link, pytest.raises(NoHead) as caught:
        link.open()
    assert str(caught.value) == (
        "cannot reach a head: this head speaks TLS only, and your token is of one that does not; "
        "get the token that it writes now"
    )


def test_a_pinned_token_is_told_that_the_head_does_not(
    tmp_path: Path, stranger: HeadCertificate
) -> None:
    with running_head(tmp_path / "state", tls=False) as head:
        pinned = replace(head.token("submit"), fingerprint=stranger.fingerprint)
        with HeadLink(lambda: pinned) as link, pytest.raises(NoHead, match="speaks no TLS"):
            link.open()


def test_a_plain_head_warns_and_works(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_head(tmp_path / "state", tls=False) as head:
        assert head.token("node").fingerprint == ""
        assert any(text.startswith("TLS is off") for text in caplog.messages)
        with Peer(head) as client, Peer(head) as node:
            client.join("submit")
            node.join("node")
            folder = tmp_path / "scene"
            folder.mkdir()
            (folder / "a.pov").write_text("sphere { 0, 1 }")
            client.submit(client.stage(folder), bands=1)
            lease = node.hear(msg.Lease)
            node.deliver(lease)
            assert node.hear(msg.Accepted).attempt == lease.attempt


def test_a_plain_head_takes_nobody_from_elsewhere(tmp_path: Path) -> None:
    lan = (ip_network("192.168.7.0/24"),)
    with running_head(tmp_path / "state", tls=False, plain_networks=lan) as head:
        for address, let_in in (("192.168.7.9", True), ("192.0.2.9", False)):
            near, far = socket.socketpair()
            connection = Connection(near, address, head.head._services)
            connection.start()
            with closing(Link(far)) as link:
                peer = Peer(head, link)
                peer.say(peer.hello("submit"))
                answer = link.receive(WAIT_S)
                assert isinstance(answer, msg.Welcome) == let_in
                if not let_in:
                    assert isinstance(answer, msg.Bye)
                    assert "without TLS, and not with 192.0.2.9" in answer.reason
            connection.join(WAIT_S)


def test_the_certificate_survives_a_restart(tmp_path: Path) -> None:
    with running_head(tmp_path / "state") as head:
        token = head.token("submit")
    with running_head(tmp_path / "state") as head:
        assert head.token("submit") == token


def test_a_silent_peer_in_its_handshake_keeps_nobody_waiting(head: RunningHead) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            mute = stack.enter_context(socket.create_connection(("127.0.0.1", head.ready.control)))
            mute.sendall(bytes([tls.HANDSHAKE_BYTE]))
        began_at = time.monotonic()
        with Peer(head) as client:
            client.join("submit")
        assert time.monotonic() - began_at < HELLO_SECONDS


# ---------------------------------------------------------------- wrong secrets


def wrong(head: RunningHead) -> Peer:
    peer = Peer(head)
    peer.say(peer.hello("submit", secret=new_secret()))
    return peer


def test_wrong_secrets_are_answered_ever_later_and_good_ones_at_once(
    head: RunningHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The eighth waits for 0.2 s doubled seven times, half a minute, were it not for the limit.
    monkeypatch.setattr(doorkeeper, "LONGEST_WAIT_S", 60.0)
    with ExitStack() as stack:
        waiting = [stack.enter_context(wrong(head)) for _ in range(8)]
        good = stack.enter_context(Peer(head))
        good.join("submit")
        assert waiting[-1].link.receive(0) is None
        for peer in waiting[:3]:
            assert peer.hear(msg.Bye).reason == "this token is not valid here"
        good.say(msg.ListJobs(1))
        assert good.hear(msg.Jobs).jobs == []
        assert waiting[-1].link.receive(0) is None


def test_too_many_wrong_secrets_get_no_answer_and_good_ones_are_let_in(
    head: RunningHead, monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    monkeypatch.setattr(doorkeeper, "FIRST_WAIT_S", 60.0)
    monkeypatch.setattr(doorkeeper, "LONGEST_WAIT_S", 60.0)
    with ExitStack() as stack:
        established = stack.enter_context(Peer(head))
        established.join("submit")
        crowd = [stack.enter_context(wrong(head)) for _ in range(MAX_WAITING + 12)]
        good = stack.enter_context(Peer(head))
        good.join("submit", uuid="late")
        wait_for(lambda: sum(map(is_closed, crowd)) == 12)
        established.say(msg.ListJobs(1))
        assert established.hear(msg.Jobs).jobs == []


def is_closed(peer: Peer) -> bool:
    """Tell whether the head has closed the connection without a word."""
    try:
        assert peer.link.receive(0) is None
    except LinkClosed:
        return True
    return False


@pytest.mark.parametrize(
    ("settings", "addresses"),
    [
        ({"max_strangers_per_address": 4}, ["127.0.0.1"]),
        ({"max_strangers": 4}, ["127.0.0.1", "127.0.0.2", "127.0.0.3"]),
        ({"max_connections": 5}, ["127.0.0.1", "127.0.0.2", "127.0.0.3"]),
    ],
    ids=["of one address", "of all", "of all connections"],
)
def test_of_too_many_strangers_the_oldest_goes(
    tmp_path: Path, settings: dict[str, int], addresses: list[str]
) -> None:
    with running_head(tmp_path / "state", **settings) as head, ExitStack() as stack:
        good = stack.enter_context(Peer(head))
        good.join("submit")
        strangers = [
            stack.enter_context(dial_from(addresses[n % len(addresses)], head)) for n in range(6)
        ]
        for stranger in strangers[:2]:
            stranger.settimeout(WAIT_S)
            assert stranger.recv(1) == b""
        late = stack.enter_context(Peer(head))
        late.join("submit", uuid="late")
        good.say(msg.ListJobs(1))
        assert good.hear(msg.Jobs).jobs == []


def dial_from(source: str, head: RunningHead) -> socket.socket:
    return socket.create_connection(
        ("127.0.0.1", head.ready.control), source_address=(source, 0), timeout=WAIT_S
    )


def test_beyond_the_limit_a_newcomer_goes_and_nobody_who_is_known(tmp_path: Path) -> None:
    with running_head(tmp_path / "state", max_connections=2) as head, ExitStack() as stack:
        known = [stack.enter_context(Peer(head)) for _ in range(2)]
        for number, peer in enumerate(known):
            peer.join("submit", uuid=f"u{number}")
        with dial_from("127.0.0.1", head) as third:
            assert third.recv(1) == b""
        for peer in known:
            peer.say(msg.ListJobs(1))
            assert peer.hear(msg.Jobs).jobs == []


def test_no_secret_reaches_the_log(head: RunningHead, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bad = new_secret()
    with Peer(head) as peer:
        hello = peer.hello("submit", secret=bad)
        peer.say(hello)
        peer.hear(msg.Bye)
    with Peer(head) as client:
        client.join("admin")
        client.say(msg.MakeToken(1, "submit", "ann"))
        made = client.hear(msg.TokenMade)
    secrets = [bad, made.token, *(head.token(role).secret for role in ("node", "submit", "admin"))]
    assert caplog.records
    shown = caplog.text + repr(hello) + repr(made)
    assert not [secret for secret in secrets if secret in shown]


def test_a_connection_that_breaks_in_its_handshake_is_one_line(
    head: RunningHead, caplog: pytest.LogCaptureFixture
) -> None:
    with dial(head) as sock:
        assert sock.fileno() >= 0
    with socket.create_connection(("127.0.0.1", head.ready.control)) as sock:
        sock.sendall(bytes([tls.HANDSHAKE_BYTE]) + b"no hello of TLS at all, but letters")
        sock.settimeout(WAIT_S)
        with suppress(ConnectionResetError):
            while sock.recv(4096):
                pass
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
