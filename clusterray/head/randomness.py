"""The system's randomness, drawn many bytes at a time.

Each lease needs some, and each draw lets go of the interpreter's lock, which a thousand threads
wait for. Owned by one thread.
"""

from __future__ import annotations

import os
from typing import Final

_DRAWN_BYTES: Final = 4096
_PASSWORD_BYTES: Final = 16


class Randomness:
    """Gives random bits and passwords; nothing is given twice."""

    def __init__(self) -> None:
        self._drawn = b""

    def getrandbits(self, k: int, /) -> int:
        """Give ``k`` random bits, up to 128."""
        return int.from_bytes(self._take(_PASSWORD_BYTES), "big") >> (8 * _PASSWORD_BYTES - k)

    def password(self) -> str:
        """Give what nobody can guess, 32 hex digits."""
        return self._take(_PASSWORD_BYTES).hex()

    def _take(self, count: int) -> bytes:
        if len(self._drawn) < count:
            self._drawn = os.urandom(_DRAWN_BYTES)
        taken, self._drawn = self._drawn[:count], self._drawn[count:]
        return taken
