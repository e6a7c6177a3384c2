from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterray.core.errors import NoHead
from clusterray.wire import trust
from clusterray.wire.protocol import Role
from clusterray.wire.trust import JoinToken, find_token, hash_secret, new_secret, secrets_equal

TOKEN = JoinToken("head.example", 7470, "node", "", new_secret())
roles: st.SearchStrategy[Role] = st.sampled_from(["node", "submit", "admin"])


def packed(fields: object) -> str:
    body = json.dumps(fields).encode()
    raw = zlib.crc32(body).to_bytes(4, "big") + body
    return "cr1-" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@given(
    host=st.sampled_from(["h", "127.0.0.1", "::1", "fe80::1%eth0", "kopf.büro.example"]),
    port=st.integers(1, 65535),
    role=roles,
    fingerprint=st.sampled_from(["", "ab" * 32]),
)
def test_a_token_round_trips(host: str, port: int, role: Role, fingerprint: str) -> None:
    token = JoinToken(host, port, role, fingerprint, new_secret())
    text = token.encode()
    assert JoinToken.decode(text) == token
    assert len(text) <= trust.MAX_TOKEN_CHARS
    assert not set(text) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@given(st.data())
def test_a_lost_end_or_a_wrong_letter_is_told_as_damage(data: st.DataObject) -> None:
    text = TOKEN.encode()
    at = data.draw(st.integers(4, len(text) - 1))
    letter = data.draw(st.sampled_from("Aa0_-Zz9"))
    # The last letter may hold bits that are no part of any byte.
    changed = text[:at] + letter + text[at + 1 :]
    for bad in [text[:at], *([changed] if letter != text[at] and at < len(text) - 1 else [])]:
        with pytest.raises(NoHead, match=r"the token is damaged: copy the whole line again"):
            JoinToken.decode(bad)


def test_a_terminals_line_break_in_a_paste_is_forgiven() -> None:
    text = TOKEN.encode()
    assert JoinToken.decode(f"  {text[:70]}\r\n  {text[70:]}\n") == TOKEN


@pytest.mark.parametrize("text", ["", " \n", "hello", "cr2-abcd", "cr1-ä", "cr1-" + "A" * 5000])
def test_what_is_no_token_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(NoHead, match=r"^cannot reach a head: ") as caught:
        JoinToken.decode(text)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"h": "a b"}, "host"),
        ({"h": ""}, "host"),
        ({"h": 5}, "host"),
        ({"p": 0}, "port"),
        ({"p": 65536}, "port"),
        ({"p": True}, "port"),
        ({"p": "80"}, "port"),
        ({"r": "king"}, "role"),
        ({"r": ["node"]}, "role"),
        ({"f": "xy"}, "fingerprint"),
        ({"s": "short"}, "secret"),
        ({"s": None}, "secret"),
    ],
)
def test_a_whole_token_with_a_bad_field_names_it(change: dict[str, object], word: str) -> None:
    fields = {"h": "h", "p": 1, "r": "node", "f": "", "s": "s" * 43}
    assert JoinToken.decode(packed(fields)).host == "h"
    with pytest.raises(NoHead, match=word):
        JoinToken.decode(packed({**fields, **change}))


@pytest.mark.parametrize("value", [None, [], "x", 3, {}])
def test_json_that_is_no_token_is_refused(value: object) -> None:
    with pytest.raises(NoHead, match=r"^cannot reach a head: "):
        JoinToken.decode(packed(value))


def test_the_secret_is_never_shown() -> None:
    assert TOKEN.secret not in repr(TOKEN)
    assert TOKEN.secret not in str(TOKEN)
    assert TOKEN.secret not in f"{[TOKEN]}"


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert JoinToken("::1", 80, "node", "", "s" * 16).address == "[::1]:80"
    assert TOKEN.address == "head.example:7470"


def test_secrets_are_long_and_compared_whole() -> None:
    assert len({new_secret() for _ in range(50)}) == 50
    assert len(new_secret()) >= 43
    assert secrets_equal("é\udcff", "é\udcff")
    assert not secrets_equal("abc", "abd")
    assert hash_secret("abc").startswith("ba7816bf")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = (Path(".config/clusterray/token"), tmp_path / "etc" / "token")
    monkeypatch.setattr(trust, "DEFAULT_TOKEN_FILES", files)
    (tmp_path / "etc").mkdir()
    (tmp_path / "home/.config/clusterray").mkdir(parents=True)
    return tmp_path / "home"


def other(name: str) -> JoinToken:
    return JoinToken(name, 1, "submit", "", "s" * 20)


def test_the_places_are_sought_in_order(home: Path, tmp_path: Path) -> None:
    (tmp_path / "etc/token").write_text(other("etc").encode() + "\n")
    assert find_token("", environ={}, home=home).host == "etc"

    own = home / ".config/clusterray/token"
    own.write_text(other("own").encode())
    own.chmod(0o644)
    assert find_token("", environ={}, home=home).host == "own"

    environ = {"CLUSTERRAY_JOIN": other("variable").encode()}
    assert find_token("", environ=environ, home=home).host == "variable"

    (home / "given").write_text(other("file").encode())
    assert find_token(str(home / "given"), environ=environ, home=home).host == "file"
    assert find_token(other("text").encode(), environ=environ, home=home).host == "text"
    assert find_token("", environ={"CLUSTERRAY_JOIN": "~/given"}, home=home).host == "file"


def test_no_token_anywhere_says_what_to_do(home: Path) -> None:
    with pytest.raises(NoHead, match=r"^cannot reach a head: no token; give --join TOKEN"):
        find_token("", environ={"CLUSTERRAY_JOIN": " "}, home=home)


def test_a_bad_first_find_is_not_passed_over(home: Path, tmp_path: Path) -> None:
    (tmp_path / "etc/token").write_text(other("etc").encode())
    own = home / ".config/clusterray/token"
    own.write_text("")
    with pytest.raises(NoHead, match=r"^cannot reach a head: the token is empty.*clusterray/token"):
        find_token("", environ={}, home=home)
    own.unlink()
    own.mkdir()
    with pytest.raises(NoHead, match=r"^cannot reach a head: .*cannot be read: Is a directory"):
        find_token("", environ={}, home=home)


@pytest.mark.parametrize("given_text", ["/no/such/file", "x" * 5000, "a\0b", "/etc/passwd/x"])
def test_a_join_that_is_neither_token_nor_file_is_refused(home: Path, given_text: str) -> None:
    with pytest.raises(NoHead, match=r"^cannot reach a head: "):
        find_token(given_text, environ={}, home=home)


def test_a_binary_file_as_token_is_refused(home: Path) -> None:
    (home / "blob").write_bytes(bytes(range(256)) * 100)
    with pytest.raises(NoHead, match=r"^cannot reach a head: .*blob"):
        find_token(str(home / "blob"), environ={}, home=home)
