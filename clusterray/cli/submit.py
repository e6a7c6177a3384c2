"""``clusterray-submit``: the words of the command line for ``client.submit``.

Main thread. No logic of submitting.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from clusterray import __version__
from clusterray.cli.parser import Parser
from clusterray.cli.shell import raise_on_terminate, run_command, say_on_stdout
from clusterray.cli.values import ENVIRONMENT_PREFIX, size_in_bytes, whole_number
from clusterray.client.report import make_report
from clusterray.client.submit import SubmitOptions, submit_locally, submit_to_head
from clusterray.core.errors import UsageFault
from clusterray.core.model import MAX_BANDS, Rect, VerifyBands
from clusterray.wire.trust import find_token

PROGRAM = "clusterray-submit"
Parsed = TypeVar("Parsed")

_MAX_NODES = 256
_MAX_SIDE = 1_000_000
_ONE_NODE = "one"
_TWO_BANDS = "2"
_OPTIONS_HINT = "POV-Ray's own options go behind a double dash: clusterray-submit SCENE -- {word}"

_EXAMPLES = """\
SCENE is a folder, a .pov or an .ini. In a folder, what is rendered is said by job.yaml, else by
params.cfg, else by the only .ini, else it is the only .pov.

examples:
  clusterray-submit scene/
      renders the scene on the farm of the token at hand and leaves ./<scene>.png
  clusterray-submit room.pov --width 1920 --height 1080 -o pictures/ -- +A0.1 +AM2
      a size, a folder for the picture, and POV-Ray's own options behind the double dash
  clusterray-submit scene/ --local 2
      no farm needed: two nodes on this machine, for this job only
  clusterray-submit scene/ --verify
      renders two of the bands once more on other nodes and says how many pixels differ
  clusterray-submit scene/ --detach
      prints the job's id and ends; later: clusterray fetch ID

exit codes:
  0 the picture is written (with --detach: the job is accepted)   1 disk or our own fault
  2 wrong words, a forbidden POV-Ray option, no such SCENE        3 a fault in the scene's folder
  4 the render failed        5 no head        6 the job was cancelled        130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Submit, follow, fetch; give the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: _submit(words))


def _submit(words: Sequence[str]) -> int:
    own, povray_options = split_words(words)
    raise_on_terminate()
    chosen = read_words(own)
    options = SubmitOptions(
        scene=Path(chosen.scene),
        povray_options=tuple(povray_options),
        width=chosen.width,
        height=chosen.height,
        region=chosen.region,
        out=chosen.out,
        detach=chosen.detach,
        only_needed=chosen.only_needed,
        verify=chosen.verify,
        max_scene_bytes=chosen.max_scene_bytes,
        max_scene_files=chosen.max_scene_files,
        pack_below=chosen.pack_below / 100,
    )
    report = make_report()
    try:
        if chosen.local is not None:
            submit_locally(options, chosen.local, report, say_on_stdout)
        else:
            submit_to_head(
                options,
                lambda: find_token(chosen.join, environ=os.environ, home=Path.home()),
                report,
                say_on_stdout,
            )
    finally:
        report.close()
    return 0


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split at the first double dash into our words and POV-Ray's.

    A ``--local`` keeps the word behind it only if that is a whole number, ``--verify`` also if it
    is ``all``; argparse would take the SCENE for their value.
    """
    end = words.index("--") if "--" in words else len(words)
    ours: list[str] = []
    rest = list(words[:end])
    while rest:
        word = rest.pop(0)
        ahead = rest[0] if rest else ""
        if word == "--local":
            word = f"--local={rest.pop(0) if ahead.isdecimal() else _ONE_NODE}"
        elif word == "--verify":
            word = f"--verify={rest.pop(0) if ahead == 'all' or ahead.isdecimal() else _TWO_BANDS}"
        ours.append(word)
    return ours, list(words[end + 1 :])


def read_words(words: Sequence[str]) -> argparse.Namespace:
    """Read our own words; raises UsageFault with a way out for those that are POV-Ray's."""
    chosen, unknown = _parser().parse_known_args(list(words))
    scenes = [*chosen.scene, *unknown]
    for word in scenes:
        if word.startswith("--"):
            raise UsageFault(f"{word} is no option of {PROGRAM}; see {PROGRAM} --help")
        if _looks_like_povray(word):
            raise UsageFault(f"{word!r} is not understood here; {_OPTIONS_HINT.format(word=word)}")
    if not scenes:
        raise UsageFault(f"which SCENE? name a folder, a .pov or an .ini; see {PROGRAM} --help")
    if len(scenes) > 1:
        raise UsageFault(f"{scenes[1]!r} is one word too many: one SCENE at a time")
    if chosen.local is not None and chosen.join:
        raise UsageFault("--local makes a farm of its own: leave out --join")
    if chosen.local is not None and chosen.detach:
        raise UsageFault("--local ends with this command: leave out --detach")
    if chosen.detach and chosen.out is not None:
        raise UsageFault("--detach writes no picture: give -o to `clusterray fetch` later")
    chosen.scene = scenes[0]
    return chosen


