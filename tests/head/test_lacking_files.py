"""Between a real head and a node's cache of scenes: only the files that the node lacks travel."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from clusterray.node.scene_cache import SceneCache
from clusterray.wire import protocol as msg
from clusterray.wire.staging import FtpSession
from tests.head.peers import Peer, RunningHead, running_head


class Node:
    """A node's cache, which fetches by the lease's login."""

    def __init__(self, head: RunningHead, folder: Path) -> None:
        folder.mkdir()
        self.cache = SceneCache(folder, 1 << 30)
        self.cache.open()
        self.fetched: list[tuple[str, int]] = []
        self._place = ("127.0.0.1", head.ready.ftp, head.token("node").fingerprint)

    def take(self, lease: msg.Lease) -> Path:
        with closing(FtpSession(*self._place)) as session:

            def download(name: str, target: Path, size: int) -> None:
                grant = msg.Grant(lease.read.user, lease.read.password, name)
                self.fetched.append((name.partition(";")[0], size))
                session.download(grant, target, size)

            return self.cache.acquire(lease.scene, download)


def test_a_scene_that_changed_in_one_file_crosses_as_that_file(tmp_path: Path, scene: Path) -> None:
    for number in range(20):
        (scene / f"mesh-{number}.inc").write_bytes(bytes([number]) * 40_000)
    with running_head(tmp_path / "state") as head, Peer(head) as client, Peer(head) as peer:
        client.join("submit")
        peer.join("node")
        node = Node(head, tmp_path / "scenes")
        client.submit(client.stage(scene), bands=1)
        lease = peer.hear(msg.Lease)
        first = node.take(lease)
        assert node.fetched == [("scene.tar", lease.scene.tar_bytes)]
        (scene / "mesh-7.inc").write_bytes(b"changed" * 1000)
        client.submit(client.stage(scene, request=3), "k2", 4, bands=1)
        peer.announce(lease)
        second = node.take(peer.hear(msg.Lease))
        assert first != second
        names = sorted(path.name for path in scene.iterdir())
        assert [(second / name).read_bytes() for name in names] == [
            (scene / name).read_bytes() for name in names
        ]
        assert sum(size for name, size in node.fetched[1:] if name == "scene.tar") == 512 + 7168
