"""The timestep pipeline of the s2v engine over processes that share one graphics card, against one process.

    python -m benchmarks.s2v_parallel --out result.json                       14B, 8 bits, 704x384; needs 135 GB
    python -m benchmarks.s2v_parallel --size 384x256                          on a card of 80 GB
    python -m benchmarks.s2v_parallel --model tiny --size 64x64 --precision bf16     anywhere

Random weights from one seed; the ranks talk through gloo. Every plan's latents are compared with those of one process.
Stages take turns on the card while they are timed, so a stage's time is what it would be on a card of its own. Needs
no checkpoint and no media library. Every finished plan is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
import time
from multiprocessing.synchronize import Lock
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing
from torch.multiprocessing.spawn import spawn

from liveavatar.conditioning.reference import SinkLatents
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan
from liveavatar.engines.s2v.bench.random_parts import TRANSFORMERS
from liveavatar.engines.s2v.bench.random_transformer import random_transformer
from liveavatar.engines.s2v.rank_setup import join, use_own_card
from liveavatar.engines.s2v.rank_video import clean_blocks
from liveavatar.models.s2v import TokenGrid
from liveavatar.pipeline.denoise import BlockDenoiser
from liveavatar.pipeline.message import BlockMessage
from liveavatar.pipeline.randomness import SeededRandomness

SPLITS = ((4,), (2, 2), (1, 1, 1, 1))
WINDOW_BLOCKS = 5  # until attention sees its full window and the sink was refreshed
PLAN_TIMEOUT_S = 90.0


def main() -> None:
    """Run the plans one after the other."""
    options = _options()
    results: dict[str, Any] = {}
    expected: Tensor | None = None
    for split in SPLITS:
        plan = ParallelPlan(step_split=split)
        latents, result = run_plan(plan, options)
        if expected is None:
            expected = latents
        result |= compare(latents, expected)
        results["+".join(map(str, split))] = result
        print(json.dumps({"steps": split, **result}), flush=True)
        if options.out:
            options.out.write_text(json.dumps(results, indent=2) + "\n")


def run_plan(plan: ParallelPlan, options: argparse.Namespace) -> tuple[Tensor, dict[str, Any]]:
    """Return the latents [blocks, 16, 3, h, w] and what was measured."""
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    turn = context.Lock()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        arguments = (plan, options, port, turn, Path(folder))
        ranks = spawn(_run_rank, arguments, nprocs=plan.world_size, join=False)
        deadline = time.monotonic() + PLAN_TIMEOUT_S
        while not ranks.join(timeout=1):
            if time.monotonic() > deadline:
                for process in ranks.processes:
                    process.kill()
                raise TimeoutError(f"{plan.describe()} was not done after {PLAN_TIMEOUT_S:.0f} s")
        measured = [
            json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(plan.world_size)
        ]
        latents: Tensor = torch.load(Path(folder) / "latents.pt")
    return latents, {
        "stage_ms": [rank["stage_ms"] for rank in measured],
        "peak_gb": [rank["peak_gb"] for rank in measured],
        "card": measured[0]["card"],
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - started, 1),
    }


def compare(latents: Tensor, expected: Tensor) -> dict[str, Any]:
    """Return how far the latents are from those of one process."""
    difference, scale = (latents.float() - expected.float()), expected.float().square().mean().sqrt()
    return {
        "same_bits": bool(torch.equal(latents, expected)),
        "rms_error": float(difference.square().mean().sqrt() / scale),
        "max_error": float(difference.abs().max() / scale),
        "finite": bool(latents.isfinite().all()),
    }


def _run_rank(
    index: int, plan: ParallelPlan, options: argparse.Namespace, port: int, turn: Lock, folder: Path
) -> None:
    os.environ |= {
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(plan.world_size),
        "LOCAL_WORLD_SIZE": str(plan.world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    device = use_own_card(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    on_card = device.type == "cuda"
    if not on_card:
        torch.set_num_threads(1)
    dtype = torch.bfloat16 if on_card else torch.float32
    width, height = map(int, options.size.split("x"))
    grid = TokenGrid(latent_height=height // 8, latent_width=width // 8)
    execution = ExecutionPlan(engine="s2v", width=width, height=height, precision=options.precision)
    config = TRANSFORMERS[options.model]
    torch.manual_seed(0)
    model = random_transformer(config, execution, device, dtype)
    model.select_attention()
    rank = join(plan, device, deadline_s=PLAN_TIMEOUT_S)
    block_ms = _time_blocks(turn, on_card)
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    size = (grid.latent_height, grid.latent_width)
    with torch.inference_mode():
        made = clean_blocks(
            rank,
            model,
            grid=grid,
            dtype=dtype,
            text=random(128, config["text_dim"])[: config["text_len"]],
            sink=SinkLatents(reference=random(1, 16, 1, *size), motion=random(1, 16, 19, *size)),
            speech=[random(1, 25, config["audio_dim"], 12).float() for _ in range(options.blocks)],
            randomness=SeededRandomness(0),
            admit=lambda message: message,
        )
        latents = [message.latents.cpu() for message in made]
    if rank.place.decodes:
        torch.save(torch.stack(latents), folder / "latents.pt")
    measured = {
        "stage_ms": round(statistics.median(block_ms[WINDOW_BLOCKS:] or block_ms), 1),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if on_card else 0.0,
        "card": torch.cuda.get_device_name() if on_card else "processor",
    }
    (folder / f"{index}.json").write_text(json.dumps(measured))
    rank.leave()


def _time_blocks(turn: Lock, on_card: bool) -> list[float]:
    """Have every stage wait for its turn on the card; return the list that its milliseconds per block go to."""
    block_ms: list[float] = []
    advance = BlockDenoiser.advance

    def timed(self: BlockDenoiser, message: BlockMessage, masks: Tensor | None = None) -> BlockMessage:
        with turn:
            started = time.perf_counter()
            done = advance(self, message, masks)
            if on_card:
                torch.cuda.synchronize()
            block_ms.append(1000 * (time.perf_counter() - started))
        return done

    BlockDenoiser.advance = timed  # type: ignore[method-assign]
    return block_ms


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("full", "tiny"), default="full")
    parser.add_argument("--size", default="704x384", help="width x height, multiples of 64")
    parser.add_argument("--precision", choices=("bf16", "fp8"), default="fp8")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
