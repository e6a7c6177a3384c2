"""The web application is made for the first visitors, once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from clusterray.head.web.late_app import LateApp


def test_it_is_made_once_however_many_come_together() -> None:
    made: list[int] = []
    all_here = threading.Barrier(4)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return [str(environ["name"]).encode()]

    def make() -> WSGIApplication:
        made.append(1)
        return app

    late, answers = LateApp(make), list[list[bytes]]()

    def visit(name: str) -> None:
        all_here.wait(10)
        answers.append(list(late({"name": name}, lambda *_: lambda _: None)))

    threads = [threading.Thread(target=visit, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert sorted(answers) == [[b"a"], [b"b"], [b"c"], [b"d"]]


def test_a_head_starts_without_flask() -> None:
    program = "import sys, clusterray.head.server; sys.exit('flask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
