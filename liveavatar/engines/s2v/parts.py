"""The networks of the s2v engine, loaded from the checkpoint's files."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from liveavatar.conditioning.audio import AudioEncoder, load_audio_encoder
from liveavatar.conditioning.prompt_cache import PromptCache
from liveavatar.conditioning.reference import SinkCache
from liveavatar.conditioning.text import PromptEncoder
from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.parallel import KvPrecision, Precision
from liveavatar.core.plan import ExecutionPlan, ModelFiles
from liveavatar.diagnostics.doctor import inspect_checkpoint
from liveavatar.engines.s2v.rank_setup import ModelShare, Rank
from liveavatar.loading.checkpoint import CheckpointLayout
from liveavatar.loading.lora import LoraMerge
from liveavatar.loading.quantize import Fp8Linear, quantize_linears
from liveavatar.loading.transformer import load_transformer
from liveavatar.models.s2v import S2VTransformer
from liveavatar.models.s2v.int8_attention import probe
from liveavatar.models.tiled_vae import tiled
from liveavatar.models.vae import StreamingVae, load_vae
from liveavatar.parallel.cache_offload import HostCaches
from liveavatar.parallel.offload import StreamedBlock, arriving_tensors, offload_blocks, streamed_blocks

log = logging.getLogger(__name__)

_FP8_CAPABILITY = (8, 9)  # the first cards with 8-bit tensor cores


class Prompts(Protocol):
    """Turns prompts into embeddings."""

    def encode(self, prompt: str) -> Tensor:
        """Return [num_tokens, width]."""

    def move_to(self, device: torch.device) -> None:
        """Encode there from now on."""

    def release(self) -> None:
        """Give the memory of the encoder back until it is needed again."""


@dataclass(frozen=True, kw_only=True)
class RankParts:
    """What one of several ranks has loaded once for every video; None for what other ranks do."""

    transformer: S2VTransformer | None
    vae: StreamingVae | None
    audio_encoder: AudioEncoder | None
    prompts: Prompts | None
    sinks: SinkCache = field(default_factory=SinkCache)

    @property
    def kept_tensors(self) -> dict[str, list[Tensor]]:
        """Return what stays in memory for every video, by the names of the forecast."""
        kept = {}
        if self.transformer is not None:
            arriving = arriving_tensors(self.transformer)
            passing = {id(tensor) for tensor in arriving}
            # The scales of 8-bit weights are buffers.
            transformer = [*self.transformer.parameters(), *self.transformer.buffers()]
            kept["weights"] = [tensor for tensor in transformer if id(tensor) not in passing]
            kept["arriving blocks"] = arriving
        if self.vae is not None:
            kept["decoder weights"] = [*self.vae.parameters(), *self.vae.buffers()]
        if self.audio_encoder is not None:
            kept["speech encoder"] = self.audio_encoder.weights
        return kept

    @cached_property
    def host_caches(self) -> HostCaches | None:
        """What allocates caches in host memory, and keeps it from one video to the next."""
        return HostCaches(self.transformer) if self.transformer is not None else None

    def vae_for(self, plan: ExecutionPlan) -> StreamingVae:
        """Return the autoencoder as a plan uses it, whole or in tiles; both share their weights."""
        assert self.vae is not None, "this rank decodes"
        if plan.tiled_vae == self.vae.is_tiled:
            return self.vae
        return tiled(self.vae) if plan.tiled_vae else StreamingVae(self.vae.network).to(self.vae.mean_C)

    @cached_property
    def why_no_8_bit_attention(self) -> str | None:
        """Return why its kernels cannot serve here, as part of a sentence, or None. They are tried once."""
        model = self.transformer
        if model is None:
            return None
        return probe.why_not(device=model.device, dtype=model.compute_dtype, head_dim=model.head_dim)

    def usable_kv(self, wanted: KvPrecision) -> KvPrecision:
        """Return the precision of keys and values: 16 bits in place of an 8-bit attention that cannot serve."""
        return "bf16" if wanted == "int8" and self.why_no_8_bit_attention is not None else wanted


@dataclass(frozen=True, kw_only=True)
class Parts(RankParts):
    """Everything, where one rank makes the video."""

    transformer: S2VTransformer
    vae: StreamingVae
    audio_encoder: AudioEncoder
    prompts: Prompts

    @property
    def precision(self) -> Precision:
        """Return that of the transformer's weights; "bf16" stands for whatever they were loaded in."""
        modules = self.transformer.modules()
        return "fp8" if any(isinstance(module, Fp8Linear) for module in modules) else "bf16"

    @property
    def resident_blocks(self) -> int | None:
        """Return how many transformer blocks stay where it computes while others stream; None: all stay."""
        blocks = list(self.transformer.blocks)
        num_streamed = sum(isinstance(block, StreamedBlock) for block in blocks)
        return len(blocks) - num_streamed if num_streamed else None

    def as_loaded(self, plan: ExecutionPlan) -> ExecutionPlan:
        """Return the plan with the weights as they are."""
        offload = dataclasses.replace(plan.offload, resident_blocks=self.resident_blocks)
        return dataclasses.replace(plan, precision=self.precision, offload=offload)

    def shrink_weights(self, plan: ExecutionPlan) -> None:
        """Bring the weights to 8 bits or to host memory where the plan says so; there is no way back."""
        if plan.precision == "fp8" and self.precision != "fp8":
            quantize_linears(self.transformer)
        if plan.offload.resident_blocks is not None and self.resident_blocks is None:
            offload_blocks(self.transformer, plan.offload.resident_blocks)

    def encode_prompt(self, prompt: str, *, on_processor: bool) -> Tensor:
        """Return the embedding [num_tokens, width] on the transformer's device and in its dtype."""
        device = torch.device("cpu") if on_processor else self.transformer.device
        embedding = encode_prompt(self.prompts, prompt, device)
        return embedding.to(self.transformer.device, self.transformer.compute_dtype)


