"""What ``clusterray`` asks of a head, and the shape of its answers as JSON.

Caller's thread. The JSON is a promise: the fields are those of the messages' views, all of them,
each time, whatever their value; fields are added, never renamed or taken away.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from clusterray.client.fetch import fetch_picture
from clusterray.client.head_link import HeadLink, HeadLost
from clusterray.client.output import OutputFile, output_file, safe_name
from clusterray.client.report import Report
from clusterray.core.errors import NoHead, SceneFault
from clusterray.wire import protocol
from clusterray.wire.trust import JoinToken

_JOB = re.compile(r"j?(\d{1,15})\Z")
_IDENT = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")

Answer = TypeVar("Answer", bound=protocol.Message)


def job_id(text: str) -> str:
    """Turn ``12`` or ``j12`` into the id; raises SceneFault for what can be no job's id."""
    found = _JOB.match(text)
    if found is None:
        raise SceneFault(f"there is no job {text!r}: job ids are numbers, see `clusterray jobs`")
    return f"j{int(found[1])}"


def as_json(value: object) -> object:
    """Turn messages, or lists and mappings of them, into plain values with every field."""
    if isinstance(value, msgspec.Struct):
        return {name: as_json(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class Fetched:
    """A picture that has been fetched: its job, the file as the person names it, size, hash.

    ``partial``: it has holes, and only ``pixels_done`` of its ``pixels_total``.
    """

    job: str
    path: str
    size: int
    sha256: str
    partial: bool
    pixels_done: int
    pixels_total: int


class Control:
    """Questions and commands to the head of an open link; each raises SceneFault or NoHead."""

    def __init__(self, head: HeadLink) -> None:
        self._head = head

    def jobs(self) -> list[protocol.JobView]:
        """Give the jobs, newest first."""
        return self._ask(lambda n: protocol.ListJobs(request=n), protocol.Jobs).jobs

    def nodes(self) -> list[protocol.NodeView]:
        """Give the nodes, by name."""
        return self._ask(lambda n: protocol.ListNodes(request=n), protocol.Nodes).nodes

    def forgive(self, node: str) -> str:
        """Have nothing held against the node of this name or uuid; gives the head's words."""
        return self._ask(lambda n: protocol.Forgive(request=n, node=node), protocol.Ok).text

    def show(self, job: str) -> protocol.JobDetail:
        """Give one job with its settings and bands."""
        return self._ask(lambda n: protocol.Show(request=n, job=job), protocol.JobDetail)

    def cancel(self, job: str) -> str:
        """Cancel a job; gives the head's words."""
        return self._order(lambda n: protocol.Cancel(request=n, job=job))

    def pause(self, job: str, *, now: bool) -> str:
        """Pause a job; ``now``: take back what renders. Gives the head's words."""
        return self._order(lambda n: protocol.Pause(request=n, job=job, now=now))

    def resume(self, job: str) -> str:
        """Let a paused job go on; gives the head's words."""
        return self._order(lambda n: protocol.Resume(request=n, job=job))

    def requeue(self, job: str, *, everything: bool) -> str:
        """Run a job that has ended again; gives the head's words."""
        return self._order(lambda n: protocol.Requeue(request=n, job=job, everything=everything))

    def set_priority(self, job: str, priority: int) -> str:
        """Change a job's priority; gives the head's words."""
        return self._order(lambda n: protocol.SetPriority(request=n, job=job, priority=priority))

    def delete(self, job: str, *, force: bool) -> str:
        """Delete a job with all that is kept of it; gives the head's words."""
        return self._order(lambda n: protocol.Delete(request=n, job=job, force=force))

    def logs(self, job: str, band: str | None) -> list[protocol.AttemptLog]:
        """Give what POV-Ray said in each attempt of a job, or of one of its bands."""
        if band is not None and not _IDENT.match(band):
            raise SceneFault(f"there is no band {band!r}: see `clusterray show {job}`")
        request = self._head.next_request()
        found: list[protocol.AttemptLog] = []
        try:
            self._head.send(protocol.Logs(request=request, job=job, band=band))
            while True:
                answer = self._head.wait(request, protocol.AttemptLog, protocol.Ok)
                if not isinstance(answer, protocol.AttemptLog):
                    return found
                found.append(answer)
        except HeadLost as lost:
            raise _lost(lost) from None

    def fetch(self, job: str, out: str | None, report: Report, *, partial: bool = False) -> Fetched:
        """Fetch the picture of a finished job to ``out``, a file or a folder.

        ``partial``: of another one what is there of it, never to the finished picture's name.
        Raises LocalFault if it cannot be written, UsageFault for a name of another format.
        """
        while True:
            try:
                result, output = fetch_picture(
                    self._head,
                    job,
                    lambda result: _writable_output(out, result),
                    report,
                    partial=partial,
                )
            except HeadLost:
                self._head.reopen()
            else:
                report.close()
                return Fetched(
                    job,
                    output.shown,
                    result.size,
                    result.sha256,
                    result.partial,
                    result.pixels_done,
                    result.pixels_total,
                )

    def tokens(self) -> list[protocol.TokenView]:
        """Give the tokens without their secrets; needs an admin token."""
        return self._ask(lambda n: protocol.ListTokens(request=n), protocol.Tokens).tokens

    def make_token(self, role: protocol.Role, name: str) -> protocol.TokenMade:
        """Make a token; the only time its text is seen. Needs an admin token."""
        return self._ask(
            lambda n: protocol.MakeToken(request=n, role=role, name=name), protocol.TokenMade
        )

    def revoke_token(self, token: str) -> str:
        """Revoke a token; gives the head's words. Needs an admin token."""
        if not _IDENT.match(token):
            raise SceneFault(f"there is no token {token!r}: see `clusterray token list`")
        return self._ask(lambda n: protocol.RevokeToken(request=n, id=token), protocol.Ok).text

    def _order(self, make: Callable[[int], protocol.Message]) -> str:
        return self._ask(make, protocol.Ok).text

    def _ask(self, make: Callable[[int], protocol.Message], answer: type[Answer]) -> Answer:
        request = self._head.next_request()
        try:
            return self._head.ask(make(request), request, answer)
        except HeadLost as lost:
            raise _lost(lost) from None


def _lost(lost: HeadLost) -> NoHead:
    return NoHead(f"cannot reach a head: the connection was lost ({lost.reason})")


def _writable_output(out: str | None, result: protocol.Result) -> OutputFile:
    extension = result.name.rpartition(".")[2].lower() or "png"
    output = output_file(out, safe_name(result.name, extension), extension)
    if result.partial:
        output = output.partial()
    output.check_writable()
    return output


def token_in_words(token: JoinToken) -> dict[str, object]:
    """Tell what a token says, but for its secret."""
    return {
        "role": token.role,
        "host": token.host,
        "port": token.port,
        "fingerprint": token.fingerprint,
    }
