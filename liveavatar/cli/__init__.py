"""python -m liveavatar: one module per command."""

from __future__ import annotations

import argparse
import importlib
import logging
from collections.abc import Sequence

_COMMANDS = {"generate": "make one video", "doctor": "check a model checkpoint"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m liveavatar", description="LiveAvatar Studio on the command line"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in _COMMANDS.items():
        module = importlib.import_module(f"liveavatar.cli.{name}")
        module.add_options(commands.add_parser(name, help=summary))
        commands.choices[name].set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    exit_code: int = options.run(options)
    return exit_code
