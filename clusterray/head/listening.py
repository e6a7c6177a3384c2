"""The sockets a head listens on: bound before anything is started, or a fault in words."""

from __future__ import annotations

import socket

from clusterray.core.errors import LocalFault


def bind(host: str, port: int, what: str, flag: str) -> socket.socket:
    """Give a TCP socket bound to ``host`` and ``port`` (0: any free one), not yet listening.

    Raises LocalFault saying that ``what`` cannot be served there and naming the way out, ``flag``.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise LocalFault(
            f"cannot listen for {what} on {host}:{port}: {error.strerror}; "
            f"choose another address with --listen or another port with {flag}"
        ) from error
    return bound
