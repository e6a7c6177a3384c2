"""Files that a node fetches for its attempts, by FTP, for as long as their leases hold.

A render thread owns a Fetcher and the session in it; what is counted here is the upload's too.
Knows nothing of what the files are for.
"""

from __future__ import annotations

import logging
from pathlib import Path

from clusterray.node.held import Abort, Gone, Held
from clusterray.node.holdings import Holdings
from clusterray.node.kept_session import KeptSession
from clusterray.wire.protocol import Grant, Phase
from clusterray.wire.staging import FtpSession, GrantRefused, StagingFault

log = logging.getLogger(__name__)

REFUSED_S = 10.0
"""How long an attempt whose scene the head refuses to give waits for its DROP, then goes back."""


class SceneRefused(Exception):
    """The head refuses the read grant, and neither DROP nor KEEP explained it."""


class Counter:
    """Adds up the bytes of a transfer and reports the sum as progress."""

    def __init__(self, holdings: Holdings, held: Held, phase: Phase, total: int) -> None:
        self._holdings = holdings
        self._held = held
        self._phase: Phase = phase
        self._total = total
        self._done = 0

    def add(self, count: int) -> None:
        """Count the bytes just moved."""
        self._done += count
        self._holdings.progress(self._held, self._phase, self._done, self._total)


def aborting(session: FtpSession) -> Abort:
    """Give what breaks off the file that ``session`` moves."""
    return lambda _at_once: session.abort()


class Fetcher:
    """Fetches one file at a time, by a session kept from file to file."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._session = KeptSession()

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def fetch(self, held: Held, read: Grant, target: Path, size: int) -> None:
        """Store what ``read`` opens in ``target``, trying again for as long as the lease holds.

        Raises Gone, SceneRefused, OSError.
        """
        while True:
            connection = self._holdings.wait_leased(held)
            session = self._session.to(connection.ftp_place)
            try:
                with self._holdings.abortable(held, aborting(session)):
                    session.download(
                        read,
                        target,
                        size,
                        Counter(self._holdings, held, "fetching", size).add,
                        hashed=False,
                    )
                return
            except Gone:
                self._session.close()
                raise
            except GrantRefused:
                if not self._holdings.wait_for_word(held, REFUSED_S):
                    raise SceneRefused from None
            except StagingFault as fault:
                self._session.close()
                wait_s = held.backoff.next_s()
                log.warning(
                    "%s: a file of it was not fetched, next try in %.1f s: %s",
                    held.words,
                    wait_s,
                    fault,
                )
                self._holdings.wait_for_word(held, wait_s)
