"""The pages in a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from clusterray.head.certificate import head_certificate
from clusterray.head.web.app import create_app
from clusterray.head.web.web_server import WebServer
from clusterray.wire import protocol as msg
from tests.head.peers import Peer, running_head
from tests.head.test_light import next_lease
from tests.head.test_scout import GREEN, small, submit
from tests.web.browser import Browser
from tests.web.farm import HOSTILE, NODE, SUBMIT, pictured_for, preview_for, view, visitor_of

CHROMIUM = shutil.which("chromium")
PICTURES = "[...document.querySelectorAll('figure img')]"
COLOUR = """(() => {
    const image = document.querySelector('figure img');
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const paint = canvas.getContext('2d');
    paint.drawImage(image, 0, 0);
    return [...paint.getImageData(80, 60, 1, 1).data];
})()"""
"""What a pixel of the picture looks like in the browser."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium to look at the page"
    ),
]


@pytest.fixture
def app() -> Flask:
    app = create_app(
        view=view, pictured=pictured_for, preview=preview_for, check_token=visitor_of, secure=True
    )
    # The page must not go away while it is looked at.
    app.jinja_env.globals["refresh_s"] = 3600
    return app


@pytest.fixture
def server(app: Flask, tmp_path: Path) -> Iterator[WebServer]:
    server = WebServer(app, "127.0.0.1", 0, head_certificate(tmp_path).context)
    server.start()
    yield server
    server.stop()


def shots(tmp_path: Path) -> Path:
    """Where screenshots go; set CLUSTERRAY_SHOTS to a folder to keep them."""
    folder = Path(os.environ.get("CLUSTERRAY_SHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def log_in(browser: Browser, token: str) -> None:
    fill = f"document.querySelector('#token').value = '{token}'"
    click = "document.querySelector('main button').click()"
    browser.after_load(lambda: browser.value(f"{fill}; {click}"))


def test_a_person_logs_in_and_sees_the_farm(app: Flask, server: WebServer, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    folder = shots(tmp_path)
    with Browser(CHROMIUM, tmp_path / "profile") as browser:
        here = f"https://127.0.0.1:{server.port}/"
        browser.after_load(lambda: browser.send("Page.navigate", url=here))
        assert browser.value("document.querySelector('h1').innerText") is not None
        browser.look(folder / "login.png", width=1000, height=600, scheme="light")

        log_in(browser, NODE)
        assert "node's token" in browser.value("document.querySelector('[role=alert]').innerText")

        log_in(browser, SUBMIT)
        assert browser.value("location.pathname") == "/"
        assert browser.value("document.title") == "(2) ClusterRay"
        text = browser.value("document.body.innerText")
        assert "Living room, evening light" in text
        assert HOSTILE in text, "shown as it was written, and not run"
        assert browser.value("document.images.length") == 3
        assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth)")
        assert browser.value("document.querySelector('progress').position") == 0.5
        assert browser.value("getComputedStyle(document.querySelector('.card')).borderRadius") == (
            "12px"
        )
        assert browser.complaints() == []

        browser.look(folder / "status.png", width=1200, height=1100, scheme="light")
        light = browser.value("getComputedStyle(document.body).backgroundColor")
        browser.look(folder / "status-dark.png", width=1200, height=1100, scheme="dark")
        assert browser.value("getComputedStyle(document.body).backgroundColor") != light

        browser.look(folder / "status-phone.png", width=360, height=1900, scheme="light")
        assert browser.value("document.scrollingElement.scrollWidth") <= 360

        app.jinja_env.globals["refresh_s"] = 1
        browser.after_load(lambda: browser.send("Page.reload"))
        browser.after_load()
        assert "Living room" in browser.value("document.body.innerText"), "loaded itself again"


def test_the_session_cookie_is_hidden_from_scripts(server: WebServer, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    with Browser(CHROMIUM, tmp_path / "profile") as browser:
        here = f"https://127.0.0.1:{server.port}/"
        browser.after_load(lambda: browser.send("Page.navigate", url=here))
        log_in(browser, SUBMIT)
        assert browser.value("document.cookie") == ""
        browser.after_load(lambda: browser.value("document.querySelector('header button').click()"))
        assert browser.value("document.querySelector('#token') !== null")


def test_a_preview_is_seen_before_any_tile_is_there(tmp_path: Path) -> None:
    """A real head, whose node has told of its scout and delivered nothing."""
    assert CHROMIUM is not None
    with running_head(tmp_path / "state", tls=False) as head:
        token = (tmp_path / "state" / "submit.token").read_text().strip()
        with Peer(head) as client, Peer(head) as node:
            submit(client, tmp_path)
            node.join("node")
            lease = next_lease(node)
            with Browser(CHROMIUM, tmp_path / "profile") as browser:
                here = f"http://127.0.0.1:{head.ready.http}/"
                browser.after_load(lambda: browser.send("Page.navigate", url=here))
                log_in(browser, token)
                assert browser.value(f"{PICTURES}.length") == 0
                node.say(msg.Scouted(lease.attempt, small(GREEN), 2, [1.0, 3.0], 0.25))
                # The page loads itself again.
                for _ in range(10):
                    browser.after_load()
                    if browser.value(f"{PICTURES}.length"):
                        break
                assert browser.value(f"{PICTURES}.every(i => i.complete && i.naturalWidth)")
                assert browser.value(COLOUR) == [*GREEN, 255]
                assert browser.value("document.querySelector('figure .preview').innerText") == (
                    "preview"
                )
                assert "0 %" in browser.value("document.body.innerText")
                browser.look(shots(tmp_path) / "preview.png", width=900, height=700, scheme="light")
