"""Two render threads want files: the same ones, or others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clusterray.node.light_cache import LightCache
from clusterray.node.scene_cache import SceneCache
from clusterray.node.turns import Turns
from clusterray.wire.protocol import Grant, LightRef
from tests.node.test_scene_cache import Source

WAIT_S = 20.0


class Dropped(Exception):
    pass


class Attempt:
    """What an attempt at a file does: it fetches when it is let, and may be dropped."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.fetching, self.let = threading.Event(), threading.Event()
        self.waiting = threading.Event()
        self.dropped = False
        self._end: Callable[[], None] = lambda: None

    def download(self, name: str, target: Path, size: int) -> None:
        self.fetching.set()
        assert self.let.wait(WAIT_S)
        if self.dropped:
            raise Dropped
        self._source.download(name, target, size)

    @contextlib.contextmanager
    def wait(self, end: Callable[[], None]) -> Iterator[None]:
        self._end = end
        self.waiting.set()
        yield
        if self.dropped:
            raise Dropped

    def drop(self) -> None:
        self.dropped = True
        self.let.set()
        self._end()


@pytest.fixture
def cache(tmp_path: Path) -> SceneCache:
    (tmp_path / "work" / "scenes").mkdir(parents=True)
    cache = SceneCache(tmp_path / "work" / "scenes", 1 << 30)
    cache.open()
    return cache


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_a_scene_that_both_want_is_fetched_once(
    tmp_path: Path, cache: SceneCache, pool: ThreadPoolExecutor
) -> None:
    source = Source(tmp_path, "a", 1000)
    first, second = Attempt(source), Attempt(source)
    one = pool.submit(cache.acquire, source.ref, first.download, first.wait)
    assert first.fetching.wait(WAIT_S)
    other = pool.submit(cache.acquire, source.ref, second.download, second.wait)
    assert second.waiting.wait(WAIT_S)
    first.let.set()
    assert one.result(WAIT_S) == other.result(WAIT_S)
    assert source.fetched == 1 and not second.fetching.is_set()
    cache.release(source.ref.id)
    cache.make_room(lambda: False)
    assert one.result().exists(), "the second one holds it"
    cache.release(source.ref.id)
    cache.make_room(lambda: False)
    assert not one.result().exists()


def test_nobody_waits_for_the_fetch_of_another_scene(
    tmp_path: Path, cache: SceneCache, pool: ThreadPoolExecutor
) -> None:
    source, other = Source(tmp_path, "a", 1000), Source(tmp_path, "b", 1000)
    cache.acquire(other.ref, other.download)
    first = Attempt(source)
    fetching = pool.submit(cache.acquire, source.ref, first.download, first.wait)
    assert first.fetching.wait(WAIT_S)
    third = Source(tmp_path, "c", 1000)
    cache.acquire(third.ref, third.download)
    cache.release(third.ref.id)
    cache.release(other.ref.id)
    cache.make_room(lambda: False)
    assert not fetching.done()
    first.let.set()
    assert fetching.result(WAIT_S).is_dir()


def test_who_waits_goes_on_when_the_one_that_fetched_is_dropped(
    tmp_path: Path, cache: SceneCache, pool: ThreadPoolExecutor
) -> None:
    source = Source(tmp_path, "a", 1000)
    first, second = Attempt(source), Attempt(source)
    one = pool.submit(cache.acquire, source.ref, first.download, first.wait)
    assert first.fetching.wait(WAIT_S)
    second.let.set()
    other = pool.submit(cache.acquire, source.ref, second.download, second.wait)
    assert second.waiting.wait(WAIT_S)
    first.drop()
    with pytest.raises(Dropped):
        one.result(WAIT_S)
    assert other.result(WAIT_S).is_dir() and source.fetched == 1


def test_who_is_dropped_while_it_waits_does_not_wait_on(
    tmp_path: Path, cache: SceneCache, pool: ThreadPoolExecutor
) -> None:
    source = Source(tmp_path, "a", 1000)
    first, second = Attempt(source), Attempt(source)
    one = pool.submit(cache.acquire, source.ref, first.download, first.wait)
    assert first.fetching.wait(WAIT_S)
    other = pool.submit(cache.acquire, source.ref, second.download, second.wait)
    assert second.waiting.wait(WAIT_S)
    second.drop()
    with pytest.raises(Dropped):
        other.result(WAIT_S)
    assert not one.done()
    first.let.set()
    assert one.result(WAIT_S).is_dir()


def test_who_is_dropped_as_it_has_got_its_turn_gives_it_back() -> None:
    turns = Turns()

    @contextlib.contextmanager
    def late(_end: Callable[[], None]) -> Iterator[None]:
        yield
        raise Dropped

    with pytest.raises(Dropped), turns.turn("a", late):
        pytest.fail("it has no turn")
    with turns.turn("a", lambda _end: contextlib.nullcontext()):
        pass


def test_light_that_both_want_is_fetched_once(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    cache = LightCache(tmp_path / "light")
    cache.open()
    # The hash of nothing.
    sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    light = LightRef("radiosity", sha256, 0, Grant("u", "p", "light"))
    fetching, let, waiting = threading.Event(), threading.Event(), threading.Event()
    fetched: list[Path] = []

    def download(target: Path) -> None:
        fetching.set()
        assert let.wait(WAIT_S)
        target.touch()
        fetched.append(target)

    @contextlib.contextmanager
    def wait(_end: Callable[[], None]) -> Iterator[None]:
        waiting.set()
        yield

    one = pool.submit(cache.get, light, download)
    assert fetching.wait(WAIT_S)
    other = pool.submit(cache.get, light, download, wait)
    assert waiting.wait(WAIT_S)
    let.set()
    assert one.result(WAIT_S) == other.result(WAIT_S)
    assert len(fetched) == 1 and one.result().exists()
