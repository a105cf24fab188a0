"""Start LiveAvatar Studio: `python app.py`. Also the entry point of the Hugging Face Space."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from liveavatar.config import AppConfig
from liveavatar.core.errors import LiveAvatarError
from liveavatar.core.parallel import KV_PRECISIONS, PRECISIONS
from liveavatar.service.facade import Studio


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until interrupted; return the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        config = _parse(arguments)
        studio = Studio(config)
    except LiveAvatarError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except ValueError as error:
        sys.stderr.write(f"A setting cannot be used: {error}\n")
        return 2
    signal.signal(signal.SIGTERM, _leave)
    try:
        return _serve(studio, config)
    finally:
        studio.close()


def _serve(studio: Studio, config: AppConfig) -> int:
    gc.disable()  # Gradio's many modules live as long as the app; collecting amid them is a quarter of the start
    from ui.page import build_page, launch_options  # late: a bad setting is told before Gradio loads

    page = build_page(studio)
    try:
        page.launch(
            server_name=config.host,
            server_port=config.port,
            prevent_thread_lock=True,
            quiet=True,
            **launch_options(studio),
        )
    except OSError as error:
        sys.stderr.write(f"The page cannot be served: {error}\nChoose another port with --port.\n")
        return 1
    sys.stdout.write(f"LiveAvatar Studio is at {page.local_url} (Ctrl+C ends it)\n")
    sys.stdout.flush()
    gc.freeze()
    gc.enable()
    studio.start()  # after the page: the engine's start takes the processor for a moment
    with contextlib.suppress(KeyboardInterrupt):
        page.block_thread()
    return 0


def _parse(arguments: Sequence[str] | None) -> AppConfig:
    parser = argparse.ArgumentParser(
        prog="python app.py", description="LiveAvatar Studio: interactive talking avatars"
    )
    parser.add_argument(
        "--host", help="address to listen on (GRADIO_SERVER_NAME; default 127.0.0.1, this machine only)"
    )
    parser.add_argument(
        "--port", type=int, help="port (GRADIO_SERVER_PORT; default the first free one from 7860)"
    )
    parser.add_argument(
        "--ckpt-dir",
        type=Path,
        help="the s2v model, folder Wan2.2-S2V-14B (LIVEAVATAR_CKPT_DIR; see docs/models.md)",
    )
    parser.add_argument(
        "--lora-path",
        type=Path,
        help="its liveavatar.safetensors, where that is not inside or beside the folder (LIVEAVATAR_LORA_PATH)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the s2v engine's weights (LIVEAVATAR_PRECISION; left open when not given)",
    )
    parser.add_argument(
        "--kv",
        choices=KV_PRECISIONS,
        help="of its cached keys and values; int8: 8-bit attention, Hopper cards (LIVEAVATAR_KV)",
    )
    parser.add_argument(
        "--nnodes",
        type=int,
        help="machines that make one video together (LIVEAVATAR_NNODES; docs/multi-gpu.md)",
    )
    parser.add_argument(
        "--rdzv-endpoint",
        metavar="HOST:PORT",
        help="address of this machine where the others join (LIVEAVATAR_RDZV_ENDPOINT)",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        help="what they know each other by (LIVEAVATAR_TOKEN_FILE; made when missing)",
    )
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    return dataclasses.replace(AppConfig.from_environment(), **given)


def _leave(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
