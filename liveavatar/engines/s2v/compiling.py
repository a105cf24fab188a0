"""Compile what runs for every block, and keep the machine code for the next start."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from liveavatar.engines.s2v.parts import Parts

log = logging.getLogger(__name__)

_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # where torch keeps generated kernels; read when it compiles
# Graphs of one piece of code: one for each picture size, for prefilling and streaming.
_MAX_GRAPHS = 64


def compile_parts(parts: Parts, cache_folder: Path | None) -> None:
    """Have layers, injections, head and autoencoder compiled when they first run.

    `cache_folder` keeps the machine code, so that the next start takes seconds instead of minutes; None leaves it
    where torch puts it.
    """
    if cache_folder is not None:
        cache_folder.mkdir(parents=True, exist_ok=True)
        os.environ[_CACHE_VARIABLE] = str(cache_folder)
    torch._dynamo.config.recompile_limit = _MAX_GRAPHS
    parts.transformer.compile_parts()
    parts.vae.compile_streams(dynamic=False)
    log.info(
        "compiling for %s, machine code kept in %s",
        parts.transformer.device,
        cache_folder or "the default place",
    )
