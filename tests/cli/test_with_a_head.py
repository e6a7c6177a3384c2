"""The commands against a real head without nodes: jobs wait, and everything else can be asked."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from clusterray import __version__
from clusterray.wire.protocol import BandView, JobView, TokenView
from tests.cli.commands import (
    SMALL,
    Ended,
    HeadCommand,
    command,
    environment,
    head_process,
    run,
    running,
    scene_folder,
)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeadCommand]:
    with head_process(tmp_path_factory.mktemp("head") / "state") as found:
        yield found
        found.command.process.terminate()
        assert found.command.ended(10).code == 0


@pytest.fixture
def job(head: HeadCommand, tmp_path: Path) -> str:
    """A job that waits, submitted with --detach."""
    scene_folder(tmp_path, "Räume mit Licht", **{"Kugel Ω": "sphere { 0, 1 }"})
    ended = head.run("clusterray-submit", "Räume mit Licht", *SMALL, "--detach", cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.startswith("j")
    assert ended.stdout.count("\n") == 1
    return ended.stdout.strip()


def asks(head: HeadCommand, here: Path, line: str, role: str = "submit") -> Ended:
    return run("clusterray", *line.split(), "--join", head.token(role), cwd=here)


def answer(head: HeadCommand, here: Path, line: str, role: str = "submit") -> object:
    ended = asks(head, here, f"{line} --json", role)
    assert ended.code == 0, ended.stderr
    return json.loads(ended.stdout)


def fields(kind: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind)}


# ---------------------------------------------------------------- asking


def test_jobs_for_people_and_for_programs(head: HeadCommand, job: str, tmp_path: Path) -> None:
    table = asks(head, tmp_path, "jobs").stdout.splitlines()
    assert table[0].split()[:4] == ["JOB", "STATE", "TITLE", "OWNER"]
    assert table[1].startswith(f"{job} ")
    jobs = answer(head, tmp_path, "jobs")
    assert isinstance(jobs, list)
    assert set(jobs[0]) == fields(JobView)
    assert (jobs[0]["id"], jobs[0]["state"]) == (job, "queued")
    assert "@" in jobs[0]["owner"]


def test_show_tells_settings_and_bands(head: HeadCommand, job: str, tmp_path: Path) -> None:
    text = asks(head, tmp_path, f"show {job.lstrip('j')}").stdout
    assert "Kugel Ω" in text
    assert "--width" in text
    shown = answer(head, tmp_path, f"show {job}")
    assert isinstance(shown, dict)
    assert set(shown) == {
        *("job", "settings", "bands", "note", "light", "checks", "chance", "probe"),
    }
    assert set(shown["bands"][0]) == fields(BandView)
    width = next(s for s in shown["settings"] if s["name"] == "Width")
    assert (width["value"], width["source"]) == ("64", "--width")


def test_no_nodes_is_said_with_the_way_out(head: HeadCommand, tmp_path: Path) -> None:
    assert "clusterray-node" in asks(head, tmp_path, "nodes").stdout
    assert answer(head, tmp_path, "nodes") == []


@pytest.mark.parametrize(
    "line",
    [
        *("show 999", "fetch j999", "cancel 999", "show nonsense", "fetch 999 --partial"),
        *("pause 999", "resume 999", "requeue 999 --all", "priority 999 3", "delete 999 --force"),
        *("logs 999", "logs x1 b1"),
    ],
)
def test_an_unknown_job_is_3(head: HeadCommand, tmp_path: Path, line: str) -> None:
    ended = asks(head, tmp_path, line)
    assert (ended.code, ended.stdout) == (3, "")
    assert line.split()[1].lstrip("j") in ended.stderr


def test_a_picture_that_is_not_there_yet_is_3(head: HeadCommand, job: str, tmp_path: Path) -> None:
    before = {entry.name for entry in tmp_path.iterdir()}
    assert asks(head, tmp_path, f"fetch {job}").code == 3
    assert {entry.name for entry in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "line",
    [
        *("", "nonsense", "show", "jobs extra", "token", "token new", "pause", "priority 1"),
        *("priority 1 101", "priority 1 x", "resume 1 --now"),
    ],
)
def test_wrong_words_are_2(tmp_path: Path, line: str) -> None:
    ended = run("clusterray", *line.split(), cwd=tmp_path)
    assert (ended.code, ended.stdout) == (2, "")
    assert "see clusterray" in ended.stderr


def test_version(tmp_path: Path) -> None:
    assert run("clusterray", "--version", cwd=tmp_path).stdout == f"clusterray {__version__}\n"


def test_no_token_is_5(tmp_path: Path) -> None:
    ended = run("clusterray", "jobs", cwd=tmp_path)
    assert (ended.code, ended.stdout) == (5, "")
    assert "cannot reach a head: no token" in ended.stderr


def test_join_and_json_may_stand_before_the_command(head: HeadCommand, tmp_path: Path) -> None:
    words = ("--json", "--join", head.token("submit"), "nodes")
    assert run("clusterray", *words, cwd=tmp_path).stdout == "[]\n"


# ---------------------------------------------------------------- a job's life


def told(head: HeadCommand, here: Path, line: str) -> str:
    said = answer(head, here, line)
    assert isinstance(said, dict)
    assert set(said) == {"job", "text"}
    return str(said["text"])


@pytest.mark.slow
def test_orders_are_answered_in_words(head: HeadCommand, job: str, tmp_path: Path) -> None:
    assert told(head, tmp_path, f"pause {job}") == f"job {job} is paused"
    again = asks(head, tmp_path, f"resume {job}")
    assert (again.code, again.stdout) == (0, f"job {job} goes on\n")
    refused = asks(head, tmp_path, f"resume {job}")
    assert (refused.code, refused.stdout) == (3, "")
    assert refused.stderr == f"clusterray: job {job} is queued, not paused\n"
    assert "has priority -7" in told(head, tmp_path, f"priority {job} -7")
    assert asks(head, tmp_path, f"delete {job}").code == 3
    assert told(head, tmp_path, f"cancel {job}") == f"job {job} is cancelled"
    assert "1 of 1 bands" in told(head, tmp_path, f"requeue {job}")
    assert told(head, tmp_path, f"delete --force {job}") == f"job {job} is deleted"
    gone = asks(head, tmp_path, f"logs {job}")
    assert gone.code == 3
    assert f"job {job} was deleted by" in gone.stderr


def test_of_a_job_that_waits_the_partial_picture_is_all_hatch(
    head: HeadCommand, job: str, tmp_path: Path
) -> None:
    ended = asks(head, tmp_path, f"fetch --partial {job}")
    assert (ended.code, ended.stdout) == (0, "Kugel Ω.partial.png\n")
    assert f"0 % of the picture of job {job} is there" in ended.stderr
    fetched = answer(head, tmp_path, f"fetch --partial {job}")
    assert isinstance(fetched, dict)
    assert set(fetched) == {
        *("job", "path", "size", "sha256", "partial", "pixels_done", "pixels_total")
    }
    assert (fetched["partial"], fetched["pixels_done"]) == (True, 0)
    assert (tmp_path / "Kugel Ω.partial.png").stat().st_size == fetched["size"]
    assert answer(head, tmp_path, f"logs {job}") == []
    assert asks(head, tmp_path, f"logs {job}").stdout == "no attempts yet\n"


def test_who_waits_for_a_paused_job_is_told_and_ends_with_6_when_it_is_deleted(
    head: HeadCommand, tmp_path: Path
) -> None:
    scene_folder(tmp_path)
    words = ("scene", *SMALL, "--join", head.token("submit"))
    with running("clusterray-submit", *words, cwd=tmp_path) as submit:
        job = submit.wait_for("is submitted").split()[1]
        assert asks(head, tmp_path, f"pause {job}").code == 0
        assert f"clusterray resume {job}" in submit.wait_for("paused by")
        assert asks(head, tmp_path, f"delete {job} --force").code == 0
        ended = submit.ended()
    assert (ended.code, ended.stdout) == (6, "")
    assert f"job {job} was deleted by" in ended.stderr


# ---------------------------------------------------------------- tokens


def test_a_token_in_use_is_told_without_its_secret(head: HeadCommand, tmp_path: Path) -> None:
    facts = answer(head, tmp_path, "token show")
    assert isinstance(facts, dict)
    assert set(facts) == {"role", "host", "port", "fingerprint"}
    assert facts["role"] == "submit"


def test_tokens_are_made_listed_and_revoked_by_an_admin(head: HeadCommand, tmp_path: Path) -> None:
    made = answer(head, tmp_path, "token new desk --role submit", "admin")
    assert isinstance(made, dict)
    listed = answer(head, tmp_path, "token list", "admin")
    assert isinstance(listed, list)
    assert all(set(token) == fields(TokenView) for token in listed)
    assert made["id"] in {token["id"] for token in listed}
    assert run("clusterray", "jobs", "--join", made["token"], cwd=tmp_path).code == 0
    assert asks(head, tmp_path, f"token revoke {made['id']}", "admin").code == 0
    ended = run("clusterray", "jobs", "--join", made["token"], cwd=tmp_path)
    assert ended.code == 5
    assert "cannot reach a head: " in ended.stderr


def test_an_unknown_token_is_3(head: HeadCommand, tmp_path: Path) -> None:
    assert asks(head, tmp_path, "token revoke nonsense", "admin").code == 3


def test_tokens_are_the_admins_alone(head: HeadCommand, tmp_path: Path) -> None:
    for line in ("token list", "token new x", "token revoke node"):
        assert asks(head, tmp_path, line).code == 3


# ---------------------------------------------------------------- waiting


def test_a_job_that_somebody_cancels_is_6(head: HeadCommand, tmp_path: Path) -> None:
    scene_folder(tmp_path)
    words = ("scene", *SMALL, "--join", head.token("submit"))
    with running("clusterray-submit", *words, cwd=tmp_path) as submit:
        job = submit.wait_for("is submitted").split()[1]
        submit.wait_for("clusterray-node")
        assert asks(head, tmp_path, f"cancel {job}").code == 0
        ended = submit.ended()
    assert (ended.code, ended.stdout) == (6, "")
    assert f"job {job} was cancelled" in ended.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["scene"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_130_and_the_job_goes_on(
    head: HeadCommand, tmp_path: Path, number: signal.Signals
) -> None:
    scene_folder(tmp_path)
    words = ("scene", *SMALL, "--join", head.token("submit"))
    with running("clusterray-submit", *words, cwd=tmp_path) as submit:
        job = submit.wait_for("is submitted").split()[1]
        submit.process.send_signal(number)
        ended = submit.ended()
    assert (ended.code, ended.stdout) == (130, "")
    for hint in (f"clusterray show {job}", f"clusterray fetch {job}", f"clusterray cancel {job}"):
        assert hint in ended.stderr
    shown = answer(head, tmp_path, f"show {job}")
    assert isinstance(shown, dict)
    assert shown["job"]["state"] == "queued"
    assert [entry.name for entry in tmp_path.iterdir()] == ["scene"]


def test_a_closed_pipe_is_no_fault(head: HeadCommand, job: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*command("clusterray"), "jobs", "--json", "--join", str(head.token("submit"))],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_full_stdout_is_1(head: HeadCommand, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*command("clusterray"), "nodes", "--join", str(head.token("submit"))],
            env=environment(tmp_path),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    assert "No space left" in ended.stderr


# ---------------------------------------------------------------- the daemon itself


def test_a_second_head_on_the_same_folder_is_1(head: HeadCommand, tmp_path: Path) -> None:
    ended = run("clusterray-server", "--state", head.state, cwd=tmp_path)
    assert (ended.code, ended.stdout) == (1, "")
    assert str(head.command.process.pid) in ended.stderr


def test_wrong_words_for_a_daemon_are_2(tmp_path: Path) -> None:
    for program in ("clusterray-server", "clusterray-node"):
        ended = run(program, "--port", "x", "--threads", "x", cwd=tmp_path)
        assert (ended.code, ended.stdout) == (2, "")
        assert ended.stderr.startswith(f"{program}: ")
    assert run("clusterray-server", "--listen", "0.0.0.0", cwd=tmp_path).code == 2


def test_a_node_without_a_token_is_5(tmp_path: Path) -> None:
    ended = run("clusterray-node", "--work", tmp_path / "work", cwd=tmp_path)
    assert (ended.code, ended.stdout) == (5, "")
    assert "cannot reach a head: no token" in ended.stderr


def test_settings_are_shown_without_starting_anything(tmp_path: Path) -> None:
    for program in ("clusterray-server", "clusterray-node"):
        ended = run(program, "--print-config", cwd=tmp_path)
        assert ended.code == 0
        assert "# default" in ended.stdout
        assert not (tmp_path / ".local").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_head_ends_in_order_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with head_process(tmp_path / "state") as head:
        head.command.process.send_signal(number)
        ended = head.command.ended(10)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.count("\n") == 0
    assert ended.stdout.startswith("ready control=127.0.0.1:")
