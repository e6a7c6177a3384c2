"""Getting the finished picture: ask where it is, fetch it by FTP, check it, put it in place.

Caller's thread. Never leaves a file that is not whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from clusterray.client.head_link import HeadLink
from clusterray.client.output import OutputFile
from clusterray.client.report import Report
from clusterray.core.errors import LocalFault
from clusterray.wire.protocol import Fetch, Result
from clusterray.wire.staging import StagingFault

TRIES = 5
"""How often a transfer that fails for a passing reason is tried while the head answers."""
_FIRST_PAUSE_S = 0.2


def fetch_picture(
    head: HeadLink,
    job: str,
    place: Callable[[Result], OutputFile],
    report: Report,
    *,
    partial: bool = False,
) -> tuple[Result, OutputFile]:
    """Fetch the picture of ``job`` to where ``place`` puts it, its size and SHA-256 checked.

    ``partial``: of a job that is not done, what is there of it. Raises LocalFault if it cannot be
    written or does not come through, SceneFault if the job is unknown or has no picture, HeadLost.
    """
    failures = 0
    while True:
        request = head.next_request()
        result = head.ask(Fetch(request=request, job=job, partial=partial), request, Result)
        output = place(result)
        try:
            _write(head, result, output, report)
        except StagingFault as fault:
            failures += 1
            if failures == TRIES:
                raise LocalFault(f"the picture did not come through: {fault}") from None
            pause(failures)
        else:
            return result, output


def _write(head: HeadLink, result: Result, output: OutputFile, report: Report) -> None:
    output.write_by(lambda target: _download(head, result, target, report))


def pause(failures: int) -> None:
    """Wait before the next try, longer each time."""
    time.sleep(_FIRST_PAUSE_S * 2**failures)


def _download(head: HeadLink, result: Result, target: Path, report: Report) -> None:
    session = head.ftp_session()
    try:
        with report.transfer("fetching the picture", result.size) as advance:
            digest = session.download(result.read, target, result.size, advance)
    finally:
        session.close()
    if digest != result.sha256:
        raise StagingFault("its content is not what the head announced")
