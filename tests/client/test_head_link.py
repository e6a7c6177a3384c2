"""Connecting, asking, being refused, losing the head and finding it again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

import pytest

from clusterray.client.head_link import HeadLink, HeadLost, fault_of, owner_name
from clusterray.core.errors import (
    JobCancelled,
    LocalFault,
    NoHead,
    RenderFault,
    SceneFault,
    UsageFault,
)
from clusterray.wire.protocol import (
    AnyMessage,
    Bye,
    Hello,
    Jobs,
    JobStatus,
    ListJobs,
    ListNodes,
    Message,
    Nodes,
    Refused,
)
from clusterray.wire.trust import JoinToken, new_secret
from tests.client.stand_in import HangUp, job_view, stand_in_head


def silent(message: AnyMessage) -> Sequence[Message]:
    return []


def lists(message: AnyMessage) -> Sequence[Message]:
    if isinstance(message, ListJobs):
        return [Jobs(message.request, [job_view()])]
    if isinstance(message, ListNodes):
        return [Nodes(message.request, [])]
    return []


def test_hello_says_who_we_are_and_answers_find_their_question() -> None:
    with stand_in_head(lists) as stand_in, HeadLink(lambda: token) as head:
        token = stand_in.token("admin")
        head.open()
        first, second = head.next_request(), head.next_request()
        head.send(ListJobs(first))
        head.send(ListNodes(second))
        assert head.wait(second, Nodes).nodes == []
        assert head.wait(first, Jobs).jobs == [job_view()]
    hello = stand_in.heard[0]
    assert isinstance(hello, Hello)
    assert (hello.role, hello.secret, hello.name) == ("admin", token.secret, owner_name())
    assert isinstance(stand_in.heard[-1], Bye)


def test_a_node_token_is_told_before_anything_is_sent() -> None:
    told = pytest.raises(NoHead, match=r"a node's.*submit\.token")
    with stand_in_head(silent) as stand_in, HeadLink(lambda: stand_in.token("node")) as head, told:
        head.open()
    assert stand_in.heard == []


def test_a_refusal_at_the_door_is_final_and_in_the_heads_words() -> None:
    goodbye = Bye("this token was revoked", retry=False)
    told = pytest.raises(NoHead, match="cannot reach a head: this token was revoked")
    with stand_in_head(silent, goodbye) as stand_in, HeadLink(stand_in.token) as head, told:
        head.open()
    assert len(stand_in.heard) == 1


def test_nobody_there_is_told_with_address_and_what_to_check() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = JoinToken("127.0.0.1", port, "submit", "", new_secret())
    with HeadLink(lambda: token, first_contact_s=0.3) as head, pytest.raises(NoHead) as caught:
        head.open()
    assert f"127.0.0.1:{port} for 0.3 s" in str(caught.value)
    assert "clusterray-server" in str(caught.value)


def test_something_else_on_the_port_is_told() -> None:
    told = pytest.raises(NoHead, match="no ClusterRay head")
    with stand_in_head(silent, Jobs(0, [])) as stand_in, told:
        HeadLink(stand_in.token, first_contact_s=0.3).open()


def test_a_head_that_starts_late_is_found() -> None:
    tries: list[JoinToken] = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nobody = JoinToken("127.0.0.1", port, "submit", "", new_secret())
    with stand_in_head(lists) as stand_in:

        def find() -> JoinToken:
            tries.append(nobody)
            return nobody if len(tries) < 3 else stand_in.token()

        with HeadLink(find, first_contact_s=10.0) as head:
            head.open()
            assert head.connections == 1
    assert len(tries) == 3


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, LocalFault),
        (2, UsageFault),
        (3, SceneFault),
        (4, RenderFault),
        (5, NoHead),
        (6, JobCancelled),
        (77, SceneFault),
    ],
)
def test_a_refusal_becomes_the_fault_of_its_code(code: int, kind: type[Exception]) -> None:
    fault = fault_of(Refused(1, code, "no such thing", "a.pov", 7))
    assert type(fault) is kind
    assert str(fault) == "a.pov:7: no such thing"


def test_a_refused_question_raises() -> None:
    def refuse(message: AnyMessage) -> Sequence[Message]:
        return [Refused(getattr(message, "request", 0), 3, "there is no job j9")]

    with stand_in_head(refuse) as stand_in, HeadLink(stand_in.token) as head:
        head.open()
        with pytest.raises(SceneFault, match="there is no job j9"):
            head.ask(ListJobs(1), 1, Jobs)


def test_a_lost_head_is_told_and_found_again_with_a_fresh_token() -> None:
    hang_up = threading.Event()
    said: list[str] = []

    def answer(message: AnyMessage) -> Sequence[Message]:
        if isinstance(message, ListJobs) and not hang_up.is_set():
            hang_up.set()
            raise HangUp
        return lists(message)

    asked: list[JoinToken] = []
    with stand_in_head(answer) as stand_in:

        def find() -> JoinToken:
            asked.append(stand_in.token())
            if len(asked) == 2:
                raise NoHead("cannot reach a head: the token file is being rewritten")
            return asked[-1]

        with HeadLink(find, say=said.append) as head:
            head.open()
            with pytest.raises(HeadLost):
                head.ask(ListJobs(1), 1, Jobs)
            head.reopen("j1")
            assert head.ask(ListJobs(2), 2, Jobs).jobs == [job_view()]
    assert len(asked) == 3
    assert said == ["lost the head at 127.0.0.1, reconnecting; job j1 goes on", "the head is back"]
    secrets = [m.secret for m in stand_in.heard if isinstance(m, Hello)]
    assert secrets == [asked[0].secret, asked[2].secret]


def test_a_token_revoked_meanwhile_ends_the_waiting() -> None:
    with stand_in_head(silent) as stand_in, HeadLink(stand_in.token) as head:
        head.open()
        stand_in._greeting = Bye("this token was revoked", retry=False)
        with pytest.raises(NoHead, match="revoked"):
            head.reopen()


def test_waiting_looks_around_and_may_be_ended_so() -> None:
    def look() -> None:
        raise LocalFault("the local head ended")

    with stand_in_head(silent) as stand_in, HeadLink(stand_in.token, look=look) as head:
        head.open()
        with pytest.raises(LocalFault, match="the local head ended"):
            head.ask(ListJobs(1), 1, Jobs)


def test_a_wait_with_an_end_gives_none_and_loses_nothing() -> None:
    def status(message: AnyMessage) -> Sequence[Message]:
        if isinstance(message, ListNodes):
            return [JobStatus(1, job_view()), Nodes(message.request, [])]
        return []

    with stand_in_head(status) as stand_in, HeadLink(stand_in.token) as head:
        head.open()
        assert head.wait_within(1, 0.01, JobStatus) is None
        head.ask(ListNodes(2), 2, Nodes)
        found = head.wait_within(1, 0.01, JobStatus)
    assert found == JobStatus(1, job_view())
