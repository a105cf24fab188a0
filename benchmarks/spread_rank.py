"""One rank of a plan with random weights: it makes its share of a video and says how long everything took."""

from __future__ import annotations

import fcntl
import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from liveavatar.conditioning.reference import SinkLatents
from liveavatar.core.parallel import KvPrecision, ParallelPlan, Precision
from liveavatar.engines.s2v.bench.random_parts import TRANSFORMERS, random_vae
from liveavatar.engines.s2v.bench.random_transformer import random_share
from liveavatar.engines.s2v.compiling import compile_parts
from liveavatar.engines.s2v.rank_setup import ModelShare, Rank, join, use_own_card
from liveavatar.engines.s2v.rank_video import clean_blocks
from liveavatar.models.s2v import S2VTransformer, TokenGrid
from liveavatar.models.vae import StreamingVae
from liveavatar.pipeline.decode import decode_blocks
from liveavatar.pipeline.delivery import pictures_on_host
from liveavatar.pipeline.denoise import BlockDenoiser
from liveavatar.pipeline.layer_part import PartDenoiser
from liveavatar.pipeline.message import BlockMessage
from liveavatar.pipeline.randomness import SeededRandomness

Compiling = Literal["nothing", "as the engine", "everything"]
Moment = float | torch.cuda.Event
STEADY_FROM = (
    8  # blocks: the window is full, the sink was refreshed, and layer parts are done with whole rounds
)
WARM_UP_BLOCKS = 5  # as the engine does
_VAE_WIDTH = {"full": 96, "tiny": 8}


@dataclass(frozen=True, kw_only=True)
class Video:
    """What is made, and how."""

    plan: ParallelPlan
    model: str  # "full" or "tiny"
    width: int
    height: int
    precision: Precision
    kv_precision: KvPrecision
    num_blocks: int
    compiling: Compiling
    turns: Path | None  # a file: ranks that share a card lock it while they compute
    deadline_s: float


