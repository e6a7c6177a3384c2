"""A scene of many small files on its way to a head and from it, step by step.

The head is a process of its own; this one is submitter and node by the product's own code, and
takes the time of each step.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

from daemons import Daemon

from clusterray.client.head_link import HeadLink
from clusterray.node.scene_cache import SceneCache
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from clusterray.wire.link import Link, connect
from clusterray.wire.manifest import build_manifest, expand_ranges, manifest_parts, scene_id
from clusterray.wire.staging import FtpSession
from clusterray.wire.tar_writer import write_tar
from clusterray.wire.trust import JoinToken

_WAIT_S: Final = 120.0
_CACHE_BYTES: Final = 1 << 32
Kind = TypeVar("Kind", bound=msg.Message)
Given = TypeVar("Given")
Row = dict[str, float | int | str]


class Clock:
    """The seconds of named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def take(self, name: str, step: Callable[[], Given]) -> Given:
        """Do a step and add its seconds."""
        begun_at = time.perf_counter()
        try:
            return step()
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun_at


def measure(folder: Path, files: int, rng: random.Random) -> Iterator[Row]:
    """Send a scene of so many files and fetch it; then again, with one file changed."""
    scene = folder / "scene"
    make_scene(scene, files, rng)
    words = ("--state", str(folder / "state"), "--listen", "127.0.0.1")
    head = Daemon("head", "server", words, folder / "head.log")
    head.start()
    try:
        if not head.first_line().startswith("ready "):
            raise RuntimeError(f"the head did not start; see {head.log}")
        farm = Farm(folder)
        with HeadLink(lambda: farm.token("submit")) as link, closing(farm.join()) as node:
            link.open()
            for number, what in enumerate(("new scene", "one file changed")):
                yield farm.carry(scene, number, what, link, node)
                (scene / "part-7.inc").write_bytes(rng.randbytes(3000))
    finally:
        head.signal(15)
        head.wait(30)


def make_scene(scene: Path, files: int, rng: random.Random) -> None:
    """Make small files of 1 to 5 kB, fifty to a folder, and one at the top."""
    for number in range(files - 2):
        part = scene / f"folder-{number // 50}" / f"part-{number}.inc"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(rng.randbytes(rng.randrange(1000, 5000)))
    (scene / "part-7.inc").write_bytes(rng.randbytes(3000))
    (scene / "a.pov").write_text("sphere { 0, 1 }")


class Farm:
    """A head that runs below ``folder``, and the scenes that a node has fetched there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._place = ("", 0, "")
        scenes = folder / "scenes"
        scenes.mkdir()
        self._cache = SceneCache(scenes, _CACHE_BYTES)
        self._cache.open()

    def token(self, role: str) -> JoinToken:
        """Give the role's first token."""
        return JoinToken.decode((self._folder / "state" / f"{role}.token").read_text())

    def join(self) -> Link:
        """Come as a node."""
        token = self.token("node")
        link = Link(connect(token.host, token.port, 10, token.fingerprint))
        link.trust_peer()
        info = msg.NodeInfo(1, 1, 1 << 30, "3.7", "bench")
        versions = (msg.PROTOCOL_MIN, msg.PROTOCOL_MAX)
        link.send(msg.Hello("node", versions, token.secret, "bench", "bench", "0", info))
        welcome = hear(link, msg.Welcome)
        self._place = (token.host, welcome.ftp_port, token.fingerprint)
        return link

    def carry(self, scene: Path, number: int, what: str, link: HeadLink, node: Link) -> Row:
        """Take the scene to the head as a submitter does, and from it as a node does."""
        clock = Clock()
        sent = self._send(scene, clock, link)
        request = link.next_request()
        spec = RenderSpec(input="a.pov", width=64, height=64).to_wire()
        job = msg.Submit(request, f"bench-{number}", sent[0], spec, "a.png", bands=1)
        link.ask(job, request, msg.Submitted)
        lease = hear(node, msg.Lease)
        fetched = self._fetch(lease, clock)
        node.send(msg.Failed(lease.attempt, "scene", "measured enough"))
        node.flush(_WAIT_S)
        files = sum(path.is_file() for path in scene.rglob("*"))
        return {
            "what": what,
            "files": files,
            "sent_bytes": sent[1],
            "fetched_bytes": fetched,
            **{f"{name}_s": seconds for name, seconds in clock.seconds.items()},
        }

    def _send(self, scene: Path, clock: Clock, link: HeadLink) -> tuple[str, int]:
        names = sorted(p.relative_to(scene).as_posix() for p in scene.rglob("*") if p.is_file())
        entries = clock.take("hash", lambda: build_manifest(scene, names))
        request = link.next_request()
        need = clock.take("offer", lambda: offer(link, request, entries))
        assert need.write is not None
        grant, tar = need.write, self._folder / "upload.tar"
        tar.unlink(missing_ok=True)
        wanted = [entries[index] for index in expand_ranges(need.ranges, len(entries))]
        size, sha256 = clock.take("pack", lambda: write_tar(scene, wanted, tar))
        with closing(link.ftp_session()) as session:
            clock.take("upload", lambda: session.upload(grant, tar))
        staged = msg.Staged(request, size, sha256)
        clock.take("store", lambda: link.ask(staged, request, msg.SceneReady))
        return scene_id(entries), size

    def _fetch(self, lease: msg.Lease, clock: Clock) -> int:
        sizes: list[int] = []
        with closing(FtpSession(*self._place)) as session:

            def download(name: str, target: Path, size: int) -> None:
                grant = msg.Grant(lease.read.user, lease.read.password, name)
                sizes.append(size)
                clock.take("fetch", lambda: session.download(grant, target, size, hashed=False))

            clock.take("fetch_and_unpack", lambda: self._cache.acquire(lease.scene, download))
        return sum(sizes)


def offer(link: HeadLink, request: int, entries: list[msg.Entry]) -> msg.Need:
    """Offer a scene and hear what of it is lacking."""
    parts = list(manifest_parts(entries))
    size = sum(entry.size for entry in entries)
    link.send(msg.Offer(request, scene_id(entries), len(entries), size, len(parts)))
    for number, part in enumerate(parts):
        link.send(msg.Manifest(request, number, part))
    return link.wait(request, msg.Need)


def hear(link: Link, kind: type[Kind]) -> Kind:
    """Give the next message of ``kind``; others are passed over."""
    give_up_at = time.monotonic() + _WAIT_S
    while time.monotonic() < give_up_at:
        message = link.receive(1.0)
        if isinstance(message, kind):
            return message
    raise RuntimeError(f"no {kind.__name__} came within {_WAIT_S:g} s")
