"""The status page: what the farm is doing, for whoever brings a token; reads only.

Runs on the workers of the thread ``web``. Must not touch the farm: it is given callables that any
thread may call, and shows what they give to whoever asks. A name in the Host header that is not the
head's is refused, so that no page elsewhere can have a browser read this one under a name of its
own. Needs no script in the browser: the page asks to be
loaded again every two seconds.
"""

from __future__ import annotations

import ipaddress
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

import flask
from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from clusterray import __version__
from clusterray.wire.protocol import JobView, NodeView, Role

REFRESH_S: Final = 2
SHOWN_JOBS: Final = 50
SHOWN_PICTURES: Final = 8
MAX_FORM_BYTES: Final = 16 << 10
MAX_SESSIONS: Final = 1000

_OPEN_STATES: Final = frozenset({"queued", "running", "paused", "stitching", "verifying"})
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class HasRole(Protocol):
    """Who looks: what a token stands for."""

    @property
    def role(self) -> Role:
        """What it may do."""


WrongSecret: TypeAlias = Callable[[str], AbstractContextManager[float | None]]
"""Takes an address that brought a wrong token; see ``Doorkeeper.wrong_secret``."""


class FarmSnapshot(Protocol):
    """What the page shows: jobs newest first, nodes, and the wall time ``at`` it was so."""

    @property
    def jobs(self) -> tuple[JobView, ...]:
        """The jobs, newest first."""

    @property
    def nodes(self) -> tuple[NodeView, ...]:
        """The nodes."""

    @property
    def at(self) -> float:
        """Wall time."""


Visitor = TypeVar("Visitor", bound=HasRole)


@dataclass(frozen=True, slots=True)
class _Sources(Generic[Visitor]):
    """Where the pages get what they show."""

    view: Callable[[Visitor], FarmSnapshot]
    pictured: Callable[[str, Visitor], bool]
    preview: Callable[[str, Visitor], bytes | None]
    check_token: Callable[[str], Visitor | None]
    wrong_secret: WrongSecret


class _Wrong(HTTPException):
    """A token that opens nothing, once too often."""

    code = 429
    description = "Too many tokens from your address were wrong. Wait a little, and check yours."


class _NotOurName(HTTPException):
    """The browser asked for another host."""

    code = 421


class _Sessions:
    """Which browser session came with which token.

    The cookie holds a random name only; the token is asked about at each request, so that one that
    is revoked closes its sessions too.
    """

    def __init__(self) -> None:
        # Guards _tokens, which all workers share.
        self._lock = threading.Lock()
        self._tokens: OrderedDict[str, str] = OrderedDict()

    def open(self, token: str) -> str:
        name = secrets.token_urlsafe(32)
        with self._lock:
            self._tokens[name] = token
            while len(self._tokens) > MAX_SESSIONS:
                self._tokens.popitem(last=False)
        return name

    def token(self, name: object) -> str | None:
        with self._lock:
            return self._tokens.get(name) if isinstance(name, str) else None

    def close(self, name: object) -> None:
        with self._lock:
            if isinstance(name, str):
                self._tokens.pop(name, None)


def create_app(
    *,
    view: Callable[[Visitor], FarmSnapshot],
    pictured: Callable[[str, Visitor], bool],
    preview: Callable[[str, Visitor], bytes | None],
    check_token: Callable[[str], Visitor | None],
    wrong_secret: WrongSecret = lambda address: nullcontext(0.0),
    hosts: Collection[str] = ("localhost",),
    secure: bool = False,
) -> Flask:
    """Make the web application.

    ``view`` gives the farm as a visitor may see it now, ``pictured`` tells whether there is
    something to be seen of a job, ``preview`` its picture so far as PNG or None, ``check_token``
    who comes with a token's text, None if it opens nothing. ``hosts`` are the names of the head, in
    small letters; addresses are its own anyway. ``secure``: it is reached
    over TLS. All callables are called by several threads at once.
    """
    app = Flask("clusterray.head.web")
    app.secret_key = secrets.token_bytes(32)
    app.config.update(
        SESSION_COOKIE_NAME="clusterray",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=secure,
        MAX_CONTENT_LENGTH=MAX_FORM_BYTES,
        MAX_FORM_MEMORY_SIZE=MAX_FORM_BYTES,
    )
    app.jinja_env.filters.update(duration=duration, percent=percent, clock=_clock, count=_count)
    app.jinja_env.globals.update(version=__version__, refresh_s=REFRESH_S)
    app.before_request(lambda: _check_host(hosts))
    app.after_request(_add_headers)
    app.register_error_handler(HTTPException, _error_page)
    _add_routes(app, _Sources(view, pictured, preview, check_token, wrong_secret), _Sessions())
    return app


def _check_host(hosts: Collection[str]) -> None:
    name = _host_name(flask.request.headers.get("Host", ""))
    if name in hosts or _is_address(name):
        return
    raise _NotOurName(
        f'This head does not go by the name "{name[:100]}". Open the page by its address, or by a '
        "name that its settings listen and advertise say."
    )


