"""The settings of both daemons: one typed table each, and who wins when a value is given twice.

Command line over environment (``CLUSTERRAY_<KEY>``) over YAML file over default. A row of a table
carries its key, its parser and its prose; ``--help``, ``--print-config``, the example files and
every complaint are made from it. Main thread only; knows nothing of what the daemons do with it.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from clusterray.core.errors import UsageFault
from clusterray.head.settings import HeadSettings
from clusterray.node.settings import NodeSettings
from clusterray.wire.trust import TOKEN_PREFIX

ENVIRONMENT_PREFIX = "CLUSTERRAY_"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)")
_SECONDS_BY_UNIT = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_BYTES_PER_STEP = {"": 1000, "i": 1024}
LOG_LEVELS = ("debug", "info", "warning", "error")


# ---------------------------------------------------------------- parsers of one value


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Make a parser of whole numbers from ``low`` to ``high``, both included."""

    def parse(text: str) -> int:
        if re.fullmatch(r"[+-]?\d{1,18}", text) and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"is not a whole number from {low} to {high}")

    return parse


def size_in_bytes(text: str) -> int:
    """Turn ``2GiB``, ``500M`` or ``4096`` into bytes.

    ``K M G T`` stand for powers of 1000, ``Ki Mi Gi Ti`` for powers of 1024. Raises ValueError in
    words that follow the value.
    """
    found = _SIZE.fullmatch(text)
    if found is None or (found[3] and not found[2]):
        raise ValueError("is not a size in bytes such as 2GiB, 500M or 4096")
    step = _BYTES_PER_STEP[found[3].lower()]
    amount = float(found[1]) * step ** " KMGT".index(found[2].upper() or " ")
    if not 1 <= amount <= 2**60:
        raise ValueError("is not a size between 1 byte and 1 EiB")
    return int(amount)


def duration_in_seconds(low: float, high: float) -> Callable[[str], float]:
    """Make a parser of durations (``4``, ``4s``, ``500ms``, ``2m``, ``1h``) within bounds."""

    def parse(text: str) -> float:
        found = _DURATION.fullmatch(text)
        if found is None:
            raise ValueError("is not a duration in seconds such as 4, 500ms or 2m")
        seconds = float(found[1]) * _SECONDS_BY_UNIT[found[2]]
        if not (math.isfinite(seconds) and low <= seconds <= high):
            raise ValueError(f"is not a duration from {low:g} to {high:g} seconds")
        return seconds

    return parse


def port_range(text: str) -> tuple[int, int] | None:
    """Turn ``50000-50100`` into both ends, both included; empty text means any free port."""
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,5})\s*-\s*(\d{1,5})", text)
    if found is None:
        raise ValueError("is not a range of ports such as 50000-50100")
    first, last = int(found[1]), int(found[2])
    if not 1 <= first <= last <= 65535:
        raise ValueError("is not a range of ports A-B with 1 <= A <= B <= 65535")
    return first, last


def host_text(text: str) -> str:
    """Take a host name or address; refuses what can be neither."""
    if text and not re.fullmatch(r"[A-Za-z0-9_.:%-]{1,253}", text):
        raise ValueError("is not a host name or address")
    return text


def any_text(text: str) -> str:
    """Take any text without control characters, at most 1,024 characters."""
    if len(text) > 1024 or not text.isprintable():
        raise ValueError("is too long or has control characters")
    return text


def node_name(text: str) -> str:
    """Take a name for people to read, at most 64 characters; empty means the host's name."""
    if len(text) > 64 or not text.isprintable():
        raise ValueError("is not a name of at most 64 printable characters")
    return text


def folder(text: str) -> Path:
    """Take a folder's path; ``~`` is the home folder."""
    if not text or "\0" in text:
        raise ValueError("is not a folder")
    return Path(text).expanduser().absolute()


def on_or_off(text: str) -> bool:
    """Take ``on`` or ``off``, or the other words that YAML has for them, in any case."""
    if text.lower() in ("on", "true", "yes"):
        return True
    if text.lower() in ("off", "false", "no"):
        return False
    raise ValueError("is neither on nor off")


def log_level(text: str) -> str:
    """Take one of the level names, in any case."""
    if text.lower() not in LOG_LEVELS:
        raise ValueError(f"is not one of {', '.join(LOG_LEVELS)}")
    return text.lower()


