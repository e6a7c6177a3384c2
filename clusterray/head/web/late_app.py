"""A web application that is made when somebody first asks for a page.

Flask takes a sixth of a second to import, which nobody is to wait for before a head is ready, and
most local farms are never looked at. Called by any thread of the web server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


class LateApp:
    """Serves with what ``make`` gives, made once."""

    def __init__(self, make: Callable[[], WSGIApplication]) -> None:
        self._make = make
        # Held while it is made: the first visitors come together.
        self._lock = threading.Lock()
        self._app: WSGIApplication | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        with self._lock:
            if self._app is None:
                self._app = self._make()
        return self._app(environ, start_response)
