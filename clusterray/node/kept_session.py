"""One FTP session with the head, kept from file to file; a login for each happens inside it.

A thread that fetches or stores files owns one: a session moves one file at a time, and a tile is
to go up while a scene comes down.
"""

from __future__ import annotations

from clusterray.wire.staging import FtpSession


class KeptSession:
    """Opened at the first file, closed by ``close``, and opened anew where the head is another."""

    def __init__(self) -> None:
        self._session: FtpSession | None = None
        self._place = ("", 0, "")

    def to(self, place: tuple[str, int, str]) -> FtpSession:
        """Give the session with the FTP server at host, port, with its fingerprint."""
        if self._session is None or self._place != place:
            self.close()
            self._session = FtpSession(*place)
            self._place = place
        return self._session

    def close(self) -> None:
        """End it, also after a file that was broken off: the next one wants a clean session."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
