"""Time the s2v engine's own path, from portrait and sound to pictures on the host, with random weights.

    python -m benchmarks.s2v_engine --out result.json                  full size, on the graphics card
    python -m benchmarks.s2v_engine --model tiny --size 64x64          anywhere, in half a minute

Needs no checkpoint and no media library. Every finished stage is printed as one line of JSON, and `--out` is written
anew each time, so a run that is cut short leaves what it measured. Random weights measure arithmetic and memory, not
quality. A variant is `precision:mode`, for example `fp8:compiled`; the last one gets the time that is left.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parametrize
from transformers import Wav2Vec2Config, Wav2Vec2Model

from liveavatar.conditioning.audio import AudioEncoder
from liveavatar.conditioning.reference import plain_sink
from liveavatar.engines.s2v.video import speech_blocks, stream_pictures
from liveavatar.loading.quantize import quantize_linears
from liveavatar.models.s2v import S2V_14B, S2VTransformer, TokenGrid
from liveavatar.models.vae import StreamingVae
from liveavatar.pipeline.session import (
    PICTURES_PER_BLOCK,
    WARM_UP_LATENTS,
    BlockDenoiser,
    SeededRandomness,
)
from liveavatar.planning.memory_model import RankRole, forecast_bytes
from liveavatar.planning.model_spec import VideoSize

STARTED = time.perf_counter()
SHORT_BLOCKS = 12  # of every variant but the last
WINDOW_BLOCKS = 5  # until attention sees its full window and the sink was refreshed
TIMED_BLOCKS = 6  # of the stages one by one
PROMPT_TOKENS = 128
SOUND_PIECE = 1600  # samples that arrive at a time, 0.1 s

TINY: dict[str, Any] = S2V_14B | {
    "dim": 96, "ffn_dim": 160, "num_heads": 6, "num_layers": 4, "freq_dim": 64, "text_dim": 40,
    "audio_dim": 32, "audio_inject_layers": [0, 2],
}  # fmt: skip
SPEECH_SHAPES: dict[str, dict[str, Any]] = {
    "full": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
    "tiny": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "conv_dim": [16] * 7},
}
VAE_WIDTH = {"full": 96, "tiny": 8}


def main() -> None:
    """Run the variants one after the other."""
    options = _options()
    report = Report(options.out)
    bench = Bench(options, report)
    variants = [variant.split(":") for variant in options.variants.split(",")]
    for index, (precision, mode) in enumerate(variants):
        is_last = index == len(variants) - 1
        try:
            bench.run(precision, mode, num_blocks=options.blocks if is_last else SHORT_BLOCKS)
        except RuntimeError as error:  # out of memory, or the compiler: the other variants may still work
            report.add(f"{precision}:{mode}", error=f"{type(error).__name__}: {str(error)[:400]}")
    report.add("end", seconds=round(time.perf_counter() - STARTED, 1))


class Report:
    """What was measured so far."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stages: dict[str, dict[str, Any]] = {}

    def add(self, stage: str, **values: Any) -> None:
        """Print the stage as a line of JSON and write all of them to the file."""
        self._stages.setdefault(stage, {}).update(values)
        print(json.dumps({"stage": stage, **values}), flush=True)
        if self._path is not None:
            self._path.write_text(json.dumps(self._stages, indent=2) + "\n")


