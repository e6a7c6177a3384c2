"""The settings of both daemons: one typed table each.

A row carries its key, its parser and its prose; ``--help``, ``--print-config``, the example files
and every complaint are made from it. Pure but for the environment it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clusterray.cli.values import (
    ENVIRONMENT_PREFIX,
    any_text,
    days_or_forever,
    duration_in_seconds,
    folder,
    host_text,
    log_level,
    networks,
    node_name,
    on_or_off,
    one_of,
    or_auto,
    paths,
    port_range,
    show_auto,
    show_days,
    show_networks,
    show_number,
    show_paths,
    show_range,
    show_size,
    show_switch,
    show_text,
    size_in_bytes,
    whole_number,
)
from clusterray.node.sandbox import CHOICES, NO_WALL


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
    show: Callable[[object], str] = show_text
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


LOG_LEVEL = Setting(
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
    number = show_number
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
            show_range,
            "any free port",
        ),
        Setting(
            "tls",
            "ON|OFF",
            "on",
            on_or_off,
            "Encrypt every connection and have peers know this head by its certificate. Off is for "
            "loopback and for plain_networks, where everybody may be trusted to listen: tokens, "
            "scenes and pictures then cross the network as they are.",
            show_switch,
        ),
        Setting(
            "plain_networks",
            "NETS",
            "",
            networks,
            "With tls off, the networks that may connect besides this machine, such as "
            "192.168.7.0/24, with commas between.",
            show_networks,
            "this machine only",
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
            "stall_s",
            "SECONDS",
            "1800",
            duration_in_seconds(1, 30 * 86400),
            "A band that makes no progress for this long is stopped and goes to another node; it "
            "then has twice the time. A render block that takes longer needs more.",
            number,
        ),
        Setting(
            "parse_s",
            "SECONDS",
            "14400",
            duration_in_seconds(1, 30 * 86400),
            "How long POV-Ray may take to parse a scene, which shows no progress.",
            number,
        ),
        Setting(
            "band_nodes",
            "N",
            "3",
            whole_number(1, 1000),
            "A band that so many different nodes failed fails its job.",
            number,
        ),
        Setting(
            "band_tries",
            "N",
            "2",
            whole_number(1, 1000),
            "How often a node may fail a band, where too few other nodes are there.",
            number,
        ),
        Setting(
            "node_failures",
            "N",
            "3",
            whole_number(1, 1000),
            "A node that fails so often on one job is kept off it. Each tile it delivers makes up "
            "for one failure.",
            number,
        ),
        Setting(
            "node_failed_jobs",
            "N",
            "3",
            whole_number(1, 1000),
            "A node that fails on so many jobs is kept off the farm.",
            number,
        ),
        Setting(
            "kept_off_s",
            "SECONDS",
            "300",
            duration_in_seconds(1, 86400),
            "How long a node is kept off the first time; each time doubles it until the node "
            "delivers again. `clusterray nodes --forgive NAME` ends it.",
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
            "max_bands",
            "N",
            "10000",
            whole_number(1, 100_000),
            "Most bands that a submitter may ask for, in one job.",
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
            "max_jobs_per_token",
            "N",
            "1000",
            whole_number(1, 10_000_000),
            "Most jobs of one submitter's token that wait or run at a time, so that one leaves "
            "room for others.",
            number,
        ),
        Setting(
            "max_connections",
            "N",
            "2048",
            whole_number(16, 100_000),
            "Most control connections at a time, those of nodes and of submitters together. At "
            "the limit the oldest that has shown no token goes for the next; if there is none, the "
            "next one goes.",
            number,
        ),
        Setting(
            "max_strangers",
            "N",
            "1024",
            whole_number(16, 100_000),
            "Most connections, of control and of FTP each, that have shown no token or login yet. "
            "The oldest goes for the next.",
            number,
        ),
        Setting(
            "max_strangers_per_address",
            "N",
            "128",
            whole_number(1, 100_000),
            "The same for one address, or one IPv6 network of 64 bits.",
            number,
        ),
        Setting(
            "max_messages_per_s",
            "N",
            "500",
            whole_number(10, 1_000_000),
            "Messages read of one connection in a second, each 16 KiB counting as one more; for a "
            "while it may be four times that. What comes faster waits at its sender.",
            number,
        ),
        Setting(
            "max_ftp_sessions_per_address",
            "N",
            "1024",
            whole_number(1, 100_000),
            "Most FTP sessions of one address at a time; a node keeps two or three.",
            number,
        ),
        Setting(
            "max_http_connections",
            "N",
            "200",
            whole_number(4, 10_000),
            "Most connections to the page at a time, half of them idle ones of one address. "
            "The longest idle goes for the next.",
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
        Setting(
            "disk_bytes",
            "SIZE",
            "100GiB",
            size_in_bytes,
            "Room for all that the head keeps: scenes, tiles, pictures, logs. The oldest files of "
            "ended jobs and scenes go first; a job that cannot fit is refused.",
            show_size,
        ),
        Setting(
            "keep_results_days",
            "DAYS",
            "forever",
            days_or_forever,
            "How long pictures, tiles and logs of ended jobs are kept, at most: days, or forever.",
            show_days,
        ),
        LOG_LEVEL,
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
    number = show_number
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
            "join_wait_s",
            "SECONDS",
            "0",
            duration_in_seconds(0, 86400),
            "How long the token may be missing or unreadable at the start, for a node that is "
            "started together with its head.",
            number,
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
            "least_free_bytes",
            "SIZE",
            "100MiB",
            size_in_bytes,
            "With less free on the work folder's disk the node takes no bands until there is room.",
            show_size,
        ),
        Setting(
            "canary",
            "ON|OFF",
            "on",
            on_or_off,
            "Render a small picture at the start, so that the head knows which nodes render alike. "
            "A node without it shares pictures only with others without it.",
            show_switch,
        ),
        Setting(
            "overlap",
            "ON|OFF",
            "on",
            on_or_off,
            "Begin the next band a little before the last one ends, so that no core waits while "
            "POV-Ray starts and parses; only where memory has room for two POV-Rays.",
            show_switch,
        ),
        *_sandbox_rows(),
        LOG_LEVEL,
    )
    return DaemonTable(
        program="clusterray-node",
        summary="A node of a farm: fetches scenes, renders bands with POV-Ray, uploads tiles.",
        examples=_NODE_EXAMPLES,
        default_file=Path("/etc/clusterray/node.yaml"),
        rows=rows,
    )


def _sandbox_rows() -> tuple[Setting, ...]:
    return (
        Setting(
            "sandbox",
            "WALL",
            "auto",
            one_of(*CHOICES),
            "What keeps a scene from the rest of this machine: landlock, bubblewrap, or auto for "
            f"the first of them that works here; else the node does not start. {NO_WALL}: "
            "nothing, and every scene can do what this user can.",
        ),
        Setting(
            "sandbox_reads",
            "PATHS",
            "",
            paths,
            "Files and folders that POV-Ray may read beside the scene and its own, with colons "
            "between them: the libraries of one that is not in /usr, say.",
            show_paths,
        ),
        Setting(
            "memory_limit_bytes",
            "SIZE",
            "auto",
            or_auto(size_in_bytes),
            "Memory that a POV-Ray may use. auto: the machine's, but for a tenth or 128 MiB.",
            show_auto(show_size),
        ),
        Setting(
            "file_limit_bytes",
            "SIZE",
            "1GiB",
            size_in_bytes,
            "How large a file a scene may write, beside the 24 bytes for each pixel of its picture "
            "that POV-Ray itself needs; and four times that in all.",
            show_size,
        ),
        Setting(
            "cpu_limit_s",
            "SECONDS",
            "auto",
            or_auto(duration_in_seconds(1, 1e9)),
            "CPU time that a POV-Ray may take for one band. auto: wall_limit_s for each thread.",
            show_auto(show_number),
        ),
        Setting(
            "wall_limit_s",
            "SECONDS",
            "48h",
            duration_in_seconds(1, 1e9),
            "How long a POV-Ray may take for one band.",
            show_number,
        ),
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
