"""The kinds of value a setting can have: parsers from text, and how each is shown again.

A parser raises ValueError with words that follow the value. Pure.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from clusterray.head.doorkeeper import Network
from clusterray.wire.trust import TOKEN_PREFIX

Number = TypeVar("Number", int, float)

ENVIRONMENT_PREFIX = "CLUSTERRAY_"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)")
_SECONDS_BY_UNIT = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_BYTES_PER_STEP = {"": 1000, "i": 1024}
LOG_LEVELS = ("debug", "info", "warning", "error")


# ---------------------------------------------------------------- parsers of one value


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Make a parser of whole numbers from ``low`` to ``high``, both included."""

    def parse(text: str) -> int:
        if re.fullmatch(r"[+-]?\d{1,18}", text) and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"is not a whole number from {low} to {high}")

    return parse


def size_in_bytes(text: str) -> int:
    """Turn ``2GiB``, ``500M`` or ``4096`` into bytes.

    ``K M G T`` stand for powers of 1000, ``Ki Mi Gi Ti`` for powers of 1024. Raises ValueError in
    words that follow the value.
    """
    found = _SIZE.fullmatch(text)
    if found is None or (found[3] and not found[2]):
        raise ValueError("is not a size in bytes such as 2GiB, 500M or 4096")
    step = _BYTES_PER_STEP[found[3].lower()]
    amount = float(found[1]) * step ** " KMGT".index(found[2].upper() or " ")
    if not 1 <= amount <= 2**60:
        raise ValueError("is not a size between 1 byte and 1 EiB")
    return int(amount)


def duration_in_seconds(low: float, high: float) -> Callable[[str], float]:
    """Make a parser of durations (``4``, ``4s``, ``500ms``, ``2m``, ``1h``) within bounds."""

    def parse(text: str) -> float:
        found = _DURATION.fullmatch(text)
        if found is None:
            raise ValueError("is not a duration in seconds such as 4, 500ms or 2m")
        seconds = float(found[1]) * _SECONDS_BY_UNIT[found[2]]
        if not (math.isfinite(seconds) and low <= seconds <= high):
            raise ValueError(f"is not a duration from {low:g} to {high:g} seconds")
        return seconds

    return parse


def or_auto(parse: Callable[[str], Number]) -> Callable[[str], Number | int]:
    """Make a parser that takes ``auto`` besides, as 0."""

    def parse_or_auto(text: str) -> Number | int:
        return 0 if text.lower() == "auto" else parse(text)

    return parse_or_auto


def one_of(*words: str) -> Callable[[str], str]:
    """Make a parser of a few words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"is not one of {', '.join(words)}")
        return text.lower()

    return parse


def paths(text: str) -> tuple[Path, ...]:
    """Turn absolute paths with colons between them into a tuple; empty text means none."""
    parts = [part for part in text.split(":") if part]
    for part in parts:
        if not part.startswith("/") or not part.isprintable() or part == "/":
            raise ValueError("is not a list of absolute paths with colons between them")
    return tuple(map(Path, parts))


def port_range(text: str) -> tuple[int, int] | None:
    """Turn ``50000-50100`` into both ends, both included; empty text means any free port."""
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,5})\s*-\s*(\d{1,5})", text)
    if found is None:
        raise ValueError("is not a range of ports such as 50000-50100")
    first, last = int(found[1]), int(found[2])
    if not 1 <= first <= last <= 65535:
        raise ValueError("is not a range of ports A-B with 1 <= A <= B <= 65535")
    return first, last


def networks(text: str) -> tuple[Network, ...]:
    """Turn ``192.168.7.0/24, fd00::/8`` into networks; empty text means none."""
    try:
        return tuple(ipaddress.ip_network(word.strip()) for word in text.split(",") if word.strip())
    except ValueError:
        raise ValueError("is not networks such as 192.168.7.0/24, with commas between") from None


def host_text(text: str) -> str:
    """Take a host name or address; refuses what can be neither."""
    if text and not re.fullmatch(r"[A-Za-z0-9_.:%-]{1,253}", text):
        raise ValueError("is not a host name or address")
    return text


def any_text(text: str) -> str:
    """Take any text without control characters, at most 1,024 characters."""
    if len(text) > 1024 or not text.isprintable():
        raise ValueError("is too long or has control characters")
    return text


def node_name(text: str) -> str:
    """Take a name for people to read, at most 64 characters; empty means the host's name."""
    if len(text) > 64 or not text.isprintable():
        raise ValueError("is not a name of at most 64 printable characters")
    return text


def folder(text: str) -> Path:
    """Take a folder's path; ``~`` is the home folder."""
    if not text or "\0" in text:
        raise ValueError("is not a folder")
    return Path(text).expanduser().absolute()


def days_or_forever(text: str) -> float | None:
    """Turn ``30`` or ``0.5`` into days; ``forever`` is None."""
    if text.lower() == "forever":
        return None
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text) or not 0 < float(text) <= 100_000:
        raise ValueError("is neither a number of days from above 0 to 100000 nor forever")
    return float(text)


def on_or_off(text: str) -> bool:
    """Take ``on`` or ``off``, or the other words that YAML has for them, in any case."""
    if text.lower() in ("on", "true", "yes"):
        return True
    if text.lower() in ("off", "false", "no"):
        return False
    raise ValueError("is neither on nor off")


def log_level(text: str) -> str:
    """Take one of the level names, in any case."""
    return one_of(*LOG_LEVELS)(text)


# ---------------------------------------------------------------- how a value is shown


def show_text(value: object) -> str:
    """Show a text; never a token."""
    text = str(value)
    if text.startswith(TOKEN_PREFIX):
        return f"{TOKEN_PREFIX}... (hidden)"
    return text


def show_number(value: object) -> str:
    """Show a number without needless digits."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def show_size(value: object) -> str:
    """Show bytes in the largest unit that loses nothing."""
    amount = int(str(value))
    for exponent, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if amount >= 1024**exponent and amount % 1024**exponent == 0:
            return f"{amount // 1024**exponent}{unit}"
    return str(amount)


def show_auto(show: Callable[[object], str]) -> Callable[[object], str]:
    """Make what shows 0 as ``auto``."""
    return lambda value: show(value) if value else "auto"


def show_paths(value: object) -> str:
    """Show paths with colons between them."""
    assert isinstance(value, tuple)
    return ":".join(map(str, value))


def show_days(value: object) -> str:
    """Show days, or that there is no end."""
    return "forever" if value is None else show_number(value)


def show_switch(value: object) -> str:
    """Show what is on or off."""
    return "on" if value else "off"


def show_networks(value: object) -> str:
    """Show networks with commas between, nothing for none."""
    return ", ".join(map(str, value))  # type: ignore[call-overload]


def show_range(value: object) -> str:
    """Show a range of ports, nothing for none."""
    return "" if value is None else "{}-{}".format(*value)  # type: ignore[misc]
