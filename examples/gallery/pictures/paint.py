"""Paint the pictures that hang in the gallery; run once, the PNG files are kept beside it."""

from __future__ import annotations

import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

HERE = Path(__file__).resolve().parent


def dunes(width: int = 420, height: int = 280) -> Image.Image:
    """Paint layered dunes below a round sun."""
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    for row in range(height):
        mix = row / height
        draw.line(
            [(0, row), (width, row)],
            fill=(int(24 + 225 * mix), int(58 + 120 * mix), int(96 + 30 * mix)),
        )
    draw.ellipse((258, 48, 338, 128), fill=(250, 226, 170))
    tints = [(226, 150, 96), (196, 104, 74), (142, 66, 66), (84, 42, 62), (36, 26, 48)]
    for layer, tint in enumerate(tints):
        base = 128 + layer * 34
        crest = [
            (
                x,
                base
                + 16 * math.sin(x / (52 + 9 * layer) + 1.9 * layer)
                + 7 * math.sin(x / 21 + 3.1 * layer),
            )
            for x in range(0, width + 2, 2)
        ]
        draw.polygon([*crest, (width, height), (0, height)], fill=tint)
    return picture.filter(ImageFilter.SMOOTH)


def circles(side: int = 280) -> Image.Image:
    """Paint quarter circles on a grid of coloured squares."""
    colours = [(28, 46, 74), (206, 72, 48), (238, 186, 84), (236, 226, 206), (62, 122, 116)]
    chance = random.Random(6)
    picture = Image.new("RGB", (side, side), colours[3])
    draw = ImageDraw.Draw(picture)
    cell = side // 4
    for row in range(4):
        for column in range(4):
            ground, first, second = chance.sample(colours, 3)
            x, y = column * cell, row * cell
            draw.rectangle((x, y, x + cell, y + cell), fill=ground)
            corner_x = x + chance.choice((0, cell))
            corner_y = y + chance.choice((0, cell))
            window = Image.new("RGB", (cell, cell), ground)
            brush = ImageDraw.Draw(window)
            for radius, colour in ((cell - 4, first), (cell // 2 - 2, second)):
                centre_x, centre_y = corner_x - x, corner_y - y
                brush.ellipse(
                    (
                        centre_x - radius,
                        centre_y - radius,
                        centre_x + radius,
                        centre_y + radius,
                    ),
                    fill=colour,
                )
            picture.paste(window, (x, y))
    return picture.filter(ImageFilter.SMOOTH)


def rain(width: int = 210, height: int = 280) -> Image.Image:
    """Paint upright strokes, cold above and warm below."""
    chance = random.Random(41)
    picture = Image.new("RGB", (width, height), (232, 226, 214))
    draw = ImageDraw.Draw(picture)
    for _ in range(420):
        x, y = chance.randrange(width), chance.randrange(height)
        depth = y / height
        tint = (int(30 + 190 * depth), int(70 + 40 * depth), int(110 - 50 * depth))
        length = chance.randrange(14, 70)
        draw.line([(x, y - length), (x, y)], fill=tint, width=chance.randrange(2, 6))
    return picture.filter(ImageFilter.SMOOTH)


def main() -> None:
    """Write the three pictures with a palette, which keeps them small."""
    for name, picture in (("dunes", dunes()), ("circles", circles()), ("rain", rain())):
        picture.quantize(96).save(HERE / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
