"""JPEG, made once of the finished picture's own values.

POV-Ray and Pillow use the same libjpeg-turbo: at the same quality, with full colour resolution,
they give the same pixels (tests/images/test_formats.py). Knows nothing of tiles: those are PNG.
"""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image

from clusterray.images.rows import Strips


def write_jpeg(
    file: BinaryIO, size: tuple[int, int], strips: Strips, quality: int, mark: str
) -> None:
    """Write 8-bit RGB rows as a JPEG; takes 4 bytes of memory a pixel; ``mark`` is a comment."""
    image = Image.new("RGB", size)
    row = 0
    for strip in strips:
        height = len(strip) // (3 * size[0])
        image.paste(Image.frombytes("RGB", (size[0], height), strip), (0, row))
        row += height
    image.save(file, "JPEG", quality=quality, subsampling=0, comment=mark)
