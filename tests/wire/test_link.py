from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from clusterray.wire import link as link_module
from clusterray.wire.link import Link, LinkClosed, connect
from clusterray.wire.protocol import (
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    AnyMessage,
    Beat,
    Bye,
    Drop,
    Failed,
    Ok,
    ProtocolError,
    Refused,
    encode,
)


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Ends:
    """A link and the bare socket at its other end."""

    link: Link
    far: socket.socket
    clock: Clock
    near: socket.socket
    more: list[Link] = field(default_factory=list)

    def heard(self) -> bytes:
        found = b""
        while True:
            try:
                data = self.far.recv(1 << 20)
            except BlockingIOError:
                return found
            if not data:
                return found
            found += data


@pytest.fixture
def make() -> Iterator[Callable[..., Ends]]:
    made: list[Ends] = []

    def build(**options: int) -> Ends:
        clock = Clock()
        near, far = socket.socketpair()
        far.setblocking(False)
        made.append(Ends(Link(near, clock=clock, **options), far, clock, near))
        return made[-1]

    yield build
    for ends in made:
        ends.link.close()
        ends.far.close()
        assert ends.near.fileno() == -1


def drop(number: int) -> Drop:
    return Drop(attempt=f"a{number}", reason="x" * number)


def receive_all(link: Link) -> list[AnyMessage]:
    found = []
    while (message := link.receive(0)) is not None:
        found.append(message)
    return found


# ---------------------------------------------------------------- messages


def test_two_links_talk_both_ways() -> None:
    a, b = socket.socketpair()
    left, right = Link(a), Link(b)
    for number in range(50):
        left.send(drop(number))
        right.send(Ok(request=number))
    assert left.flush(5)
    assert right.flush(5)
    assert [right.receive(5) for _ in range(50)] == [drop(n) for n in range(50)]
    assert [left.receive(5) for _ in range(50)] == [Ok(request=n) for n in range(50)]
    left.close()
    with pytest.raises(LinkClosed, match="closed the connection"):
        right.receive(5)
    right.close()


def test_what_comes_byte_by_byte_is_what_comes_whole(make: Callable[..., Ends]) -> None:
    ends = make()
    messages = [drop(1), Bye(reason="ü"), Ok(request=5)]
    stream = b"".join(encode(message) for message in messages)
    found = []
    for at in range(len(stream)):
        ends.far.send(stream[at : at + 1])
        found += receive_all(ends.link)
    assert found == messages


def test_what_is_sent_arrives_whole_through_a_narrow_pipe(make: Callable[..., Ends]) -> None:
    ends = make()
    ends.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sent = [Refused(request=n, code=3, message="m" * 8000) for n in range(40)]
    for message in sent:
        ends.link.send(message)
    heard = b""
    while len(heard) < sum(len(encode(message)) for message in sent):
        ends.link.service()
        heard += ends.heard()
    assert heard == b"".join(encode(message) for message in sent)


def test_beats_are_swallowed(make: Callable[..., Ends]) -> None:
    ends = make()
    ends.far.send(encode(Beat()) + encode(drop(1)) + encode(Beat()))
    assert ends.link.receive(0) == drop(1)
    assert ends.link.receive(0) is None


def test_what_came_before_the_end_is_given_before_it(make: Callable[..., Ends]) -> None:
    ends = make()
    ends.far.send(encode(drop(1)) + encode(Bye(reason="update me", retry=False)))
    ends.far.close()
    ends.link.send(drop(2))
    ends.link.service()
    assert ends.link.receive(0) == drop(1)
    assert ends.link.receive(None) == Bye(reason="update me", retry=False)
    with pytest.raises(LinkClosed, match="closed the connection"):
        ends.link.receive(None)
    with pytest.raises(LinkClosed, match="closed the connection"):
        ends.link.service()