class Bench:
    """The networks with random weights and one random video's conditions."""

    def __init__(self, options: argparse.Namespace, report: Report) -> None:
        self._options, self._report = options, report
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        self._width, self._height = map(int, options.size.split("x"))
        self._precision = "bf16"
        self._is_compiled = False
        report.add("machine", **describe_machine())
        self._load()
        self._text = torch.randn(
            PROMPT_TOKENS, self._transformer.config["text_dim"], device=self._device, dtype=self._dtype
        )
        self._picture = torch.rand(3, self._height, self._width) * 2 - 1

    def run(self, precision: str, mode: str, *, num_blocks: int) -> None:
        """Measure one variant: the path as a whole first, then its stages."""
        stage = f"{precision}:{mode}"
        if self._is_late():
            self._report.add(stage, skipped="out of time")
            return
        self._prepare(precision, mode)
        started = time.perf_counter()
        for _ in itertools.islice(self._stream(), WINDOW_BLOCKS + 1):
            pass
        self._report.add(stage, warm_up_s=round(time.perf_counter() - started, 1))
        reset_peak()
        self._steady(stage, num_blocks)
        self._stages(stage)

    @torch.inference_mode()
    def _steady(self, stage: str, num_blocks: int) -> None:
        """Time the first pictures and then block after block, memory included."""
        stream = self._stream()
        started = time.perf_counter()
        next(stream)
        first_s = time.perf_counter() - started
        self._report.add(stage, first_pictures_ms=round(1000 * first_s))
        block_s: list[float] = []
        memory_bytes: list[int] = []
        while len(block_s) < WINDOW_BLOCKS + num_blocks and not self._is_late():
            started = time.perf_counter()
            next(stream)
            block_s.append(time.perf_counter() - started)
            memory_bytes.append(allocated_bytes())
        steady_s = block_s[WINDOW_BLOCKS:]
        if not steady_s:
            self._report.add(stage, skipped="out of time before the window was full")
            return
        self._report.add(
            stage,
            steady_blocks=len(steady_s),
            block_ms=round(1000 * statistics.median(steady_s), 1),
            slowest_block_ms=round(1000 * max(steady_s), 1),
            fps=round(PICTURES_PER_BLOCK * len(steady_s) / sum(steady_s), 2),
            memory_growth_mb=round((memory_bytes[-1] - memory_bytes[WINDOW_BLOCKS]) / 1e6, 1),
            **peak_gb(),
        )

    @torch.inference_mode()
    def _stages(self, stage: str) -> None:
        """Time what the path consists of, one by one, each waited for."""
        sink_ms, sink = timed(lambda: plain_sink(self._vae, self._picture.to(self._device)))
        self._report.add(stage, portrait_ms=round(sink_ms, 1))
        randomness = SeededRandomness(0)
        grid = self._grid()
        text_ms, denoiser = timed(
            lambda: BlockDenoiser(
                self._transformer,
                grid=grid,
                text=self._text,
                sink_distance=randomness.sink_distance,
                num_steps=self._options.steps,
            )
        )
        prefill_ms, _ = timed(lambda: denoiser.set_sink(sink))
        self._report.add(stage, text_and_caches_ms=round(text_ms, 1), prefill_ms=round(prefill_ms, 1))
        like = torch.empty(0, device=self._device, dtype=self._dtype)
        noise = randomness.clip_noise(0, height=grid.latent_height, width=grid.latent_width, like=like)[:, :3]
        speech = self._speech()
        times: dict[str, list[float]] = {"speech_ms": [], "denoise_ms": [], "decode_ms": []}
        _, cache = self._vae.decode_next(sink.motion[:, :, :WARM_UP_LATENTS], None)
        for block in range(WINDOW_BLOCKS + TIMED_BLOCKS):
            if self._is_late():
                break
            speech_ms, features = timed(lambda: next(speech).to(self._device))
            denoise_ms, latents = timed(
                lambda block=block, features=features: denoiser.denoise(noise, features, block)  # type: ignore[misc]
            )
            decode_ms, (_, cache) = timed(
                lambda latents=latents, cache=cache: self._vae.decode_next(latents[None], cache)  # type: ignore[misc]
            )
            if block >= WINDOW_BLOCKS:
                for name, value in zip(times, (speech_ms, denoise_ms, decode_ms), strict=True):
                    times[name].append(value)
        medians = {name: round(statistics.median(values), 1) for name, values in times.items() if values}
        if "denoise_ms" in medians:
            medians["step_ms"] = round(medians["denoise_ms"] / self._options.steps, 1)
        self._report.add(stage, **medians)

    def _load(self) -> None:
        started = time.perf_counter()
        kind = self._options.model
        self._transformer = random_transformer(S2V_14B if kind == "full" else TINY, self._device, self._dtype)
        sizes = {"transformer_gb": allocated_bytes()}
        self._vae = random_vae(VAE_WIDTH[kind], self._device, self._dtype)
        sizes["vae_gb"] = allocated_bytes() - sum(sizes.values())
        self._audio_encoder = random_audio_encoder(SPEECH_SHAPES[kind], self._device, self._dtype)
        sizes["speech_encoder_gb"] = allocated_bytes() - sum(sizes.values())
        self._report.add(
            "weights",
            model=kind,
            size=self._options.size,
            steps=self._options.steps,
            attention=self._transformer.select_attention(self._options.attention),
            seconds=round(time.perf_counter() - started, 1),
            **{name: round(num_bytes / 1e9, 2) for name, num_bytes in sizes.items()},
            **({"forecast_gb": self._forecast_gb()} if kind == "full" else {}),
        )

    def _forecast_gb(self) -> dict[str, float]:
        size = VideoSize(self._width, self._height)
        return {
            precision: round(
                forecast_bytes(
                    RankRole(
                        size=size,
                        num_steps=self._options.steps,
                        precision=precision,
                        latents_per_decode=self._options.latents_per_decode,
                        encodes_speech=True,
                    )
                )
                / 1e9,
                1,
            )
            for precision in ("bf16", "fp8")
        }

    def _prepare(self, precision: str, mode: str) -> None:
        """Bring the networks into the variant's form; there is no way back to more bits or to no compiler."""
        if precision == "fp8" and self._precision != "fp8":
            quantize_linears(self._transformer)
            self._precision = "fp8"
        if mode == "compiled":
            torch._dynamo.reset()
            self._transformer.compile_repeated_blocks(fullgraph=True)
            if not self._is_compiled and self._options.compile_vae:
                self._vae.compile_streams()
            self._is_compiled = True
        elif self._is_compiled:
            raise RuntimeError("name the eager variants before the compiled ones")

    def _stream(self) -> Iterator[NDArray[np.uint8]]:
        """Return the engine's own iterator of pictures, without an end."""
        return stream_pictures(
            self._transformer,
            self._vae,
            reference=self._picture,
            text=self._text,
            speech=self._speech(),
            seed=0,
            num_steps=self._options.steps,
            latents_per_decode=self._options.latents_per_decode,
        )

    def _speech(self) -> Iterator[Tensor]:
        generator = np.random.default_rng(0)
        endless = (0.1 * generator.standard_normal(SOUND_PIECE).astype(np.float32) for _ in itertools.count())
        return speech_blocks(self._audio_encoder, endless, num_blocks=1_000_000)

    def _grid(self) -> TokenGrid:
        return TokenGrid(latent_height=self._height // 8, latent_width=self._width // 8)

    def _is_late(self) -> bool:
        return time.perf_counter() - STARTED > self._options.seconds


def random_transformer(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> S2VTransformer:
    """Return a transformer whose weights were drawn where they stay."""
    torch.set_default_dtype(dtype)
    with device:
        model: S2VTransformer = S2VTransformer(**config).eval()
    torch.set_default_dtype(torch.float32)
    return model


def random_vae(width: int, device: torch.device, dtype: torch.dtype) -> StreamingVae:
    """Return a video autoencoder of the given base width."""
    text = (files("liveavatar.models") / "wan2_1_vae.json").read_text(encoding="utf-8")
    with device:
        network = AutoencoderKLWan.from_config(json.loads(text) | {"base_dim": width})
    return StreamingVae(network).to(device=device, dtype=dtype)


def random_audio_encoder(shape: dict[str, Any], device: torch.device, dtype: torch.dtype) -> AudioEncoder:
    """Return a speech encoder laid out like wav2vec2-large-xlsr-53."""
    config = Wav2Vec2Config(
        num_hidden_layers=24,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        apply_spec_augment=False,
        layerdrop=0.0,
        **shape,
    )
    network: torch.nn.Module = Wav2Vec2Model(config)
    parametrize.remove_parametrizations(network.encoder.pos_conv_embed.conv, "weight")
    return AudioEncoder(network.to(device=device, dtype=dtype).eval().requires_grad_(False))  # type: ignore[arg-type]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the milliseconds of a call, waited for, and its result."""
    synchronize()
    started = time.perf_counter()
    result = call()
    synchronize()
    return 1000 * (time.perf_counter() - started), result


def synchronize() -> None:
    """Wait for the graphics card."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def allocated_bytes() -> int:
    """Return the graphics memory that tensors hold, 0 without a card."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def reset_peak() -> None:
    """Forget the largest use of graphics memory so far, and what the allocator keeps for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> dict[str, float]:
    """Return the largest use of graphics memory, by tensors and by the allocator; nothing without a card."""
    if not torch.cuda.is_available():
        return {}
    return {
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "peak_reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2),
    }


def describe_machine() -> dict[str, Any]:
    """Return hardware, versions and the date."""
    machine: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "diffusers": version("diffusers"),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        machine |= {
            "card": card.name,
            "card_gb": round(card.total_memory / 1e9, 1),
            "compute_capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return machine


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("full", "tiny"), default="full")
    parser.add_argument("--size", default="704x384", help="width x height, multiples of 64")
    parser.add_argument("--variants", default="bf16:eager,fp8:compiled", help="eager ones first")
    parser.add_argument("--blocks", type=int, default=60, help="steady blocks of the last variant")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--latents-per-decode", type=int, default=3)
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--compile-vae", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--seconds", type=float, default=140, help="no new block is begun after this time")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
