"""The head's tokens: who may come in, and in which role.

``tokens.json`` holds every token's hash and no secret. The secrets of the first three (node,
submit, admin) stand in ``node.token``, ``submit.token`` and ``admin.token`` beside it, to be copied
to the machines; those of all others are shown once and kept nowhere. Any thread may call. Must not
know of connections: who revokes a token closes them.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, get_args

import msgspec

from clusterray.core.errors import LocalFault, NoHead, SceneFault
from clusterray.head.secret_file import write_secret
from clusterray.wire.protocol import Role
from clusterray.wire.trust import JoinToken, hash_secret, new_secret, secrets_equal

TOKENS_NAME: Final = "tokens.json"
FIRST_TOKENS: Final[tuple[Role, ...]] = get_args(Role)
_VERSION: Final = 1


class TokenRecord(msgspec.Struct, frozen=True):
    """One token, without its secret.

    The id of a first token is its role. ``created`` is wall time, ``hash`` the secret's hash.
    """

    id: str
    role: Role
    name: str
    created: float
    hash: str


class _TokensFile(msgspec.Struct, frozen=True):
    version: int
    tokens: tuple[TokenRecord, ...]


class TokenStore:
    """The tokens of the state folder ``folder``; ``wall`` gives wall time.

    Raises LocalFault if the folder or its tokens.json cannot be used.
    """

    def __init__(self, folder: Path, *, wall: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._path = folder / TOKENS_NAME
        self._wall = wall
        self._address: tuple[str, int, str] | None = None
        # Guards changes of _records and of the files, which must go together. Readers take the
        # tuple as it is.
        self._lock = threading.Lock()
        self._records = self._read()

    def write_files(self, host: str, port: int, fingerprint: str = "") -> None:
        """Make the three token files fit this address; first makes what is not there.

        A file that is there keeps its secret and is written again only if the address has changed.
        For one that is missing, unreadable or revoked a new secret is made, and the old one is
        worth nothing from then on. ``make`` works after this. Raises LocalFault.
        """
        with self._lock:
            self._address = (host, port, fingerprint)
            for role in FIRST_TOKENS:
                self._write_first(role)

    def identify(self, secret: str) -> TokenRecord | None:
        """Give the token of this secret, or None; the time taken does not tell which came near."""
        given = hash_secret(secret)
        found: TokenRecord | None = None
        for record in self._records:
            if secrets_equal(given, record.hash):
                found = record
        return found

    def make(self, role: Role, name: str) -> tuple[TokenRecord, str]:
        """Make a token and give it with its text, which nobody can show again.

        Raises LocalFault if it cannot be stored.
        """
        with self._lock:
            secret = new_secret()
            record = TokenRecord(
                id=self._free_id(),
                role=role,
                name=name,
                created=self._wall(),
                hash=hash_secret(secret),
            )
            self._store((*self._records, record))
            return record, self._text(role, secret)

    def revoke(self, token_id: str) -> TokenRecord:
        """Take a token back and give what it was; its secret opens nothing from now on.

        A first token's file is deleted, and the next start makes a new one. Raises SceneFault for
        an unknown id, LocalFault if the change cannot be stored.
        """
        with self._lock:
            record = next((record for record in self._records if record.id == token_id), None)
            if record is None:
                raise SceneFault(
                    f"there is no token {token_id}; `clusterray token` lists those there are"
                )
            self._store(tuple(other for other in self._records if other is not record))
            if record.id == record.role:
                self._delete(self._file_of(record.role))
            return record

    def list(self) -> tuple[TokenRecord, ...]:
        """Give all tokens, oldest first."""
        return self._records

    # ------------------------------------------------------------ called with the lock held

    def _write_first(self, role: Role) -> None:
        path = self._file_of(role)
        known = next((record for record in self._records if record.id == role), None)
        text = _read_text(path)
        secret = _secret_in(text)
        if secret is None or known is None or not secrets_equal(hash_secret(secret), known.hash):
            secret = new_secret()
            self._replace_first(role, secret)
        wanted = f"{self._text(role, secret)}\n"
        if text != wanted:
            self._write(path, wanted.encode())

    def _replace_first(self, role: Role, secret: str) -> None:
        fresh = TokenRecord(
            id=role, role=role, name=f"{role}.token", created=self._wall(), hash=hash_secret(secret)
        )
        self._store((*(record for record in self._records if record.id != role), fresh))

    def _free_id(self) -> str:
        taken = {record.id for record in self._records}
        while (token_id := secrets.token_hex(4)) in taken:
            pass
        return token_id

    def _text(self, role: Role, secret: str) -> str:
        if self._address is None:
            raise LocalFault("no token can be made before the head knows its own address")
        host, port, fingerprint = self._address
        return JoinToken(host, port, role, fingerprint, secret).encode()

    # ------------------------------------------------------------ files

    def _file_of(self, role: Role) -> Path:
        return self._folder / f"{role}.token"

    def _read(self) -> tuple[TokenRecord, ...]:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            content = self._path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise LocalFault(
                f"cannot read {self._path}: {error.strerror}; give the head its state folder"
            ) from error
        try:
            stored = msgspec.json.decode(content, type=_TokensFile)
        except msgspec.MsgspecError as error:
            raise LocalFault(
                f"damaged ({error}); put back a copy, or delete it and hand out new tokens",
                file=str(self._path),
            ) from error
        if stored.version != _VERSION:
            raise LocalFault(
                f"written by another ClusterRay (version {stored.version} of this file); "
                "start that one, or delete the file and hand out new tokens",
                file=str(self._path),
            )
        return stored.tokens

    def _store(self, records: tuple[TokenRecord, ...]) -> None:
        content = msgspec.json.encode(_TokensFile(_VERSION, records))
        self._write(self._path, msgspec.json.format(content))
        self._records = records

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_secret(path, content)
        except OSError as error:
            raise LocalFault(
                f"cannot write {path}: {error.strerror}; make its folder writable for the head"
            ) from error

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise LocalFault(f"cannot delete {path}: {error.strerror}; delete it") from error


def _read_text(path: Path) -> str | None:
    # An unreadable file is as good as none: the new one replaces it.
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None


def _secret_in(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return JoinToken.decode(text).secret
    except NoHead:
        return None
