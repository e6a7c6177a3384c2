"""The errors a person may see, and the exit code each one means.

One root; the class carries the exit code of DESIGN's table, the message is the sentence the person
reads. Pure: knows nothing of terminals, sockets or POV-Ray.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_INTERRUPTED = 130


class ClusterRayError(Exception):
    """Something went wrong that a person can be told in one sentence.

    ``message`` names the thing and the way out; ``file`` and ``line`` (1-based) say where, if a
    file of the person's is at fault. ``str()`` gives ``file:line: message``.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line

    def __str__(self) -> str:
        if self.file is None:
            return self.message
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"


class LocalFault(ClusterRayError):
    """Our own fault or this machine's: disk full, an output that cannot be written."""

    exit_code = 1


class UsageFault(ClusterRayError):
    """Wrong words on the command line, a forbidden POV-Ray option, a scene that does not exist."""

    exit_code = 2


class SceneFault(ClusterRayError):
    """A fault found in the folder, job.yaml or INI; the job refused; an unknown id."""

    exit_code = 3


class RenderFault(ClusterRayError):
    """POV-Ray could not render the scene; the message is POV-Ray's own."""

    exit_code = 4


class NoHead(ClusterRayError):
    """No head to talk to: away, or the token is missing, malformed or refused."""

    exit_code = 5


class JobCancelled(ClusterRayError):
    """Somebody cancelled the job before it was finished."""

    exit_code = 6


FAULT_BY_EXIT_CODE: dict[int, type[ClusterRayError]] = {
    kind.exit_code: kind
    for kind in (LocalFault, UsageFault, SceneFault, RenderFault, NoHead, JobCancelled)
}
