"""``clusterray``: the words of the command line for ``client.control``, and how its answers look.

Main thread. No logic of the farm.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from clusterray import __version__
from clusterray.cli.parser import Parser
from clusterray.cli.shell import raise_on_terminate, run_command, say_on_stdout
from clusterray.cli.values import whole_number
from clusterray.client import tables
from clusterray.client.control import Control, Fetched, as_json, job_id, token_in_words
from clusterray.client.head_link import HeadLink
from clusterray.client.report import make_report
from clusterray.client.text import plain, plain_lines, povray_lines
from clusterray.client.timeline import phase_table, text_of, timeline_of, write_svg
from clusterray.core.errors import UsageFault
from clusterray.core.orders import LEAST_PRIORITY, MOST_PRIORITY
from clusterray.wire.protocol import JobDetail
from clusterray.wire.trust import JoinToken, find_token

PROGRAM = "clusterray"

_EXAMPLES = """\
examples:
  clusterray jobs                     the jobs, newest first
  clusterray show 12                  one job: settings and where they came from, bands, attempts
  clusterray show 12 --timeline       which node did what when, and where the time went
  clusterray fetch 12 -o room.png     the picture of a finished job
  clusterray fetch --partial 12       what is there of it by now, the rest hatched
  clusterray pause 12                 no more of it is handed out until clusterray resume 12
  clusterray requeue 12               a failed or cancelled job goes on; --all: from the start
  clusterray logs 12                  what POV-Ray said in each attempt
  clusterray cancel 12
  clusterray doctor                   whether this machine can be a node: POV-Ray, its wall, limits
  clusterray nodes --json             for programs
  clusterray nodes --forgive attic    a node that was kept off may work again
  clusterray token new attic --role node
                                      a token for a machine (needs the head's admin.token)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Ask the head; give the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    raise_on_terminate()
    chosen = _parser().parse_args(list(words))
    action: Callable[[argparse.Namespace], None] = chosen.action
    action(chosen)
    return 0


# ---------------------------------------------------------------- one function per command


def _jobs(chosen: argparse.Namespace) -> None:
    with _open(chosen) as head:
        jobs = Control(head).jobs()
    if chosen.json:
        return _say_json(jobs)
    if not jobs:
        return say_on_stdout("no jobs")
    return tables.print_table(*tables.jobs_table(jobs), sys.stdout)


def _nodes(chosen: argparse.Namespace) -> None:
    if chosen.forgive is not None:
        return _forgive(chosen)
    with _open(chosen) as head:
        nodes = Control(head).nodes()
    if chosen.json:
        return _say_json(nodes)
    if not nodes:
        return say_on_stdout("no node has joined; start clusterray-node on each render machine")
    return tables.print_table(*tables.nodes_table(nodes), sys.stdout)


def _forgive(chosen: argparse.Namespace) -> None:
    if not 1 <= len(chosen.forgive) <= 255:
        raise UsageFault("--forgive needs the name of a node, as `clusterray nodes` shows it")
    with _open(chosen) as head:
        text = Control(head).forgive(chosen.forgive)
    if chosen.json:
        return _say_json({"node": chosen.forgive, "text": text})
    return say_on_stdout(plain(text))


def _show(chosen: argparse.Namespace) -> None:
    job = job_id(chosen.job)
    with _open(chosen) as head:
        detail = Control(head).show(job)
    if chosen.svg is not None:
        write_svg(detail, chosen.svg)
    if chosen.timeline:
        return _say_timeline(detail)
    if chosen.json:
        return _say_json(
            {
                "job": detail.job,
                "settings": detail.settings,
                "bands": detail.bands,
                "note": detail.note,
                "light": detail.light,
                "checks": detail.checks,
                "chance": detail.chance,
                "probe": detail.probe,
            }
        )
    for name, value in tables.job_facts(detail):
        say_on_stdout(f"{name + ':':<11} {plain(value)}")
    shown = [tables.settings_table(detail), tables.bands_table(detail.bands)]
    if detail.checks:
        shown.append(tables.checks_table(detail.checks))
    for table in shown:
        say_on_stdout("")
        tables.print_table(*table, sys.stdout)
    if detail.job.error_text:
        say_on_stdout("\nPOV-Ray's text:")
        for line in plain_lines(detail.job.error_text):
            say_on_stdout(f"  {line}")
    return None


def _say_timeline(detail: JobDetail) -> None:
    timeline = timeline_of(detail)
    for line in text_of(timeline, shutil.get_terminal_size((100, 24)).columns):
        say_on_stdout(line)
    say_on_stdout("")
    tables.print_table(*phase_table(timeline), sys.stdout)


def _cancel(chosen: argparse.Namespace) -> None:
    _order(chosen, Control.cancel)


def _pause(chosen: argparse.Namespace) -> None:
    _order(chosen, lambda control, job: control.pause(job, now=chosen.now))


def _resume(chosen: argparse.Namespace) -> None:
    _order(chosen, Control.resume)


def _requeue(chosen: argparse.Namespace) -> None:
    _order(chosen, lambda control, job: control.requeue(job, everything=chosen.everything))


def _priority(chosen: argparse.Namespace) -> None:
    _order(chosen, lambda control, job: control.set_priority(job, chosen.priority))


def _delete(chosen: argparse.Namespace) -> None:
    _order(chosen, lambda control, job: control.delete(job, force=chosen.force))


def _order(chosen: argparse.Namespace, give: Callable[[Control, str], str]) -> None:
    """Give an order to a job and say what the head said."""
    job = job_id(chosen.job)
    with _open(chosen) as head:
        text = give(Control(head), job)
    if chosen.json:
        return _say_json({"job": job, "text": text})
    return say_on_stdout(plain(text))


def _logs(chosen: argparse.Namespace) -> None:
    job = job_id(chosen.job)
    with _open(chosen) as head:
        logs = Control(head).logs(job, chosen.band)
    if chosen.json:
        fields = ("band", "rect", "stage", "attempt", "node", "state", "reason", "text")
        return _say_json([{name: getattr(log, name) for name in fields} for log in logs])
    if not logs:
        return say_on_stdout("no attempts yet")
    for log in logs:
        say_on_stdout(plain(tables.attempt_head(log)))
        for line in povray_lines(log.text) if log.text else ["(no text)"]:
            say_on_stdout(f"  {line}".rstrip())
    return None


def _fetch(chosen: argparse.Namespace) -> None:
    job = job_id(chosen.job)
    report = make_report()
    try:
        with _open(chosen, report.say) as head:
            fetched = Control(head).fetch(job, chosen.out, report, partial=chosen.partial)
        if chosen.partial:
            report.say(_how_much(fetched))
    finally:
        report.close()
    if chosen.json:
        return _say_json(asdict(fetched))
    return say_on_stdout(fetched.path)


def _how_much(fetched: Fetched) -> str:
    if not fetched.partial:
        return f"job {fetched.job} is done: this is the whole picture"
    done, total = fetched.pixels_done, fetched.pixels_total
    return (
        f"{100 * done // total} % of the picture of job {fetched.job} is there "
        f"({done:,} of {total:,} pixels); the rest is hatched"
    )


def _token_show(chosen: argparse.Namespace) -> None:
    facts = token_in_words(_token(chosen))
    if chosen.json:
        return _say_json(facts)
    for name, value in facts.items():
        say_on_stdout(f"{name + ':':<12} {plain(str(value)) or '-'}")
    return None


def _token_list(chosen: argparse.Namespace) -> None:
    with _open(chosen) as head:
        tokens = Control(head).tokens()
    if chosen.json:
        return _say_json(tokens)
    return tables.print_table(*tables.tokens_table(tokens), sys.stdout)


def _token_new(chosen: argparse.Namespace) -> None:
    if not (1 <= len(chosen.name) <= 64 and chosen.name.isprintable()):
        raise UsageFault("NAME needs 1 to 64 printable characters")
    with _open(chosen) as head:
        made = Control(head).make_token(chosen.role, chosen.name)
    if chosen.json:
        return _say_json({"id": made.id, "token": made.token})
    return say_on_stdout(plain(made.token))


def _token_revoke(chosen: argparse.Namespace) -> None:
    with _open(chosen) as head:
        text = Control(head).revoke_token(chosen.id) or f"token {chosen.id} is revoked"
    if chosen.json:
        return _say_json({"id": chosen.id, "text": text})
    return say_on_stdout(plain(text))


def _doctor(chosen: argparse.Namespace) -> None:
    # What the other commands, which ask a head, do without: it doubles their start.
    from clusterray.cli.doctor import run_doctor

    run_doctor(chosen.config, as_json=chosen.json)


# ---------------------------------------------------------------- what they share


def _token(chosen: argparse.Namespace) -> JoinToken:
    return find_token(chosen.join, environ=os.environ, home=Path.home())


def _open(
    chosen: argparse.Namespace, say: Callable[[str], None] = lambda sentence: None
) -> HeadLink:
    head = HeadLink(lambda: _token(chosen), say=say)
    head.open()
    return head


def _say_json(value: object) -> None:
    say_on_stdout(json.dumps(as_json(value), indent=2, ensure_ascii=True))


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Asks the head of a farm about its jobs and nodes, and steers them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    _add_common(parser, join="", as_json=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    _add(commands, "jobs", "list the jobs, newest first", _jobs)
    show = _add(commands, "show", "everything about one job", _show)
    _add_job(show)
    show.add_argument(
        "--timeline",
        action="store_true",
        help="which node did what when, and where the time went; in place of all else",
    )
    show.add_argument(
        "--svg", metavar="FILE", type=Path, help="write the timeline as a picture to FILE besides"
    )
    nodes = _add(commands, "nodes", "list the nodes, or forgive one its failures", _nodes)
    nodes.add_argument(
        "--forgive",
        metavar="NAME",
        help="let a node that failed too often take bands again, by its name or uuid",
    )
    _add_orders(commands)
    logs = _add(commands, "logs", "what POV-Ray said in each attempt of a job", _logs)
    _add_job(logs)
    logs.add_argument("band", metavar="BAND", nargs="?", help="only this band, such as b3")
    fetch = _add(commands, "fetch", "fetch the picture of a finished job", _fetch)
    _add_job(fetch)
    fetch.add_argument(
        "--partial",
        action="store_true",
        help="of a job that is not done: what is there, the rest hatched, as NAME.partial.EXT",
    )
    fetch.add_argument("-o", "--output", dest="out", metavar="OUT", help="a file or a folder")
    _add_token(commands)
    doctor = _add(commands, "doctor", "whether this machine can be a node, and its wall", _doctor)
    doctor.add_argument(
        "--config", metavar="F", help="the node's YAML file of settings, as of clusterray-node"
    )
    return parser


def _add_orders(commands: argparse._SubParsersAction[Parser]) -> None:
    _add_job(_add(commands, "cancel", "stop a job", _cancel))
    pause = _add(commands, "pause", "hand out no more of a job; what is at work ends", _pause)
    _add_job(pause)
    pause.add_argument("--now", action="store_true", help="take back what renders now")
    _add_job(_add(commands, "resume", "let a paused job go on", _resume))
    requeue = _add(commands, "requeue", "run a job again that has ended", _requeue)
    _add_job(requeue)
    requeue.add_argument(
        "--all",
        dest="everything",
        action="store_true",
        help="from the start, also of a job that is done; else only what is not rendered yet",
    )
    priority = _add(commands, "priority", "move a job in the queue", _priority)
    _add_job(priority)
    priority.add_argument(
        "priority",
        metavar="N",
        type=_priority_number,
        help="-100 to 100; higher goes first, 0 is usual",
    )
    delete = _add(commands, "delete", "delete a job that has ended, its picture and logs", _delete)
    _add_job(delete)
    delete.add_argument("--force", action="store_true", help="cancel it first if it has not ended")


def _priority_number(text: str) -> int:
    try:
        return whole_number(LEAST_PRIORITY, MOST_PRIORITY)(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{plain(text)!r} {error}") from None


def _add_token(commands: argparse._SubParsersAction[Parser]) -> None:
    token = commands.add_parser("token", help="see, make and revoke tokens", allow_abbrev=False)
    _add_common(token)
    verbs = token.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    _add(verbs, "show", "what the token in use says, without its secret", _token_show)
    _add(verbs, "list", "the tokens of the farm (admin)", _token_list)
    new = _add(verbs, "new", "make a token (admin)", _token_new)
    new.add_argument("name", metavar="NAME", help="for whom or what it is")
    new.add_argument("--role", choices=("submit", "node", "admin"), default="submit")
    revoke = _add(verbs, "revoke", "make a token open nothing from now on (admin)", _token_revoke)
    revoke.add_argument("id", metavar="ID", help="as `clusterray token list` shows it")


def _add(
    commands: argparse._SubParsersAction[Parser],
    name: str,
    prose: str,
    action: Callable[[argparse.Namespace], None],
) -> Parser:
    parser = commands.add_parser(name, help=prose, description=prose, allow_abbrev=False)
    _add_common(parser)
    parser.set_defaults(action=action)
    return parser


def _add_job(parser: Parser) -> None:
    parser.add_argument("job", metavar="JOB", help="its id, such as 12 or j12")


def _add_common(
    parser: Parser, join: str = argparse.SUPPRESS, as_json: bool | str = argparse.SUPPRESS
) -> None:
    parser.add_argument(
        "--join", metavar="TOKEN|FILE", default=join, help="the head's join token, or its file"
    )
    parser.add_argument("--json", action="store_true", default=as_json, help="answer as JSON")


if __name__ == "__main__":
    sys.exit(main())