def encode_prompt(prompts: Prompts, prompt: str, device: torch.device) -> Tensor:
    """Return the embedding [num_tokens, width].

    On a card the encoder is released again; on the processor its file is mapped, and the system takes memory
    back when it must.
    """
    prompts.move_to(device)
    embedding = prompts.encode(prompt)
    if device.type != "cpu":
        prompts.release()
    return embedding


def can_multiply_in_8_bits() -> bool:
    """Whether there is a graphics card that does."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= _FP8_CAPABILITY


def load_parts(plan: ExecutionPlan) -> Parts:
    """Load the plan's checkpoint: bfloat16 on the graphics card, float32 on the processor.

    Raises EngineFailed with what is missing or damaged.
    """
    files = _Files(plan, plan_device(plan))
    return Parts(
        transformer=read_transformer(files.layout, plan, files.device, files.dtype),
        vae=files.vae(),
        audio_encoder=files.audio_encoder(),
        prompts=files.prompts(),
    )


def load_rank_parts(plan: ExecutionPlan, rank: Rank) -> RankParts:
    """Load what a rank needs of the plan's checkpoint. Raises EngineFailed as `load_parts` does."""
    files, place = _Files(plan, rank.device), rank.place
    transformer: S2VTransformer | None = None
    if place.stage is not None:
        share = ModelShare(rank, keep_on_host=plan.offload.sharded_weights)
        transformer = read_transformer(files.layout, plan, files.device, files.dtype, share)
    return RankParts(
        transformer=transformer,
        vae=files.vae() if place.decodes else None,
        audio_encoder=files.audio_encoder() if place.is_source else None,
        prompts=files.prompts() if place.is_source else None,
    )


class _Files:
    """The checkpoint of a plan, whole when looked at."""

    def __init__(self, plan: ExecutionPlan, device: torch.device) -> None:
        assert plan.model is not None, "a plan for this engine names its files"
        self.device, self.dtype = device, torch.bfloat16 if device.type == "cuda" else torch.float32
        self.layout = checked_layout(plan.model)
        self._plan, self._cache = plan, Path(plan.model.cache)

    def vae(self) -> StreamingVae:
        vae = load_vae(self.layout.vae, device=self.device, dtype=self.dtype)
        return tiled(vae) if self._plan.tiled_vae else vae

    def audio_encoder(self) -> AudioEncoder:
        return load_audio_encoder(self.layout, device=self.device, dtype=self.dtype)

    def prompts(self) -> Prompts:
        max_tokens = self.layout.read_transformer_config()["text_len"]
        return PromptEncoder(self.layout, cache=PromptCache(self._cache / "prompts"), max_tokens=max_tokens)


def read_transformer(
    layout: CheckpointLayout,
    plan: ExecutionPlan,
    device: torch.device,
    dtype: torch.dtype,
    share: ModelShare | None = None,
) -> S2VTransformer:
    """Load the transformer as the plan wants it, or a rank's share of it."""
    assert layout.lora is not None, "the check found it"
    layers: Sequence[int] = range(layout.read_transformer_config()["num_layers"])
    if share is not None:
        layers = share.layers(len(layers))
    num_resident = plan.offload.resident_blocks
    host_blocks = []
    if num_resident is not None:
        host_blocks = [layers[place] for place in streamed_blocks(len(layers), num_resident)]
    model = load_transformer(
        layout.folder,
        device=device,
        dtype=dtype,
        lora=LoraMerge.from_file(layout.lora),
        fp8="per_row" if plan.precision == "fp8" else None,
        host_blocks=host_blocks,
        take_share=share.take if share is not None else None,
    ).model
    if share is not None:
        share.finish(model)
    if num_resident is not None:
        offload_blocks(model, num_resident)
        log.info("%d transformer blocks wait in host memory", len(host_blocks))
    kernel = model.select_attention()
    log.info("transformer on %s, %s, attention kernel %s", device, plan.precision, kernel)
    return model


def plan_device(plan: ExecutionPlan) -> torch.device:
    """Return the device the plan counts on."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if plan.budgets:
        raise EngineFailed(_CARD_NOT_USABLE)
    return torch.device("cpu")


def checked_layout(files: ModelFiles) -> CheckpointLayout:
    """Return the layout of a whole checkpoint; files may have changed since the plan was made."""
    folder, lora = Path(files.checkpoint), Path(files.lora)
    report = inspect_checkpoint(folder, lora)
    if not report.is_usable:
        raise EngineFailed(report.problems[0])
    return CheckpointLayout.find(folder, lora)


_CARD_NOT_USABLE = Diagnosis(
    code="card_not_usable",
    title="The graphics card cannot be used.",
    cause="The machine has one, but the installed PyTorch does not reach it.",
    remedy="Install a PyTorch that was built for CUDA and a driver that is new enough for it.",
)
