"""Which scenes' costs are recorded for the simulator, and how they are rendered."""

from __future__ import annotations

from pathlib import Path

EXAMPLES = Path("/usr/share/doc/povray/examples")
SCENES = {
    "abyss": "advanced/abyss.pov",
    "arealit": "lights/arealit1.pov",
    "biscuit": "advanced/biscuit.pov",
    "blob": "objects/blob.pov",
    "chess2": "advanced/chess2.pov",
    "glasschess": "advanced/glasschess/glasschess.pov",
    "isocacti": "advanced/isocacti.pov",
    "landscape": "advanced/landscape.pov",
    "mediasky": "advanced/mediasky.pov",
    "sunsethf": "advanced/sunsethf.pov",
    "woodbox": "advanced/woodbox.pov",
}
"""Of Debian's povray-examples, as unlike as they come; none with radiosity."""
ANTIALIAS = ("+A0.3", "+AM1", "+R3")


def path_of(name: str) -> Path:
    """Give the file of a recorded scene; KeyError for one that is not."""
    return EXAMPLES / SCENES[name]
