"""python -m liveavatar: one module per command."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from liveavatar.cli import bench, doctor, fetch, generate, join, plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m liveavatar", description="LiveAvatar Studio on the command line"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    generate_parser = commands.add_parser("generate", help="make one video")
    generate.add_options(generate_parser)
    generate_parser.set_defaults(run=generate.run)
    doctor_parser = commands.add_parser("doctor", help="check a model checkpoint")
    doctor.add_options(doctor_parser)
    doctor_parser.set_defaults(run=doctor.run)
    fetch_parser = commands.add_parser("fetch", help="download the s2v engine's model")
    fetch.add_options(fetch_parser)
    fetch_parser.set_defaults(run=fetch.run)
    plan_parser = commands.add_parser("plan", help="what would run on which graphics cards")
    plan.add_options(plan_parser)
    plan_parser.set_defaults(run=plan.run)
    bench_parser = commands.add_parser("bench", help="how fast the s2v engine is on this machine")
    bench.add_options(bench_parser)
    bench_parser.set_defaults(run=bench.run)
    join_parser = commands.add_parser("join", help="take part in an app on another machine")
    join.add_options(join_parser)
    join_parser.set_defaults(run=join.run)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    exit_code: int = options.run(options)
    return exit_code
