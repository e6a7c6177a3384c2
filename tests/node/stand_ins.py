"""Programs that stand in for POV-Ray where it would have to misbehave on demand."""

from __future__ import annotations

from pathlib import Path

from tests.node.doubles import POVRAY

ITSELF = f'exec "{POVRAY}" "$@"'
HANG = "exec /bin/sleep 1000"
IGNORE_TERM = "trap '' TERM; while :; do /bin/sleep 1000; done"
TO_ITS_END = (
    f'exec 4>&2; code=$({{ {{ "{POVRAY}" "$@" 2>&1 >/dev/null; echo $? >&3; }}'
    ' | sed -u "/Trace Time/d" >&4; } 3>&1)'
)
"""POV-Ray, whose ``$code`` is told; without its last word, at which a node would not wait for its
end."""
RENDERS = f'{TO_ITS_END}; [ "$code" = 0 ] || exit "$code"'
SHORT_FILE = f'{RENDERS}; printf "\\211PNG\\r\\n\\032\\n and no more" > "$out"'
NO_FILE = f'{RENDERS}; rm "$out"'
NOTHING = "exit 0"
ANOTHER_SIZE = f'exec "{POVRAY}" "$@" +W480 +H960'
KILLED = "kill -KILL $$"
DISK_FULL = "echo 'Cannot access data in file.' >&2; exit 1"
CLOSED_STDERR = "exec 2>&-; exec /bin/sleep 1000"
LEAVES_A_CHILD = f'/bin/sleep 1000 & echo $! > child; exec "{POVRAY}" "$@"'


def stand_in(folder: Path, behaviour: str) -> str:
    """Write a program that is POV-Ray for --version and the canary, and else does ``behaviour``.

    ``$out`` is the output file it was told, and the folder it runs in is the attempt's.
    """
    program = folder / "stand in povray"
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in --version|*canary.pov*) exec "{POVRAY}" "$@";; esac\n'
        'for word in "$@"; do case "$word" in +O*) out=${word#+O};; esac; done\n'
        # POV-Ray wants a name with spaces in quotation marks of its own.
        'out=${out#\\"}; out=${out%\\"}\n'
        f"{behaviour}\n"
    )
    program.chmod(0o755)
    return str(program)