def _host_name(header: str) -> str:
    """Give the host of a Host header without its port, in small letters."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _add_routes(app: Flask, sources: _Sources[Visitor], sessions: _Sessions) -> None:
    patience = _Patience(sources.wrong_secret)

    def visitor() -> Visitor | None:
        given = _bearer()
        token = given or sessions.token(flask.session.get("name"))
        who = None if token is None else sources.check_token(token)
        if given and who is None:
            patience.wait()
        return who if who is not None and _opens(who.role) else None

    @app.get("/healthz")
    def healthz() -> Response:
        return flask.jsonify(ok=True, version=__version__)

    @app.get("/")
    def status() -> str | Response:
        who = visitor()
        if who is None:
            return _login_page("", 401)
        return _status_page(sources.view(who), lambda job: sources.pictured(job, who))

    @app.post("/login")
    def login() -> Response:
        token = flask.request.form.get("token", "").strip()
        who = sources.check_token(token) if token else None
        if token and who is None:
            patience.wait()
        if who is None or not _opens(who.role):
            return _login_page(_why_not(token, who), 403 if who else 401)
        flask.session.clear()
        flask.session["name"] = sessions.open(token)
        return _see_other("/")

    @app.post("/logout")
    def logout() -> Response:
        sessions.close(flask.session.get("name"))
        flask.session.clear()
        return _see_other("/")

    @app.get("/preview/<job>.png")
    def picture(job: str) -> Response:
        who = visitor()
        if who is None:
            flask.abort(401)
        png = sources.preview(job, who)
        if png is None:
            flask.abort(404)
        return Response(png, mimetype="image/png")


def _bearer() -> str | None:
    kind, _, token = flask.request.headers.get("Authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None


class _Patience:
    """Lets time pass before a wrong token is answered, on one worker at most."""

    def __init__(self, wrong_secret: WrongSecret) -> None:
        self._wrong_secret = wrong_secret
        # Held by the worker that waits. The others have people to serve.
        self._place = threading.Lock()

    def wait(self) -> None:
        """Wait as long as the address's wrong tokens ask for, or refuse at once: raises _Wrong."""
        with self._wrong_secret(flask.request.remote_addr or "") as wait_s:
            if wait_s is None or not self._place.acquire(blocking=False):
                raise _Wrong
            try:
                time.sleep(wait_s)
            finally:
                self._place.release()


def _opens(role: Role) -> bool:
    return role in ("submit", "admin")


def _why_not(token: str, who: HasRole | None) -> str:
    if not token:
        return "Paste a token first."
    if who is not None:
        return "This is a node's token. The page opens to a submit or an admin token."
    return "This head does not know that token. Copy the whole line of submit.token again."


# ---------------------------------------------------------------- pages


def _login_page(problem: str, code: int) -> Response:
    response = Response(flask.render_template("login.html", problem=problem), code)
    if code == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="ClusterRay"'
    return response


def _status_page(farm: FarmSnapshot, pictured: Callable[[str], bool]) -> str:
    return flask.render_template(
        "status.html",
        farm=farm,
        jobs=farm.jobs[:SHOWN_JOBS],
        hidden_jobs=max(0, len(farm.jobs) - SHOWN_JOBS),
        pictures=_pictures(farm.jobs, pictured),
        running=sum(job.state in _OPEN_STATES for job in farm.jobs),
        present=sum(node.state != "away" for node in farm.nodes),
        titles={job.id: job.title or job.output_name for job in farm.jobs},
    )


def _pictures(jobs: tuple[JobView, ...], pictured: Callable[[str], bool]) -> list[JobView]:
    """Choose the jobs whose picture is shown: those at work first, then the newest."""
    seen = [job for job in jobs if pictured(job.id)]
    seen.sort(key=lambda job: job.state not in _OPEN_STATES)
    return seen[:SHOWN_PICTURES]


def _see_other(place: str) -> Response:
    return Response(status=303, headers={"Location": place})


def _error_page(error: HTTPException) -> Response:
    ours = isinstance(error, (_Wrong, _NotOurName))
    words = error.description if ours else ""
    page = flask.render_template("error.html", code=error.code, name=error.name, words=words)
    response = Response(page, error.code)
    for header, value in error.get_headers():
        if header in ("Allow", "WWW-Authenticate"):
            response.headers[header] = value
    return response


def _add_headers(response: Response) -> Response:
    response.headers.update(_HEADERS)
    return response


# ---------------------------------------------------------------- words


def duration(seconds: float | None) -> str:
    """Give seconds as a person says them: "45 s", "3 min 05 s", "2 h 07 min"; None is ""."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def percent(job: JobView) -> int:
    """Give how much of a job's pixels is there, in whole per cent; 100 only when all are."""
    if job.pixels_total == 0:
        return 0
    return min(100, job.pixels_done * 100 // job.pixels_total)


def _clock(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(wall))


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
