"""The measurements: the engine's own path from start to file, then its stages one by one."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liveavatar.conditioning.reference import SinkLatents, plain_sink
from liveavatar.core.events import Chunk, Progress, Telemetry
from liveavatar.core.peaks import RankPeaks
from liveavatar.core.plan import FPS, ExecutionPlan
from liveavatar.core.request import AUDIO_RATE, ValidatedRequest
from liveavatar.engines.s2v.engine import S2vEngine
from liveavatar.engines.s2v.parts import Parts
from liveavatar.engines.s2v.video import speech_blocks
from liveavatar.engines.s2v.video_file import grey_request
from liveavatar.models.s2v import TokenGrid
from liveavatar.models.vae import VaeCache
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.pipeline.denoise import BlockDenoiser
from liveavatar.pipeline.randomness import SeededRandomness

WINDOW_BLOCKS = 5  # until attention sees its full window and the sink was refreshed
_STAGE_BLOCKS = 6
_SOUND_PIECE = AUDIO_RATE // 30

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is measured: loaded parts, how they are used, and when to stop."""

    parts: Parts
    plan: ExecutionPlan
    deadline: float  # of time.perf_counter(); no new block is begun after it

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        device: torch.device = self.parts.transformer.device
        return device

    @property
    def num_steps(self) -> int:
        """Denoising steps of a block."""
        assert self.plan.parallel is not None, "a bench plan names its steps"
        return sum(self.plan.parallel.step_split)

    def is_late(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() > self.deadline


def measure_video(bench: Bench, engine: S2vEngine, num_blocks: int) -> tuple[Values, RankPeaks]:
    """Make one video as for an operator, H.264 included; time its beginning and `num_blocks` steady blocks."""
    total = WINDOW_BLOCKS + num_blocks
    peaks = RankPeaks()
    with tempfile.TemporaryDirectory(prefix="liveavatar-") as folder:
        request = _noise_request(Path(folder), total * PICTURES_PER_BLOCK)
        started = time.perf_counter()
        instants: list[float] = []
        first_bytes_s: float | None = None
        for event in engine.generate(request, bench.plan, should_stop=bench.is_late):
            elapsed = time.perf_counter() - started
            if isinstance(event, Chunk) and first_bytes_s is None:
                first_bytes_s = elapsed
            if isinstance(event, Progress) and event.stage == "generating":
                instants.append(elapsed)
            if isinstance(event, Telemetry):
                peaks.take(event)
    block_s = [later - earlier for earlier, later in itertools.pairwise(instants[WINDOW_BLOCKS - 1 :])]
    if not block_s:
        return {"skipped": "out of time before the window was full"}, peaks
    values = {
        "first_pictures_ms": round(1000 * instants[0]),
        "first_bytes_ms": None if first_bytes_s is None else round(1000 * first_bytes_s),
        "steady_blocks": len(block_s),
        "block_ms": round(1000 * statistics.median(block_s), 1),
        "slowest_block_ms": round(1000 * max(block_s), 1),
        "fps": round(PICTURES_PER_BLOCK * len(block_s) / sum(block_s), 2),
    }
    return values | (_memory(peaks) if bench.device.type == "cuda" else {}), peaks


def _memory(peaks: RankPeaks) -> Values:
    """Return the peaks in GB, and by how many MB memory grew once the window was full."""
    steady = peaks.allocated_bytes[WINDOW_BLOCKS:-2]  # with the last two, nothing more is under way
    return {
        "peak_gb": round(peaks.peak_bytes / 1e9, 2),
        "peak_reserved_gb": round(peaks.reserved_bytes / 1e9, 2),
        "memory_growth_mb": round((steady[-1] - steady[0]) / 1e6, 1) if steady else None,
    }


@torch.inference_mode()
def measure_stages(bench: Bench) -> Values:
    """Time what a video consists of, each stage waited for, in milliseconds."""
    parts, plan = bench.parts, bench.plan
    picture = torch.rand(3, plan.height, plan.width) * 2 - 1
    portrait_ms, sink = timed(bench, lambda: plain_sink(parts.vae, picture))
    randomness = SeededRandomness(0)
    prompt_ms, denoiser = timed(bench, lambda: _denoiser(bench, randomness))
    prefill_ms, _ = timed(bench, lambda: denoiser.set_sink(sink))
    beginning = {
        "portrait_ms": round(portrait_ms, 1),
        "prompt_keys_ms": round(prompt_ms, 1),
        "prefill_ms": round(prefill_ms, 1),
    }
    return beginning | _steady_stages(bench, denoiser, randomness, sink)


def _steady_stages(
    bench: Bench, denoiser: BlockDenoiser, randomness: SeededRandomness, sink: SinkLatents
) -> Values:
    """Return the median time of each stage of a block whose window is full."""
    parts, grid = bench.parts, _grid(bench)
    like = torch.empty(0, device=bench.device, dtype=parts.transformer.compute_dtype)
    noise = randomness.clip_noise(0, height=grid.latent_height, width=grid.latent_width, like=like)[:, :3]
    generator = np.random.default_rng(0)
    endless = (0.1 * generator.standard_normal(_SOUND_PIECE).astype(np.float32) for _ in itertools.count())
    speech = speech_blocks(parts.audio_encoder, endless, num_blocks=1_000_000)
    times: dict[str, list[float]] = {"speech_ms": [], "denoise_ms": [], "decode_ms": []}
    _, cache = parts.vae.decode_next(sink.motion[:, :, :1], None)
    for block in range(WINDOW_BLOCKS + _STAGE_BLOCKS):
        if bench.is_late():
            break
        speech_ms, features = timed(bench, lambda: next(speech).to(bench.device))
        denoise_ms, latents = timed(bench, _bound(denoiser.denoise, noise, features, block))
        decode_ms, (_, cache) = timed(bench, _bound(_decode, bench, latents, cache))
        if block >= WINDOW_BLOCKS:
            for name, value in zip(times, (speech_ms, denoise_ms, decode_ms), strict=True):
                times[name].append(value)
    medians = {name: round(statistics.median(values), 1) for name, values in times.items() if values}
    if "denoise_ms" in medians:
        medians["step_ms"] = round(medians["denoise_ms"] / bench.num_steps, 1)
    return medians


def _decode(bench: Bench, latents: Tensor, cache: VaeCache) -> tuple[Tensor, VaeCache]:
    pieces = []
    for piece in torch.split(latents[None], bench.plan.latents_per_decode, dim=2):
        pictures, cache = bench.parts.vae.decode_next(piece, cache)
        pieces.append(pictures)
    return torch.cat(pieces, dim=2), cache


def kernel_profile(bench: Bench, num_rows: int = 25) -> list[Values]:
    """Return the kernels that one steady block's denoising spends most time in, with their share."""
    with torch.inference_mode():
        randomness = SeededRandomness(0)
        denoiser = _denoiser(bench, randomness)
        grid, transformer = _grid(bench), bench.parts.transformer
        like = torch.empty(0, device=bench.device, dtype=transformer.compute_dtype)
        latents = randomness.clip_noise(0, height=grid.latent_height, width=grid.latent_width, like=like)[
            :, :3
        ]
        features = torch.randn(
            1, bench.parts.audio_encoder.num_states, bench.parts.audio_encoder.num_channels, PICTURES_PER_BLOCK,
            device=bench.device,
        )  # fmt: skip
        for block in range(WINDOW_BLOCKS):
            denoiser.denoise(latents, features, block)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            denoiser.denoise(latents, features, WINDOW_BLOCKS)
            torch.cuda.synchronize()
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_device_time_total)
    total = sum(row.self_device_time_total for row in rows)
    return [
        {
            "kernel": row.key[:120],
            "calls_per_step": round(row.count / bench.num_steps, 1),
            "ms_per_step": round(row.self_device_time_total / 1000 / bench.num_steps, 2),
            "share": round(row.self_device_time_total / total, 3),
        }
        for row in rows[:num_rows]
    ] + [{"kernel": "all", "ms_per_step": round(total / 1000 / bench.num_steps, 2), "share": 1.0}]


