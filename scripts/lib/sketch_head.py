"""The least that could be called a head: threads, JSON frames, batched SQLite, and no rules.

    python sketch_head.py STATE    # prints its port, ends with stdin

What a real head does beside this costs its speed; ``scripts/bench/dispatch`` gives the ratio. One
thread for each node, one that owns the store; no TLS, no tokens, no heartbeats, no check of what
was uploaded.
"""

from __future__ import annotations

import queue
import socket
import sqlite3
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from clusterray.wire.protocol import FrameDecoder, encode

MOST_LETTERS = 256
Letter: TypeAlias = tuple[socket.socket, str]
"""Who speaks, and the attempt that is done; "": it has come."""

_SPEC = RenderSpec(input="a.pov", width=32, height=32).to_wire()
_GRANT = msg.Grant("r-attempt", "0" * 32, "tile.png")


def lease(number: int) -> msg.Lease:
    """Make the lease of a band that nobody has had."""
    scene = msg.SceneRef("0" * 64, 1024)
    return msg.Lease(
        f"a{number}", f"b{number}", "j1", 0, (0, 0, 32, 32), scene, _SPEC, _GRANT, _GRANT
    )


def listen_to(sock: socket.socket, inbox: queue.SimpleQueue[Letter]) -> None:
    """Be the thread of one node."""
    decoder = FrameDecoder()
    # A node that breaks the connection has ended it.
    with suppress(OSError):
        while data := sock.recv(1 << 16):
            for message in decoder.feed(data):
                match message:
                    case msg.Hello():
                        sock.sendall(encode(msg.Welcome(1, "sketch", "sketch", 1, 1, 4, 16)))
                        inbox.put((sock, ""))
                    case msg.Done(attempt=attempt):
                        inbox.put((sock, attempt))
                    case _:
                        pass


def keep(state: Path, inbox: queue.SimpleQueue[Letter]) -> None:
    """Be the thread of the store: take letters, commit once, then answer them all."""
    db = sqlite3.connect(state / "sketch.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE attempts (id TEXT PRIMARY KEY, done INTEGER) WITHOUT ROWID")
    made = 0
    while True:
        letters = [inbox.get()]
        while len(letters) < MOST_LETTERS and not inbox.empty():
            letters.append(inbox.get())
        leases = [lease(made + number) for number in range(len(letters))]
        made += len(letters)
        done = [(attempt, 1) for _, attempt in letters if attempt]
        rows = [*done, *((given.attempt, 0) for given in leases)]
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT OR REPLACE INTO attempts VALUES (?, ?)", rows)
        db.execute("COMMIT")
        for (sock, attempt), given in zip(letters, leases, strict=True):
            accepted = encode(msg.Accepted(attempt)) if attempt else b""
            with suppress(OSError):
                sock.sendall(accepted + encode(given))


def main(state: Path) -> None:
    """Serve until stdin ends."""
    threading.stack_size(1 << 20)
    inbox: queue.SimpleQueue[Letter] = queue.SimpleQueue()
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)

    def accept() -> None:
        while True:
            sock, _ = listening.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=listen_to, args=(sock, inbox), daemon=True).start()

    threading.Thread(target=keep, args=(state, inbox), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
