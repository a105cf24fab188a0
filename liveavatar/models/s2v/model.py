"""The causal S2V transformer: a picture's latents and speech in, the next block of video latents out.

One stream at a time, so tensors have no batch dimension. A stream is generated like this:

    text = model.encode_text(prompt)                       once
    time = [model.encode_time(t, frames) for t in ...]     once: the noise levels are fixed
    model.prefill(reference, motion, text, caches)         once, and again whenever the sink changes
    for every block:
        audio = model.encode_audio(speech)                 once per block
        for step, cache in enumerate(caches):
            velocity = model(latents, time[step], text, audio, cache.locate(block, jitter), cache)

Only the last call runs per denoising step. It has no host synchronisation and no data-dependent Python.

Shapes: C latent channels (16), F latent frames of a block, h and w rows and columns of latents, S tokens of a
frame, L tokens, D model width, A actors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from liveavatar.core.parallel import KvPrecision
from liveavatar.models.s2v.attention import (
    ATTENTION_KERNELS,
    Attention,
    KeyValues,
    SelfAttention,
    choose_attention,
)
from liveavatar.models.s2v.audio_encoder import CausalAudioEncoder, Float32Linear
from liveavatar.models.s2v.audio_injector import AudioCondition, AudioInjector
from liveavatar.models.s2v.block import Head, S2VBlock
from liveavatar.models.s2v.cache_allocation import allocate_step_caches
from liveavatar.models.s2v.config import CLIP_BLOCKS, FRAMES_PER_BLOCK, LATENT_CHANNELS, PATCH, TokenGrid
from liveavatar.models.s2v.framepack import FramePacker, PatchConv3d
from liveavatar.models.s2v.kv_cache import (
    BlockPosition,
    KVCache,
    PrefillMemory,
    allocate_sink,
)

NOISY_TOKEN, REFERENCE_TOKEN, MOTION_TOKEN = 0, 1, 2  # rows of trainable_cond_mask


class TimeCondition(NamedTuple):
    """A noise level as the model sees it, float32, one row per latent frame."""

    embedding_FD: Tensor
    modulation_F6D: Tensor


class S2VTransformer(ModelMixin, ConfigMixin):
    """The network, with the parameter names of the published checkpoint (misspellings included).

    `from_pretrained` reads the published folder as it is. The arguments are the entries of its config.json; those
    that only ever had one value are accepted with that value.
    """

    blocks: nn.ModuleList | nn.ModuleDict  # the latter, by number, where a device holds some layers only

    _repeated_blocks: ClassVar[list[str]] = ["S2VBlock"]
    _no_split_modules: ClassVar[list[str]] = ["S2VBlock"]

    @register_to_config
    def __init__(
        self,
        dim: int = 5120,
        ffn_dim: int = 13824,
        num_heads: int = 40,
        num_layers: int = 40,
        freq_dim: int = 256,
        text_dim: int = 4096,
        text_len: int = 512,
        audio_dim: int = 1024,
        num_audio_token: int = 4,
        audio_inject_layers: Sequence[int] = (0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39),
        eps: float = 1e-6,
        model_type: str = "s2v",
        in_dim: int = LATENT_CHANNELS,
        out_dim: int = LATENT_CHANNELS,
        cond_dim: int = LATENT_CHANNELS,
        enable_adain: bool = True,
        adain_mode: str = "attn_norm",
        zero_init: bool = True,
        zero_timestep: bool = True,
        enable_motioner: bool = False,
        enable_tsm: bool = False,
        add_last_motion: bool = True,
        enable_framepack: bool = True,
        framepack_drop_mode: str = "padd",
    ) -> None:
        super().__init__()
        _reject_other_variants(self.config)
        self.patch_embedding = PatchConv3d(in_dim, dim, (1, PATCH, PATCH))
        self.cond_encoder = PatchConv3d(cond_dim, dim, (1, PATCH, PATCH))
        self.frame_packer = FramePacker(dim)
        self.trainable_cond_mask = nn.Embedding(3, dim)
        self.text_embedding = nn.Sequential(
            nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(Float32Linear(freq_dim, dim), nn.SiLU(), Float32Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), Float32Linear(dim, 6 * dim))
        self.casual_audio_encoder = CausalAudioEncoder(audio_dim, dim, num_audio_token)
        self.audio_injector = AudioInjector(dim, num_heads, audio_inject_layers, eps)
        self.blocks = nn.ModuleList(S2VBlock(dim, ffn_dim, num_heads, eps) for _ in range(num_layers))
        self.head = Head(dim, out_dim * PATCH * PATCH, eps)
        self.requires_grad_(False)

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of tokens and caches; weights may be stored in fewer bits."""
        return self.patch_embedding.weight.dtype

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""
        return self.config["dim"] // self.config["num_heads"]

    @property
    def num_local_heads(self) -> int:
        """Attention heads that this device computes, the same in every layer."""
        return next(module.num_local_heads for module in self.modules() if isinstance(module, SelfAttention))

    # ------------------------------------------------------------------------------ once per video

    @torch.no_grad()
    def encode_text(self, text_TD: Tensor) -> list[KeyValues]:
        """Return every block's keys and values of the prompt embedding, `[tokens, text_dim]`.

        Missing tokens up to `text_len` count as zeros and are attended to: the model was trained that way.
        """
        missing = self.config["text_len"] - text_TD.shape[0]
        if missing < 0:
            raise ValueError(f"{text_TD.shape[0]} text tokens, the model takes {self.config['text_len']}")
        padded = F.pad(text_TD.to(self.compute_dtype), (0, 0, 0, missing))
        embedded = self.text_embedding(padded)
        return [block.encode_text(embedded) for block in self._blocks()]

    @torch.no_grad()
    def encode_time(self, timestep: float, num_frames: int = FRAMES_PER_BLOCK) -> TimeCondition:
        """Return the condition for frames that all have the noise level `timestep` (0 clean, 1000 noise)."""
        device = self.patch_embedding.weight.device
        embedding_1D = self.time_embedding(_sinusoid(timestep, self.config["freq_dim"]).to(device)[None])
        modulation_16D = self.time_projection(embedding_1D).unflatten(-1, (6, -1))
        return TimeCondition(embedding_1D.expand(num_frames, -1), modulation_16D.expand(num_frames, -1, -1))

    def allocate_caches(
        self,
        grid: TokenGrid,
        num_steps: int,
        *,
        capacity_blocks: int = CLIP_BLOCKS,
        precision: KvPrecision = "bf16",
    ) -> list[KVCache]:
        """Return one empty cache per denoising step for latents of this size. See `allocate_step_caches`."""
        return allocate_step_caches(
            num_steps=num_steps,
            num_layers=len(self.blocks),
            num_heads=self.num_local_heads,
            head_dim=self.head_dim,
            grid=grid,
            device=self.patch_embedding.weight.device,
            dtype=self.compute_dtype,
            capacity_blocks=capacity_blocks,
            precision=precision,
        )

    @torch.no_grad()
    def prefill(
        self,
        reference_C1hw: Tensor,
        motion_CThw: Tensor,
        text: Sequence[KeyValues],
        caches: Sequence[KVCache],
    ) -> None:
        """Compute the sink and write it into the caches of all steps; the blocks in them stay."""
        self.prefill_layers(self.embed_sink(reference_C1hw, motion_CThw), text, caches)

    @torch.no_grad()
    def embed_sink(self, reference_C1hw: Tensor, motion_CThw: Tensor) -> Tensor:
        """Return the sink's tokens `[1, tokens, D]` before the first layer, float32."""
        reference_LD = self.patch_embedding(reference_C1hw) + self.trainable_cond_mask.weight[REFERENCE_TOKEN]
        motion_LD = self.frame_packer(motion_CThw) + self.trainable_cond_mask.weight[MOTION_TOKEN]
        return torch.cat([reference_LD, motion_LD])[None].float()

    @torch.no_grad()
    def prefill_layers(self, x_1CD: Tensor, text: Sequence[KeyValues], caches: Sequence[KVCache]) -> Tensor:
        """Return the sink's tokens after the layers of this device; leave keys and values in the caches."""
        modulation_16D = self.encode_time(0.0, num_frames=1).modulation_F6D
        sink = allocate_sink(
            caches[0].grid,
            num_heads=self.num_local_heads,
            head_dim=self.head_dim,
            like=self.patch_embedding.weight,
        )
        memory = PrefillMemory(sink, caches[0].sink_rotary())
        for index, block in enumerate(self._blocks()):
            x_1CD = block(x_1CD, modulation_16D, text[index], memory)
            for cache in caches:
                cache.set_sink(index, sink)
        return x_1CD

    # ------------------------------------------------------------------------------ once per block

    @torch.no_grad()
    def encode_audio(self, speech_ANET: Tensor) -> dict[int, AudioCondition]:
        """Return what the injections need of a block's speech features, `[A, 25, audio_dim, 12]`."""
        tokens = self.casual_audio_encoder.encode_block(speech_ANET)
        return self.audio_injector.prepare(tokens, self.compute_dtype)

    # ------------------------------------------------------------------------------ once per step

    @torch.no_grad()
    def forward(
        self,
        latents_CFhw: Tensor,
        time: TimeCondition,
        text: Sequence[KeyValues],
        audio: Mapping[int, AudioCondition],
        position: BlockPosition,
        cache: KVCache,
        *,
        pose_CFhw: Tensor | None = None,
        actor_masks_AFS1: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity of a block, shaped like its latents, and leave its keys and values in the cache.

        `pose_CFhw` are the latents of a pose video; none means zeros. With several actors, `actor_masks_AFS1` says
        which tokens each actor's speech reaches.
        """
        x_FSD = self.embed(latents_CFhw, pose_CFhw)
        x_FSD = self.run_layers(x_FSD, time, text, audio, position, cache, actor_masks_AFS1)
        return self.unembed(x_FSD, time, latents_CFhw.shape)

    @torch.no_grad()
    def embed(self, latents_CFhw: Tensor, pose_CFhw: Tensor | None = None) -> Tensor:
        """Return a block's tokens before the first layer, float32."""
        x_LD = self.patch_embedding(latents_CFhw) + self._encode_pose(pose_CFhw)
        x_LD = x_LD + self.trainable_cond_mask.weight[NOISY_TOKEN]
        return x_LD.float().unflatten(0, (latents_CFhw.shape[1], -1))

    @torch.no_grad()
    def run_layers(
        self,
        x_FSD: Tensor,
        time: TimeCondition,
        text: Sequence[KeyValues],
        audio: Mapping[int, AudioCondition],
        position: BlockPosition,
        cache: KVCache,
        actor_masks_AFS1: Tensor | None = None,
    ) -> Tensor:
        """Return a block's tokens after the layers of this device, and leave its keys and values in the cache."""
        for index, (number, block) in enumerate(self._numbered_blocks()):
            memory = cache.fetch(index).memory(position)
            x_FSD = block(x_FSD, time.modulation_F6D, text[index], memory)
            cache.release(index)
            if number in audio:
                x_FSD = self.audio_injector(x_FSD, number, audio[number], actor_masks_AFS1)
        return x_FSD

    @torch.no_grad()
    def unembed(self, x_FSD: Tensor, time: TimeCondition, shape: torch.Size) -> Tensor:
        """Return the velocity `[C, F, h, w]` of tokens after the last layer."""
        patches_FSV = self.head(x_FSD, time.embedding_FD)
        return _unpatchify(patches_FSV, shape).to(self.compute_dtype)

    # ------------------------------------------------------------------------------ set-up

    def compile_parts(self, **options: object) -> None:
        """Compile layers, injections and head with `torch.compile(fullgraph=True, dynamic=False, **options)`.

        All layers share one graph per picture size, and one for prefilling; only the number of rows to attend to
        stays variable, see `KVCache.locate`.
        """
        for module in self.blocks.modules():
            if isinstance(module, S2VBlock):  # not what brings its weights
                module.compile(fullgraph=True, dynamic=False, **options)
        self.audio_injector.compile_injection(fullgraph=True, dynamic=False, **options)
        self.head.compile(fullgraph=True, dynamic=False, **options)

    def select_attention(self, wanted: str = "auto") -> str:
        """Use an attention kernel that was tried on this device and return its name. See `choose_attention`."""
        device, dtype = self.patch_embedding.weight.device, self.compute_dtype
        name = choose_attention(wanted, device=device, dtype=dtype, head_dim=self.head_dim)
        for module in self.modules():
            if isinstance(module, Attention):
                module.kernel = ATTENTION_KERNELS[name]
        return name

    def _blocks(self) -> list[S2VBlock]:
        return [block for _, block in self._numbered_blocks()]

    def _numbered_blocks(self) -> list[tuple[int, S2VBlock]]:
        """Return the layers with their numbers in the whole model, of which this device may hold a part."""
        return [(int(name), block) for name, block in self.blocks.named_children()]  # type: ignore[misc]

    def _encode_pose(self, pose_CFhw: Tensor | None) -> Tensor:
        if pose_CFhw is None:
            bias = self.cond_encoder.bias
            assert bias is not None, "the pose encoder has a bias"
            return bias
        encoded: Tensor = self.cond_encoder(pose_CFhw)
        return encoded


def routing_masks(masks_AThw1: Tensor, num_frames: int = FRAMES_PER_BLOCK) -> Tensor:
    """Return `[A, F, S, 1]` from per-actor masks on the token grid; the first frames serve every block."""
    return masks_AThw1[:, :num_frames].flatten(2, 3)


def _reject_other_variants(config: Mapping[str, object]) -> None:
    """Raise ValueError when a config.json describes a network this one is not."""
    fixed = {
        "model_type": "s2v",
        "in_dim": LATENT_CHANNELS,
        "enable_adain": True,
        "adain_mode": "attn_norm",
        "zero_timestep": True,
        "enable_motioner": False,
        "enable_tsm": False,
        "add_last_motion": True,
        "enable_framepack": True,
        "framepack_drop_mode": "padd",
    }
    different = {name: config[name] for name, value in fixed.items() if config[name] != value}
    if different:
        raise ValueError(f"this checkpoint is of another S2V variant: {different}")


def _sinusoid(timestep: float, width: int) -> Tensor:
    """Return cosines then sines of the timestep, computed in float64."""
    exponents = torch.arange(width // 2, dtype=torch.float64) / (width // 2)
    angles = timestep * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.cos(), angles.sin()]).float()


def _unpatchify(patches_FSV: Tensor, shape: torch.Size) -> Tensor:
    """Return latents; the values of a patch run over its rows, its columns, then the channels."""
    channels, _, height, width = shape
    patches = patches_FSV.unflatten(-1, (PATCH, PATCH, channels)).unflatten(
        1, (height // PATCH, width // PATCH)
    )
    # frames, rows, columns, row in patch, column in patch, channels
    return patches.permute(5, 0, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
