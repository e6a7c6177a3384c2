from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from clusterray.core.model import Rect
from clusterray.node.held import Gone, Held, Names, Stage
from clusterray.node.holdings import Holdings
from clusterray.wire.protocol import (
    Cut,
    CutTo,
    Done,
    Draining,
    Failed,
    Grant,
    HandBack,
    Keep,
    Lease,
    Message,
    Progress,
    SceneRef,
    Uploading,
)
from tests.node.doubles import SPHERES, Scene, make_scene


class Head:
    """Hears what is reported, for as long as it is there."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.there = True

    def report(self, message: Message) -> bool:
        if self.there:
            self.heard.append(message)
        return self.there

    def kinds(self) -> list[type[Message]]:
        return [type(message) for message in self.heard]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"), SPHERES)


@pytest.fixture
def holdings(tmp_path: Path) -> Iterator[Holdings]:
    holdings = Holdings(tmp_path / "attempts", random.Random(1))
    yield holdings
    holdings.stop()


Rectangle = tuple[int, int, int, int]


def lease(scene: Scene, attempt: str = "a1", rect: Rectangle = (0, 0, 48, 32)) -> Lease:
    ref = SceneRef(scene.ref.id, scene.ref.tar_bytes)
    read, write = Grant("r", "p", "scene.tar"), Grant("w", "p", f"{attempt}.part")
    return Lease(attempt, "b1", "j1", 0, rect, ref, scene.spec.to_wire(), read, write)


def joined(holdings: Holdings, farm: str = "farm") -> Head:
    head = Head()
    holdings.attach(farm, "127.0.0.1", 21, head.report)
    return head


def with_tile(holdings: Holdings, scene: Scene) -> None:
    """Bring one attempt to RENDERED."""
    holdings.lease(lease(scene))
    held = holdings.next_to_render()
    assert held is not None
    held.folder.create()
    held.folder.tile.write_bytes(b"tile")
    held.tile_bytes, held.tile_sha256 = 4, "0" * 64
    holdings.rendered(held)
    holdings.let_go(held)


def test_an_attempt_goes_from_its_lease_to_accepted(holdings: Holdings, scene: Scene) -> None:
    head = joined(holdings)
    with_tile(holdings, scene)
    upload = holdings.next_to_upload()
    assert upload is not None and upload.grant.path == "a1.part"
    holdings.announce(upload.held, upload.connection)
    holdings.stored(upload.held, upload.connection)
    holdings.let_go(upload.held)
    assert head.kinds() == [Uploading, Done]
    assert holdings.names() == Names([], ["a1"], {})
    assert upload.held.folder.tile.exists()
    holdings.accepted("a1")
    assert holdings.empty and not upload.held.folder.root.exists()


def test_leases_are_rendered_in_their_order(holdings: Holdings, scene: Scene) -> None:
    joined(holdings)
    for name in ("z", "a", "m"):
        holdings.lease(lease(scene, name))
    taken: list[str] = []
    while len(taken) < 3:
        held = holdings.next_to_render()
        assert held is not None
        taken.append(held.attempt)
        holdings.rendered(held)
        holdings.let_go(held)
    assert taken == ["z", "a", "m"]


@pytest.mark.parametrize("attempt", ["..", "."])
def test_an_attempt_cannot_name_another_folder(
    holdings: Holdings, scene: Scene, attempt: str
) -> None:
    head = joined(holdings)
    holdings.lease(lease(scene, attempt))
    assert head.kinds() == [Failed] and holdings.empty


@pytest.mark.parametrize("rect", [(0, 0, 49, 32), (0, 64, 48, 97), (0, 5, 48, 5)])
def test_a_band_outside_of_the_picture_makes_no_sense(
    holdings: Holdings, scene: Scene, rect: Rectangle
) -> None:
    head = joined(holdings)
    holdings.lease(lease(scene, rect=rect))
    (failed,) = head.heard
    assert isinstance(failed, Failed) and failed.fault == "node"
    assert "makes no sense" in failed.message


def test_a_dropped_attempt_is_broken_off_and_not_reported(holdings: Holdings, scene: Scene) -> None:
    head = joined(holdings)
    holdings.lease(lease(scene))
    held = holdings.next_to_render()
    assert held is not None
    held.folder.create()
    aborted: list[bool] = []
    with pytest.raises(Gone), holdings.abortable(held, aborted.append):
        holdings.drop("a1", "its job was cancelled")
        raise OSError("what the abort broke")
    holdings.fail(held, Failed("a1", "node", "late"))
    holdings.rendered(held)
    assert aborted == [False]
    assert held.folder.root.exists(), "the thread at work has it still"
    holdings.let_go(held)
    assert not held.folder.root.exists()
    assert head.heard == []


def test_what_was_dropped_is_not_begun(holdings: Holdings, scene: Scene) -> None:
    joined(holdings)
    holdings.lease(lease(scene))
    held = holdings.next_to_render()
    assert held is not None
    holdings.drop("a1", "why not")
    with pytest.raises(Gone), holdings.abortable(held, lambda _: None):
        pytest.fail("it was begun")


def test_a_tile_waits_for_the_next_connection_to_want_it(holdings: Holdings, scene: Scene) -> None:
    joined(holdings)
    holdings.lease(lease(scene))
    held = holdings.next_to_render()
    assert held is not None
    holdings.detach()
    holdings.rendered(held)
    holdings.let_go(held)
    assert holdings.names() == Names([], ["a1"], {})
    head = joined(holdings)
    taken: list[str] = []
    waiter = threading.Thread(target=lambda: taken.append(_next_path(holdings)))
    waiter.start()
    holdings.keep(Keep("a1", Grant("w2", "p", "a1.again")))
    waiter.join(10)
    assert taken == ["a1.again"]
    assert head.kinds() == []


def _next_path(holdings: Holdings) -> str:
    upload = holdings.next_to_upload()
    return "none" if upload is None else upload.grant.path


def test_a_stored_tile_is_uploaded_again_if_the_head_asks(holdings: Holdings, scene: Scene) -> None:
    joined(holdings)
    with_tile(holdings, scene)
    first = holdings.next_to_upload()
    assert first is not None
    holdings.stored(first.held, first.connection)
    holdings.let_go(first.held)
    holdings.detach()
    head = joined(holdings)
    holdings.keep(Keep("a1", Grant("w2", "p", "a1.again")))
    again = holdings.next_to_upload()
    assert again is not None and again.grant.path == "a1.again"
    holdings.announce(again.held, again.connection)
    holdings.announce(again.held, again.connection)
    holdings.stored(again.held, again.connection)
    assert head.kinds() == [Uploading, Done]


def test_a_tile_stored_under_a_lost_connection_does_not_count_as_stored(
    holdings: Holdings, scene: Scene
) -> None:
    first_head = joined(holdings)
    with_tile(holdings, scene)
    upload = holdings.next_to_upload()
    assert upload is not None
    holdings.detach()
    second_head = joined(holdings)
    holdings.stored(upload.held, upload.connection)
    assert first_head.kinds() == [Uploading] and second_head.heard == []
    assert upload.held.stage is Stage.RENDERED


def test_a_refused_tile_waits_for_a_keep(holdings: Holdings, scene: Scene) -> None:
    head = joined(holdings)
    with_tile(holdings, scene)
    upload = holdings.next_to_upload()
    assert upload is not None
    holdings.refused(upload.held, upload.grant)
    holdings.let_go(upload.held)
    holdings.keep(Keep("a1", Grant("w2", "p", "a1.again")))
    again = holdings.next_to_upload()
    assert again is not None and again.grant.user == "w2"
    assert head.kinds() == [Uploading]


def test_a_failure_without_a_connection_is_told_to_the_next_one(
    holdings: Holdings, scene: Scene
) -> None:
    joined(holdings).there = False
    holdings.lease(lease(scene))
    held = holdings.next_to_render()
    assert held is not None
    holdings.fail(held, Failed("a1", "scene", "no such colour"))
    holdings.let_go(held)
    holdings.detach()
    assert holdings.names() == Names(["a1"], [], {})
    head = joined(holdings)
    holdings.keep(Keep("a1", Grant("w2", "p", "a1.again")))
    (failed,) = head.heard
    assert isinstance(failed, Failed) and failed.message == "no such colour"
    assert holdings.empty


def test_attempts_of_another_farm_are_dropped(holdings: Holdings, scene: Scene) -> None:
    joined(holdings, "one")
    with_tile(holdings, scene)
    holdings.detach()
    joined(holdings, "one")
    assert holdings.names() == Names([], ["a1"], {})
    holdings.detach()
    head = joined(holdings, "two")
    assert holdings.empty and head.heard == []


def test_a_keep_of_what_the_node_has_not_is_handed_back(holdings: Holdings) -> None:
    head = joined(holdings)
    holdings.keep(Keep("a9", Grant("w", "p", "a9.part")))
    assert head.kinds() == [HandBack]


def test_draining_hands_back_what_has_not_begun(holdings: Holdings, scene: Scene) -> None:
    head = joined(holdings)
    for name in ("a1", "a2", "a3"):
        holdings.lease(lease(scene, name))
    assert holdings.next_to_render() is not None
    holdings.drain()
    holdings.lease(lease(scene, "a4"))
    back = [message.attempt for message in head.heard if isinstance(message, HandBack)]
    assert back == ["a2", "a3", "a4"]
    assert holdings.names() == Names(["a1"], [], {})
    holdings.hand_back_all("it took too long")
    assert holdings.empty and head.kinds() == [HandBack] * 4


def test_a_tile_that_the_head_has_is_not_handed_back(holdings: Holdings, scene: Scene) -> None:
    head = joined(holdings)
    with_tile(holdings, scene)
    upload = holdings.next_to_upload()
    assert upload is not None
    holdings.stored(upload.held, upload.connection)
    holdings.let_go(upload.held)
    holdings.hand_back_all("the node leaves")
    assert head.kinds() == [Uploading, Done]


def test_progress_is_coalesced(holdings: Holdings, scene: Scene) -> None:
    head = joined(holdings)
    holdings.lease(lease(scene))
    held = holdings.next_to_render()
    assert held is not None
    for done in range(1000):
        holdings.progress(held, "rendering", done, 1000)
    assert head.heard == [Progress("a1", "rendering", 0, 1000)]


def test_a_stopped_node_has_nothing_to_do(holdings: Holdings, scene: Scene) -> None:
    joined(holdings)
    holdings.lease(lease(scene))
    held = holdings.next_to_render()
    assert held is not None
    holdings.stop()
    assert holdings.next_to_render() is None
    assert holdings.next_to_upload() is None
    with pytest.raises(Gone):
        holdings.wait_leased(held)
    holdings.thread_ended()
    assert not holdings.broken


def test_a_thread_that_ends_by_itself_is_a_fault_of_ours(holdings: Holdings) -> None:
    holdings.thread_ended()
    assert holdings.broken


def test_a_cut_is_answered_and_told_again_in_hello(holdings: Holdings, scene: Scene) -> None:
    head = joined(holdings)
    holdings.lease(lease(scene, rect=(0, 0, 48, 96)))
    holdings.cut(Cut("a1", (0, 0, 48, 64)))
    assert head.heard == [CutTo("a1", (0, 0, 48, 64))]
    head.there = False
    holdings.cut(Cut("a1", (0, 0, 48, 32)))
    assert holdings.names() == Names(["a1"], [], {"a1": (0, 0, 48, 32)})
    held = holdings.next_to_render()
    assert held is not None and held.rect == Rect(0, 0, 48, 32)


def test_a_cut_says_whether_its_tile_will_take_a_parse(holdings: Holdings, scene: Scene) -> None:
    head = joined(holdings)
    holdings.lease(lease(scene, rect=(0, 0, 48, 96)))
    held = holdings.next_to_render()
    assert held is not None
    held.line.parses = False
    holdings.cut(Cut("a1", (0, 0, 48, 64)))
    assert head.heard == [CutTo("a1", (0, 0, 48, 64), parses=False)]


def test_a_cut_of_what_is_over_is_not_answered(holdings: Holdings) -> None:
    head = joined(holdings)
    holdings.cut(Cut("a1", (0, 0, 48, 64)))
    assert head.heard == []


# ---------------------------------------------------------------- two bands


def taken(holdings: Holdings) -> Held | None:
    """Take an attempt if one may begin now."""
    return holdings.next_to_render(0.0)


def test_a_second_band_begins_only_beside_one_that_ends_soon(
    holdings: Holdings, scene: Scene
) -> None:
    joined(holdings)
    for name in ("a1", "a2"):
        holdings.lease(lease(scene, name))
    first = taken(holdings)
    assert first is not None and taken(holdings) is None
    holdings.rendered(first)
    second = taken(holdings)
    assert second is not None and second.attempt == "a2"
    holdings.give_place(second)
    for name in ("a3", "a4"):
        holdings.lease(lease(scene, name))
    third = taken(holdings)
    assert third is not None and third.attempt == "a3"
    assert taken(holdings) is None, "two render already"
    assert holdings.is_younger(third) and not holdings.is_younger(second)


def test_a_place_is_told_at_once_and_ever_after(holdings: Holdings, scene: Scene) -> None:
    head = joined(holdings)
    holdings.lease(lease(scene))
    held = taken(holdings)
    assert held is not None
    holdings.progress(held, "rendering", 100, 1000)
    holdings.give_place(held)
    holdings.give_place(held)
    said = Progress("a1", "rendering", 100, 1000)
    assert head.heard == [said, msgspec.structs.replace(said, place=True)]
    held.told_at -= 1.0
    holdings.progress(held, "rendering", 200, 1000)
    assert head.heard[2:] == [Progress("a1", "rendering", 200, 1000, place=True)]


def test_a_place_is_told_again_to_the_next_connection(holdings: Holdings, scene: Scene) -> None:
    joined(holdings)
    holdings.lease(lease(scene))
    held = taken(holdings)
    assert held is not None
    holdings.detach()
    holdings.give_place(held)
    head = joined(holdings)
    assert head.heard == []
    holdings.keep(Keep("a1", Grant("w2", "p", "a1.again")))
    (said,) = head.heard
    assert isinstance(said, Progress) and said.place


@pytest.mark.parametrize("why", ["drains", "has another", "has it no more"])
def test_a_node_that_takes_nothing_more_has_no_place(
    holdings: Holdings, scene: Scene, why: str
) -> None:
    head = joined(holdings)
    holdings.lease(lease(scene))
    held = taken(holdings)
    assert held is not None
    if why == "drains":
        holdings.drain()
    elif why == "has it no more":
        holdings.drop("a1", "its job was cancelled")
    else:
        holdings.lease(lease(scene, "a2"))
    holdings.give_place(held)
    assert not [said for said in head.heard if isinstance(said, Progress)]


def test_of_two_bands_the_younger_goes_when_memory_is_scarce(
    holdings: Holdings, scene: Scene
) -> None:
    head = joined(holdings)
    holdings.lease(lease(scene, "a1"))
    older = taken(holdings)
    assert older is not None
    holdings.give_place(older)
    holdings.lease(lease(scene, "a2"))
    younger = taken(holdings)
    assert younger is not None
    aborted: list[bool] = []
    with pytest.raises(Gone), holdings.abortable(younger, aborted.append):
        holdings.hand_back_younger(younger, "memory ran short")
    holdings.let_go(younger)
    assert aborted == [True] and head.heard[-1] == HandBack("a2", "memory ran short")
    # The head believes that there is a place still.
    holdings.lease(lease(scene, "a3"))
    assert taken(holdings) is None, "memory would run short again"
    holdings.rendered(older)
    assert taken(holdings) is not None


def test_povray_is_tested_when_no_band_renders_any_more(holdings: Holdings, scene: Scene) -> None:
    head = joined(holdings)
    holdings.lease(lease(scene, "a1"))
    older = taken(holdings)
    assert older is not None
    holdings.give_place(older)
    holdings.lease(lease(scene, "a2"))
    younger = taken(holdings)
    assert younger is not None
    holdings.hand_back_for_test(younger)
    holdings.let_go(younger)
    assert head.kinds()[-2:] == [Draining, HandBack]
    assert not holdings.povray_changed
    holdings.rendered(older)
    assert holdings.povray_changed
