"""Compile what runs for every block, and keep the machine code for the next start."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch._dynamo.exc import TorchDynamoException

from liveavatar.engines.s2v.memory import give_back
from liveavatar.models.s2v import S2VTransformer
from liveavatar.models.vae import StreamingVae

Result = TypeVar("Result")

log = logging.getLogger(__name__)

_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # where torch keeps generated kernels; read when it compiles
# Graphs of one piece of code: one for each picture size, for prefilling and streaming.
_MAX_GRAPHS = 64


def compile_parts(
    transformer: S2VTransformer | None, vae: StreamingVae | None, cache_folder: Path | None
) -> None:
    """Have layers, injections, head and autoencoder compiled when they first run.

    `cache_folder` keeps the machine code, so that the next start takes seconds instead of minutes; None leaves it
    where torch puts it.
    """
    if cache_folder is not None:
        cache_folder.mkdir(parents=True, exist_ok=True)
        os.environ[_CACHE_VARIABLE] = str(cache_folder)
    torch._dynamo.config.recompile_limit = _MAX_GRAPHS
    if transformer is not None:
        transformer.compile_parts()
    if vae is not None:
        vae.compile_streams(dynamic=False)
    log.info("compiling, machine code kept in %s", cache_folder or "the default place")


def compiled_or_not(run: Callable[[], Result]) -> tuple[Result, str]:
    """Return what `run` returns and "", or, where compiling fails, what it returns uncompiled and the reason.

    A machine without a C compiler, for example, cannot compile; it works all the same, at a lower speed.
    """
    try:
        return run(), ""
    except TorchDynamoException as error:
        reason = _reason(error)
        log.warning("the networks run uncompiled: %s", reason)
        log.debug("compiling failed", exc_info=True)
    # Not within `except`: the error's traceback holds what was computed so far.
    give_back()
    torch.compiler.set_stance("force_eager")
    return run(), reason


def _reason(error: TorchDynamoException) -> str:
    """Return the line that names the error behind the compiler's own."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Error" in line), lines[0] if lines else type(error).__name__)
