"""One tiny video, by one process and by the ranks of a plan, from files on disk to clean latents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from liveavatar.conditioning.reference import SinkLatents
from liveavatar.core.parallel import ParallelPlan
from liveavatar.engines.s2v.rank_setup import ModelShare, join
from liveavatar.engines.s2v.rank_video import clean_blocks
from liveavatar.loading.lora import LoraMerge
from liveavatar.loading.transformer import SINGLE_NAME, load_transformer
from liveavatar.models.s2v import S2VTransformer, TokenGrid
from liveavatar.pipeline.block_loop import LocalRefresh, denoise_blocks, noise_blocks
from liveavatar.pipeline.denoise import BlockDenoiser
from liveavatar.pipeline.message import BlockMessage
from liveavatar.pipeline.randomness import SeededRandomness
from tests.s2v.tiny import TINY_CONFIG, tiny_model

CONFIG = TINY_CONFIG | {
    "dim": 160,
    "ffn_dim": 80,
    "num_heads": 20,
    "num_layers": 4,
    "audio_inject_layers": [0, 2, 3],
}
GRID = TokenGrid(latent_height=8, latent_width=8)
CPU = torch.device("cpu")
_SEED = 3
_DEADLINE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Video:
    """What is made."""

    num_blocks: int = 6
    blocks_per_clip: int = 4
    fp8: bool = False
    steps: tuple[int, ...] = ()  # of each block, where they change
    stop_after: int | None = None  # blocks


def write_checkpoint(folder: Path) -> None:
    """Write a random model and an adapter for some of its layers."""
    model = tiny_model(**CONFIG)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / SINGLE_NAME)
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanModel_S2V", **CONFIG}))
    generator = torch.Generator().manual_seed(4)
    adapter = {}
    for name, tensor in tensors.items():
        if name.endswith((".q.weight", ".o.weight", ".ffn.0.weight", ".ffn.2.weight")):
            layer = name.removesuffix(".weight")
            adapter[f"{layer}.lora_A.weight"] = torch.randn(2, tensor.shape[1], generator=generator) * 0.02
            adapter[f"{layer}.lora_B.weight"] = torch.randn(tensor.shape[0], 2, generator=generator) * 0.02
    save_file(adapter, folder / "adapter.safetensors")


def load_share(folder: Path, video: Video, share: ModelShare | None = None) -> S2VTransformer:
    """Load a rank's share of the model, or all of it."""
    model = load_transformer(
        folder,
        device=CPU,
        dtype=torch.float32,
        lora=LoraMerge.from_file(folder / "adapter.safetensors"),
        fp8="per_row" if video.fp8 else None,
        take_share=share.take if share else None,
    ).model
    if share:
        share.finish(model)
    return model


@torch.inference_mode()
def by_one_process(folder: Path, video: Video, num_steps: int) -> list[Tensor]:
    """Return the clean latents of every block."""
    text, sink, speech = _conditions(video)
    randomness = SeededRandomness(_SEED, blocks_per_clip=video.blocks_per_clip)
    denoiser = BlockDenoiser(
        load_share(folder, video),
        grid=GRID,
        text=text,
        sink_distance=randomness.sink_distance,
        num_steps=num_steps,
        blocks_per_clip=video.blocks_per_clip,
    )
    messages = noise_blocks(
        speech,
        lambda clip: randomness.clip_noise(clip, height=8, width=8, like=text),
        num_steps=chain(video.steps or repeat(num_steps)).__next__,
        blocks_per_clip=video.blocks_per_clip,
    )
    done = denoise_blocks(messages, denoiser, sink, LocalRefresh(), blocks_per_clip=video.blocks_per_clip)
    return [message.latents for message in done]


def by_ranks(
    plan: ParallelPlan, folder: Path, videos: list[Video], *, keep_on_host: bool = False
) -> dict[str, object]:
    """Make the videos one after the other as this process's rank; return what it made and how much it holds."""
    rank = join(plan, CPU, deadline_s=_DEADLINE_S)
    made: list[list[Tensor]] = []
    model: S2VTransformer | None = None
    if rank.place.stage is not None:
        share = ModelShare(rank, keep_on_host=keep_on_host)
        model = load_share(folder, videos[0], share)
    for video in videos:
        with _inference():
            made.append(list(_video(rank, model, video)))
    num_values = sum(_local_values(p) for p in model.parameters()) if model else 0
    rank.leave()
    return {"made": made, "num_values": num_values}


def _video(rank: object, model: S2VTransformer | None, video: Video) -> Iterator[Tensor]:
    text, sink, speech = _conditions(video)

    def admit(message: BlockMessage) -> BlockMessage | None:
        if message.block == video.stop_after:
            return None
        return replace(message, num_steps=video.steps[message.block]) if video.steps else message

    blocks = clean_blocks(
        rank,  # type: ignore[arg-type]
        model,
        grid=GRID,
        dtype=torch.float32,
        text=text,
        sink=sink,
        speech=speech,
        randomness=SeededRandomness(_SEED, blocks_per_clip=video.blocks_per_clip),
        admit=admit,
        blocks_per_clip=video.blocks_per_clip,
    )
    return (message.latents for message in blocks)


def _conditions(video: Video) -> tuple[Tensor, SinkLatents, list[Tensor]]:
    generator = torch.Generator().manual_seed(5)
    text = torch.randn(4, CONFIG["text_dim"], generator=generator)
    sink = SinkLatents(
        reference=torch.randn(1, 16, 1, 8, 8, generator=generator),
        motion=torch.randn(1, 16, 19, 8, 8, generator=generator),
    )
    speech = [
        torch.randn(1, 25, CONFIG["audio_dim"], 12, generator=generator) for _ in range(video.num_blocks)
    ]
    return text, sink, speech


def _inference() -> AbstractContextManager[None]:
    return torch.inference_mode()


def _local_values(parameter: Tensor) -> int:
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return int(local.numel())