def _looks_like_povray(word: str) -> bool:
    return re.match(r"[+-]\w", word) is not None and not Path(word).exists()


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} SCENE [options] [-- POV-RAY OPTIONS]",
        description="Renders a POV-Ray scene on a farm: the same picture, sooner.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("scene", nargs="*", metavar="SCENE", help=argparse.SUPPRESS)
    add = parser.add_argument
    add("--join", metavar="TOKEN|FILE", default="", help="the head's join token, or its file")
    add(
        "--local",
        metavar="N",
        type=_local_nodes,
        help="render here, with N nodes that share the cores [one node]; no daemon needed",
    )
    add("--width", metavar="W", type=_checked(whole_number(1, _MAX_SIDE)), help="columns")
    add("--height", metavar="H", type=_checked(whole_number(1, _MAX_SIDE)), help="rows")
    add(
        "-o",
        "--output",
        dest="out",
        metavar="OUT",
        help="the picture's file, or its folder; a file's extension chooses the format "
        "unless +F or the scene's settings do",
    )
    add(
        "--region",
        metavar="X0,Y0,X1,Y1",
        type=_checked(region),
        help="only these pixels of the whole picture: 0-based, right and bottom exclusive",
    )
    add("--detach", action="store_true", help="print the job's id and do not wait for it")
    add(
        "--only-needed",
        action="store_true",
        help="send only the files the scene was found to need, not the whole folder",
    )
    add(
        "--verify",
        metavar="N|all",
        type=_bands_to_verify,
        help="render N bands (or all) once more on other nodes, compare, and say what differs [2]",
    )
    _add_limit(parser, "--max-scene-bytes", size_in_bytes, "2GiB", "largest scene that is sent")
    number = whole_number(1, 1_000_000)
    _add_limit(parser, "--max-scene-files", number, "20000", "most files that are sent")
    below = "pack a scene on a slow line if a sample shrinks to less than N percent, 0: never"
    _add_limit(parser, "--pack-below", whole_number(0, 100), "80", below)
    add("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def _add_limit(
    parser: Parser, flag: str, parse: Callable[[str], int], default: str, prose: str
) -> None:
    variable = ENVIRONMENT_PREFIX + flag[2:].upper().replace("-", "_")
    parser.add_argument(
        flag,
        metavar="N",
        type=_checked(parse),
        default=os.environ.get(variable) or default,
        help=f"{prose} [{variable}, else {default}]",
    )


def region(text: str) -> Rect:
    """Turn ``X0,Y0,X1,Y1`` into a rectangle of pixels."""
    if not re.fullmatch(r"\d{1,7}(,\d{1,7}){3}", text):
        raise ValueError("is not X0,Y0,X1,Y1 in whole pixels")
    x0, y0, x1, y1 = map(int, text.split(","))
    if not (x0 < x1 and y0 < y1):
        raise ValueError("is empty: X0 must be below X1, and Y0 below Y1")
    return Rect(x0, y0, x1, y1)


def _local_nodes(text: str) -> int:
    return 1 if text == _ONE_NODE else _checked(whole_number(1, _MAX_NODES))(text)


def _bands_to_verify(text: str) -> VerifyBands:
    if text == "all":
        return "all"
    try:
        return whole_number(0, MAX_BANDS)(text)
    except ValueError:
        said = f"{text!r} is neither all nor a whole number from 0 to {MAX_BANDS}"
        raise argparse.ArgumentTypeError(said) from None


def _checked(parse: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """Turn a parser's ValueError into argparse's complaint, which names the option."""

    def parse_word(text: str) -> Parsed:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None

    return parse_word


if __name__ == "__main__":
    sys.exit(main())