def make_video(video: Video) -> dict[str, Any]:
    """Do this process's share; return its times and memory, and on the rank that decodes the latents."""
    device = use_own_card(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    on_card = device.type == "cuda"
    if on_card:
        torch.cuda.init()  # before there is anything to forget
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    rank = join(video.plan, device, deadline_s=video.deadline_s)
    dtype = torch.bfloat16 if on_card else torch.float32
    model: S2VTransformer | None = None
    if rank.place.stage is not None:
        model = random_share(TRANSFORMERS[video.model], video.precision, ModelShare(rank), device, dtype)
        model.select_attention()
    vae = random_vae(_VAE_WIDTH[video.model], device, dtype) if rank.place.decodes else None
    _compile(video, model, vae)
    loaded = time.perf_counter()
    with _StageClock(on_card, video.turns) as stage:
        list(_blocks(rank, video, model, vae, WARM_UP_BLOCKS))
        warm = time.perf_counter()
        stage.forget()
        rank.gather(0)
        begun = _now(on_card)
        made = list(_blocks(rank, video, model, vae))
        found: dict[str, Any] = {"stage_ms": stage.block_ms(rank)}
    found |= {
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if on_card else 0.0,
        "beyond_allocator_gb": round(_beyond_allocator_bytes() / 1e9, 2) if on_card else 0.0,
        "card": torch.cuda.get_device_name() if on_card else "processor",
        "load_s": round(loaded - started, 1),
        "warm_up_s": round(warm - loaded, 1),
        "end_s": [round(_seconds(begun, end), 4) for _, end in made],
        "latents": torch.stack([latents.cpu() for latents, _ in made]) if made else None,
    }
    rank.leave()
    del model, vae, made
    if video.compiling == "everything" and talks_between(video.plan):
        torch._dynamo.reset()  # the graphs name process groups that are gone
    gc.collect()
    if on_card:
        torch.cuda.empty_cache()
    return found


def _beyond_allocator_bytes() -> int:
    """Return what else is taken of this card: the CUDA context, NCCL's buffers, and other programs."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def _compile(video: Video, model: S2VTransformer | None, vae: StreamingVae | None) -> None:
    if video.compiling == "nothing":
        return
    leaves_layers = video.compiling == "as the engine" and talks_between(video.plan)
    compile_parts(None if leaves_layers else model, vae, None)


def talks_between(plan: ParallelPlan) -> bool:
    """Whether the layers of a plan talk to other cards within."""
    return plan.tensor > 1 or plan.weights_sharded


@torch.inference_mode()
def _blocks(
    rank: Rank,
    video: Video,
    model: S2VTransformer | None,
    vae: StreamingVae | None,
    num_blocks: int | None = None,
) -> Iterator[tuple[Tensor, Moment]]:
    """Make a video; on the rank that decodes, yield each block's latents and when its pictures were made."""
    generator = torch.Generator().manual_seed(1)
    config = TRANSFORMERS[video.model]
    dtype = torch.bfloat16 if rank.device.type == "cuda" else torch.float32

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(rank.device, dtype)

    grid = TokenGrid(latent_height=video.height // 8, latent_width=video.width // 8)
    size = (grid.latent_height, grid.latent_width)
    sink = SinkLatents(reference=random(1, 16, 1, *size), motion=random(1, 16, 19, *size))
    text = random(128, config["text_dim"])[: config["text_len"]]
    speech = [random(1, 25, config["audio_dim"], 12).float() for _ in range(video.num_blocks)][:num_blocks]
    made = clean_blocks(
        rank,
        model,
        grid=grid,
        dtype=dtype,
        text=text,
        sink=sink,
        speech=speech,
        randomness=SeededRandomness(0),
        admit=lambda message: message,
        kv_precision=video.kv_precision,
    )
    if vae is None:
        for _ in made:
            pass
        return
    latents: list[Tensor] = []
    ends: list[Moment] = []

    def clean() -> Iterator[Tensor]:
        for message in made:
            latents.append(message.latents)
            yield message.latents

    def decoded() -> Iterator[Tensor]:
        for pictures in decode_blocks(vae, sink.motion, clean()):
            ends.append(_now(pictures.is_cuda))
            yield pictures

    for index, _ in enumerate(pictures_on_host(decoded())):
        yield latents[index], ends[index]


def _now(on_card: bool) -> Moment:
    """Return the moment when the card has done all that was asked of it so far, or the present one."""
    if not on_card:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(begun: Moment, ended: Moment) -> float:
    if isinstance(begun, float) and isinstance(ended, float):
        return ended - begun
    assert isinstance(begun, torch.cuda.Event), "both are of one kind"
    assert isinstance(ended, torch.cuda.Event), "both are of one kind"
    ended.synchronize()
    return float(begun.elapsed_time(ended)) / 1000


class _StageClock:
    """Measures what `advance` of a denoiser takes, on the card's own clock where nothing else is on the card."""

    def __init__(self, on_card: bool, turns: Path | None) -> None:
        self._on_card, self._turns = on_card, turns
        self._spans: list[tuple[Moment, Moment]] = []

    def __enter__(self) -> _StageClock:
        self._plain = {kind: kind.advance for kind in (BlockDenoiser, PartDenoiser)}
        for kind, advance in self._plain.items():
            kind.advance = self._timed(advance)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        for kind, advance in self._plain.items():
            kind.advance = advance  # type: ignore[method-assign]

    def forget(self) -> None:
        """Begin anew."""
        self._spans.clear()

    def block_ms(self, rank: Rank) -> float | None:
        """Return the median of steady blocks, None on a rank without a part of the transformer."""
        if rank.place.stage is None:
            return None
        visits = rank.place.stage.num_steps if rank.plan.layer_parts > 1 else 1
        spans = self._spans[STEADY_FROM * visits :] or self._spans
        return round(1000 * visits * statistics.median(_seconds(*span) for span in spans), 1)

    def _timed(self, advance: Any) -> Any:
        by_card = self._on_card and self._turns is None

        def timed(denoiser: Any, message: BlockMessage, masks: Tensor | None = None) -> BlockMessage:
            with self._turn():
                begun = _now(by_card)
                done: BlockMessage = advance(denoiser, message, masks)
                if self._on_card and not by_card:
                    torch.cuda.synchronize()
                self._spans.append((begun, _now(by_card)))
                return done

        return timed

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._turns is None:
            yield
            return
        with self._turns.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
