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
    """A picture that has been fetched: its job, the file as the person names it, size, hash."""

    job: str
    path: str
    size: int
    sha256: str


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
        return self._ask(lambda n: protocol.Cancel(request=n, job=job), protocol.Ok).text

    def fetch(self, job: str, out: str | None, report: Report) -> Fetched:
        """Fetch the picture of a finished job to ``out``, a file or a folder.

        Raises LocalFault if it cannot be written, UsageFault for a name of another format.
        """
        while True:
            try:
                result, output = fetch_picture(
                    self._head, job, lambda result: _writable_output(out, result.name), report
                )
            except HeadLost:
                self._head.reopen()
            else:
                report.close()
                return Fetched(job, output.shown, result.size, result.sha256)

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

    def _ask(self, make: Callable[[int], protocol.Message], answer: type[Answer]) -> Answer:
        request = self._head.next_request()
        try:
            return self._head.ask(make(request), request, answer)
        except HeadLost as lost:
            raise NoHead(f"cannot reach a head: the connection was lost ({lost.reason})") from None


def _writable_output(out: str | None, name: str) -> OutputFile:
    extension = name.rpartition(".")[2].lower() or "png"
    output = output_file(out, safe_name(name, extension), extension)
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
