"""What the head is told of an attempt that failed; any thread at work on one."""

from __future__ import annotations

import errno
import logging

from clusterray.core.errors import LocalFault
from clusterray.node.held import Held
from clusterray.node.renderer import RenderFailed
from clusterray.wire.protocol import Failed

log = logging.getLogger(__name__)

TEXT_CHARACTERS = 1 << 16
_MESSAGE_CHARACTERS = 8192
_FILE_CHARACTERS = 4096


def failed(held: Held, failure: RenderFailed) -> Failed:
    """Give the message, and log it."""
    log.warning("%s: failed (%s): %s", held.words, failure.fault, failure.message)
    return Failed(
        held.attempt,
        failure.fault,
        failure.message[:_MESSAGE_CHARACTERS],
        failure.file[:_FILE_CHARACTERS],
        failure.line,
        failure.text[-TEXT_CHARACTERS:],
    )


def machine_failure(error: OSError | LocalFault) -> RenderFailed:
    """Say that this node cannot work on the band, be it a good one or not."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RenderFailed("node", f"the disk of this node is full: {error}")
    return RenderFailed("node", f"this node cannot work on the band: {error}")
