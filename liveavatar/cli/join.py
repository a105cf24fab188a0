"""python -m liveavatar join: take part in an app that runs on another machine, until interrupted.

Exit codes: 2 the token or the address cannot be used, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
from pathlib import Path

from liveavatar.config import AppConfig
from liveavatar.core.launch import Card
from liveavatar.monitoring.hardware import HardwareMonitor
from liveavatar.monitoring.visible_cards import visible_cards
from liveavatar.service.cluster import Endpoint
from liveavatar.service.cluster_key import ClusterKey
from liveavatar.service.machine_agent import MachineAgent

REJECTED, INTERRUPTED = 2, 130


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--rdzv-endpoint", required=True, metavar="HOST:PORT", help="what the app was started with"
    )
    parser.add_argument(
        "--token-file", type=Path, help="a copy of the app's cluster.token (LIVEAVATAR_TOKEN_FILE)"
    )
    parser.add_argument(
        "--slots", type=int, help="ranks to take (LIVEAVATAR_SLOTS; default one for each graphics card)"
    )


def run(options: argparse.Namespace) -> int:
    """Take part; return the exit code."""
    logging.getLogger().setLevel(logging.INFO)
    config = AppConfig.from_environment()
    token_file = options.token_file or config.token_file or config.data_dir / "cluster.token"
    cards = tuple(
        Card(name=gpu.name, total_bytes=gpu.total_bytes, other_bytes=gpu.other_bytes or 0, uuid=gpu.uuid)
        for gpu in visible_cards(HardwareMonitor().snapshot().gpus, config.visible_cards)
    )
    try:
        agent = MachineAgent(
            Endpoint.parse(options.rdzv_endpoint),
            ClusterKey.from_file(token_file),
            config.data_dir,
            module=config.worker_module,
            slots=options.slots or config.slots or len(cards) or 1,
            cards=cards,
        )
    except (OSError, ValueError) as error:
        sys.stderr.write(f"This machine cannot join: {error}\n")
        return REJECTED
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        agent.serve()
    return INTERRUPTED
