"""Serve the real page on the real app with the paced engine: `python -m tests.fakes.serve_page PORT DATA_DIR [flags]`.

Flags: `gpus` shows five invented graphics cards, `visitors` keeps visitors apart, `login` asks for ann / secret.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import Any

from liveavatar.config import AppConfig
from liveavatar.monitoring.hardware import GpuSample, HardwareSnapshot
from liveavatar.service.facade import Studio
from ui.page import build_page, launch_options

_GIB = 1024**3


class StudioWithCards(Studio):
    """A machine with five graphics cards, one of them crowded."""

    def hardware(self) -> HardwareSnapshot:
        """Return the true machine plus the cards."""
        used = [31, 30, 32, 77, 24]
        cards = [
            GpuSample(
                index=index,
                name="NVIDIA H800",
                total_bytes=80 * _GIB,
                used_bytes=gib * _GIB,
                free_bytes=(80 - gib) * _GIB,
                utilisation=70 + index,
                temperature=52 + index,
            )
            for index, gib in enumerate(used)
        ]
        return dataclasses.replace(super().hardware(), gpus=tuple(cards), problem="")


def main() -> None:
    """Serve until terminated."""
    port, data_dir, flags = int(sys.argv[1]), Path(sys.argv[2]), set(sys.argv[3:])
    config = AppConfig(
        data_dir=data_dir, worker_module="tests.fakes.paced_engine", per_visitor="visitors" in flags
    )
    studio = (StudioWithCards if "gpus" in flags else Studio)(config)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    page = build_page(studio)
    options: dict[str, Any] = launch_options(studio)
    if "login" in flags:
        options["auth"] = ("ann", "secret")
    page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, **options)
    studio.start()
    try:
        page.block_thread()
    finally:
        studio.close()


if __name__ == "__main__":
    main()