# ---------------------------------------------------------------- how a value is shown


def _show_text(value: object) -> str:
    text = str(value)
    if text.startswith(TOKEN_PREFIX):
        return f"{TOKEN_PREFIX}... (hidden)"
    return text


def _show_number(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def show_size(value: object) -> str:
    """Show bytes in the largest unit that loses nothing."""
    amount = int(str(value))
    for exponent, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if amount >= 1024**exponent and amount % 1024**exponent == 0:
            return f"{amount // 1024**exponent}{unit}"
    return str(amount)


def _show_switch(value: object) -> str:
    return "on" if value else "off"


def _show_range(value: object) -> str:
    return "" if value is None else "{}-{}".format(*value)  # type: ignore[misc]


# ---------------------------------------------------------------- the tables


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: ``key`` in YAML, ``--key-with-dashes``, ``CLUSTERRAY_KEY``.

    ``default`` is text for ``parse``, which raises ValueError with words that follow the value.
    ``default_words`` stands in for a default that differs from machine to machine.
    """

    key: str
    metavar: str
    default: str
    parse: Callable[[str], object]
    prose: str
    show: Callable[[object], str] = _show_text
    default_words: str = ""

    @property
    def flag(self) -> str:
        """The word on the command line."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return ENVIRONMENT_PREFIX + self.key.upper()

    @property
    def default_shown(self) -> str:
        """The default in words for people."""
        return self.default_words or self.default or "none"


@dataclass(frozen=True, slots=True)
class DaemonTable:
    """All settings of one daemon: the program's name, where its file lies, its rows."""

    program: str
    summary: str
    examples: str
    default_file: Path
    rows: tuple[Setting, ...]


_LOG_LEVEL = Setting(
    "log_level",
    "LEVEL",
    "info",
    log_level,
    "How much is logged on stderr: debug, info, warning or error.",
)


def state_folder(role: str, environ: Mapping[str, str]) -> Path:
    """Give the default folder of a role: systemd's, else the person's state folder.

    ``STATE_DIRECTORY`` is what systemd sets for ``StateDirectory=``; XDG_STATE_HOME is that of
    the XDG base directory specification, which says to ignore a relative one.
    """
    from_systemd = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if from_systemd:
        return Path(from_systemd)
    base = Path(environ.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():
        base = Path(environ.get("HOME") or Path.home()) / ".local" / "state"
    return base / "clusterray" / role


def _default_folder_words(role: str) -> str:
    return f"$STATE_DIRECTORY, else $XDG_STATE_HOME/clusterray/{role} (~/.local/state)"


def head_table(environ: Mapping[str, str]) -> DaemonTable:
    """Make the table of ``clusterray-server``; ``environ`` decides the default state folder."""
    number = _show_number
    rows = (
        Setting(
            "state",
            "DIR",
            str(state_folder("head", environ)),
            folder,
            "Folder that holds all the head keeps: tokens, scenes, pictures. One head at a time.",
            default_words=_default_folder_words("head"),
        ),
        Setting(
            "listen",
            "ADDR",
            "127.0.0.1",
            host_text,
            "Address to listen on. The default serves this machine only; 0.0.0.0 or :: serves "
            "the network and needs advertise.",
        ),
        Setting(
            "advertise",
            "HOST",
            "",
            host_text,
            "Host name or address under which nodes and submitters reach this head; it goes into "
            "the tokens. Needed when listen is 0.0.0.0 or ::.",
            default_words="the address of listen",
        ),
        Setting(
            "port",
            "N",
            "0",
            whole_number(0, 65535),
            "Control port. 0 takes a free one and takes the same again next time.",
            number,
        ),
        Setting(
            "ftp_port",
            "N",
            "0",
            whole_number(0, 65535),
            "FTP port. 0 takes a free one and takes the same again next time.",
            number,
        ),
        Setting(
            "http_port",
            "N",
            "0",
            whole_number(0, 65535),
            "Port of the status page. 0 takes a free one and takes the same again next time.",
            number,
        ),
        Setting(
            "passive_ports",
            "A-B",
            "",
            port_range,
            "Ports for FTP data connections, both ends included, for a head behind a firewall or "
            "address translation.",
            _show_range,
            "any free port",
        ),
        Setting(
            "heartbeat_s",
            "SECONDS",
            "4",
            duration_in_seconds(0.1, 3600),
            "How often head, nodes and submitters say that they are alive.",
            number,
        ),
        Setting(
            "silent_s",
            "SECONDS",
            "16",
            duration_in_seconds(0.5, 86400),
            "A peer not heard for this long is lost, and its bands go to others.",
            number,
        ),
        Setting(
            "detached_s",
            "SECONDS",
            "10",
            duration_in_seconds(0, 86400),
            "How long a node whose connection closed may take to come back before its bands go "
            "to others.",
            number,
        ),
        Setting(
            "max_scene_bytes",
            "SIZE",
            "2GiB",
            size_in_bytes,
            "Largest scene that is taken in.",
            show_size,
        ),
        Setting(
            "max_scene_files",
            "N",
            "20000",
            whole_number(1, 1_000_000),
            "Most files a scene may have.",
            number,
        ),
        Setting(
            "max_pixels",
            "N",
            str(1 << 28),
            whole_number(1, 2**40),
            "Most pixels a picture may have.",
            number,
        ),
        Setting(
            "max_jobs",
            "N",
            "10000",
            whole_number(1, 10_000_000),
            "Most jobs the head keeps; the oldest finished ones are forgotten first.",
            number,
        ),
        Setting(
            "scene_store_bytes",
            "SIZE",
            "20GiB",
            size_in_bytes,
            "Room for scenes kept after their jobs, least recently used deleted first.",
            show_size,
        ),
        _LOG_LEVEL,
    )
    return DaemonTable(
        program="clusterray-server",
        summary="The head of a farm: takes jobs in, hands their bands to nodes, joins the tiles.",
        examples=_HEAD_EXAMPLES,
        default_file=Path("/etc/clusterray/server.yaml"),
        rows=rows,
    )


def node_table(environ: Mapping[str, str]) -> DaemonTable:
    """Make the table of ``clusterray-node``; ``environ`` decides the default work folder."""
    number = _show_number
    rows = (
        Setting(
            "join",
            "TOKEN|FILE",
            "",
            any_text,
            "The head's join token, or a file that holds it (the head writes node.token).",
            default_words="~/.config/clusterray/token, else /etc/clusterray/token",
        ),
        Setting(
            "name",
            "S",
            "",
            node_name,
            "Name under which people see this node.",
            default_words="the host's name",
        ),
        Setting(
            "threads",
            "N",
            "0",
            whole_number(0, 4096),
            "Threads POV-Ray may use. 0 means one for each core this process may use.",
            number,
        ),
        Setting(
            "work",
            "DIR",
            str(state_folder("node", environ)),
            folder,
            "Folder for scenes and tiles in the making. One node at a time.",
            default_words=_default_folder_words("node"),
        ),
        Setting(
            "povray",
            "PATH",
            "povray",
            any_text,
            "The POV-Ray program, by path or by name.",
        ),
        Setting(
            "drain_s",
            "SECONDS",
            "60",
            duration_in_seconds(0, 86400),
            "After SIGTERM, how long the running band may take to finish before it is handed "
            "back. A second SIGTERM stops at once.",
            number,
        ),
        Setting(
            "scene_cache_bytes",
            "SIZE",
            "10GiB",
            size_in_bytes,
            "Room for scenes kept between jobs, least recently used deleted first.",
            show_size,
        ),
        Setting(
            "canary",
            "ON|OFF",
            "on",
            on_or_off,
            "Render a small picture at the start, so that the head knows which nodes render alike. "
            "A node without it shares pictures only with others without it.",
            _show_switch,
        ),
        _LOG_LEVEL,
    )
    return DaemonTable(
        program="clusterray-node",
        summary="A node of a farm: fetches scenes, renders bands with POV-Ray, uploads tiles.",
        examples=_NODE_EXAMPLES,
        default_file=Path("/etc/clusterray/node.yaml"),
        rows=rows,
    )


_HEAD_EXAMPLES = """\
examples:
  clusterray-server
      a head for this machine only; prints where it listens when it is ready
  clusterray-server --listen 0.0.0.0 --advertise render1.lan --port 4100
      a head for the network; copy its node.token to the nodes, submit.token to people
  clusterray-server --config farm.yaml --print-config
      which value each setting has, and where it came from
"""

_NODE_EXAMPLES = """\
examples:
  clusterray-node --join node.token
      joins the head that wrote node.token, with all cores
  clusterray-node --join cr1-... --threads 4 --name attic
      the token pasted, four threads, a name for people
  clusterray-node --config attic.yaml --print-config
      which value each setting has, and where it came from
"""


# ---------------------------------------------------------------- who wins


@dataclass(frozen=True, slots=True)
class Value:
    """A setting's value and the words that say where it came from."""

    value: object
    source: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """All settings of one daemon with their sources."""

    table: DaemonTable
    values: Mapping[str, Value]

    def __getitem__(self, key: str) -> object:
        return self.values[key].value

    def as_yaml(self) -> str:
        """Write the settings as YAML, the source of each in a comment behind it."""
        lines = [f"# {self.table.program}: the settings in force, and where each came from"]
        pairs = [
            (f"{row.key}: {_quoted(row, row.show(self[row.key]))}", self.values[row.key].source)
            for row in self.table.rows
        ]
        width = min(60, max(len(left) for left, _ in pairs))
        lines += [f"{left:<{width}}  # {source}" for left, source in pairs]
        return "\n".join(lines) + "\n"


def resolve(
    table: DaemonTable,
    given: Mapping[str, str],
    environ: Mapping[str, str],
    config: str | None,
) -> Resolved:
    """Find each setting's value; ``given`` is what the command line says, by key, as text.

    Raises UsageFault naming the source, the setting and, in a file, the line.
    """
    from_file = _read_file(table, config or environ.get(f"{ENVIRONMENT_PREFIX}CONFIG") or None)
    return Resolved(table, {row.key: _value(row, given, environ, from_file) for row in table.rows})


@dataclass(frozen=True, slots=True)
class _FileValue:
    text: str
    file: str
    line: int


def _value(
    row: Setting,
    given: Mapping[str, str],
    environ: Mapping[str, str],
    from_file: Mapping[str, _FileValue],
) -> Value:
    if row.key in given:
        return Value(_parsed(row, given[row.key], row.flag), f"command line, {row.flag}")
    if environ.get(row.variable):
        value = _parsed(row, environ[row.variable], f"{row.variable} in the environment")
        return Value(value, f"environment, {row.variable}")
    if row.key in from_file:
        found = from_file[row.key]
        value = _parsed(row, found.text, row.key, file=found.file, line=found.line)
        return Value(value, f"{found.file}:{found.line}")
    return Value(row.parse(row.default), "default")


def _parsed(
    row: Setting, text: str, place: str, *, file: str | None = None, line: int | None = None
) -> object:
    try:
        return row.parse(text.strip())
    except ValueError as error:
        raise UsageFault(f"{place}: {_show_text(text)!r} {error}", file=file, line=line) from None


def _read_file(table: DaemonTable, config: str | None) -> Mapping[str, _FileValue]:
    path = Path(config) if config else table.default_file
    if config is None and not path.exists():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageFault("the configuration is not UTF-8 text", file=str(path)) from None
    except OSError as error:
        raise UsageFault(
            f"the configuration cannot be read: {error.strerror}", file=str(path)
        ) from None
    return _read_yaml(table, text, str(path))


def _read_yaml(table: DaemonTable, text: str, file: str) -> Mapping[str, _FileValue]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else None
        raise UsageFault(f"not YAML: {error.problem}", file=file, line=line) from None
    except yaml.YAMLError as error:
        raise UsageFault(f"not YAML: {error}", file=file) from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise UsageFault("expected lines of `key: value`", file=file, line=_line(root))
    values: dict[str, _FileValue] = {}
    for key_node, value_node in root.value:
        key = _known_key(table, key_node, file)
        if key in values:
            first = values[key].line
            raise UsageFault(
                f"{key} is given twice, first in line {first}", file=file, line=_line(key_node)
            )
        values[key] = _FileValue(_scalar(key, value_node, file), file, _line(key_node))
    return values


def _known_key(table: DaemonTable, node: yaml.Node, file: str) -> str:
    known = [row.key for row in table.rows]
    key = str(node.value) if isinstance(node, yaml.ScalarNode) else "this"
    if key in known:
        return key
    near = difflib.get_close_matches(key.replace("-", "_"), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
    raise UsageFault(
        f"{key!r} is no setting of {table.program}; {hint}", file=file, line=_line(node)
    )


def _scalar(key: str, node: yaml.Node, file: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise UsageFault(f"{key}: expected one value", file=file, line=_line(node))
    if node.tag == "tag:yaml.org,2002:null":
        raise UsageFault(
            f"{key} has no value; give one or remove the line", file=file, line=_line(node)
        )
    return str(node.value)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


# ---------------------------------------------------------------- texts made from the table


def _quoted(row: Setting, shown: str) -> str:
    return json.dumps(shown, ensure_ascii=False) if row.show is _show_text else shown or '""'


def example_file(table: DaemonTable) -> str:
    """Write the example configuration: every key with its prose, all at their defaults."""
    parts = [
        f"# {table.program}: every setting, each at its default.\n"
        f"# Copy to {table.default_file}, or name the file by --config; take the # off what you "
        "change.\n"
        "# Command line wins over environment, environment over this file.\n"
    ]
    for row in table.rows:
        value = "" if row.default_words else row.default
        words = f" Default: {row.default_words}." if row.default_words else ""
        prose = textwrap.fill(
            row.prose + words,
            98,
            initial_indent="# ",
            subsequent_indent="# ",
            break_on_hyphens=False,
        )
        parts.append(
            f"{prose}\n# ({row.flag} {row.metavar}, {row.variable})\n"
            f"#{row.key}: {_quoted(row, value) if value else ''}".rstrip()
            + "\n"
        )
    return "\n".join(parts)


class Parser(argparse.ArgumentParser):
    """An argument parser that complains by UsageFault, in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageFault instead of printing usage and leaving."""
        raise UsageFault(f"{message}; see {self.prog} --help")


def daemon_parser(table: DaemonTable) -> Parser:
    """Make the parser of a daemon's command line from its table."""
    parser = Parser(
        prog=table.program,
        description=table.summary,
        epilog=table.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="F",
        help=f"YAML file of settings [{ENVIRONMENT_PREFIX}CONFIG; {table.default_file} if there]",
    )
    for row in table.rows:
        parser.add_argument(
            row.flag,
            dest=row.key,
            metavar=row.metavar,
            default=argparse.SUPPRESS,
            help=f"{row.prose} [{row.default_shown}]".replace("%", "%%"),
        )
    parser.add_argument(
        "--print-config", action="store_true", help="show the settings and their sources, and end"
    )
    parser.add_argument("--print-example", action="store_true", help=argparse.SUPPRESS)
    return parser


def daemon_settings(
    table: DaemonTable,
    words: Sequence[str],
    environ: Mapping[str, str],
    show: Callable[[str], None],
) -> Resolved | None:
    """Read a daemon's command line and settle all its settings; None if they were only shown.

    Raises UsageFault; SystemExit(0) after ``--help``.
    """
    options = daemon_parser(table).parse_args(list(words))
    if options.print_example:
        show(example_file(table).rstrip())
        return None
    given = {row.key: getattr(options, row.key) for row in table.rows if hasattr(options, row.key)}
    resolved = resolve(table, given, environ, options.config)
    if options.print_config:
        show(resolved.as_yaml().rstrip())
        return None
    return resolved


# ---------------------------------------------------------------- into the daemons' own values


def head_settings(resolved: Resolved) -> HeadSettings:
    """Turn the table's values into the head's, after the checks that need two of them."""
    listen, advertise = str(resolved["listen"]), str(resolved["advertise"])
    if listen in {"", "0.0.0.0", "::"} and not advertise:
        raise UsageFault(
            f"listen {listen or 'everywhere'} is no address that others can dial; "
            "say by --advertise HOST under which name or address they reach this machine"
        )
    if float(str(resolved["silent_s"])) < 2 * float(str(resolved["heartbeat_s"])):
        raise UsageFault(
            "silent_s must be at least twice heartbeat_s, or living peers would count as lost"
        )
    return HeadSettings(**_fields(resolved))


def node_settings(resolved: Resolved) -> NodeSettings:
    """Turn the table's values into the node's."""
    return NodeSettings(**_fields(resolved))


def _fields(resolved: Resolved) -> dict[str, Any]:
    return {row.key: resolved[row.key] for row in resolved.table.rows if row is not _LOG_LEVEL}
