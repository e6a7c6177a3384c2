"""Pictures read by OpenImageIO, which none of the code under test uses but for OpenEXR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import OpenImageIO


def values(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Give all values as the file has them, and its channels' names."""
    config = OpenImageIO.ImageSpec()
    # Or colours would come multiplied by alpha.
    config.attribute("oiio:UnassociatedAlpha", 1)
    source = OpenImageIO.ImageInput.open(str(path), config)
    assert source is not None, OpenImageIO.geterror()
    spec = source.spec()
    pixels: Any = source.read_image(0, 0, 0, spec.nchannels, spec.format)
    assert not source.geterror()
    assert pixels.shape == (spec.height, spec.width, spec.nchannels)
    return pixels, tuple(spec.channelnames)


def said_of_colour(path: Path) -> dict[str, Any]:
    """Give what the file says of itself, but for who made it and when."""
    source = OpenImageIO.ImageInput.open(str(path))
    assert source is not None, OpenImageIO.geterror()
    spec = source.spec()
    ours = (
        "ClusterRay",
        "Software",
        "software",
        "DateTime",
        "creation",
        "ImageDescription",
        "Comment",
        "Render Date",
    )
    return {each.name: each.value for each in spec.extra_attribs if each.name not in ours}


def same(one: Path, other: Path) -> bool:
    """Tell whether two pictures have the same size, channels, type and values."""
    (pixels, names), (others, other_names) = values(one), values(other)
    return (names, pixels.dtype, pixels.shape) == (
        other_names,
        others.dtype,
        others.shape,
    ) and pixels.tobytes() == others.tobytes()
