"""The pages, asked without a network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from flask.testing import FlaskClient

import clusterray
from clusterray.head.web import app as pages
from clusterray.head.web.app import create_app, duration, percent
from tests.web.farm import (
    ADMIN,
    DIFFERS,
    HOSTILE,
    MIXED,
    NODE,
    SUBMIT,
    VERIFIED,
    Farm,
    Visitor,
    busy_farm,
    job,
    pictured_for,
    preview,
    preview_for,
    view,
    visitor_of,
)


def open_app(
    farm: Farm | None = None, check_token: Callable[[str], object] = visitor_of
) -> FlaskClient:
    shown = busy_farm() if farm is None else farm
    app = create_app(
        view=lambda who: shown,
        pictured=pictured_for,
        preview=preview_for,
        check_token=check_token,  # type: ignore[arg-type]
    )
    return app.test_client()


@pytest.fixture
def client() -> FlaskClient:
    return open_app()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def page(client: FlaskClient, token: str = SUBMIT) -> str:
    response = client.get("/", headers=bearer(token))
    assert response.status_code == 200
    return response.text


# ---------------------------------------------------------------- who may see what


def test_healthz_answers_anyone(client: FlaskClient) -> None:
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json == {"ok": True, "version": clusterray.__version__}


@pytest.mark.parametrize("token", [SUBMIT, ADMIN])
def test_a_submit_or_admin_token_opens_the_page(client: FlaskClient, token: str) -> None:
    assert "Living room, evening light" in page(client, token)
    assert client.get("/preview/j7.png", headers=bearer(token)).data == preview("j7")


@pytest.mark.parametrize(
    "header",
    [
        {}, bearer(NODE), bearer("cr1-unknown"), bearer(""), {"Authorization": SUBMIT},
        {"Authorization": f"Basic {SUBMIT}"}, {"Cookie": f"clusterray={SUBMIT}"},
        {"Cookie": "clusterray=eyJuYW1lIjoieCJ9.aaaa.bbbb"},
    ],
)  # fmt: skip
def test_nobody_else_sees_anything(client: FlaskClient, header: dict[str, str]) -> None:
    response = client.get("/", headers=header)
    assert response.status_code == 401
    assert "Living room" not in response.text
    assert 'name="token"' in response.text
    assert client.get("/preview/j7.png", headers=header).status_code == 401


def test_login_gives_a_session_that_does_not_hold_the_token(client: FlaskClient) -> None:
    response = client.post("/login", data={"token": f"  {SUBMIT}\r\n"})
    assert (response.status_code, response.headers["Location"]) == (303, "/")
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert SUBMIT not in cookie
    assert "Living room" in client.get("/").text
    assert client.get("/preview/j7.png").status_code == 200


@pytest.mark.parametrize(
    ("token", "code", "words"),
    [
        ("", 401, "Paste a token first"),
        ("cr1-unknown", 401, "does not know that token"),
        (NODE, 403, "node&#39;s token"),
    ],
)
def test_a_wrong_token_is_refused_in_words(
    client: FlaskClient, token: str, code: int, words: str
) -> None:
    response = client.post("/login", data={"token": token})
    assert response.status_code == code
    assert words in response.text
    assert "Set-Cookie" not in response.headers
    assert client.get("/").status_code == 401


def test_logging_out_ends_the_session_also_for_a_kept_cookie(client: FlaskClient) -> None:
    client.post("/login", data={"token": SUBMIT})
    kept = client.get_cookie("clusterray")
    assert kept is not None
    assert client.post("/logout").status_code == 303
    client.set_cookie("clusterray", kept.value)
    assert client.get("/").status_code == 401


def test_a_session_ends_with_its_token() -> None:
    known = {SUBMIT: Visitor("submit")}
    client = open_app(check_token=known.get)
    client.post("/login", data={"token": SUBMIT})
    assert client.get("/").status_code == 200
    del known[SUBMIT]
    assert client.get("/").status_code == 401


def test_a_session_of_another_start_of_the_head_is_worth_nothing(client: FlaskClient) -> None:
    client.post("/login", data={"token": SUBMIT})
    cookie = client.get_cookie("clusterray")
    assert cookie is not None
    other = open_app()
    other.set_cookie("clusterray", cookie.value)
    assert other.get("/").status_code == 401


def test_sessions_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_SESSIONS", 2)
    sessions = pages._Sessions()
    names = [sessions.open(f"token {number}") for number in range(3)]
    assert [sessions.token(name) for name in names] == [None, "token 1", "token 2"]


def test_a_huge_form_is_refused(client: FlaskClient) -> None:
    assert client.post("/login", data={"token": "x" * 100_000}).status_code == 413


# ---------------------------------------------------------------- what a page says


def test_the_page_shows_jobs_nodes_and_pictures(client: FlaskClient) -> None:
    text = page(client)
    for words in (
        "2 open jobs", "2 nodes", 'value="50"', "2 min 00 s", "2 h 07 min", "1 job before it",
        "on attic, pi-4", "(chess.pov, line 88)", "room.png", "Café ☕", "said nothing for 16 s",
        "3 of 4", "/preview/j7.png", "/preview/j3.png", DIFFERS, MIXED,
        VERIFIED, "12 of 480 pixels differ between &lt;desk&gt; and pi",
        "noisy", "its text has crand (a&lt;b&gt;.pov:7)",
    ):  # fmt: skip
        assert words in text
    assert "/preview/j5.png" not in text


def test_an_empty_farm_says_how_to_begin() -> None:
    text = page(open_app(Farm()))
    assert "clusterray-submit scene/" in text
    assert "clusterray-node --join TOKEN" in text


def test_only_the_status_page_loads_itself_again(client: FlaskClient) -> None:
    assert '<meta http-equiv="refresh" content="2">' in page(client)
    assert 'http-equiv="refresh"' not in client.get("/").text


def test_everything_a_stranger_wrote_is_escaped(client: FlaskClient) -> None:
    text = page(client)
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text


def test_a_long_list_is_cut() -> None:
    jobs = tuple(job(number, id=f"x{number}") for number in range(53, 0, -1))
    text = page(open_app(Farm(jobs=jobs)))
    assert "Picture 53" in text
    assert "Picture 3<" not in text
    assert "3 older jobs" in text


def test_pictures_of_open_jobs_come_first_and_are_few() -> None:
    done = [job(number, state="done") for number in range(30, 10, -1)]
    app = create_app(
        view=lambda who: Farm(jobs=(*done, job(1))),
        pictured=lambda job, who: True,
        preview=lambda job, who: b"png",
        check_token=visitor_of,
    )
    text = page(app.test_client())
    shown = [part.split(".png")[0] for part in text.split("/preview/")[1:]]
    assert shown == ["j1", *(f"j{number}" for number in range(30, 23, -1))]


def test_an_unknown_picture_is_not_found(client: FlaskClient) -> None:
    for place in ("/preview/j5.png", "/preview/nothing.png", "/preview/..%2f..%2fetc.png"):
        assert client.get(place, headers=bearer(SUBMIT)).status_code == 404


@pytest.mark.parametrize(
    ("place", "code"),
    [("/", 200), ("/healthz", 200), ("/preview/j7.png", 200), ("/static/style.css", 200),
     ("/nowhere", 404), ("/login", 405), ("/static/../app.py", 404)],
)  # fmt: skip
def test_every_answer_carries_the_security_headers(
    client: FlaskClient, place: str, code: int
) -> None:
    response = client.get(place, headers=bearer(SUBMIT))
    assert response.status_code == code
    assert response.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (-1, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
     (125, "2 min 05 s"), (3599.6, "1 h 00 min"), (90_000, "25 h 00 min")],
)  # fmt: skip
def test_durations(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("done", "total", "shown"), [(0, 0, 0), (0, 9, 0), (999, 1000, 99), (9, 9, 100), (10, 9, 100)]
)
def test_percent_is_hundred_only_when_all_is_there(done: int, total: int, shown: int) -> None:
    assert percent(job(1, pixels_done=done, pixels_total=total)) == shown


# ---------------------------------------------------------------- under which name, how often


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:4100", "127.0.0.1:4100", "192.0.2.7", "[::1]:4100", "[2001:db8::1]",
     "render1.lan", "render1.lan.:80"],
)  # fmt: skip
def test_an_address_or_a_name_of_the_head_is_answered(host: str) -> None:
    app = create_app(
        view=view,
        pictured=pictured_for,
        preview=preview_for,
        check_token=visitor_of,
        hosts=("localhost", "render1.lan"),
    )
    headers = {"Host": host, **bearer(SUBMIT)}
    assert app.test_client().get("/", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:4100", "localhost.evil.example", "127.0.0.1.evil.example",
     "", "[evil]", "x@127.0.0.1", "render1.lan"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["/", "/healthz", "/preview/j7.png", "/static/style.css"])
def test_another_name_gets_nothing(client: FlaskClient, host: str, place: str) -> None:
    answer = client.get(place, headers={"Host": host, **bearer(SUBMIT)})
    assert answer.status_code in (400, 421)
    assert "Living room" not in answer.text
    if host and answer.status_code == 421:
        assert "does not go by the name" in answer.text


def test_wrong_tokens_are_counted_and_right_ones_are_not() -> None:
    wrong: list[str] = []

    @contextmanager
    def wrong_secret(address: str) -> Iterator[float | None]:
        wrong.append(address)
        yield None if len(wrong) > 3 else 0.0

    client = create_app(
        view=view,
        pictured=pictured_for,
        preview=preview_for,
        check_token=visitor_of,
        wrong_secret=wrong_secret,
    ).test_client()
    assert client.get("/").status_code == 401, "no token is no wrong token"
    assert client.get("/", headers=bearer("cr1-unknown")).status_code == 401
    assert client.post("/login", data={"token": "cr1-unknown"}).status_code == 401
    assert client.get("/preview/j7.png", headers=bearer("cr1-unknown")).status_code == 401
    refused = client.post("/login", data={"token": "cr1-unknown"})
    assert refused.status_code == 429
    assert "Wait a little" in refused.text
    assert client.post("/login", data={"token": NODE}).status_code == 403
    assert client.get("/", headers=bearer(SUBMIT)).status_code == 200
    assert wrong == ["127.0.0.1"] * 4


def test_only_one_worker_waits_over_a_wrong_token(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, go_on = threading.Event(), threading.Event()

    def wait(seconds: float) -> None:
        waiting.set()
        assert go_on.wait(10)

    monkeypatch.setattr("clusterray.head.web.app.time.sleep", wait)
    app = create_app(view=view, pictured=pictured_for, preview=preview_for, check_token=visitor_of)
    first = threading.Thread(
        target=lambda: app.test_client().get("/", headers=bearer("cr1-unknown"))
    )
    first.start()
    assert waiting.wait(10)
    assert app.test_client().get("/", headers=bearer("cr1-no")).status_code == 429
    assert app.test_client().get("/", headers=bearer(SUBMIT)).status_code == 200
    go_on.set()
    first.join(10)


def test_the_cookie_of_a_page_over_tls_never_goes_out_in_the_clear() -> None:
    app = create_app(
        view=view, pictured=pictured_for, preview=preview_for, check_token=visitor_of, secure=True
    )
    answer = app.test_client().post("/login", data={"token": SUBMIT})
    assert "; Secure" in answer.headers["Set-Cookie"]
    assert "; HttpOnly" in answer.headers["Set-Cookie"]
