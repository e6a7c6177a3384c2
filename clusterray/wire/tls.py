"""TLS without an authority: the head's certificate is known by its fingerprint, or not at all.

Any thread may call; nothing is kept but one client context. Who dials compares the certificate
with the fingerprint in its join token before it sends anything, so that no secret goes to anybody
else. Dates and names in the certificate are not judged: the fingerprint says all, and a Raspberry
Pi may have no clock. Knows nothing of what is said over the socket.
"""

from __future__ import annotations

import functools
import hashlib
import socket
import ssl
from pathlib import Path
from typing import Final

from clusterray.core.errors import NoHead

HANDSHAKE_BYTE: Final = 0x16
"""The first byte of a TLS connection; a message of ours begins with 0."""

_NO_TLS_REASONS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}
)


class Untrusted(NoHead):
    """What answers is not the token's head: another certificate, or no TLS. It got no secret."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot reach a head: {reason}")
        self.reason = reason


def fingerprint_of(certificate: bytes) -> str:
    """Give the hex SHA-256 of a certificate in DER form, as join tokens carry it."""
    return hashlib.sha256(certificate).hexdigest()


def server_context(pem: Path) -> ssl.SSLContext:
    """Make the head's context of the file ``pem`` with its key and certificate; raises OSError.

    TLS 1.3 without session tickets: a peer that only writes would leave them unread, and closing
    its socket would then reset the connection under what it wrote.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(pem)
    return context


@functools.cache
def _client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def begin(sock: socket.socket) -> ssl.SSLSocket:
    """Put the client's side of TLS over ``sock``, which is then the result's; sends nothing yet."""
    return _client_context().wrap_socket(sock, do_handshake_on_connect=False)


def check_pin(sock: ssl.SSLSocket, fingerprint: str, place: str, timeout_s: float) -> None:
    """Shake hands and compare what is shown with ``fingerprint``; at most ``timeout_s`` seconds.

    ``place`` names the peer in complaints. Raises Untrusted, or OSError (TimeoutError
    included).
    """
    sock.settimeout(timeout_s)
    try:
        sock.do_handshake()
    except ssl.SSLError as error:
        if error.reason in _NO_TLS_REASONS:
            raise Untrusted(
                f"what answers at {place} speaks no TLS, as the token says "
                "it does; if the head was set to plain connections, use the token it wrote then"
            ) from None
        raise
    shown = fingerprint_of(sock.getpeercert(binary_form=True) or b"")
    if shown != fingerprint:
        raise Untrusted(
            f"{place} shows the certificate {shown[:16]}..., the token is "
            f"for {fingerprint[:16]}...: either the head has a new one and the token is old, or "
            "somebody stands between; nothing was sent there"
        )
