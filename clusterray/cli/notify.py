"""Tell the service manager how the daemon is doing, in the words of sd_notify(3).

Responsible for one datagram to the socket that NOTIFY_SOCKET names; any thread may call it.
Knows nothing of heads and nodes, and never fails for them: a manager that has gone away must not
take a daemon down with it.
"""

from __future__ import annotations

import os
import socket

READY = "READY=1"
STOPPING = "STOPPING=1"


def status(sentence: str) -> str:
    """Make the state that ``systemctl status`` shows, one line however it was written."""
    return "STATUS=" + " ".join(sentence.split())


def notify(state: str) -> bool:
    """Send ``state`` to the service manager; False if there is none or it cannot be reached.

    ``state`` is one or more ``NAME=value`` lines. The socket is a path, or an abstract name
    written with a leading ``@`` (sd_notify(3)).
    """
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")) or len(name) < 2:
        return False
    # In the address family an abstract name begins with a zero byte.
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            # A full queue at the manager must not hold up the daemon.
            manager.setblocking(False)
            manager.connect(address)
            manager.send(state.encode())
    except OSError:
        return False
    return True