def test_a_frame_over_the_limit_is_refused_and_we_can_still_say_why(
    make: Callable[..., Ends],
) -> None:
    ends = make()
    ends.far.send((MAX_HELLO_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(ProtocolError, match="over the limit"):
        ends.link.receive(0)
    ends.link.send(Bye(reason="too large"))
    assert ends.link.flush(1)
    assert ends.heard() == encode(Bye(reason="too large"))
    with pytest.raises(LinkClosed, match="no message"):
        ends.link.receive(0)


def test_a_trusted_peer_may_send_larger_frames(make: Callable[..., Ends]) -> None:
    ends = make()
    ends.link.trust_peer()
    ends.far.send((MAX_HELLO_BYTES + 1).to_bytes(4, "big"))
    assert ends.link.receive(0) is None
    other = make()
    other.link.trust_peer()
    other.far.send((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(ProtocolError, match="over the limit"):
        other.link.receive(0)


def test_bytes_that_are_no_message_are_a_protocol_error(make: Callable[..., Ends]) -> None:
    ends = make()
    ends.far.send(b"\0\0\0\x02{]")
    with pytest.raises(ProtocolError, match="not a message"):
        ends.link.service()


# ---------------------------------------------------------------- time


def test_a_beat_goes_out_when_nothing_else_did_even_in_long_work(
    make: Callable[..., Ends],
) -> None:
    ends = make(heartbeat_s=4)
    ends.link.service()
    assert ends.heard() == b""
    for step, due in ((3.9, b""), (0.1, encode(Beat())), (3.0, b""), (1.0, encode(Beat()))):
        ends.clock.now += step
        ends.link.service()
        assert ends.heard() == due


def test_a_beat_is_answered_at_once_where_one_would_soon_be_due(
    make: Callable[..., Ends],
) -> None:
    ends = make(heartbeat_s=4)
    for step, due in ((1.9, b""), (1.9, encode(Beat())), (1.9, b"")):
        ends.clock.now += step
        ends.far.send(encode(Beat()))
        assert ends.link.receive(0) is None
        assert ends.heard() == due


def test_a_message_takes_the_place_of_a_beat(make: Callable[..., Ends]) -> None:
    ends = make(heartbeat_s=4)
    ends.clock.now += 3
    ends.link.send(drop(1))
    ends.link.service()
    ends.clock.now += 3
    ends.link.service()
    assert ends.heard() == encode(drop(1))


def test_beats_do_not_pile_up_for_a_peer_that_does_not_read(make: Callable[..., Ends]) -> None:
    ends = make(outbox_bytes=1 << 20)
    while ends.link.flush(0):
        ends.link.send(drop(4000))
    for _ in range(3):
        ends.clock.now += 5
        ends.far.send(encode(Beat()))
        ends.link.service()
    heard = b""
    while not ends.link.flush(0):
        heard += ends.heard()
    assert ends.heard().endswith(encode(drop(4000)))
    assert encode(Beat()) not in heard


def test_a_silent_peer_is_given_up(make: Callable[..., Ends]) -> None:
    ends = make(silent_s=16)
    ends.clock.now += 15
    ends.far.send(b"\0")
    assert ends.link.receive(0) is None
    ends.clock.now += 15.9
    assert ends.link.receive(0) is None
    ends.clock.now += 0.1
    with pytest.raises(LinkClosed, match="nothing was heard from this machine for 16 s"):
        ends.link.receive(None)


def test_a_peer_is_not_silent_whose_words_nobody_has_read_yet(make: Callable[..., Ends]) -> None:
    ends = make(silent_s=16)
    ends.far.send(encode(Bye(reason="first")))
    assert ends.link.receive(None) == Bye(reason="first")
    ends.far.send(encode(Bye(reason="second")))
    ends.clock.now += 20
    assert ends.link.receive(None) == Bye(reason="second")


def test_word_left_for_an_owner_who_does_not_wait_is_not_lost(make: Callable[..., Ends]) -> None:
    ends = make()
    ends.far.send(encode(Bye(reason="meanwhile")))
    assert ends.link.receive(None) == Bye(reason="meanwhile")
    ends.link.wake()
    ends.link.send(drop(1))
    assert ends.link.receive(None) is None
    assert ends.heard() == encode(drop(1))


def test_what_waited_while_we_were_busy_counts_as_heard(make: Callable[..., Ends]) -> None:
    ends = make(silent_s=16)
    ends.far.send(encode(drop(1)))
    ends.clock.now += 60
    assert ends.link.receive(0) == drop(1)
    assert ends.link.receive(0) is None


def test_a_flood_during_long_work_is_bounded_and_nothing_is_lost(
    make: Callable[..., Ends],
) -> None:
    ends = make(silent_s=16)
    count = 3 * link_module._INBOX_MESSAGES
    flood = [Ok(request=n, text="m" * 500) for n in range(count)]
    stream = b"".join(map(encode, flood))
    sent = 0
    while sent < len(stream):
        ends.clock.now += 10
        ends.link.service()
        try:
            sent += ends.far.send(stream[sent : sent + 8192])
        except BlockingIOError:
            break
    assert sent < len(stream)
    found: list[AnyMessage | None] = []
    ends.far.setblocking(True)
    sender = threading.Thread(target=ends.far.sendall, args=(stream[sent:],))
    sender.start()
    while len(found) < count:
        found.append(ends.link.receive(5))
    sender.join()
    assert found == flood


# ---------------------------------------------------------------- slow readers, other threads


def test_a_slow_reader_is_dropped_and_nobody_waits_for_it(make: Callable[..., Ends]) -> None:
    ends = make(outbox_bytes=100_000)
    with pytest.raises(LinkClosed, match="reads too slowly"):
        for _ in range(1000):
            ends.link.send(drop(4000))
    with pytest.raises(LinkClosed, match="reads too slowly"):
        ends.link.receive(None)
    with pytest.raises(LinkClosed, match="reads too slowly"):
        ends.link.send(drop(1))
    assert not ends.link.flush(1)


def test_the_bound_is_on_what_waits_not_on_what_went(make: Callable[..., Ends]) -> None:
    ends = make(outbox_bytes=10_000)
    for _ in range(100):
        ends.link.send(drop(4000))
        assert ends.link.flush(1)
        assert ends.heard() == encode(drop(4000))


def started(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except LinkClosed as closed:
            results.append(closed.reason)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def waits(link: Link) -> None:
    """Come back once the owner is inside its call."""
    while not link._inside:
        pass


def test_close_from_another_thread_wakes_the_owner(make: Callable[..., Ends]) -> None:
    ends = make()
    thread, results = started(lambda: ends.link.receive(None))
    waits(ends.link)
    ends.link.close("the head stops")
    ends.link.close("again")
    thread.join(5)
    assert results == ["the head stops"]
    assert ends.link.closed
    assert ends.far.recv(1) == b""


def test_wake_and_send_from_another_thread(make: Callable[..., Ends]) -> None:
    ends = make()
    thread, results = started(lambda: ends.link.receive(None))
    waits(ends.link)
    ends.link.send(drop(7))
    ends.far.setblocking(True)
    assert ends.far.recv(1000) == encode(drop(7))
    assert not results
    ends.link.wake()
    thread.join(5)
    assert results == [None]


def test_a_wake_before_receive_is_kept_and_counts_once(make: Callable[..., Ends]) -> None:
    ends = make()
    ends.link.wake()
    ends.link.wake()
    ends.far.send(encode(drop(1)))
    assert ends.link.receive(None) == drop(1)
    assert ends.link.receive(None) is None
    thread, results = started(lambda: ends.link.receive(None))
    waits(ends.link)
    assert not results
    ends.far.send(encode(drop(2)))
    thread.join(5)
    assert results == [drop(2)]


def test_many_threads_may_send(make: Callable[..., Ends]) -> None:
    ends = make()

    def send_all() -> None:
        for _ in range(200):
            ends.link.send(drop(9))

    threads = [threading.Thread(target=send_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    heard, due = b"", 800 * len(encode(drop(9)))
    while len(heard) < due:
        ends.link.service()
        heard += ends.heard()
    for thread in threads:
        thread.join()
    assert heard == encode(drop(9)) * 800


def test_a_closed_link_says_so_everywhere(make: Callable[..., Ends]) -> None:
    ends = make()
    ends.link.close("enough")
    ends.link.wake()
    calls: list[Callable[[], object]] = [
        functools.partial(ends.link.send, drop(1)),
        functools.partial(ends.link.receive, None),
        ends.link.service,
    ]
    for call in calls:
        with pytest.raises(LinkClosed, match="enough") as caught:
            call()
        assert caught.value.reason == "enough"
    assert not ends.link.flush(1)


def test_a_flush_into_a_full_pipe_gives_up_at_its_time(make: Callable[..., Ends]) -> None:
    ends = make()
    while ends.link.flush(0):
        ends.link.send(drop(4000))
    assert not ends.link.flush(0)
    ends.heard()
    while not ends.link.flush(0):
        ends.heard()


# ---------------------------------------------------------------- real sockets


def test_over_tcp_without_nagle_and_with_names() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        client = Link(connect("127.0.0.1", address[1], 5))
        sock, far_address = server.accept()
        head = Link(sock)
        assert client.peer == f"127.0.0.1:{address[1]}"
        assert head.peer == f"127.0.0.1:{far_address[1]}"
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        client.send(drop(3))
        assert client.flush(5)
        assert head.receive(5) == drop(3)
        client.close()
        head.close()


def test_a_reset_connection_ends_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = connect("127.0.0.1", server.getsockname()[1], 5)
        head = Link(server.accept()[0])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        with pytest.raises(LinkClosed, match=r"127\.0\.0\.1:\d+ broke: Connection reset"):
            head.receive(5)
        head.close()


def test_a_refused_connection_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        connect("127.0.0.1", port, 5)


def test_who_sends_faster_than_it_may_is_read_later_and_not_given_up(
    make: Callable[..., Ends],
) -> None:
    ends = make(messages_per_s=10, silent_s=3.0)
    flood = [drop(number) for number in range(60)]
    ends.far.sendall(b"".join(map(encode, flood)))
    assert receive_all(ends.link) == flood  # forty were saved up, and twenty are owed
    ends.far.sendall(encode(drop(60)) + encode(Beat()) * 50)
    for _ in range(2):
        ends.clock.now += 0.9
        assert receive_all(ends.link) == []
    ends.clock.now += 0.3
    assert receive_all(ends.link) == [drop(60)]
    ends.far.sendall(encode(drop(61)))
    assert receive_all(ends.link) == []  # beats are counted, too
    ends.clock.now += 5.1
    assert receive_all(ends.link) == [drop(61)]


def test_bytes_are_counted_as_messages_are(make: Callable[..., Ends]) -> None:
    ends = make(messages_per_s=1)
    ends.link.trust_peer()
    ends.far.sendall(encode(Failed("a", "node", "", text="x" * 60_000)))
    assert len(receive_all(ends.link)) == 1
    ends.far.sendall(encode(drop(1)))
    assert receive_all(ends.link) == []
    ends.clock.now += 1.0
    assert receive_all(ends.link) == [drop(1)]
