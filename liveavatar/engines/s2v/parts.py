"""The networks of the s2v engine, loaded from the checkpoint's files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from liveavatar.conditioning.audio import AudioEncoder, load_audio_encoder
from liveavatar.conditioning.prompt_cache import PromptCache
from liveavatar.conditioning.text import PromptEncoder
from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.plan import ExecutionPlan, ModelFiles
from liveavatar.diagnostics.doctor import inspect_checkpoint
from liveavatar.loading.checkpoint import CheckpointLayout
from liveavatar.loading.lora import LoraMerge
from liveavatar.loading.transformer import load_transformer
from liveavatar.models.s2v import S2VTransformer
from liveavatar.models.vae import StreamingVae, load_vae

log = logging.getLogger(__name__)


class Prompts(Protocol):
    """Turns prompts into embeddings."""

    def encode(self, prompt: str) -> Tensor:
        """Return [num_tokens, width]."""

    def release(self) -> None:
        """Give the memory of the encoder back until it is needed again."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that is loaded once and serves every video."""

    transformer: S2VTransformer
    vae: StreamingVae
    audio_encoder: AudioEncoder
    prompts: Prompts
    keeps_text_encoder: (
        bool  # on the processor its file is mapped, and the system takes memory back when it must
    )

    def encode_prompt(self, prompt: str) -> Tensor:
        """Return the embedding [num_tokens, width] on the transformer's device and in its dtype."""
        embedding = self.prompts.encode(prompt)
        if not self.keeps_text_encoder:
            self.prompts.release()
        return embedding.to(self.transformer.device, self.transformer.compute_dtype)


def load_parts(plan: ExecutionPlan) -> Parts:
    """Load the plan's checkpoint: bfloat16 on the graphics card, float32 on the processor.

    Raises EngineFailed with what is missing or damaged.
    """
    assert plan.model is not None, "a plan for this engine names its files"
    device = _device(plan)
    on_card = device.type == "cuda"
    dtype = torch.bfloat16 if on_card else torch.float32
    layout = _checked_layout(plan.model)
    assert layout.lora is not None, "the check found it"
    transformer = load_transformer(
        layout.folder,
        device=device,
        dtype=dtype,
        lora=LoraMerge.from_file(layout.lora),
        fp8="per_row" if plan.precision == "fp8" else None,
    ).model
    kernel = transformer.select_attention()
    log.info("transformer on %s, %s, attention kernel %s", device, plan.precision, kernel)
    text_on_card = on_card and not plan.offload.text_encoder
    return Parts(
        transformer=transformer,
        vae=load_vae(layout.vae, device=device, dtype=dtype),
        audio_encoder=load_audio_encoder(layout, device=device, dtype=dtype),
        prompts=PromptEncoder(
            layout,
            cache=PromptCache(Path(plan.model.cache) / "prompts"),
            device=device if text_on_card else "cpu",
            max_tokens=transformer.config["text_len"],
        ),
        keeps_text_encoder=not text_on_card,
    )


def _device(plan: ExecutionPlan) -> torch.device:
    """Return the device the plan counts on."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if plan.budgets:
        raise EngineFailed(_CARD_NOT_USABLE)
    return torch.device("cpu")


def _checked_layout(files: ModelFiles) -> CheckpointLayout:
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
