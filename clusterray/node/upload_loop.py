"""The "upload" thread: from a tile in the attempt's folder to the head, by one FTP session.

What it takes and what it reports goes through node.holdings.
"""

from __future__ import annotations

import logging
import time

from clusterray.core.errors import LocalFault
from clusterray.node.failures import failed, machine_failure
from clusterray.node.held import Gone, Upload
from clusterray.node.holdings import Holdings
from clusterray.node.kept_session import KeptSession
from clusterray.node.transfer import Counter, aborting
from clusterray.wire.staging import GrantRefused, StagingFault

log = logging.getLogger(__name__)


class UploadLoop:
    """Uploads one tile after the other."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._session = KeptSession()

    def run(self) -> None:
        """Work until the node stops."""
        try:
            while (upload := self._holdings.next_to_upload()) is not None:
                try:
                    self._work(upload)
                finally:
                    self._holdings.let_go(upload.held)
        finally:
            self._session.close()

    def _work(self, upload: Upload) -> None:
        held, connection, grant = upload.held, upload.connection, upload.grant
        try:
            self._holdings.announce(held, connection)
            began_at = time.monotonic()
            session = self._session.to(connection.ftp_place)
            with self._holdings.abortable(held, aborting(session)):
                session.upload(
                    grant,
                    held.folder.tile,
                    Counter(self._holdings, held, "uploading", held.tile_bytes).add,
                )
            held.seconds.upload = time.monotonic() - began_at
        except Gone:
            self._session.close()
        except GrantRefused:
            log.info("%s: the head refuses its tile; waiting for its word", held.words)
            self._holdings.refused(held, grant)
        except StagingFault as fault:
            self._session.close()
            wait_s = self._holdings.retry_later(held)
            log.warning(
                "%s: its tile was not stored, next try in %.1f s: %s", held.words, wait_s, fault
            )
        except LocalFault as error:
            self._session.close()
            self._holdings.fail(held, failed(held, machine_failure(error)))
        else:
            self._holdings.stored(held, connection)
