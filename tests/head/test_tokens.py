"""Tokens: their files, their secrets, and what is left of a revoked one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from clusterray.core.errors import LocalFault, SceneFault
from clusterray.head.tokens import TokenStore
from clusterray.wire.protocol import Role
from clusterray.wire.trust import JoinToken

ROLES: tuple[Role, ...] = ("node", "submit", "admin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(folder: Path) -> TokenStore:
    store = TokenStore(folder, wall=lambda: 1_700_000_000.0)
    store.write_files("farm.example", 7000)
    return store


def read(folder: Path, role: Role) -> JoinToken:
    return JoinToken.decode((folder / f"{role}.token").read_text())


def test_the_first_start_writes_three_tokens_for_their_owner_only(
    store: TokenStore, folder: Path
) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == {
        "tokens.json", "node.token", "submit.token", "admin.token"
    }  # fmt: skip
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    for role in ROLES:
        token = read(folder, role)
        assert (token.host, token.port, token.role) == ("farm.example", 7000, role)
        record = store.identify(token.secret)
        assert record is not None
        assert (record.id, record.role, record.created) == (role, role, 1_700_000_000.0)


def test_a_folder_that_is_there_keeps_its_mode(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    TokenStore(folder)
    assert folder.stat().st_mode & 0o777 == 0o755


def test_secrets_are_stored_nowhere_else(store: TokenStore, folder: Path) -> None:
    _, text = store.make("node", "attic")
    secrets = [read(folder, role).secret for role in ROLES] + [JoinToken.decode(text).secret]
    stored = (folder / "tokens.json").read_text()
    for secret in secrets:
        assert secret not in stored
        assert secret not in repr(store.list())
    assert len(set(secrets)) == 4


@pytest.mark.parametrize("secret", ["", "x", "0" * 43, "é", "\ud800"])
def test_an_unknown_secret_is_nobodys(store: TokenStore, secret: str) -> None:
    assert store.identify(secret) is None


def test_a_hash_is_not_a_secret(store: TokenStore) -> None:
    for record in store.list():
        assert store.identify(record.hash) is None


def test_a_restart_keeps_tokens_and_leaves_the_files_alone(store: TokenStore, folder: Path) -> None:
    record, text = store.make("submit", "laptop")
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    again = TokenStore(folder)
    again.write_files("farm.example", 7000)
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before
    assert again.list() == store.list()
    assert again.identify(JoinToken.decode(text).secret) == record


def test_another_address_is_written_with_the_same_secret(store: TokenStore, folder: Path) -> None:
    secrets = {role: read(folder, role).secret for role in ROLES}
    again = TokenStore(folder)
    again.write_files("192.0.2.1", 7001, "ab" * 32)
    for role in ROLES:
        token = read(folder, role)
        assert token == JoinToken("192.0.2.1", 7001, role, "ab" * 32, secrets[role])
        assert (folder / f"{role}.token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("harm", ["delete", "garble", "foreign", "binary"])
def test_a_lost_token_file_gets_a_new_secret_and_the_old_one_dies(
    store: TokenStore, folder: Path, harm: str
) -> None:
    path = folder / "node.token"
    old = {role: read(folder, role).secret for role in ROLES}
    foreign = JoinToken("farm.example", 7000, "node", "", "f" * 43).encode()
    if harm == "delete":
        path.unlink()
    else:
        path.write_bytes(
            {"garble": b"cr1-xyz", "foreign": foreign.encode(), "binary": b"\xff\xfe"}[harm]
        )
    again = TokenStore(folder)
    again.write_files("farm.example", 7000)
    fresh = read(folder, "node").secret
    assert fresh not in (old["node"], "f" * 43)
    assert again.identify(fresh) is not None
    assert again.identify(old["node"]) is None
    assert again.identify("f" * 43) is None
    assert again.identify(old["submit"]) is not None
    assert [record.id for record in again.list()].count("node") == 1


def test_a_made_token_opens_its_role_until_it_is_revoked(store: TokenStore, folder: Path) -> None:
    record, text = store.make("node", "Ada's attic")
    token = JoinToken.decode(text)
    assert (token.host, token.port, token.role) == ("farm.example", 7000, "node")
    assert (record.role, record.name) == ("node", "Ada's attic")
    assert store.list()[-1] == record
    assert store.identify(token.secret) == record
    assert store.revoke(record.id) == record
    assert store.identify(token.secret) is None
    assert TokenStore(folder).identify(token.secret) is None


def test_revoking_a_first_token_deletes_its_file_and_the_next_start_makes_another(
    store: TokenStore, folder: Path
) -> None:
    old = read(folder, "node").secret
    store.revoke("node")
    assert not (folder / "node.token").exists()
    assert store.identify(old) is None
    again = TokenStore(folder)
    again.write_files("farm.example", 7000)
    assert read(folder, "node").secret != old
    assert again.identify(old) is None


def test_an_unknown_id_is_a_fault_in_words(store: TokenStore) -> None:
    with pytest.raises(SceneFault, match=r"no token 123.*clusterray token"):
        store.revoke("123")


def test_no_token_is_made_before_the_address_is_known(folder: Path) -> None:
    with pytest.raises(LocalFault, match="own address"):
        TokenStore(folder).make("node", "early")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", r"tokens\.json: damaged"),
        (b'{"version":1,"tokens":[{"id":"x","role":"king"}]}', r"tokens\.json: damaged"),
        (b'{"version":2,"tokens":[]}', "written by another ClusterRay"),
    ],
)
def test_a_damaged_list_is_a_fault_in_words_and_not_overwritten(
    folder: Path, content: bytes, words: str
) -> None:
    folder.mkdir()
    (folder / "tokens.json").write_bytes(content)
    with pytest.raises(LocalFault, match=words):
        TokenStore(folder)
    assert (folder / "tokens.json").read_bytes() == content


def test_a_failed_write_changes_nothing(
    store: TokenStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    before, files = store.list(), {path.name for path in folder.iterdir()}
    content = (folder / "tokens.json").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LocalFault, match=r"tokens\.json: No space left on device"):
        store.make("node", "unlucky")
    with pytest.raises(LocalFault, match="No space left on device"):
        store.revoke("node")
    assert store.list() == before
    assert {path.name for path in folder.iterdir()} == files
    assert (folder / "tokens.json").read_bytes() == content


def test_many_threads_lose_no_token(store: TokenStore) -> None:
    made: list[str] = []

    def make() -> None:
        for _ in range(5):
            made.append(JoinToken.decode(store.make("node", "n")[1]).secret)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 20
    assert all(store.identify(secret) is not None for secret in made)
    assert len({record.id for record in store.list()}) == 23
