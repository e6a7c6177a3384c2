"""Scenes that try to leave their folder, each with the sign by which it is known that it did.

``{out}`` in a text is a folder beside the node's that holds secrets and a file to be spoilt; the
attempt's own folder is where POV-Ray stands, ``..`` leads to the rest of the attempt's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from clusterray.wire.manifest import build_manifest, scene_id
from clusterray.wire.protocol import SceneRef
from clusterray.wire.tar_writer import write_tar
from tests.node.doubles import Scene, make_scene

SECRET = "the-secret-of-another"
SPOILT = "spoilt"
PICTURE = """
#version 3.7;
global_settings { assumed_gamma 1 }
camera { location -3*z look_at 0 }
light_source { <3, 5, -6> rgb 1 }
sphere { 0, 1 pigment { rgb 1 } }
"""
FONT = Path("/usr/share/fonts/truetype/povray/timrom.ttf")


def hostile_scene(folder: Path, text: str, side: int) -> Scene:
    """Make a scene that a submitter of ours would refuse: whoever attacks has his own."""
    scene = make_scene(folder, PICTURE, width=side, height=side)
    (scene.root / scene.spec.input).write_text(text)
    entries = build_manifest(scene.root, [scene.spec.input])
    scene.tar.unlink()
    size, _digest = write_tar(scene.root, entries, scene.tar)
    scene.ref = SceneRef(scene_id(entries), size)
    return scene


def furnish(out: Path) -> None:
    """Make the folder that no scene may read or write."""
    out.mkdir()
    (out / "secret.inc").write_text(f'#error "{SECRET}"\n')
    (out / "secret.txt").write_text(f'"{SECRET}"\n')
    Image.new("RGB", (4, 4), (255, 0, 0)).save(out / "secret.png")
    shutil.copyfile(FONT, out / "secret.ttf")
    (out / "victim.txt").write_text("untouched\n")


@dataclass(frozen=True)
class Outcome:
    """What came of a render: what was said of it, and what is there now."""

    out: Path
    attempt: Path
    rendered: bool
    text: str


Sign = Callable[[Outcome], bool]


@dataclass(frozen=True)
class Attack:
    """``text`` is the scene's, ``words`` what POV-Ray is told besides, as by an option that a farm
    would have let pass; ``sign`` tells whether it succeeded. ``fails`` False: POV-Ray goes on
    without what it may not do.
    """

    name: str
    text: str
    sign: Sign
    words: tuple[str, ...] = ()
    fails: bool = True


def _told(outcome: Outcome) -> bool:
    return SECRET in outcome.text


def _told_users(outcome: Outcome) -> bool:
    return "undeclared identifier 'root' found" in " ".join(outcome.text.split())


def _rendered(outcome: Outcome) -> bool:
    return outcome.rendered


def _made(name: str) -> Sign:
    return lambda outcome: any(outcome.out.glob(f"{name}*"))


def _spoilt(outcome: Outcome) -> bool:
    return SPOILT in (outcome.out / "victim.txt").read_text()


def _ini_spoilt(outcome: Outcome) -> bool:
    return SPOILT in (outcome.attempt / "private" / "povray.ini").read_text()


def _write(how: str, path: str) -> str:
    return f'#fopen F "{path}" {how}\n#write(F, "{SPOILT}\\n")\n#fclose F\n{PICTURE}'


SCENES = (
    Attack("a system file by #include", '#include "/etc/passwd"\n' + PICTURE, _told_users),
    Attack("a file by #include", '#include "{out}/secret.inc"\n' + PICTURE, _told),
    Attack(
        "a file by #fopen read",
        '#fopen F "{out}/secret.txt" read\n#read(F, S)\n#debug concat(S, "\\n")\n' + PICTURE,
        _told,
    ),
    Attack(
        "a picture by image_map",
        PICTURE.replace("{ rgb 1 } }", '{ image_map { png "{out}/secret.png" } } }'),
        _rendered,
    ),
    Attack(
        "a font by text",
        PICTURE + 'text { ttf "{out}/secret.ttf" "A" 0.1, 0 pigment { rgb 1 } }\n',
        _rendered,
    ),
    Attack("a new file by #fopen write", _write("write", "{out}/made.txt"), _made("made")),
    Attack("another's file by #fopen write", _write("write", "{out}/victim.txt"), _spoilt),
    Attack("another's file by #fopen append", _write("append", "{out}/victim.txt"), _spoilt),
    Attack("a file by a path with ..", _write("write", "../../out/made.txt"), _made("made")),
    Attack("POV-Ray's own settings", _write("append", "../private/povray.ini"), _ini_spoilt),
    Attack(
        "a photon map by save_file",
        PICTURE.replace(
            "rgb 1 } }", "rgb 1 } finish { reflection 1 } photons { target reflection on } }"
        ).replace(
            "assumed_gamma 1", 'assumed_gamma 1 photons { count 200 save_file "{out}/made.map" }'
        )
        + "plane { z, 3 pigment { rgb 1 } }\nplane { -z, 9 pigment { rgb 1 } }\n",
        _made("made"),
        fails=False,
    ),
)
"""What a scene's text can try: a node gets it as any scene."""

OPTIONS = (
    Attack(
        "radiosity samples",
        PICTURE.replace("assumed_gamma 1", "assumed_gamma 1 radiosity { count 10 }"),
        _made("made"),
        ("+RFO", '+RF"{out}/made.rca"'),
        fails=False,
    ),
    Attack("settings by +GI", PICTURE, _made("made"), ('+GI"{out}/made.ini"',)),
    Attack("the picture elsewhere", PICTURE, _made("made"), ('+O"{out}/made.png"',)),
    Attack("the picture by ..", PICTURE, _made("made"), ('+O"../../out/made.png"',)),
    Attack("the picture in place of a file", PICTURE, _made("victim.png"), ('+O"{out}/victim"',)),
)
"""What an option could try that a submit refuses: tried as if one had slipped through."""
