"""Single values of a RenderSpec as a peer sent them, checked; pure. ``spec`` is made of these."""

from __future__ import annotations

from collections.abc import Mapping

from clusterray.core.errors import SceneFault
from clusterray.core.model import Rect

MAX_TEXTS = 100
"""The most texts in a list of them."""


def fault(text: str) -> SceneFault:
    """Give the error for settings that no client of ours sends."""
    return SceneFault(f"the job's settings are not valid: {text}")


def check_keys(
    what: str, wire: Mapping[str, object], known: set[str], optional: set[str] | None = None
) -> None:
    """Raise SceneFault unless ``wire`` has the ``known`` keys; ``optional`` ones may be missing."""
    # An unknown key may change pixels in a version that knows it, so it cannot be passed over.
    unknown = set(wire) - known
    if unknown:
        raise fault(f"{what} has a key that this version does not know; update the older side")
    missing = known - set(wire) - (optional or set())
    if missing:
        raise fault(f"{what} lacks {', '.join(sorted(missing))}")


def text_of(what: str, value: object) -> str:
    """Take a text; raises SceneFault for anything else, as all here do."""
    if not isinstance(value, str):
        raise fault(f"{what} must be a text")
    return value


def texts_of(what: str, value: object) -> tuple[str, ...]:
    """Take a list of texts."""
    if not isinstance(value, list | tuple) or len(value) > MAX_TEXTS:
        raise fault(f"{what} must be a list of at most {MAX_TEXTS} texts")
    return tuple(text_of(what, each) for each in value)


def whole_of(what: str, value: object) -> int:
    """Take a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise fault(f"{what} must be a whole number")
    return value


def flag_of(what: str, value: object) -> bool:
    """Take true or false."""
    if not isinstance(value, bool):
        raise fault(f"{what} must be true or false")
    return value


def rect_of(value: object) -> Rect | None:
    """Take a region, or none."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise fault("region must be four whole numbers")
    x0, y0, x1, y1 = (whole_of("region", number) for number in value)
    try:
        return Rect(x0, y0, x1, y1)
    except ValueError as error:
        raise fault(f"region is {error}") from None
