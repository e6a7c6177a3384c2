"""Who may come in: the join token, its secret, and where a token is looked for.

Any thread may call these; nothing here is kept. Reads at most the one small file that holds a
token; knows nothing of sockets, of the head's list of tokens, or of what a role may do.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast, get_args

from clusterray.core.errors import NoHead
from clusterray.wire.protocol import Role

TOKEN_PREFIX: Final = "cr1-"
TOKEN_VARIABLE: Final = "CLUSTERRAY_JOIN"
DEFAULT_TOKEN_FILES: tuple[Path, ...] = (
    Path(".config/clusterray/token"),
    Path("/etc/clusterray/token"),
)
"""Sought in this order; a relative path is taken below the home folder."""

MAX_TOKEN_CHARS: Final = 1024
"""Protocol limit of a token in a message (``TokenMade``)."""

_CRC_BYTES: Final = 4
_ROLES: Final[frozenset[str]] = frozenset(get_args(Role))
_HOST = re.compile(r"[^\s/@\[\]\x00-\x20\x7f]{1,253}\Z")
_FINGERPRINT = re.compile(r"(?:[0-9a-f]{64})?\Z")
_SECRET = re.compile(r"[A-Za-z0-9_-]{16,256}\Z")


def _unreachable(reason: str) -> NoHead:
    return NoHead(f"cannot reach a head: {reason}")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """One string to paste that opens a head for one role.

    ``host`` is a name or an address (IPv6 without brackets), ``port`` the control port.
    ``fingerprint`` is the hex SHA-256 of the head's certificate, "" while the head has none.
    ``repr()`` leaves the secret out, so that no log can show it.
    """

    host: str
    port: int
    role: Role
    fingerprint: str
    secret: str = field(repr=False)

    @property
    def address(self) -> str:
        """Give ``host:port`` as a person writes it, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def encode(self) -> str:
        """Give the token as one line of text.

        ``cr1-`` and base64url without padding of a CRC-32 (4 bytes, big-endian) and the compact
        JSON it was taken of: a line that lost its end or a letter is told from a wrong one.
        """
        body = json.dumps(
            {
                "h": self.host,
                "p": self.port,
                "r": self.role,
                "f": self.fingerprint,
                "s": self.secret,
            },
            separators=(",", ":"),
        ).encode()
        packed = zlib.crc32(body).to_bytes(_CRC_BYTES, "big") + body
        return TOKEN_PREFIX + base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")

    @staticmethod
    def decode(text: str) -> JoinToken:
        """Read a token; white space in it is what a terminal's line break left, and is skipped.

        Raises NoHead "cannot reach a head: ..." for anything that ``encode`` did not make.
        """
        line = "".join(text.split())
        if not line:
            raise _unreachable("the token is empty; paste the whole line that the head wrote")
        if not line.startswith(TOKEN_PREFIX):
            raise _unreachable(f'this is no join token: one begins with "{TOKEN_PREFIX}"')
        if len(line) > MAX_TOKEN_CHARS:
            raise _unreachable(f"the token is over {MAX_TOKEN_CHARS} letters: copy only its line")
        return _checked(_unpack(line.removeprefix(TOKEN_PREFIX)))


def _unpack(text: str) -> object:
    damaged = _unreachable("the token is damaged: copy the whole line again")
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        packed = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise damaged from None
    body = packed[_CRC_BYTES:]
    if packed[:_CRC_BYTES] != zlib.crc32(body).to_bytes(_CRC_BYTES, "big"):
        raise damaged
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise damaged from None


def _checked(value: object) -> JoinToken:
    fields = value if isinstance(value, dict) else {}
    host, port, role = fields.get("h"), fields.get("p"), fields.get("r")
    fingerprint, secret = fields.get("f"), fields.get("s")
    if not isinstance(host, str) or not _HOST.match(host):
        raise _unreachable("the token names no host; make a new one with `clusterray token`")
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise _unreachable("the token names no port; make a new one with `clusterray token`")
    if not isinstance(role, str) or role not in _ROLES:
        raise _unreachable(f"the token is for an unknown role {role!r}; update ClusterRay here")
    if not isinstance(fingerprint, str) or not _FINGERPRINT.match(fingerprint):
        raise _unreachable(
            "the token's fingerprint is none; make a new one with `clusterray token`"
        )
    if not isinstance(secret, str) or not _SECRET.match(secret):
        raise _unreachable("the token holds no secret; make a new one with `clusterray token`")
    return JoinToken(host, port, cast(Role, role), fingerprint, secret)


def new_secret() -> str:
    """Make a secret of 256 random bits, 43 letters of base64url."""
    return secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """Give the hex SHA-256 under which a secret is stored.

    Plain SHA-256 is enough: the secret is 256 random bits, not a password to be guessed.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def secrets_equal(a: str, b: str) -> bool:
    """Compare in a time that does not tell where the two differ."""
    return hmac.compare_digest(
        a.encode("utf-8", "surrogatepass"), b.encode("utf-8", "surrogatepass")
    )


def find_token(explicit: str, *, environ: Mapping[str, str], home: Path) -> JoinToken:
    """Give the token to use: ``explicit``, CLUSTERRAY_JOIN, then the first default file there is.

    ``explicit`` ("" if not given) and the variable hold a token's text or the name of a file with
    one. A file's mode is its owner's matter. Raises NoHead "cannot reach a head: ..." if there is
    no token, or the first one found cannot be read or is malformed.
    """
    for given, place in ((explicit, "--join"), (environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE)):
        if given.strip():
            return _token_or_file(given.strip(), place, home)
    files = [home / path for path in DEFAULT_TOKEN_FILES]
    for path in files:
        text = _read(path, needed=False)
        if text is not None:
            return _decode_file(path, text)
    raise _unreachable(
        f"no token; give --join TOKEN, set {TOKEN_VARIABLE}, or put the token into {files[0]}"
    )


def _token_or_file(given: str, place: str, home: Path) -> JoinToken:
    if given.startswith(TOKEN_PREFIX):
        return JoinToken.decode(given)
    path = home / given[2:] if given.startswith("~/") else Path(given)
    text = _read(path, needed=True, place=place)
    assert text is not None
    return _decode_file(path, text)


def _read(path: Path, *, needed: bool, place: str = "") -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(4 * MAX_TOKEN_CHARS)
    except (FileNotFoundError, NotADirectoryError):
        if not needed:
            return None
        raise _unreachable(
            f'{place} is neither a token ("{TOKEN_PREFIX}...") nor a file that exists: {path}'
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise _unreachable(f"the token file {path} cannot be read: {reason}") from None
    return data.decode("utf-8", "replace")


def _decode_file(path: Path, text: str) -> JoinToken:
    try:
        return JoinToken.decode(text)
    except NoHead as fault:
        raise NoHead(f"{fault.message} (in {path})") from None
