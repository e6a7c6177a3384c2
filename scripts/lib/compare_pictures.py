"""Compare two pictures pixel by pixel and say what differs.

Responsible for one question: are two files the same picture? Files are never compared as bytes,
because POV-Ray writes the date into each. Knows nothing of heads, nodes or POV-Ray.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two pictures are apart: ``pixels`` that differ of ``total``, ``largest`` of 255."""

    pixels: int
    total: int
    largest: int


def compare(first: Path, second: Path) -> Difference:
    """Count the pixels in which two 8-bit pictures differ.

    Raises ValueError if they have not the same size and the same channels, OSError if one cannot
    be read whole.
    """
    with Image.open(first) as one, Image.open(second) as other:
        if (one.size, one.mode) != (other.size, other.mode):
            raise ValueError(
                f"{first} is {one.width}x{one.height} {one.mode}, "
                f"{second} is {other.width}x{other.height} {other.mode}"
            )
        # Channel by channel: a difference image of RGBA would hide behind its own alpha.
        channels = [
            ImageChops.difference(mine, theirs)
            for mine, theirs in zip(one.split(), other.split(), strict=True)
        ]
    widest = channels[0]
    for channel in channels[1:]:
        widest = ImageChops.lighter(widest, channel)
    counts = widest.histogram()
    total = widest.width * widest.height
    largest = max((level for level, count in enumerate(counts) if count), default=0)
    return Difference(total - counts[0], total, largest)


def main() -> int:
    """Print the difference of the two named pictures; 0 only if there is none."""
    parser = argparse.ArgumentParser(description="Count the pixels in which two pictures differ.")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    names = parser.parse_args()
    try:
        found = compare(names.first, names.second)
    except (OSError, ValueError) as fault:
        print(f"cannot compare: {fault}", file=sys.stderr)
        return 2
    print(
        f"differing pixels: {found.pixels} of {found.total}, "
        f"largest difference: {found.largest} of 255"
    )
    return 1 if found.pixels else 0


if __name__ == "__main__":
    sys.exit(main())
