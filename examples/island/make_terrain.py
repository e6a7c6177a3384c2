"""Grow the island's height map; run once, terrain.png is kept beside it.

Ridged noise below a dome, then a few thousand drops of rain that carry earth downhill.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from PIL import Image

SIDE = 256
SEA = 0.16


def lattice(chance: random.Random, cells: int) -> list[list[float]]:
    """Draw the random corner heights of one octave."""
    return [[chance.random() for _ in range(cells + 2)] for _ in range(cells + 2)]


def value(grid: list[list[float]], x: float, y: float) -> float:
    """Interpolate smoothly between the corners around a point, 0 to 1."""
    column, row = int(x), int(y)
    across, down = x - column, y - row
    across, down = across * across * (3 - 2 * across), down * down * (3 - 2 * down)
    top = grid[row][column] * (1 - across) + grid[row][column + 1] * across
    bottom = grid[row + 1][column] * (1 - across) + grid[row + 1][column + 1] * across
    return top * (1 - down) + bottom * down


def raw_land(chance: random.Random) -> list[list[float]]:
    """Sum ridged octaves under a lopsided dome; the sea is level."""
    octaves = [(cells, lattice(chance, cells)) for cells in (4, 8, 16, 32, 64)]
    bend = lattice(chance, 5)
    land = []
    for row in range(SIDE):
        line = []
        for column in range(SIDE):
            x, y = column / SIDE, row / SIDE
            x_bent = min(0.999, max(0.0, x + 0.12 * (value(bend, x * 5, y * 5) - 0.5)))
            y_bent = min(0.999, max(0.0, y + 0.12 * (value(bend, y * 5, x * 5) - 0.5)))
            ridge, weight = 0.0, 0.5
            for cells, grid in octaves:
                ridge += weight * (1 - abs(2 * value(grid, x_bent * cells, y_bent * cells) - 1))
                weight *= 0.5
            away = math.hypot((x - 0.52) * 2.1, (y - 0.47) * 2.4)
            dome = max(0.0, 1 - away * away)
            line.append(max(0.0, dome * (0.18 + 0.95 * ridge * ridge)))
        land.append(line)
    return land


def rain(land: list[list[float]], chance: random.Random, drops: int) -> None:
    """Let drops run down the steepest way, taking a little on slopes and leaving it on flats."""
    for _ in range(drops):
        column, row = chance.randrange(1, SIDE - 1), chance.randrange(1, SIDE - 1)
        carried = 0.0
        for _step in range(60):
            here = land[row][column]
            if here <= SEA * 0.6 or not (0 < row < SIDE - 1 and 0 < column < SIDE - 1):
                break
            fall, next_row, next_column = min(
                (land[row + down][column + across] - here, row + down, column + across)
                for down in (-1, 0, 1)
                for across in (-1, 0, 1)
                if down or across
            )
            if fall >= 0:
                land[row][column] += carried
                break
            taken = min(-fall * 0.18, 0.004)
            land[row][column] -= taken
            carried += taken
            if -fall < 0.004:
                land[row][column] += carried * 0.3
                carried *= 0.7
            row, column = next_row, next_column


def main() -> None:
    """Write terrain.png, 16 bits of grey."""
    chance = random.Random(1851)
    land = raw_land(chance)
    rain(land, chance, 30_000)
    top = max(max(line) for line in land)
    picture = Image.new("I;16", (SIDE, SIDE))
    picture.putdata([int(65_535 * max(0.0, height) / top) for line in land for height in line])
    picture.save(Path(__file__).resolve().parent / "terrain.png", optimize=True)


if __name__ == "__main__":
    main()
