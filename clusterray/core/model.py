"""The values every room shares: rectangles of pixels, pictures and their ids.

Rows and columns are 0-based and half-open everywhere in our code; only ``povray.command`` turns
them into POV-Ray's 1-based inclusive numbers. Pure and immutable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NewType, TypeAlias

JobId = NewType("JobId", str)
BandId = NewType("BandId", str)
AttemptId = NewType("AttemptId", str)
NodeId = NewType("NodeId", str)
"""The uuid that a node keeps in its work folder."""
SceneId = NewType("SceneId", str)
"""Hex SHA-256 of the canonical manifest."""
LightKind: TypeAlias = Literal["photons", "radiosity"]
"""What POV-Ray makes before it renders, and all bands of a frame have to share: a photon map, or a
cache of radiosity samples."""
LIGHT_KINDS: Final[tuple[LightKind, ...]] = ("photons", "radiosity")
"""In the order of their passes: radiosity samples are lit by photons."""
Stage: TypeAlias = Literal["photons", "light", "final", "verify"]
"""What a band is for: a frame's photon map, its radiosity samples, its picture, or a comparison
with a tile of the picture."""
STAGE_OF: Final[Mapping[LightKind, Stage]] = {"photons": "photons", "radiosity": "light"}
"""The stage in which each kind of light is made."""
LIGHT_STAGES: Final = frozenset(STAGE_OF.values())
MAX_BANDS: Final = 100_000
"""The most bands a person may ask for."""
VerifyBands: TypeAlias = int | Literal["all"]
"""How many bands of each picture a job wants rendered again and compared."""

Mix: TypeAlias = Literal["never", "close", "any"]
"""Which classes of POV-Ray a job lets share a frame; ``core.likeness`` says what each admits."""


@dataclass(frozen=True, slots=True, order=True)
class Rect:
    """A rectangle of pixels: columns ``x0 <= x < x1``, rows ``y0 <= y < y1``; never empty."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        if not (0 <= self.x0 < self.x1 and 0 <= self.y0 < self.y1):
            raise ValueError(f"not a rectangle: {self.x0},{self.y0},{self.x1},{self.y1}")

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.y1 - self.y0

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    def contains(self, other: Rect) -> bool:
        """Tell whether ``other`` lies wholly inside."""
        return (
            self.x0 <= other.x0
            and self.y0 <= other.y0
            and other.x1 <= self.x1
            and other.y1 <= self.y1
        )

    def intersection(self, other: Rect) -> Rect | None:
        """Give the pixels both have, or None where they share none."""
        x0, y0 = max(self.x0, other.x0), max(self.y0, other.y0)
        x1, y1 = min(self.x1, other.x1), min(self.y1, other.y1)
        return Rect(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None

    def split_at_row(self, row: int) -> tuple[Rect, Rect]:
        """Cut into the rows above ``row`` and the rest; ``row`` must lie strictly inside."""
        return Rect(self.x0, self.y0, self.x1, row), Rect(self.x0, row, self.x1, self.y1)

    def split_at_column(self, column: int) -> tuple[Rect, Rect]:
        """Cut into the columns left of ``column`` and the rest; it must lie strictly inside."""
        return Rect(self.x0, self.y0, column, self.y1), Rect(column, self.y0, self.x1, self.y1)

    def as_tuple(self) -> tuple[int, int, int, int]:
        """Give ``(x0, y0, x1, y1)``, the form that crosses the wire."""
        return self.x0, self.y0, self.x1, self.y1


@dataclass(frozen=True, slots=True)
class Picture:
    """What the farm must know of one frame's geometry.

    ``region`` is what the person wants of the ``width`` x ``height`` picture. ``block`` is the
    side in pixels of POV-Ray's render blocks if the picture depends on their layout (antialiasing
    method 1), so that cuts must fall on its multiples; None where any cut is exact.
    """

    width: int
    height: int
    region: Rect
    block: int | None

    def __post_init__(self) -> None:
        if not Rect(0, 0, self.width, self.height).contains(self.region):
            raise ValueError(f"region {self.region} lies outside {self.width}x{self.height}")
        if self.block is not None and self.block < 1:
            raise ValueError(f"block size {self.block} is below 1")


@dataclass(frozen=True, slots=True)
class Light:
    """The one photon map or radiosity cache of a frame: hex SHA-256, bytes and samples of its file.

    ``readers`` are version and build of the only POV-Ray that can load it, None if any can.
    """

    kind: LightKind
    sha256: str
    size: int
    samples: int
    readers: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ProbeFound:
    """What a probe found: of ``pixels`` so many are ``differing``, by up to ``largest``.

    ``levels`` is the highest value of a channel, 255 or 65535.
    """

    pixels: int
    differing: int
    largest: int = 0
    levels: int = 255


@dataclass(frozen=True, slots=True)
class PovrayClass:
    """Which POV-Ray a node has and what comes out of it; nodes of one class render alike.

    ``canary`` and ``includes`` are the hex SHA-256 of the canary's pixels and of POV-Ray's include
    files and fonts, "" where a node did not say. ``pixels`` are the canary's own, for measuring how
    far two classes are apart; in comparisons their hash stands for them.
    """

    version: str
    build: str = ""
    canary: str = ""
    includes: str = ""
    pixels: bytes = field(default=b"", compare=False, repr=False)

    @property
    def program(self) -> tuple[str, str]:
        """Which program it is: its version and build."""
        return self.version, self.build

    def __str__(self) -> str:
        words = f"{self.version} {self.build}".strip()
        if self.canary:
            words += f", canary {self.canary[:8]}, include files {self.includes[:8]}"
        return words


@dataclass(frozen=True, slots=True)
class Chance:
    """What a scene's text has that POV-Ray draws lots for or makes light of, and where."""

    feature: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job as it was submitted; nothing in it changes afterwards.

    ``spec`` is the RenderSpec in its wire form, opaque here; ``spec_hash`` names it.
    ``wish_bands`` is the number of bands the person asked for, None lets the farm decide. ``light``
    are the light passes before the bands of each frame, in their order.
    ``output_name`` is the file name of the finished picture, without a folder. ``note`` is what the
    submitter told the person about the job. ``mix`` says which nodes may share a frame, ``verify``
    how many bands of it are rendered again and compared. ``chance`` is what the submitter found in
    the scene's text. ``token`` is the id of the token it came with, which says whose it is.
    """

    key: str
    title: str
    owner: str
    priority: int
    scene: SceneId
    spec: Mapping[str, object]
    spec_hash: str
    picture: Picture
    wish_bands: int | None
    output_name: str
    note: str = ""
    light: tuple[LightKind, ...] = ()
    mix: Mix = "never"
    verify: VerifyBands = 0
    chance: tuple[Chance, ...] = ()
    token: str = ""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """What sort of file a finished picture is.

    ``letter`` is POV-Ray's (N PNG, P PPM, T and C Targa, B BMP, J JPEG, E OpenEXR, H Radiance
    HDR), ``bits`` those of a channel, ``quality`` JPEG's. ``alpha`` is what was asked for: PPM,
    JPEG and HDR have no such channel, but POV-Ray then gives them other colours. Two tiles of one
    picture have one format.
    """

    letter: str = "N"
    bits: int = 8
    grey: bool = False
    alpha: bool = False
    quality: int = 85

    @property
    def extension(self) -> str:
        """The file name extension that POV-Ray gives it, without the dot."""
        return EXTENSIONS[self.letter]

    @property
    def tile(self) -> FileFormat:
        """The lossless format of its tiles: JPEG is made of PNG, and Targa packed at the end.

        With alpha asked for, JPEG has the colours of a PPM and not of a PNG.
        """
        letter = self.letter
        if letter == "J":
            letter = "P" if self.alpha else "N"
        elif letter == "C":
            letter = "T"
        if letter == self.letter and self.quality == 85:
            return self
        return replace(self, letter=letter, quality=85)


EXTENSIONS: Final = {
    "N": "png",
    "P": "ppm",
    "T": "tga",
    "C": "tga",
    "B": "bmp",
    "J": "jpg",
    "E": "exr",
    "H": "hdr",
}
"""POV-Ray's letters of file formats and the extension of each."""
