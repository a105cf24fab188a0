"""Time one denoising step of the S2V transformer with random weights.

    python -m benchmarks.s2v_step --height 384 --width 704 --precision fp8 --mode graph

Weights are random, so this measures arithmetic and memory only. With fewer `--layers` than the model's 40 the time
of the blocks is scaled up. Modes: `eager`; `compiled`, layer by layer; `graph`, the compiled step as a CUDA graph.
Every mode is compared with the eager result of the same precision.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from benchmarks.difference import relative_rms
from liveavatar.core.parallel import KvPrecision
from liveavatar.engines.s2v.bench.random_parts import with_layers
from liveavatar.loading.quantize import quantize_linears
from liveavatar.models.s2v import S2V_14B, S2VTransformer, TokenGrid
from liveavatar.models.s2v.kv_cache import BlockPosition, KVCache

FULL_LAYERS = S2V_14B["num_layers"]
WARM_UP_BLOCKS = 5  # one more than the window holds
TIMED_BLOCKS = 10
JITTER = 20  # where the reference picture stands does not change the time


def main() -> None:
    """Print the time and the memory of a step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--height", type=int, default=384, help="pixels")
    parser.add_argument("--width", type=int, default=704, help="pixels")
    parser.add_argument("--layers", type=int, default=FULL_LAYERS)
    parser.add_argument("--precision", choices=("bf16", "fp8"), default="bf16")
    parser.add_argument("--mode", choices=("eager", "compiled", "graph"), default="compiled")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--kv", choices=("bf16", "fp8", "int8"), default="bf16", help="keys and values")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    grid = TokenGrid(latent_height=options.height // 8, latent_width=options.width // 8)
    model = random_model(options.layers, options.precision, device)
    print(f"attention kernel: {model.select_attention(options.attention)}", flush=True)

    stream = Stream(model, grid, options.kv)
    for block in range(WARM_UP_BLOCKS):
        expected = stream.denoise(block)
    last = WARM_UP_BLOCKS - 1
    if options.mode != "eager":
        started = time.perf_counter()
        model.compile_repeated_blocks(fullgraph=True)
        error = relative_rms(stream.denoise(last), expected)
        print(f"compiled in {time.perf_counter() - started:.1f} s, {error:.1e} from eager", flush=True)
    if options.mode == "graph":
        stream.capture(last)
        print(f"captured, {relative_rms(stream.denoise(last), expected):.1e} from eager", flush=True)
    times_ms = [timed_ms(stream, block) for block in range(WARM_UP_BLOCKS, WARM_UP_BLOCKS + TIMED_BLOCKS)]
    report(times_ms, options.layers, device)


def random_model(num_layers: int, precision: str, device: torch.device) -> S2VTransformer:
    """Return a model of the published width, built layer by layer on the device."""
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model: S2VTransformer = S2VTransformer(**(S2V_14B | with_layers(num_layers))).eval()
    torch.set_default_dtype(torch.float32)
    if precision == "fp8":
        quantize_linears(model)
    return model


class Stream:
    """One video with random conditions and the cache of one step."""

    def __init__(self, model: S2VTransformer, grid: TokenGrid, kv_precision: KvPrecision) -> None:
        device = model.patch_embedding.weight.device

        def latents(frames: int) -> Tensor:
            return torch.randn(16, frames, grid.latent_height, grid.latent_width, device=device)

        self.model = model
        self.text = model.encode_text(torch.randn(128, S2V_14B["text_dim"], device=device))
        self.time = model.encode_time(857.7)
        self.audio = model.encode_audio(torch.randn(1, 25, S2V_14B["audio_dim"], 12, device=device))
        self.cache: KVCache = model.allocate_caches(grid, 1, precision=kv_precision)[0]
        model.prefill(latents(1), latents(19), self.text, [self.cache])
        self.latents = latents(3)
        self.graph: torch.cuda.CUDAGraph | None = None

    def denoise(self, block_index: int) -> Tensor:
        """Return the velocity of a block."""
        position = self.cache.locate(block_index, JITTER)
        if self.graph is None:
            return self.forward(position)
        torch._foreach_copy_(tensors_of(self.position), tensors_of(position))
        self.graph.replay()
        return self.velocity

    def capture(self, block_index: int) -> None:
        """Record the forward; from now on only its position is updated. The window must be full."""
        self.position: BlockPosition = self.cache.locate(block_index, JITTER)
        self.graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph):
            self.velocity: Tensor = self.forward(self.position)

    def forward(self, position: BlockPosition) -> Tensor:
        """Run the model."""
        velocity: Tensor = self.model(self.latents, self.time, self.text, self.audio, position, self.cache)
        return velocity


def tensors_of(position: BlockPosition) -> list[Tensor]:
    """Return what differs between blocks once the window is full."""
    return [*position.rotary_N, *position.rotary_reference_S, position.slot_rows_N]


def timed_ms(stream: Stream, block_index: int) -> float:
    """Return the wall-clock time of one forward."""
    synchronize()
    started = time.perf_counter()
    stream.denoise(block_index)
    synchronize()
    return 1000 * (time.perf_counter() - started)


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(times_ms: list[float], num_layers: int, device: torch.device) -> None:
    """Print the times as measured and for all layers, and the peak of the memory."""
    median = statistics.median(times_ms)
    scaled = median * FULL_LAYERS / num_layers
    print(f"{median:.1f} ms per step (median of {len(times_ms)}, {min(times_ms):.1f} to {max(times_ms):.1f})")
    print(f"{num_layers} of {FULL_LAYERS} layers; scaled to all: {scaled:.0f} ms")
    if device.type == "cuda":
        print(f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB at the peak")


if __name__ == "__main__":
    main()
