"""Words and numbers for people: nothing that steers a terminal, sizes and times that read well.

Pure functions, any thread. Titles, names and POV-Ray's text come from other people's machines and
may hold terminal escapes; whatever is printed goes through ``plain`` or ``plain_lines`` first.
"""

from __future__ import annotations

import re
import unicodedata

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?"  # OSC: titles, links, clipboard
    r"|[\x1b\x9b][\[\]()#;?]*[0-9;:?]*[ -/]*[@-~]?"  # CSI and two-character escapes
)
_STAGE_BEGINS = "==== ["
"""How POV-Ray heads each stage; what is above the first one is its own introduction."""
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def plain(text: str) -> str:
    """Give ``text`` as one line without escapes, control or formatting characters."""
    cleaned = (
        " " if char in "\n\r\t" else char
        for char in _ESCAPES.sub("", text)
        if char in "\n\r\t" or _is_printable(char)
    )
    return "".join(cleaned).strip()


def plain_lines(text: str) -> list[str]:
    """Split ``text`` into lines, each of them made ``plain`` but for the space it begins with."""
    lines = re.split(r"\r\n|\r|\n", _ESCAPES.sub("", text))
    return [
        "".join(c for c in line.replace("\t", "    ") if _is_printable(c)).rstrip()
        for line in lines
    ]


def povray_lines(text: str) -> list[str]:
    """Split POV-Ray's text into plain lines, without its introduction, which is always the same."""
    lines = plain_lines(text)
    stages = [number for number, line in enumerate(lines) if line.startswith(_STAGE_BEGINS)]
    return lines[stages[0] if stages else 0 :]


def _is_printable(char: str) -> bool:
    return unicodedata.category(char) not in _UNPRINTABLE


def count_of(number: int, noun: str) -> str:
    """Give ``1 node``, ``2 nodes``, ``no nodes``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}s" if number else f"no {noun}s"


def fidelity_text(kind: str, reason: str) -> str:
    """Give how true a picture is and why, as ``exact (probed): 0 of 4,800 pixels differ ...``."""
    return f"{kind}: {reason}" if reason else kind


def size_text(size: float) -> str:
    """Give bytes as ``512 B``, ``1.5 MB``; units of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def rate_text(pixels_per_s: float) -> str:
    """Give a speed in pixels per second as ``950 px/s``, ``12.3 kpx/s``, ``4.1 Mpx/s``."""
    for unit in ("px/s", "kpx/s", "Mpx/s"):
        if pixels_per_s < 999.5:
            return f"{pixels_per_s:.3g} {unit}"
        pixels_per_s /= 1000
    return f"{pixels_per_s:.3g} Gpx/s"


def duration_text(seconds: float) -> str:
    """Give seconds as ``0.8 s``, ``42 s``, ``3 min 05 s``, ``2 h 07 min``, ``3 d 4 h``."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
