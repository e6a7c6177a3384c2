"""Who wins when a setting is given twice, and what a person is shown of it.

Command line over environment (``CLUSTERRAY_<KEY>``) over YAML file over default; the rows are in
``settings_table``. Main thread only; knows nothing of what the daemons do with it.
"""

from __future__ import annotations

import argparse
import difflib
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clusterray.cli.parser import Parser
from clusterray.cli.settings_table import LOG_LEVEL, DaemonTable, Setting
from clusterray.cli.values import ENVIRONMENT_PREFIX, show_text
from clusterray.core.errors import UsageFault
from clusterray.head.doorkeeper import is_loopback
from clusterray.head.settings import HeadSettings
from clusterray.node.settings import NodeSettings


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
        raise UsageFault(f"{place}: {show_text(text)!r} {error}", file=file, line=line) from None


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
    return json.dumps(shown, ensure_ascii=False) if row.show is show_text else shown or '""'


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
    _check_plain(resolved, listen)
    if float(str(resolved["silent_s"])) < 2 * float(str(resolved["heartbeat_s"])):
        raise UsageFault(
            "silent_s must be at least twice heartbeat_s, or living peers would count as lost"
        )
    return HeadSettings(**_fields(resolved))


def _check_plain(resolved: Resolved, listen: str) -> None:
    named = resolved["plain_networks"]
    if resolved["tls"] and named:
        raise UsageFault(
            "plain_networks is for a head without TLS: set tls to off too, or leave it out"
        )
    if not resolved["tls"] and not named and not is_loopback(listen):
        raise UsageFault(
            f"tls off and listen {listen or 'everywhere'}: without TLS every token, scene and "
            "picture crosses the network as it is; say by --plain-networks which networks may be "
            "trusted with that, or leave TLS on"
        )


def node_settings(resolved: Resolved) -> NodeSettings:
    """Turn the table's values into the node's."""
    return NodeSettings(**_fields(resolved))


def _fields(resolved: Resolved) -> dict[str, Any]:
    return {row.key: resolved[row.key] for row in resolved.table.rows if row is not LOG_LEVEL}
