"""How far 8 bits move the S2V transformer: every approximation against the plain model, with random weights.

    python -m benchmarks.s2v_precision --out result.json              full width, on the graphics card
    python -m benchmarks.s2v_precision --model tiny --size 64x64      anywhere, as a rehearsal

The weights are drawn like those of trained transformers: rows and channels of different strength, a few channels
much larger than the others. Error: root mean square of the difference of velocities over that of the velocities, mean
over blocks with a full window, against the same weights in float32 and in the working precision.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.difference import relative_rms
from liveavatar.core.parallel import KvPrecision
from liveavatar.engines.s2v.bench.random_parts import TRANSFORMERS, with_layers
from liveavatar.engines.s2v.bench.run import describe_machine
from liveavatar.loading.quantize import quantize_linears
from liveavatar.models.s2v import S2VTransformer, TokenGrid

WARM_UP_BLOCKS, TIMED_BLOCKS = 4, 4
SINK_DISTANCE = 20
LARGE_CHANNELS, LARGE_FACTOR, SPREAD = 0.002, 6.0, 0.4


def main() -> None:
    """Print and write the error of every approximation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("full", "tiny"), default="full")
    parser.add_argument("--size", default="704x384", help="width x height, multiples of 64")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    width, height = map(int, options.size.split("x"))
    grid = TokenGrid(latent_height=height // 8, latent_width=width // 8)
    config = TRANSFORMERS[options.model] | with_layers(options.layers)

    def velocities(
        dtype: torch.dtype,
        *,
        kv: KvPrecision = "bf16",
        change: Callable[[S2VTransformer], object] | None = None,
    ) -> Tensor:
        model = realistic_model(config, device).to(dtype)
        if change is not None:
            change(model)
        return run_blocks(model, grid, kv)

    exact = velocities(torch.float32)
    plain = velocities(torch.bfloat16)
    results: dict[str, Any] = {"machine": describe_machine(device), "options": {**vars(options), "out": None}}
    variants: dict[str, dict[str, Any]] = {
        "bf16": {},
        "8-bit linears, a scale per row": {"change": lambda model: quantize_linears(model, "per_row")},
        "8-bit linears, one scale (published)": {
            "change": lambda model: quantize_linears(model, "per_tensor")
        },
        "8-bit cache": {"kv": "fp8"},
        "8-bit attention": {"kv": "int8"},
        "8-bit linears and cache": {"kv": "fp8", "change": quantize_linears},
        "8-bit linears and attention": {"kv": "int8", "change": quantize_linears},
    }
    for name, arguments in variants.items():
        try:
            found = velocities(torch.bfloat16, **arguments)
        except (RuntimeError, ValueError) as error:  # not on this machine
            results[name] = {"error": str(error).splitlines()[0][:200]}
        else:
            results[name] = {
                "from_float32": round(relative_rms(found, exact), 5),
                "from_bf16": round(relative_rms(found, plain), 5),
            }
        print(json.dumps({name: results[name]}), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def realistic_model(config: dict[str, Any], device: torch.device) -> S2VTransformer:
    """Return a model in float32; the same arguments give the same weights."""
    torch.manual_seed(0)
    with device:
        model: S2VTransformer = S2VTransformer(**config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("weight") and parameter.ndim == 2 and "embedding" not in name:
            rows, columns = parameter.shape
            parameter.mul_((SPREAD * torch.randn(rows, 1, device=device)).exp())
            parameter.mul_((SPREAD * torch.randn(1, columns, device=device)).exp())
        elif "norm" in name and name.endswith("weight"):
            gain = 0.25 + 1.5 * torch.rand(parameter.shape, device=device)
            large = torch.rand(parameter.shape, device=device) < LARGE_CHANNELS
            parameter.copy_(torch.where(large, LARGE_FACTOR * gain, gain))
    return model


@torch.inference_mode()
def run_blocks(model: S2VTransformer, grid: TokenGrid, kv: KvPrecision) -> Tensor:
    """Return the velocities [blocks, 16, 3, h, w] of blocks with a full window, float32."""
    device = model.patch_embedding.weight.device
    generator = torch.Generator(device).manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(model.compute_dtype)

    def latents(frames: int) -> Tensor:
        return noise(16, frames, grid.latent_height, grid.latent_width)

    text = model.encode_text(noise(128, model.config["text_dim"]))
    time = model.encode_time(857.7)
    model.select_attention()
    (cache,) = model.allocate_caches(grid, 1, precision=kv)
    model.prefill(latents(1), latents(19), text, [cache])
    found = []
    for block in range(WARM_UP_BLOCKS + TIMED_BLOCKS):
        audio = model.encode_audio(noise(1, 25, model.config["audio_dim"], 12))
        velocity = model(latents(3), time, text, audio, cache.locate(block, SINK_DISTANCE), cache)
        if block >= WARM_UP_BLOCKS:
            found.append(velocity.float())
    return torch.stack(found)


if __name__ == "__main__":
    main()
