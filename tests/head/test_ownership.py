"""What one submitter's token opens of another's jobs: nothing, in whatever way it is asked."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from clusterray.head import ownership
from clusterray.head.tokens import TokenRecord
from clusterray.head.views import FarmView
from clusterray.wire import protocol as msg
from clusterray.wire.trust import JoinToken
from tests.head.peers import Peer, RunningHead, download, running_head
from tests.web.farm import job as job_view
from tests.web.farm import node as node_view


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RunningHead]:
    with running_head(tmp_path / "state") as running:
        yield running


class People:
    """Ann and Bob, each with a token of their own, and the admin."""

    def __init__(self, head: RunningHead, stack: ExitStack) -> None:
        self.admin = stack.enter_context(Peer(head))
        self.admin.join("admin", uuid="admin")
        self.tokens = {name: self._token_for(name) for name in ("ann", "bob")}
        self.ann, self.bob = (self._come(head, stack, name) for name in ("ann", "bob"))

    def _token_for(self, name: str) -> str:
        self.admin.say(msg.MakeToken(1, "submit", name))
        return self.admin.hear(msg.TokenMade).token

    def _come(self, head: RunningHead, stack: ExitStack, name: str) -> Peer:
        peer = stack.enter_context(Peer(head))
        secret = JoinToken.decode(self.tokens[name]).secret
        peer.join("submit", uuid=name, name=f"{name}@desk", secret=secret)
        return peer


@pytest.fixture
def people(head: RunningHead) -> Iterator[People]:
    with ExitStack() as stack:
        yield People(head, stack)


def render(node: Peer) -> None:
    lease = node.hear(msg.Lease)
    node.deliver(lease)
    node.hear(msg.Accepted)


ORDERS = [
    msg.Show(9, "j1"),
    msg.Follow(9, "j1"),
    msg.Fetch(9, "j1"),
    msg.Fetch(9, "j1", partial=True),
    msg.Logs(9, "j1"),
    msg.Cancel(9, "j1"),
    msg.Pause(9, "j1"),
    msg.Resume(9, "j1"),
    msg.Requeue(9, "j1"),
    msg.SetPriority(9, "j1", 5),
    msg.Delete(9, "j1", force=True),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_anothers_job_is_as_if_there_were_none(
    people: People, scene: Path, order: msg.Message
) -> None:
    assert people.ann.submit(people.ann.stage(scene)) == "j1"
    people.bob.say(order)
    refused = people.bob.hear(msg.Refused)
    assert (refused.code, refused.message) == (
        3,
        "there is no job j1; `clusterray jobs` lists them",
    )
    people.ann.say(msg.Show(3, "j1"))
    shown = people.ann.hear(msg.JobDetail).job
    assert (shown.state, shown.priority, shown.owner) == ("queued", 0, "ann@desk")


def test_the_owner_and_the_admin_may_do_all(
    head: RunningHead, people: People, scene: Path, tmp_path: Path
) -> None:
    job = people.ann.submit(people.ann.stage(scene), bands=1)
    with Peer(head) as node:
        node.join("node")
        render(node)
        for number, who in enumerate((people.ann, people.admin)):
            who.say(msg.Follow(4, job))
            while who.hear(msg.JobStatus).job.state != "done":
                pass
            who.say(msg.Fetch(5, job))
            grant = who.hear(msg.Result).read
            download(head, grant, tmp_path / f"got-{number}.png")
    people.admin.say(msg.Delete(6, job))
    assert "is deleted" in people.admin.hear(msg.Ok).text


def test_each_lists_its_own_and_the_admin_all(people: People, scene: Path) -> None:
    for who, key, title in (
        (people.ann, "k1", "ann's"),
        (people.bob, "k2", "bob's"),
        (people.ann, "k3", "ann's too"),
    ):
        who.submit(who.stage(scene), key=key, title=title)
    found = {}
    for name, who in (("ann", people.ann), ("bob", people.bob), ("admin", people.admin)):
        who.say(msg.ListJobs(7))
        found[name] = [job.title for job in who.hear(msg.Jobs).jobs]
    assert found == {
        "ann": ["ann's too", "ann's"],
        "bob": ["bob's"],
        "admin": ["ann's too", "bob's", "ann's"],
    }


def test_the_same_key_of_two_submitters_makes_two_jobs(people: People, scene: Path) -> None:
    first = people.ann.submit(people.ann.stage(scene), key="same")
    assert people.bob.submit(people.bob.stage(scene), key="same") != first
    assert people.ann.submit(people.ann.stage(scene), key="same") == first


def test_nodes_are_seen_but_not_what_they_do_for_others(
    head: RunningHead, people: People, scene: Path
) -> None:
    people.ann.submit(people.ann.stage(scene))
    with Peer(head) as node:
        node.join("node")
        node.hear(msg.Lease)
        works_on = {}
        for name, who in (("ann", people.ann), ("bob", people.bob), ("admin", people.admin)):
            who.say(msg.ListNodes(8))
            (view,) = who.hear(msg.Nodes).nodes
            works_on[name] = view.job
    assert works_on == {"ann": "j1", "bob": "another's", "admin": "j1"}


def test_a_job_is_its_owners_after_a_restart(tmp_path: Path, scene: Path) -> None:
    with running_head(tmp_path / "state") as head, ExitStack() as stack:
        tokens = People(head, stack).tokens
        with Peer(head) as ann:
            secret = JoinToken.decode(tokens["ann"]).secret
            ann.join("submit", uuid="ann2", secret=secret)
            ann.submit(ann.stage(scene))
    with running_head(tmp_path / "state") as head:
        for name, titles in (("ann", ["a.pov"]), ("bob", [])):
            with Peer(head) as peer:
                secret = JoinToken.decode(tokens[name]).secret
                peer.join("submit", uuid=name, secret=secret)
                peer.say(msg.ListJobs(1))
                assert [job.title for job in peer.hear(msg.Jobs).jobs] == titles


def test_the_page_shows_each_its_own(head: RunningHead, people: People, scene: Path) -> None:
    people.ann.submit(people.ann.stage(scene), title="a secret project")
    people.admin.say(msg.ListJobs(1))
    people.admin.hear(msg.Jobs)
    pages = {name: page(head, token) for name, token in people.tokens.items()}
    assert "a secret project" in pages["ann"]
    assert "a secret project" not in pages["bob"]
    assert "No jobs yet" in pages["bob"]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        page(head, people.tokens["bob"], "/preview/j1.png")


def page(head: RunningHead, token: str, place: str = "/") -> str:
    asked = urllib.request.Request(
        f"https://127.0.0.1:{head.ready.http}{place}", headers={"Authorization": f"Bearer {token}"}
    )
    unjudged = ssl._create_unverified_context()
    with urllib.request.urlopen(asked, timeout=10, context=unjudged) as answer:
        text: str = answer.read().decode()
    return text


def test_a_node_sees_nothing() -> None:
    who = TokenRecord("n1", "node", "attic", 0.0, "")
    node = node_view("attic", job="j7", next_job="j8")
    farm = FarmView((job_view(7), job_view(8)), (node,), 1.0, {"j7": "n1", "j8": "n1"})
    seen = ownership.seen_by(who, farm)
    assert seen.jobs == ()
    assert (seen.nodes[0].job, seen.nodes[0].next_job) == ("another's", "another's")
