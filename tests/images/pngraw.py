"""A second, slow PNG reader for small pictures: the code under test must not judge itself."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}


@dataclass(frozen=True)
class Raw:
    width: int
    height: int
    depth: int
    colour_type: int
    rows: list[bytes]
    chunks: dict[bytes, bytes]

    @property
    def pixel_bytes(self) -> int:
        return SAMPLES[self.colour_type] * self.depth // 8

    def cut(self, x0: int, y0: int, x1: int, y1: int) -> list[bytes]:
        size = self.pixel_bytes
        return [row[x0 * size : x1 * size] for row in self.rows[y0:y1]]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def read(path: Path) -> Raw:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    position = 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        body = data[position + 8 : position + 8 + length]
        assert data[position : position + 12 + length] == chunk(kind, body)
        chunks[kind] = chunks.get(kind, b"") + body
        position += 12 + length
    width, height, depth, colour_type, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [0, 0, 0]
    step = SAMPLES[colour_type] * depth // 8
    rows = unfilter(zlib.decompress(chunks[b"IDAT"]), width * step, step)
    assert len(rows) == height
    return Raw(width, height, depth, colour_type, rows, chunks)


def unfilter(packed: bytes, row_bytes: int, step: int) -> list[bytes]:
    rows: list[bytes] = []
    above = bytes(row_bytes)
    for start in range(0, len(packed), row_bytes + 1):
        kind, row = packed[start], bytearray(packed[start + 1 : start + 1 + row_bytes])
        for i in range(row_bytes):
            left = row[i - step] if i >= step else 0
            corner = above[i - step] if i >= step else 0
            row[i] = (row[i] + _predicted(kind, left, above[i], corner)) & 255
        above = bytes(row)
        rows.append(above)
    return rows


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 4:
        guess = left + up - corner
        return min((left, up, corner), key=lambda value: abs(guess - value))
    return (0, left, up, (left + up) // 2)[kind]


def write(
    path: Path,
    size: tuple[int, int],
    depth: int,
    colour_type: int,
    rows: list[bytes],
    extra: list[tuple[bytes, bytes]] | None = None,
) -> Path:
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header)]
    parts += [chunk(kind, body) for kind, body in extra or []]
    parts += [chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path
