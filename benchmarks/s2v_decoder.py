"""The decoder alone: milliseconds per block and memory, in every form that the planner knows.

    python -m benchmarks.s2v_decoder --out result.json        704x384, random weights, on a graphics card
    python -m benchmarks.s2v_decoder --size 192x192 --tiny    rehearsal anywhere

A form is how many latent frames go into one call, and whether in two tiles. `cache_gb` is what the decoder remembers
from block to block, `working_gb` what it needs on top while it works, its next memory included. The encoder's working
memory, for the 73 pictures of the sink, is in `encoder_gb`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from liveavatar.conditioning.reference import plain_sink
from liveavatar.core.plan import ExecutionPlan
from liveavatar.engines.s2v.bench.random_parts import VAE_WIDTH, random_vae
from liveavatar.engines.s2v.bench.run import describe_machine
from liveavatar.engines.s2v.compiling import compile_parts
from liveavatar.engines.s2v.memory import give_back
from liveavatar.models.s2v.config import FRAMES_PER_BLOCK, LATENT_CHANNELS
from liveavatar.models.tiled_vae import tiled
from liveavatar.pipeline.decode import decode_blocks

FORMS = ((3, False), (3, True), (1, False), (1, True))  # latent frames per call, in two tiles
WARM_UP_BLOCKS, TIMED_BLOCKS = 2, 5


def main() -> None:
    """Measure every form; each is one line of JSON."""
    options = _options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    width, height = map(int, options.size.split("x"))
    report: dict[str, Any] = {"machine": describe_machine(device), "size": options.size, "forms": []}
    for latents_per_call, is_tiled in FORMS:
        plan = ExecutionPlan(engine="s2v", width=width, height=height)
        form = measure(latents_per_call, is_tiled, plan, device, options.tiny)
        report["forms"].append(form)
        print(json.dumps(form), flush=True)
        if options.out:
            options.out.write_text(json.dumps(report, indent=1) + "\n")


@torch.inference_mode()
def measure(
    latents_per_call: int, is_tiled: bool, plan: ExecutionPlan, device: torch.device, is_tiny: bool
) -> dict[str, Any]:
    """Return time and memory of one form."""
    on_card = device.type == "cuda"
    vae = random_vae(
        VAE_WIDTH["tiny" if is_tiny else "full"], device, torch.bfloat16 if on_card else torch.float32
    )
    vae = tiled(vae) if is_tiled else vae
    if on_card:
        torch._dynamo.reset()
        compile_parts(None, vae, None)
    picture = torch.rand(3, plan.height, plan.width) * 2 - 1
    plain_sink(vae, picture, latents_per_call=latents_per_call)  # compiles
    held = _begin(on_card)
    sink = plain_sink(vae, picture, latents_per_call=latents_per_call)
    encoder_bytes = _peak(on_card) - held
    shape = (LATENT_CHANNELS, FRAMES_PER_BLOCK, plan.height // 8, plan.width // 8)
    block = torch.randn(shape, device=device, dtype=sink.motion.dtype)
    held = _begin(on_card)
    blocks = decode_blocks(
        vae, sink.motion, [block] * (WARM_UP_BLOCKS + TIMED_BLOCKS), latents_per_decode=latents_per_call
    )
    for _ in range(WARM_UP_BLOCKS):
        next(blocks)
    with_cache = _begin(on_card)
    seconds = []
    for _ in range(TIMED_BLOCKS):
        started = time.perf_counter()
        next(blocks)
        if on_card:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {
        "latents_per_call": latents_per_call,
        "tiles": 2 if is_tiled else 1,
        "block_ms": round(1000 * statistics.median(seconds), 1),
        "cache_gb": round((with_cache - held) / 1e9, 3),
        "working_gb": round((_peak(on_card) - with_cache) / 1e9, 3),
        "encoder_gb": round(encoder_bytes / 1e9, 3),
    }


def _begin(on_card: bool) -> int:
    """Begin to look for a peak; return what is in use."""
    give_back()
    if not on_card:
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak(on_card: bool) -> int:
    return torch.cuda.max_memory_allocated() if on_card else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="704x384", help="width x height, multiples of 64")
    parser.add_argument("--tiny", action="store_true", help="a small autoencoder, for a rehearsal")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
