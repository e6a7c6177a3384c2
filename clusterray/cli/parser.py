"""The command line parser of all four commands: argparse with our words and exit codes."""

from __future__ import annotations

import argparse
from typing import NoReturn

from clusterray.core.errors import UsageFault


class Parser(argparse.ArgumentParser):
    """An argument parser that complains by UsageFault, in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageFault instead of printing usage and leaving."""
        raise UsageFault(f"{message}; see {self.prog} --help")
