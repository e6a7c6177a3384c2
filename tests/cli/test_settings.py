"""Who wins, what is said of a bad value, and that the example files tell the truth."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml

from clusterray.cli.settings import (
    daemon_parser,
    example_file,
    head_settings,
    node_settings,
    resolve,
)
from clusterray.cli.settings_table import DaemonTable, head_table, node_table, state_folder
from clusterray.cli.values import duration_in_seconds, port_range, size_in_bytes
from clusterray.core.errors import UsageFault
from clusterray.head.settings import HeadSettings
from clusterray.node.settings import NodeSettings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ENVIRON = {"HOME": "/home/ann"}
HEAD, NODE = head_table(ENVIRON), node_table(ENVIRON)


@pytest.fixture(autouse=True)
def no_configuration_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: not str(path).startswith("/etc/clusterray"))


def head(
    given: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> HeadSettings:
    path = None if config is None else str(config)
    return head_settings(resolve(HEAD, given or {}, environ or {}, path))


def test_defaults_are_those_of_the_daemons_themselves() -> None:
    assert head() == HeadSettings(state=Path("/home/ann/.local/state/clusterray/head"))
    assert node_settings(resolve(NODE, {}, {}, None)) == NodeSettings(
        work=Path("/home/ann/.local/state/clusterray/node")
    )


def test_every_field_of_the_daemons_has_its_row() -> None:
    for table, kind in ((HEAD, HeadSettings), (NODE, NodeSettings)):
        fields = {field.name for field in dataclasses.fields(kind)}
        assert {row.key for row in table.rows} - {"log_level"} == fields


def test_command_line_over_environment_over_file_over_default(tmp_path: Path) -> None:
    config = tmp_path / "server.yaml"
    config.write_text("port: 1\nftp_port: 1\nhttp_port: 1\n")
    environ = {"CLUSTERRAY_PORT": "2", "CLUSTERRAY_FTP_PORT": "2"}
    resolved = resolve(HEAD, {"port": "3"}, environ, str(config))
    found = [resolved.values[key] for key in ("port", "ftp_port", "http_port", "max_jobs")]
    assert [(value.value, value.source) for value in found] == [
        (3, "command line, --port"),
        (2, "environment, CLUSTERRAY_FTP_PORT"),
        (1, f"{config}:3"),
        (10_000, "default"),
    ]


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/clusterray", "HOME": "/root"}, "/var/lib/clusterray"),
        ({"STATE_DIRECTORY": "/a:/b"}, "/a"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/root"}, "/x/clusterray/head"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/clusterray/head"),
    ],
)
def test_where_state_lies_by_default(environ: dict[str, str], folder: str) -> None:
    assert state_folder("head", environ) == Path(folder)


@pytest.mark.parametrize(("text", "on"), [("on", True), ("Off", False), ("true", True)])
def test_a_switch(text: str, on: bool, tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(f"canary: {text}\n")
    resolved = resolve(NODE, {}, {}, str(config))
    assert resolved["canary"] is on
    assert f"canary: {'on' if on else 'off'} " in resolved.as_yaml()
    with pytest.raises(UsageFault, match="--canary: 'perhaps' is neither on nor off"):
        resolve(NODE, {"canary": "perhaps"}, {}, str(config))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1B", 1),
        ("1iB", None),
        ("500M", 500_000_000),
        ("500MB", 500_000_000),
        ("2GiB", 2 << 30),
        ("1.5 Ki", 1536),
        ("2gib", 2 << 30),
        ("0", None),
        ("-1", None),
        ("1e3", None),
        ("99TT", None),
        ("9999999999T", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(ValueError, match="is not a size"):
            size_in_bytes(text)
    else:
        assert size_in_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("4", 4.0), ("4s", 4.0), ("500ms", 0.5), ("2m", 120.0), ("1h", 3600.0), ("0.25", 0.25)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_in_seconds(0, 1e6)(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "4 days", "1e9h", "9999999"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration_in_seconds(0, 1e6)(text)


def test_port_ranges() -> None:
    assert port_range("50000-50100") == (50000, 50100)
    for bad in ("50000", "2-1", "0-5", "1-70000", "a-b"):
        with pytest.raises(ValueError, match="is not a range of ports"):
            port_range(bad)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("port: abc", r"server\.yaml:1: port: 'abc' is not a whole number from 0 to 65535"),
        ("\nprot: 1", r"server\.yaml:2: 'prot' is no setting.*did you mean port\?"),
        ("zzz: 1", r"server\.yaml:1: 'zzz' is no setting.*the keys are state, listen"),
        ("port: 1\nport: 2", r"server\.yaml:2: port is given twice, first in line 1"),
        ("port:", r"server\.yaml:1: port has no value"),
        ("port: [1, 2]", r"server\.yaml:1: port: expected one value"),
        ("- port", r"server\.yaml:1: expected lines of"),
        ("port: 'x", r"server\.yaml:\d: not YAML"),
        ("silent_s: -1s", r"server\.yaml:1: silent_s: '-1s' is not a duration"),
    ],
)
def test_a_fault_in_the_file_has_its_line(tmp_path: Path, content: str, sentence: str) -> None:
    config = tmp_path / "server.yaml"
    config.write_text(content)
    with pytest.raises(UsageFault) as caught:
        head(config=config)
    assert re.search(sentence, str(caught.value))


def test_a_fault_elsewhere_names_its_source(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="--port: '99999' is not"):
        head({"port": "99999"})
    with pytest.raises(UsageFault, match="CLUSTERRAY_PORT in the environment: 'x' is not"):
        head(environ={"CLUSTERRAY_PORT": "x"})
    with pytest.raises(UsageFault, match=r"missing\.yaml: the configuration cannot be read"):
        head(config=tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageFault, match="is not UTF-8"):
        head(config=tmp_path / "binary.yaml")


def test_an_empty_file_or_variable_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert head(environ={"CLUSTERRAY_PORT": ""}, config=tmp_path / "empty.yaml") == head()


@pytest.mark.parametrize("listen", ["0.0.0.0", "::"])
def test_listening_everywhere_needs_a_name_to_be_reached_by(listen: str) -> None:
    with pytest.raises(UsageFault, match="--advertise HOST"):
        head({"listen": listen})
    assert head({"listen": listen, "advertise": "render1.lan"}).advertise == "render1.lan"


def test_heartbeats_must_fit_into_the_silence() -> None:
    with pytest.raises(UsageFault, match="twice heartbeat_s"):
        head({"heartbeat_s": "10", "silent_s": "12"})


def test_a_token_is_never_shown() -> None:
    resolved = resolve(NODE, {"join": "cr1-AbCdEf"}, {}, None)
    assert "AbCdEf" not in resolved.as_yaml()
    assert resolved["join"] == "cr1-AbCdEf"


@pytest.mark.parametrize("table", [HEAD, NODE], ids=lambda table: str(table.program))
def test_the_printed_settings_are_yaml_that_reads_back_the_same(
    table: DaemonTable, tmp_path: Path
) -> None:
    given = {"name": "attic: 2 #"} if table is NODE else {"passive_ports": "5-9"}
    resolved = resolve(table, given, {}, None)
    text = resolved.as_yaml()
    printed = tmp_path / "printed.yaml"
    printed.write_text(text)
    again = resolve(table, {}, {}, str(printed))
    assert {row.key: again[row.key] for row in table.rows} == {
        row.key: resolved[row.key] for row in table.rows
    }


@pytest.mark.parametrize("table", [HEAD, NODE], ids=lambda table: str(table.program))
def test_the_example_file_is_the_one_made_from_the_table(table: DaemonTable) -> None:
    text = (EXAMPLES / f"{table.program}.yaml").read_text()
    assert text == example_file(table), f"make it anew: {table.program} --print-example"


@pytest.mark.parametrize("table", [HEAD, NODE], ids=lambda table: str(table.program))
def test_the_example_file_documents_every_key_and_its_defaults_hold(table: DaemonTable) -> None:
    lines = example_file(table).splitlines()
    values = yaml.safe_load(
        "\n".join(line[1:] for line in lines if line.startswith("#") and (line[1:2].isalpha()))
    )
    assert list(values) == [row.key for row in table.rows]
    for row in table.rows:
        if values[row.key] is not None:
            assert row.parse(str(values[row.key])) == row.parse(row.default)


@pytest.mark.parametrize("table", [HEAD, NODE], ids=lambda table: str(table.program))
def test_help_names_every_flag(table: DaemonTable) -> None:
    text = daemon_parser(table).format_help()
    assert all(f"{row.flag} {row.metavar}" in text for row in table.rows)
    assert "--print-example" not in text


# ---------------------------------------------------------------- TLS


@pytest.mark.parametrize(
    ("given", "networks"),
    [
        ({"tls": "off"}, ()),
        ({"tls": "off", "listen": "::1"}, ()),
        ({"tls": "off", "listen": "10.0.0.1", "plain_networks": "10.0.0.0/8"}, ("10.0.0.0/8",)),
        (
            {"tls": "off", "plain_networks": "192.168.7.0/24, fd00::/8"},
            ("192.168.7.0/24", "fd00::/8"),
        ),
    ],
)
def test_plain_connections_need_loopback_or_named_networks(
    given: dict[str, str], networks: tuple[str, ...]
) -> None:
    settings = head(given)
    assert not settings.tls
    assert settings.plain_networks == tuple(map(ip_network, networks))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tls": "off", "listen": "10.0.0.1"}, "--plain-networks which networks may be trusted"),
        ({"tls": "off", "listen": "0.0.0.0", "advertise": "x"}, "tls off and listen 0.0.0.0"),
        ({"plain_networks": "10.0.0.0/8"}, "set tls to off too"),
        ({"tls": "off", "plain_networks": "10.0.0.1/8"}, "is not networks such as 192.168.7.0/24"),
        ({"tls": "perhaps"}, "is neither on nor off"),
    ],
)
def test_careless_plain_connections_are_refused_in_words(given: dict[str, str], words: str) -> None:
    with pytest.raises(UsageFault) as caught:
        head(given)
    assert words in str(caught.value)


def test_plain_networks_are_shown_as_they_were_given() -> None:
    given = {"tls": "off", "plain_networks": "192.168.7.0/24,fd00::/8"}
    shown = resolve(HEAD, given, {}, None).as_yaml()
    assert "plain_networks: 192.168.7.0/24, fd00::/8 " in shown