def timed(bench: Bench, call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the milliseconds of a call, waited for, and its result."""
    synchronize(bench.device)
    started = time.perf_counter()
    result = call()
    synchronize(bench.device)
    return 1000 * (time.perf_counter() - started), result


def synchronize(device: torch.device) -> None:
    """Wait for the card; the processor is never ahead of itself."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def allocated_bytes(device: torch.device) -> int:
    """Return the graphics memory that tensors hold, 0 on the processor."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _denoiser(bench: Bench, randomness: SeededRandomness) -> BlockDenoiser:
    return BlockDenoiser(
        bench.parts.transformer,
        grid=_grid(bench),
        text=bench.parts.encode_prompt("", on_processor=True),
        sink_distance=randomness.sink_distance,
        num_steps=bench.num_steps,
        kv_precision=bench.parts.usable_kv(bench.plan.kv_precision),
        host_caches=bench.parts.host_caches if bench.plan.offload.caches else None,
    )


def _grid(bench: Bench) -> TokenGrid:
    return TokenGrid(latent_height=bench.plan.height // 8, latent_width=bench.plan.width // 8)


def _bound(call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: call(*arguments)


def _noise_request(folder: Path, num_frames: int) -> ValidatedRequest:
    """Return a request for a grey picture and a noisy voice of `num_frames` picture frames, 25 per second."""
    samples = 3000 * np.random.default_rng(0).standard_normal(num_frames * AUDIO_RATE // FPS)
    return grey_request("bench", folder, samples.astype(np.int16), side=1024)
