"""python -m liveavatar.worker RUN_DIR PARENT_PID: the engine process. Started by the supervisor only."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path

from liveavatar.config import process_rank
from liveavatar.core.engine import Engine
from liveavatar.worker.near_card import stay_near_card
from liveavatar.worker.serve import Worker


def _portrait() -> Engine:
    engine: Engine = importlib.import_module("liveavatar.engines.portrait.engine").PortraitEngine()
    return engine


def _s2v() -> Engine:
    stay_near_card()
    engine: Engine = importlib.import_module("liveavatar.engines.s2v.engine").S2vEngine()
    return engine


def main() -> None:
    """Serve the engines of this installation."""
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s rank {process_rank()} %(levelname)s %(name)s: %(message)s"
    )
    Worker(Path(sys.argv[1]), int(sys.argv[2]), {"portrait": _portrait, "s2v": _s2v}).run()


if __name__ == "__main__":
    main()
