"""python -m liveavatar: one module per command."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from liveavatar.cli import bench, doctor, fetch, generate, join, plan

_COMMANDS = {
    "generate": (generate, "make one video"),
    "doctor": (doctor, "check a model checkpoint"),
    "fetch": (fetch, "download the s2v engine's model"),
    "plan": (plan, "what would run on which graphics cards"),
    "bench": (bench, "how fast the s2v engine is on this machine"),
    "join": (join, "take part in an app on another machine"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m liveavatar", description="LiveAvatar Studio on the command line"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, summary) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        module.add_options(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    exit_code: int = options.run(options)
    return exit_code
